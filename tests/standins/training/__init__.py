"""What a StyleGAN-family package calls ``training``."""
