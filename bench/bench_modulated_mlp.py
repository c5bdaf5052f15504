"""The field's trunk alone: 60 -> 128 and seven times 128 -> 128, on every sample point of a 32 x 32 volume."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from stylenerf.kernels import modulated_mlp

CASES = {"FFHQ 8x128, 32x32 rays x 28 samples": shapes.RAYS * 2 * shapes.SAMPLES}
TERMS = shapes.ENCODED * shapes.HIDDEN + (shapes.DEPTH - 1) * shapes.HIDDEN**2  # weights per point


def trunk(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    return (modulated_mlp(*args, precision="fp16", impl=impl),)


def subject(shape: str) -> Subject:
    count = CASES[shape]
    return Subject(
        op="modulated_mlp",
        shape=shape,
        ops=("modulated_mlp",),
        make=partial(shapes.mlp, count=count),
        run=trunk,
        flops=2 * count * TERMS,  # a product and a sum per weight; biases and activations (2 %) left out
        flops_backward=4 * count * TERMS,  # the same product for the gradient of the input and of the weight
        precision="fp16",
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_modulated_mlp(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
