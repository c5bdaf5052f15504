"""What the compiler makes of the kernels, and the bytes that they move, found out without a GPU."""
