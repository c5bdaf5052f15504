"""The 2-D upsampler: modulated layers and convolutions, a block's enlargement, its colours; forward and backward."""
