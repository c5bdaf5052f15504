"""StyleGAN2/3's ``torch_utils.ops``: modules of the same names, functions of the same signatures."""

from . import (
    bias_act,
    conv2d_gradfix,
    conv2d_resample,
    filtered_lrelu,
    fma,
    grid_sample_gradfix,
    modulated_conv2d,
    upfirdn2d,
)

__all__ = [
    "bias_act",
    "conv2d_gradfix",
    "conv2d_resample",
    "filtered_lrelu",
    "fma",
    "grid_sample_gradfix",
    "modulated_conv2d",
    "upfirdn2d",
]
