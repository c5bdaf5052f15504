"""StyleGAN's filters: upfirdn2d, bias_act, filtered_lrelu and resampling convolution; forward and backward."""
