"""Line charts: points where they belong, none where they have no place; what happens without matplotlib."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from stylenerf.engine.applications.project.projection_job import ProjectionJob
from stylenerf.engine.errors import UserError
from stylenerf.engine.plots import line_chart

matplotlib = pytest.importorskip(
    "matplotlib", reason="matplotlib is not installed: pip install 'stylenerf-engine[plots]'"
)
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]  # matplotlib's first ones


def places_of(colour: str, chart: Image.Image) -> np.ndarray:
    """[H, W] bool: pixels of exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.array(chart) == rgb).all(-1)


@pytest.mark.parametrize("log_y", [False, True])
def test_points_are_where_they_belong(log_y: bool) -> None:
    points = [(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)]
    chart = line_chart({"rise": points}, "Title", "steps", "value", log_y)
    assert chart.size == (960, 540) and chart.mode == "RGB"
    there = places_of(COLOURS[0], chart)
    columns = np.nonzero(there.any(0))[0]
    first, last = columns[0] + 4, columns[-1] - 4  # the discs of the first and last point reach beyond them
    rows = [np.nonzero(there[:, round(x)])[0].mean() for x in (first, (first + last) / 2, last)]
    share = (rows[0] - rows[1]) / (rows[0] - rows[2])
    assert share == pytest.approx(0.5 if log_y else 9 / 99, abs=0.02)


def test_what_has_no_place_is_left_out() -> None:
    good = [(0.0, 1.0), (2.0, 3.0)]
    bad = [(1.0, math.nan), (math.inf, 2.0), (1.5, -1.0), (0.5, 0.0)]
    plain = line_chart({"a": good}, "t", "x", "y", log_y=True)
    assert ImageChops.difference(line_chart({"a": good + bad}, "t", "x", "y", log_y=True), plain).getbbox() is None
    assert ImageChops.difference(line_chart({"a": good[::-1]}, "t", "x", "y", log_y=True), plain).getbbox() is None


def test_series_have_colours_of_their_own() -> None:
    chart = line_chart({f"s{i}": [(0.0, i), (1.0, i + 1)] for i in range(6)} | {"none": []}, "t", "x", "y")
    assert all(places_of(colour, chart).any() for colour in COLOURS)


@pytest.mark.parametrize("points", [[(5.0, 3.0)], [(0.0, 0.0), (1.0, 0.0)], [(0, 1e9), (1e7, 1e9 + 1)]], ids=str)
def test_little_is_drawn_too(points: list[tuple[float, float]]) -> None:
    assert places_of(COLOURS[0], line_chart({"a": points}, "t", "x", "y")).any()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"series must hold at least one point that can be drawn, got none in \['a'\]"):
        line_chart({"a": [(0.0, -1.0)]}, "t", "x", "y", log_y=True)


def job(out: Path, history: torch.Tensor) -> ProjectionJob:
    projector: Any = SimpleNamespace(history=history)
    return ProjectionJob(projector, ["a.png", "b.png"], out)


def test_losses_of_a_projection(tmp_path: Path) -> None:
    assert job(tmp_path, torch.zeros(0, 2))._draw_losses() == []
    assert job(tmp_path, torch.tensor([[1.0, 2.0], [0.1, 0.2]]))._draw_losses() == [tmp_path / "loss.png"]
    with Image.open(tmp_path / "loss.png") as chart:
        assert all(places_of(colour, chart).any() for colour in COLOURS[:2])


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find, hint = importlib.util.find_spec, "matplotlib: pip install 'stylenerf-engine[plots]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(UserError) as caught:
        line_chart({"a": [(0.0, 1.0)]}, "t", "x", "y")
    assert str(caught.value) == f"plots: wanted {hint}"
    assert job(tmp_path, torch.ones(3, 2))._draw_losses() == [] and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == f"{tmp_path / 'loss.png'}: not drawn, wants {hint}\n"
