"""The whole ray pass: encode, trunk, density, composite, resample if hierarchical, aggregate."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest

from bench.harness import DIRECTIONS, Measure, Subject
from bench.machine import DEVICE
from bench.ray_cases import RayCase, make, render, render_plain

CASES = {
    **{f"FFHQ 32x32 rays, 14+14 samples, batch {b}": RayCase(b, fine=14) for b in (1, 4, 16)},
    **{f"32x32 rays, 28 samples, batch {b}": RayCase(b, samples=28) for b in (1, 4, 16)},
    "background 32x32 rays, 4 samples, 4x64, batch 16": RayCase(16, samples=4, points=True, width=64, depth=4, dims=4),
    "64x64 rays, 48 samples, batch 1": RayCase(1, rays=64 * 64, samples=48),
    "32x32 rays, 28 samples, width 256, batch 1": RayCase(1, samples=28, width=256),
    "training 1024+256 rays, 14+14 samples, batch 4": RayCase(4, rays=1280, fine=14, sample_rays=256, noise=True),
}
ON_CPU = {
    "FFHQ 32x32 rays, 14+14 samples, batch 1",
    "32x32 rays, 28 samples, batch 1",
    "background 32x32 rays, 4 samples, 4x64, batch 16",
}
COMPILED = {"FFHQ 32x32 rays, 14+14 samples, batch 1", "FFHQ 32x32 rays, 14+14 samples, batch 16"}
EVERY_PRECISION = "FFHQ 32x32 rays, 14+14 samples, batch 4"
CAPTURED = {
    "fwd": {shape for shape in CASES if shape.startswith("FFHQ")},
    "fwd+bwd": {"FFHQ 32x32 rays, 14+14 samples, batch 1", "training 1024+256 rays, 14+14 samples, batch 4"},
}


class Variant(NamedTuple):
    """An implementation, and the precision of its matrix operands if selectable."""

    impl: str
    precision: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.impl, self.precision)))


def variants(shape: str, direction: str) -> list[Variant]:
    variants = [Variant("ref"), Variant("compile"), Variant("triton", "fp16")]
    if shape == EVERY_PRECISION:
        variants += [Variant("triton", precision) for precision in ("bf16", "tf32", "fp32")]
    if shape in CAPTURED[direction]:
        variants.append(Variant("graph", "fp16"))
    return variants


def _mark(shape: str, variant: Variant) -> Any:
    # a minute or more to compile on top of a few seconds to measure
    return pytest.mark.slow if variant.impl == "compile" and shape not in COMPILED else ()


ROWS = [
    pytest.param(shape, direction, variant, marks=_mark(shape, variant), id=f"{shape}-{direction}-{variant}")
    for shape in CASES
    for direction in DIRECTIONS
    for variant in variants(shape, direction)
]


def subject(shape: str, precision: str | None = None) -> Subject:
    case = CASES[shape]
    low = precision in ("fp16", "bf16", "tf32")
    return replace(_subject(shape, case, precision), twin=_twin(case) if low else None)


def _subject(shape: str, case: RayCase, precision: str | None) -> Subject:
    flops, flops_backward = case.flops()
    return Subject(
        op=case.op,
        shape=shape,
        ops=(case.op,),
        make=partial(make, case=case),
        run=partial(render, case=case, precision=precision or "fp32"),
        flops=flops,
        flops_backward=flops_backward,
        precision=precision,
        pin=case.pin,
        compiled=partial(render_plain, case=case),
    )


def _twin(case: RayCase) -> Subject:
    """The same pass, small, in float32, whose single kernel holds width 32 at most; layered fields keep their width."""
    width = 32 if case.width <= 128 else case.width
    small = replace(case, batch=1, rays=64, sample_rays=min(case.sample_rays, 16), width=width)
    return _subject(f"the same in float32, width {width}", small, "fp32")


@pytest.mark.parametrize(("shape", "direction", "variant"), ROWS)
def test_rays(measure: Measure, shape: str, direction: str, variant: Variant) -> None:
    if DEVICE.type == "cpu" and shape not in ON_CPU:
        pytest.skip("on a CPU only the smallest ray passes are timed, to keep the run short")
    measure(subject(shape, variant.precision), direction, variant.impl)
