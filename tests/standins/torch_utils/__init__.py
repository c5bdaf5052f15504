"""What a StyleGAN-family package calls ``torch_utils``."""
