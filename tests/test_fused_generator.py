"""The whole generator with the fused ray pass, held to the reference numbers and tolerances of the plain one."""

from functools import partial
from typing import Any

import pytest

import stylenerf.models.renderer
from stylenerf.kernels.rays import hierarchical
from stylenerf.kernels.rays import single_pass as rays
from stylenerf.kernels.rays.field_triton import RowTile
from stylenerf.kernels.rays.render import render_points, render_rays
from stylenerf.models.generator import RenderOptions
from tests import test_generator, test_train_phases
from tests.conftest import at_hand
from tests.gradients import DEVICE

RUNS = [run for run in test_generator.RUNS if run != "a0_c"]


@pytest.fixture(autouse=True)
def fused_rays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both passes as kernels, operands of the precision that the run asks for; the names of those that ran.

    An interpreted program costs time by its operations, not by its numbers: there, tiles hold sixteen times the rays.
    """
    ran: list[str] = []

    def fused(op: Any) -> Any:
        def call(*args: Any, **how: Any) -> Any:
            ran.append(op.__name__)
            return op(*args, **how, impl="triton")

        return call

    monkeypatch.setattr(stylenerf.models.renderer, "render_rays", fused(render_rays))
    monkeypatch.setattr(stylenerf.models.renderer, "render_points", fused(render_points))
    if DEVICE.type == "cpu":
        large = partial(RowTile, 512, 8, 2)
        monkeypatch.setattr(hierarchical, "hierarchical_tile", lambda *_: large())
        monkeypatch.setattr(rays, "ray_tile", lambda *_: large())
    test_generator.rendered.cache_clear()  # what the plain pass rendered
    return ran


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    test_generator.rendered.cache_clear()


def test_reference_numbers(fused_rays: list[str]) -> None:
    test_generator.test_reference_numbers("a0_c")
    assert fused_rays == ["render_rays", "render_points"]


@pytest.mark.slow
@pytest.mark.parametrize("run", at_hand(test_generator.FIXTURE, RUNS, "img"))
def test_every_run_of_the_reference_numbers(run: str) -> None:
    test_generator.test_reference_numbers(run)


@pytest.mark.slow
def test_half_precision() -> None:
    """As near to single precision as the public half precision, whose field stays in single, is on average.

    Single rays are off by more: where density rises steeply, rounding moves a fine sample to another bin.
    """
    f, g = test_generator.reference()
    options = RenderOptions(alpha=float(f["fp16_b1_c/alpha"]), precision="fp16")
    half = g.synthesis(f["ws"], test_generator.camera_of(f, "fp16_b1_c"), z_bg=f["z_shape_bg"], options=options).image
    single = f["a1_c/img"]
    err, public = (half - single).abs(), (f["fp16_b1_c/img"] - single).abs()
    assert 1e-4 < err.mean() <= 2 * public.mean()
    assert err.max() <= 0.03 * single.std()


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(test_train_phases.FIXTURE, ["gmain_a0", "gmain_a1"], "img"))
def test_generator_step(case: str, fused_rays: list[str]) -> None:
    test_train_phases.test_generator_step(case)
    assert fused_rays == ["render_rays", "render_points"]


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(test_train_phases.FIXTURE, ["greg_a1"], "img"))
def test_path_length_step(case: str, fused_rays: list[str]) -> None:
    test_train_phases.test_path_length_step(case)
    assert fused_rays == ["render_rays", "render_points"]
