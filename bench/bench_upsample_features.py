"""The nn_cat upsampler with blur at the stages of the model: as defined ("plain") and rearranged ("commuted")."""

from functools import partial
from typing import Any, Literal

import pytest
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels import setup_filter, upsample_features

Form = Literal["plain", "commuted"]
FORMS: tuple[Form, ...] = ("plain", "commuted")
CASES = {  # channels, edge before enlarging
    "512 ch -> 64 px": (512, 32),
    "256 ch -> 128 px": (256, 64),
    "128 ch -> 256 px": (128, 128),
    "64 ch -> 512 px": (64, 256),
    "32 ch -> 1024 px": (32, 512),
}
CHECKED_EDGE = 128  # on a CPU: the gate's float64 takes minutes at the largest stages, and tells no more there
ON_CPU = {"256 ch -> 128 px", "64 ch -> 512 px", "32 ch -> 1024 px"}
SLOW = {("32 ch -> 1024 px", "fwd+bwd")}
STAGES = [
    pytest.param(shape, direction, marks=[pytest.mark.slow] if (shape, direction) in SLOW else [])
    for shape in CASES
    for direction in DIRECTIONS
]


def enlarge(args: Args, *, impl: Any, form: Form) -> tuple[Tensor, ...]:
    x, adapter = args
    f = setup_filter([1, 3, 3, 1], device=x.device)
    return (upsample_features(x, mode="nn_cat", adapter=adapter, filter=f, form=form, impl=impl),)


def subject(shape: str, form: Form) -> Subject:
    channels, edge = CASES[shape]
    narrow, small, large = channels // 4, edge**2, 4 * edge**2
    checked = min(edge, CHECKED_EDGE) if DEVICE.type == "cpu" else edge
    # Counted for the cheapest form known (commuted), for every form, so that GFLOP/s compare like speeds:
    matmuls = narrow * 2 * channels * small + channels * narrow * large  # both adapter layers
    blurs = 16 * narrow * large + 6.25 * channels * large  # 4x4 taps on C/4; 2 or 3 taps per axis (2.5^2) on C
    return Subject(
        op="upsample_features nn_cat",
        shape=shape,
        ops=("upsample_features",),
        make=partial(shapes.enlarged, channels=channels, edge=edge),
        run=partial(enlarge, form=form),
        flops=2 * (matmuls + blurs),  # a product and a sum per term; averages and activation left out
        flops_backward=2 * (2 * matmuls + blurs),  # two gradients per product, one per filter
        form=form,
        plain=None if form == "plain" else partial(enlarge, form="plain"),
        check_make=partial(shapes.enlarged, channels=channels, edge=checked),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "direction"), STAGES)
def test_upsample_features(measure: Measure, shape: str, direction: str, form: Form, impl: str) -> None:
    if DEVICE.type == "cpu" and shape not in ON_CPU:
        pytest.skip("on a CPU three of the five stages are timed, to keep the run short")
    measure(subject(shape, form), direction, impl)
