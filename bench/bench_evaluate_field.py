"""The field alone: the density of a grid of points, as for a mesh, and hidden features with their gradients."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gate import Args
from bench.harness import IMPLS, Measure, Subject
from bench.machine import DEVICE
from bench.ray_cases import RayCase, make_field
from bench.shapes import Draw
from stylenerf.kernels import evaluate_density, evaluate_field

FIELD = RayCase(1)
GRID, RAYS = 2**18, 1024 * 28  # a 64 x 64 x 64 grid; the samples of a 32 x 32 image
CASES = {
    "density of 64^3 points": ("evaluate_density", GRID),
    "features of 32x32 rays x 28 samples": ("evaluate_field", RAYS),
}
CHECKED = 2**12  # on a CPU, where the gate's float64 would take longer than the timing
ROWS = [("density of 64^3 points", "fwd"), *(("features of 32x32 rays x 28 samples", d) for d in ("fwd", "fwd+bwd"))]


def make(device: torch.device, seed: int, *, count: int) -> Args:
    draw = Draw(device, seed)
    field = make_field(draw, FIELD)
    return 2 * draw.uniform(1, count, 3) - 1, field


def evaluate(args: Args, *, impl: Any, op: str) -> tuple[Tensor, ...]:
    points, field = args
    if op == "evaluate_density":
        return (evaluate_density(points, field, precision="fp16", impl=impl),)
    return evaluate_field(points, field, precision="fp16", impl=impl)


def subject(shape: str) -> Subject:
    op, count = CASES[shape]
    first = 2 * FIELD.dims * FIELD.octaves * FIELD.width
    terms = first + (FIELD.depth - 1) * FIELD.width**2 + FIELD.width
    return Subject(
        op=op,
        shape=shape,
        ops=(op,),
        make=partial(make, count=count),
        run=partial(evaluate, op=op),
        flops=2 * count * terms,  # a product and a sum per weight; sines, biases and activations (3 %) left out
        flops_backward=4 * count * terms - 2 * count * first,  # both gradients; none of the encoding
        precision="fp16",
        check_make=partial(make, count=min(count, CHECKED)) if DEVICE.type == "cpu" else None,
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("shape", "direction"), ROWS)
def test_evaluate_field(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
