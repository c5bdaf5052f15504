"""FIR filtering with [1, 3, 3, 1]: blur, enlarge by two, shrink by two."""

from functools import partial
from typing import Any, Literal

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from kernels import downsample2d, filter2d, setup_filter, upsample2d

Kind = Literal["blur", "up 2", "down 2"]
TAPS = 4
CASES: dict[str, tuple[Kind, int, int]] = {
    "blur 128 ch, 256 px": ("blur", 128, 256),
    "up 2, 3 ch, 512 px": ("up 2", 3, 512),  # the image skip
    "up 2, 128 ch, 128 px": ("up 2", 128, 128),
    "down 2, 128 ch, 256 px": ("down 2", 128, 256),  # the discriminator
}


def resample(args: Args, *, impl: Any, kind: Kind) -> tuple[Tensor, ...]:
    (x,) = args
    f = setup_filter([1, 3, 3, 1], device=x.device)
    if kind == "blur":
        return (filter2d(x, f, impl=impl),)
    return (upsample2d(x, f, impl=impl) if kind == "up 2" else downsample2d(x, f, impl=impl),)


def subject(shape: str) -> Subject:
    kind, channels, edge = CASES[shape]
    # taps that meet a pixel: 16 per output, of which up leaves 4 (the rest meet inserted zeros)
    outputs, taps = {
        "blur": (edge**2, TAPS**2),
        "up 2": ((2 * edge) ** 2, TAPS**2 // 4),
        "down 2": ((edge // 2) ** 2, TAPS**2),
    }[kind]
    flops = 2 * channels * outputs * taps  # a product and a sum per tap
    return Subject(
        op="upfirdn2d",
        shape=shape,
        ops=("upfirdn2d",),
        make=partial(shapes.images, channels=channels, edge=edge),
        run=partial(resample, kind=kind),
        flops=flops,
        flops_backward=flops,  # the transposed filter: the same terms
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_upfirdn2d(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
