"""Training: configuration, step, loop, checkpoints, statistics, quality metrics."""
