"""Mean square of upsampler features, computed by every layer once per training pass."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import IMPLS, Measure, Subject
from stylenerf.kernels import mean_square

CASES = {"256 ch, 128 px": (256, 128), "64 ch, 512 px": (64, 512)}


def measured(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    return (mean_square(args[0], impl=impl),)


def subject(shape: str) -> Subject:
    channels, edge = CASES[shape]
    return Subject(
        op="mean_square",
        shape=shape,
        ops=("mean_square",),
        make=partial(shapes.images, channels=channels, edge=edge),
        run=measured,
        flops=2 * channels * edge**2,  # a product and a sum per element
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", CASES)
def test_mean_square(measure: Measure, shape: str, impl: str) -> None:
    measure(subject(shape), "fwd", impl)
