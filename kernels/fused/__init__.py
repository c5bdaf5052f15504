"""Triton kernels, their launchers and their registration with torch, loaded when an op first needs them.

The public functions, with checks and documentation, are one floor up; ``reference/`` holds the definitions.
"""
