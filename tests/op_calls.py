"""One call of every public op of ``kernels``: the tensors of a batch of B, and what the op makes of them."""

from collections.abc import Callable
from typing import NamedTuple

from stylenerf.engine.machine.examples import EXAMPLES, Arguments, change, leaves, results

__all__ = ["OP_CALLS", "OpCall", "change", "leaves", "results"]

C = 4  # channels of the images, width of the fields

SHAPES: dict[str, Callable[[int], list[tuple[int, ...]]]] = {
    "bias_act": lambda b: [(b, C, 6, 6)],
    "composite": lambda b: [(b, 3, C)],
    "conv2d_resample": lambda b: [(b, 5, 12, 12)],
    "downsample2d": lambda b: [(b, C, 3, 3)],
    "encode_positions": lambda b: [(b, 12)],
    "evaluate_density": lambda b: [(b, 3)],
    "evaluate_field": lambda b: [(b, 3, C), (b, 3)],
    "filter2d": lambda b: [(b, C, 6, 6)],
    "filtered_lrelu": lambda b: [(b, C, 12, 12)],
    "importance_sample": lambda b: [(b, 6)],
    "mean_square": lambda b: [()],
    "modulate_weights": lambda b: [(b, C, C, 1, 1)],
    "modulated_conv": lambda b: [(b, C, 6, 6)],
    "modulated_layer": lambda b: [(b, C, 6, 6)],
    "modulated_mlp": lambda b: [(b, 7, 5)],
    "refine_to_rgb": lambda b: [(b, C, 6, 6), (b, 3, 6, 6)],
    "render_points": lambda b: [(b, 3, C), (b, 3, 5), (b, 3, 5), (b, 3, 5), (b, 3, 5), (b, 3)],
    "render_rays": lambda b: [(b, 3, C), (b, 3, 9), (b, 3, 9), (b, 3, 9), (b, 3, 9), (b, 3)],
    "render_volume": lambda b: [(b, 3, C), (b, 3, 6), (b, 3), (b, 3), (b, 3)],
    "upfirdn2d": lambda b: [(b, C, 12, 12)],
    "upsample2d": lambda b: [(b, C, 12, 12)],
    "upsample_block": lambda b: [(b, C, 12, 12)],
    "upsample_features": lambda b: [(b, C, 12, 12)],
    "volume_weights": lambda b: [(b, 3, 6), (b, 3)],
}


class OpCall(NamedTuple):
    """``make(batch)``: positional and named arguments in float32; ``shapes(batch)``: of the results, in their order."""

    make: Callable[[int], Arguments]
    shapes: Callable[[int], list[tuple[int, ...]]]


def _call(name: str) -> OpCall:
    example = EXAMPLES[name]
    return OpCall(lambda batch: example(batch, C), SHAPES[name])


OP_CALLS = {name: _call(name) for name in EXAMPLES}
