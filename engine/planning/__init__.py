"""A training step without running it: its memory, bytes and products, on tensors that have shapes only."""
