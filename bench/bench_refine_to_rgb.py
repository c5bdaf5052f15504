"""The tail of every upsampler block: second layer, colours, sum with the enlarged image."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DTYPES, REPLAYED, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels.blocks.refine_to_rgb import refine_to_rgb

CASES = {"256 px, 128 ch": (128, 256), "512 px, 64 ch": (64, 512), "1024 px, 32 ch, the last": (32, 1024)}
CHECKED_EDGE = 64  # on a CPU: the gate's float64 takes long at the largest stages, and tells no more there
ON_CPU = {("512 px, 64 ch", "fp32")}


def tail(args: Args, *, impl: Any, keep: bool) -> tuple[Tensor, ...]:
    x, layer, rgb, image = args
    y, out = refine_to_rgb(x, layer, rgb, image, clamp=256.0, keep=keep, impl=impl)
    return (out,) if y is None else (y.permute(0, 2, 3, 1), out)  # the gradient arrives in the memory format of x


def subject(shape: str, dtype: str) -> Subject:
    channels, edge = CASES[shape]
    make = partial(shapes.tail, channels=channels, dtype=DTYPES[dtype])
    checked = min(edge, CHECKED_EDGE) if DEVICE.type == "cpu" else edge
    terms = (channels + 3) * channels * edge**2
    return Subject(
        op="refine_to_rgb",
        shape=f"{shape}, {dtype}",
        ops=("refine_to_rgb",),
        make=partial(make, edge=edge),
        run=partial(tail, keep="last" not in shape),
        flops=2 * terms,  # a product and a sum per weight and pixel; modulation, activation and enlarging left out
        flops_backward=4 * terms,  # the gradients of inputs and weights
        check_make=partial(make, edge=checked),
    )


@pytest.mark.parametrize(("direction", "impl"), REPLAYED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES)
def test_refine_to_rgb(measure: Measure, shape: str, direction: str, dtype: str, impl: str) -> None:
    if DEVICE.type == "cpu" and (shape, dtype) not in ON_CPU:
        pytest.skip("on a CPU one of the three tails is timed, in float32, to keep the run short")
    measure(subject(shape, dtype), direction, impl)
