"""Every kernel configuration that the models use: calls of the launchers on tensors of the meta device.

A kernel module's function returns name -> call. The launches are recorded, compiled and held against the budget.
"""

from collections.abc import Callable

from bench.compiler.shipped import base, blocks, filters, rays

SHIPPED: dict[str, Callable[[], dict[str, Callable[[], None]]]] = {
    "linear": base.linear,
    "mean_square": blocks.mean_square,
    "modulated_layer": blocks.modulated_layer,
    "refine_to_rgb": blocks.refine_to_rgb,
    "upsample_block_bilinear": blocks.upsample_block_bilinear,
    "upsample_block": blocks.upsample_block,
    "bias_act": filters.bias_act,
    "upfirdn2d": filters.upfirdn2d,
    "composite": rays.composite,
    "encode": rays.encode,
    "field_backward": rays.field_backward,
    "field": rays.field,
    "hierarchical": rays.hierarchical,
    "importance": rays.importance,
    "mlp": rays.mlp,
    "single_pass": rays.single_pass,
    "volume": rays.volume,
}
