"""Weights along rays and the weighted sum of hidden features: volume_weights, then composite."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from kernels import composite, volume_weights

CASES = {"FFHQ 32x32 rays x 28 samples x 128": (shapes.RAYS, 2 * shapes.SAMPLES)}


def integrate(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    density, depths, ray_norm, features = args
    weights, transmittance = volume_weights(density, depths, ray_norm=ray_norm, impl=impl)
    return composite(weights, features, impl=impl), transmittance


def subject(shape: str) -> Subject:
    rays, samples = CASES[shape]
    count = rays * samples
    return Subject(
        op="volume_weights+composite",
        shape=shape,
        ops=("volume_weights", "composite"),
        make=partial(shapes.volume, rays=rays, samples=samples),
        run=integrate,
        # interval, norm, relu, product, exp, 1 - x, epsilon, running product, weight: 9; then the sum over samples
        flops=count * (9 + 2 * shapes.HIDDEN),
        # twice the 9; a product and a sum per feature for the weight, a product per feature for the feature
        flops_backward=count * (18 + 3 * shapes.HIDDEN),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_volume(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
