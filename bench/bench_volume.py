"""Weights along rays and the weighted sum of hidden features: volume_weights, then composite."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import peers, shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, PEER, Make, Measure, Subject
from stylenerf.kernels import composite, volume_weights

# packed: lengths from 0 to 56, as many samples in all (a little fewer, since 1024 is no multiple of 57)
CASES: dict[str, Make] = {
    "FFHQ 32x32 rays x 28 samples x 128": partial(shapes.volume, rays=shapes.RAYS, samples=2 * shapes.SAMPLES),
    "packed 1024 rays x 0-56 samples x 128": partial(
        shapes.packed_volume, rays=shapes.RAYS, samples=2 * shapes.SAMPLES
    ),
}


def integrate(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    density, depths, ray_norm, features, *packed = args
    offsets = packed[0] if packed else None
    weights, transmittance = volume_weights(density, depths, ray_norm=ray_norm, offsets=offsets, impl=impl)
    return composite(weights, features, offsets=offsets, impl=impl), transmittance


def subject(shape: str) -> Subject:
    count = CASES[shape](torch.device("cpu"), 0)[0].numel()
    return Subject(
        op="volume_weights+composite",
        shape=shape,
        ops=("volume_weights", "composite"),
        make=CASES[shape],
        run=integrate,
        # interval, norm, relu, product, exp, 1 - x, epsilon, running product, weight: 9; then the sum over samples
        flops=count * (9 + 2 * shapes.HIDDEN),
        # twice the 9; a product and a sum per feature for the weight, a product per feature for the feature
        flops_backward=count * (18 + 3 * shapes.HIDDEN),
        peer=None if shape.startswith("packed") else peers.volume(),
    )


@pytest.mark.parametrize("impl", [*IMPLS, PEER])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_volume(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
