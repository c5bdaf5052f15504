"""The whole generator with the fused ray pass, held to the reference numbers and tolerances of the plain one."""

from functools import partial
from typing import Any

import pytest
import torch

import stylenerf.models.renderer
from stylenerf.kernels.rays import hierarchical
from stylenerf.kernels.rays import single_pass as rays
from stylenerf.kernels.rays.field_triton import RowTile
from stylenerf.kernels.rays.render import render_points, render_rays
from tests.conftest import at_hand
from tests.gradients import DEVICE
from tests.on_kernels import numbers_on_the_device
from tests.recorded import generator as recorded
from tests.recorded import phases

RUNS = [run for run in recorded.RUNS if run != "a0_c"]


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
    for made_by_the_plain_pass in (recorded.reference, recorded.rendered):
        made_by_the_plain_pass.cache_clear()
    numbers_on_the_device(monkeypatch)
    return ran


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    for made_by_kernels in (recorded.reference, recorded.rendered):
        made_by_kernels.cache_clear()
    torch.set_default_device(None)


def test_reference_numbers(fused_rays: list[str]) -> None:
    recorded.compare_run("a0_c")
    assert fused_rays == ["render_rays", "render_points"]


@pytest.mark.slow
@pytest.mark.parametrize("run", at_hand(recorded.FIXTURE, RUNS, "img"))
def test_every_run_of_the_reference_numbers(run: str) -> None:
    recorded.compare_run(run)


@pytest.mark.slow
def test_half_precision() -> None:
    recorded.compare_half_precision()


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(phases.FIXTURE, ["gmain_a0", "gmain_a1"], "img"))
def test_generator_step(case: str, fused_rays: list[str]) -> None:
    phases.compare_generator_step(case)
    assert fused_rays == ["render_rays", "render_points"]


@pytest.mark.slow
@pytest.mark.parametrize("case", at_hand(phases.FIXTURE, ["greg_a1"], "img"))
def test_path_length_step(case: str, fused_rays: list[str]) -> None:
    phases.compare_path_length_step(case)
    assert fused_rays == ["render_rays", "render_points"]
