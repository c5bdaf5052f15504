"""The examples of ``docs/examples/`` in short: each runs and does what it says."""

import importlib.util
import math
import pathlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "examples"
FILES = sorted(FOLDER.glob("*.py"))
NEEDS = {"eg3d": ["nerf"]}  # examples that it imports


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the parameter names; its ``main`` runs the example."""
    module: Any = None
    for name in [*NEEDS.get(request.param, []), request.param]:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_is_short_and_listed(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) < 80
    assert f"[`{path.name}`]({path.name})" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("example", ["nerf"], indirect=True)
def test_a_nerf_learns_a_scene(example: Any, tmp_path: pathlib.Path) -> None:
    """30 steps at 16 px: 17 dB, from 4 at the start."""
    out = tmp_path / "nerf.png"
    assert example.main(["--steps", "30", "--size", "16", "--out", str(out)]) > 15
    with Image.open(out) as picture:
        assert picture.size == (6 * 16, 2 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["eg3d"], indirect=True)
def test_planes_learn_a_scene(example: Any) -> None:
    """30 steps at 16 px: 16 dB, from 11 at the start."""
    assert example.main(steps=30, size=16) > 14.5


@pytest.mark.parametrize("example", ["stylegan2"], indirect=True)
def test_a_small_stylegan2_trains(example: Any) -> None:
    losses = example.main(steps=4)
    assert losses[-1][0] < losses[0][0]  # the discriminator learns
    assert all(math.isfinite(x) for step in losses for x in step) and losses[-1][1] > 0


@pytest.mark.parametrize("example", ["graph_replay"], indirect=True)
def test_a_graph_is_replayed(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(resolution=64, frames=3) == torch.cuda.is_available()
    out = capsys.readouterr().out
    assert "images a second by calls" in out
    assert ("replaying one graph" if torch.cuda.is_available() else "wanted a CUDA device") in out


@pytest.mark.slow
@pytest.mark.parametrize("example", ["compiled_field"], indirect=True)
def test_a_field_is_compiled(example: Any) -> None:
    assert example.main("aot_eager", rays=16, samples=4) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("example", ["projection"], indirect=True)
def test_a_picture_is_projected(example: Any) -> None:
    """Six steps from the best of few: 0.34 of the average's error."""
    assert example.main(steps=5, subjects=8) < 0.5
