"""Training: configuration, step, loop, checkpoints, statistics, figures of quality."""
