"""First half of every upsampler block of the model: modulated layer, nn_cat with blur, bias and activation."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DTYPES, REPLAYED, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels import upsample_block

CASES = {  # channels before and after, edge before enlarging
    "64 px, 256 -> 512 ch": (256, 512, 32),
    "128 px, 512 -> 256 ch": (512, 256, 64),
    "256 px, 256 -> 128 ch": (256, 128, 128),
    "512 px, 128 -> 64 ch": (128, 64, 256),
    "1024 px, 64 -> 32 ch": (64, 32, 512),
}
CHECKED_EDGE = 64  # on a CPU: the gate's float64 takes minutes at the largest stages, and tells no more there
ON_CPU = {("128 px, 512 -> 256 ch", "fp32"), ("512 px, 128 -> 64 ch", "fp32")}


def enlarge(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    x, weight, styles, adapter, bias = args
    return (upsample_block(x, weight, styles, mode="nn_cat", adapter=adapter, bias=bias, clamp=256.0, impl=impl),)


def subject(shape: str, dtype: str) -> Subject:
    inputs, channels, edge = CASES[shape]
    narrow, small, large = channels // 4, edge**2, 4 * edge**2
    # Counted for the cheapest form known, that of the kernels:
    matmuls = (channels + 2 * narrow) * inputs * small + channels * narrow * large  # layer with the adapter's, adapter
    blurs = 16 * narrow * large + 6.25 * channels * large  # 4x4 taps on C/4; 2 or 3 taps per axis (2.5^2) on C
    make = partial(shapes.block, inputs=inputs, channels=channels, dtype=DTYPES[dtype])
    checked = min(edge, CHECKED_EDGE) if DEVICE.type == "cpu" else edge
    return Subject(
        op="upsample_block nn_cat",
        shape=f"{shape}, {dtype}",
        ops=("upsample_block",),
        make=partial(make, edge=edge),
        run=enlarge,
        flops=2 * (matmuls + blurs),  # a product and a sum per term; averages and activations left out
        flops_backward=2 * (2 * matmuls + blurs),  # two gradients per product, one per filter
        check_make=partial(make, edge=checked),
    )


@pytest.mark.parametrize(("direction", "impl"), REPLAYED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES)
def test_upsample_block(measure: Measure, shape: str, direction: str, dtype: str, impl: str) -> None:
    if DEVICE.type == "cpu" and (shape, dtype) not in ON_CPU:
        pytest.skip("on a CPU two of the five stages are timed, in float32, to keep the run short")
    measure(subject(shape, dtype), direction, impl)
