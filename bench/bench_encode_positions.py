"""Positional encoding of every sample point of a 32 x 32 volume."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from stylenerf.kernels import encode_positions

POINTS = shapes.RAYS * 2 * shapes.SAMPLES
CASES = {"FFHQ 32x32 rays x 28 samples": POINTS}


def encode(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    (points,) = args
    return (encode_positions(points, shapes.OCTAVES, impl=impl),)


def subject(shape: str) -> Subject:
    count = CASES[shape]
    angles = count * 3 * shapes.OCTAVES
    return Subject(
        op="encode_positions",
        shape=shape,
        ops=("encode_positions",),
        make=partial(shapes.points, count=count),
        run=encode,
        flops=3 * angles,  # one product, a sine and a cosine, each counted as one operation
        flops_backward=5 * angles,  # derivative times gradient (sine, cosine), sum, times the frequency, accumulated
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_encode_positions(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
