"""The whole hierarchical ray pass: encode, trunk, density, composite, resample, again, merge, aggregate."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from kernels import RaySpan, render_rays

SPAN = RaySpan(shapes.NEAR, shapes.FAR)
FIRST = shapes.ENCODED * shapes.HIDDEN
TERMS = FIRST + (shapes.DEPTH - 1) * shapes.HIDDEN**2 + shapes.HIDDEN  # weights per point: trunk and density head
CASES = {
    "FFHQ 32x32 rays, 14+14 samples, batch 1": 1,
    "FFHQ 32x32 rays, 14+14 samples, batch 8": 8,
}
SLOW = {"FFHQ 32x32 rays, 14+14 samples, batch 8"}
SHAPES = [pytest.param(shape, marks=pytest.mark.slow) if shape in SLOW else shape for shape in CASES]


def render(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    """What carries a gradient in training: aggregated features, weights, the light that reaches the background."""
    origins, directions, fractions, field, draws = args
    out = render_rays(origins, directions, fractions, field, SPAN, draws=draws, impl=impl)
    return out.hidden, out.weights, out.transmittance


def subject(shape: str) -> Subject:
    batch = CASES[shape]
    count = batch * shapes.RAYS * 2 * shapes.SAMPLES
    return Subject(
        op="render_rays",
        shape=shape,
        ops=("render_rays",),
        make=partial(shapes.rays, batch=batch, rays=shapes.RAYS, samples=shapes.SAMPLES),
        run=render,
        # a product and a sum per weight and, for the aggregation, per hidden feature; sines, activations, weights and
        # sorting (3 %) left out
        flops=2 * count * (TERMS + shapes.HIDDEN),
        # twice that for both gradients of every product, less the gradient of the encoding, which nobody wants
        flops_backward=4 * count * (TERMS + shapes.HIDDEN) - 2 * count * FIRST,
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_render_rays(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
