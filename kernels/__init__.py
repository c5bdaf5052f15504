"""Drop-in ops for NeRF-GANs."""
