"""Drop-in ops for NeRF-GANs: what StyleNeRF computes, each op with a plain torch definition.

The folder stands alone: it imports torch and its own files only, and works under any name.
"""

from .blocks.mean_square import mean_square
from .blocks.modulated_conv import modulate_weights, modulated_conv
from .blocks.modulated_layer import modulated_layer
from .blocks.refine_to_rgb import ModulatedWeights, refine_to_rgb
from .blocks.upsample_block import upsample_block
from .blocks.upsample_features import Adapter, upsample_features
from .filters.bias_act import bias_act
from .filters.conv_resample import conv2d_resample
from .filters.filtered_lrelu import filtered_lrelu
from .filters.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from .rays.encode import encode_positions
from .rays.importance import importance_sample
from .rays.mlp import modulated_mlp
from .rays.render import (
    FieldWeights,
    RayDraws,
    RayFeatures,
    RaySpan,
    evaluate_density,
    evaluate_field,
    render_points,
    render_rays,
)
from .rays.volume import VolumeRendering, VolumeWeights, composite, render_volume, volume_weights

__all__ = [
    "Adapter",
    "FieldWeights",
    "ModulatedWeights",
    "RayDraws",
    "RayFeatures",
    "RaySpan",
    "VolumeRendering",
    "VolumeWeights",
    "bias_act",
    "composite",
    "conv2d_resample",
    "downsample2d",
    "encode_positions",
    "evaluate_density",
    "evaluate_field",
    "filter2d",
    "filtered_lrelu",
    "importance_sample",
    "mean_square",
    "modulate_weights",
    "modulated_conv",
    "modulated_layer",
    "modulated_mlp",
    "refine_to_rgb",
    "render_points",
    "render_rays",
    "render_volume",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
    "upsample_block",
    "upsample_features",
    "volume_weights",
]
