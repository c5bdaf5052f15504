"""The ray pass by tile (rows per program, warps, pipeline stages), and the hierarchical one in two passes: for tuning.

Slow, so not selected by default: ``pytest bench/bench_ray_tiles.py -m slow``. The first tile of each is the shipped one
on sm_90. Replayed as a CUDA graph, so that times exclude the host.
"""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from bench import bench_rays
from bench.harness import Measure
from stylenerf.kernels.rays.field_triton import RowTile

SINGLE, HIERARCHICAL = "32x32 rays, 28 samples, batch 16", "FFHQ 32x32 rays, 14+14 samples, batch 16"
# none spills on sm_90; 256 rows in 4 warps would
TILES = {
    SINGLE: [(128, 4, 2), (128, 4, 1), (128, 4, 3), (128, 8, 2), (64, 4, 2), (64, 8, 2), (256, 8, 2), (256, 8, 3)],
    HIERARCHICAL: [(128, 8, 2), (128, 8, 1), (128, 8, 3), (64, 4, 2), (64, 8, 2), (32, 4, 2)],
}
CHOICE = {SINGLE: "single_pass.ray_tile", HIERARCHICAL: "hierarchical.hierarchical_tile"}


def chosen(function: str, value: Any) -> Any:
    """Context: a function of kernels/rays returns ``value``."""
    return patch(f"stylenerf.kernels.rays.{function}", lambda *args, **kwargs: value)


def measure_form(measure: Measure, shape: str, form: str) -> None:
    # no twin: kernels with float32 operands use other tiles
    measure(replace(bench_rays.subject(shape, "fp16"), form=form, twin=None), "fwd", "graph")


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "tile"), [(shape, tile) for shape in TILES for tile in TILES[shape]])
def test_ray_tiles(measure: Measure, shape: str, tile: tuple[int, int, int]) -> None:
    rows, warps, stages = tile
    with chosen(CHOICE[shape], RowTile(rows, warps, stages)):
        measure_form(measure, shape, f"{rows} rows, {warps} warps, {stages} stages")


@pytest.mark.slow
def test_two_passes(measure: Measure) -> None:
    with chosen("hierarchical.fits", False):
        measure_form(measure, HIERARCHICAL, "two passes")
