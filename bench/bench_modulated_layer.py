"""The second layer of every upsampler block, 1x1 from and to its channels, and the toRGB behind it."""

from functools import partial
from typing import Any, NamedTuple

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DTYPES, REPLAYED, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels import modulated_layer


class Case(NamedTuple):
    channels: int
    outputs: int
    edge: int


CASES = {
    "64 px, 512 ch": Case(512, 512, 64),
    "128 px, 256 ch": Case(256, 256, 128),
    "256 px, 128 ch": Case(128, 128, 256),
    "512 px, 64 ch": Case(64, 64, 512),
    "1024 px, 32 ch": Case(32, 32, 1024),
    "1024 px, 32 ch -> rgb": Case(32, 3, 1024),
}
CHECKED_EDGE = 64  # on a CPU: the gate's float64 takes long at the largest stages, and tells no more there
ON_CPU = {("128 px, 256 ch", "fp32"), ("512 px, 64 ch", "fp32")}


def layer(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    x, weight, styles, bias = args
    rgb = weight.shape[0] == 3  # no demodulation, no activation
    slope, gain = (None, 1.0) if rgb else (0.2, 2**0.5)
    y = modulated_layer(
        x, weight, styles, demodulate=not rgb, bias=bias, slope=slope, gain=gain, clamp=256.0, impl=impl
    )
    return (y.permute(0, 2, 3, 1),)  # so that the gradient arrives in the same memory format


def subject(shape: str, dtype: str) -> Subject:
    case = CASES[shape]
    make = partial(shapes.layer, inputs=case.channels, outputs=case.outputs, dtype=DTYPES[dtype])
    checked = min(case.edge, CHECKED_EDGE) if DEVICE.type == "cpu" else case.edge
    terms = case.channels * case.outputs * case.edge**2
    return Subject(
        op="modulated_layer",
        shape=f"{shape}, {dtype}",
        ops=("modulated_layer",),
        make=partial(make, edge=case.edge),
        run=layer,
        flops=2 * terms,  # a product and a sum per weight and pixel; modulation and activation left out
        flops_backward=4 * terms,  # the gradients of input and weight
        check_make=partial(make, edge=checked),
    )


@pytest.mark.parametrize(("direction", "impl"), REPLAYED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES)
def test_modulated_layer(measure: Measure, shape: str, direction: str, dtype: str, impl: str) -> None:
    if DEVICE.type == "cpu" and (shape, dtype) not in ON_CPU:
        pytest.skip("on a CPU two of the six layers are timed, in float32, to keep the run short")
    measure(subject(shape, dtype), direction, impl)
