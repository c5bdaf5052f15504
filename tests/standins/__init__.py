"""Networks with the call sites of StyleGAN2, StyleGAN3 and EG3D, on plain ops of the same names and signatures."""
