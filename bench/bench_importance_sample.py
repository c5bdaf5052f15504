"""Positions of the fine pass. No gradient, so forward only."""

import math
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import IMPLS, Measure, Subject
from stylenerf.kernels import importance_sample

CASES = {"FFHQ 32x32 rays, 14 -> 14 samples": (shapes.RAYS, shapes.SAMPLES)}


def draw_fine(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    return (importance_sample(*args, impl=impl),)


def subject(shape: str) -> Subject:
    rays, samples = CASES[shape]
    bins = samples - 2
    return Subject(
        op="importance_sample",
        shape=shape,
        ops=("importance_sample",),
        make=partial(shapes.importance, rays=rays, samples=samples),
        run=draw_fine,
        # per bin: floor, total, division, running sum; per draw: binary search, then 2 differences of the CDF,
        # a division, a difference of the edges, a product and a sum
        flops=rays * (4 * bins + samples * (math.ceil(math.log2(bins + 1)) + 6)),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", ["fwd"])
@pytest.mark.parametrize("shape", CASES)
def test_importance_sample(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
