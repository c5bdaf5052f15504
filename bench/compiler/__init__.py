"""Compiled kernels' resources and the bytes that kernels move, determined without a GPU."""
