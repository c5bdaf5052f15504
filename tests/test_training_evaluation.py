"""Figures by a detector during training, with their protocol; the best checkpoint is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stylenerf.engine.command_line.main import main
from stylenerf.engine.training.best import Best
from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint, write_checkpoint
from stylenerf.engine.training.stats import read_stats
from tests.runs import config_file, fresh, train_here


class Colours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.float() / 127.5 - 1
        return torch.cat([y.mean((2, 3)), y.std((2, 3))], dim=1)


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        torch.jit.script(Colours()).save(str(tmp_path / "colours.pt"))
    return str(tmp_path / "colours.pt")


@pytest.mark.slow
def test_a_run_with_a_detector(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([9.0, 1.0, 7.0, 8.0])
    monkeypatch.setattr("stylenerf.engine.training.monitor.Monitor._sliced_wasserstein", lambda self, g: next(values))
    sets = (f"monitor.detector={detector}", "monitor.evaluate_images=6", "monitor.evaluate_kimg=0.02",
            "monitor.best=swd", "growth.enabled=false")  # fmt: skip
    run = fresh(tmp_path / "run", *(part for value in sets for part in ("--set", value)))
    names = ["Metric/fid", "Metric/kid", "Metric/precision", "Metric/recall"]
    rows = [row for row in read_stats(run / "stats.jsonl") if "Metric/fid" in row]
    assert [row["Progress/images"] for row in rows] == [0, 24, 32]  # not at 12: no multiple of 20 lies behind it
    assert all(name in row for row in rows for name in names)
    written = json.loads((run / "evaluations" / "00000032.json").read_text())
    assert written["figures"]["fid"]["value"] == rows[-1]["Metric/fid"] and written["protocol"]["images"] == 6
    assert written["protocol"]["reference_images"] == 24  # twelve scenes, mirrored
    files = [str(run / "evaluations" / f"{n:08d}.json") for n in (24, 32)]
    assert main(["compare", *files]) == 0
    # the checkpoint at 12 images is the best and stays beside the last two
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "00002-images-12", "00003-images-24", "00004-images-32"
    ]  # fmt: skip
    newest = latest_checkpoint(run)
    assert newest is not None and read_checkpoint(newest)[0]["best"] == {"images": 12, "value": 1.0, "resolution": 16}
    assert "best:        " + str(run / "checkpoints" / "00002-images-12") + "  (swd 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("monitor.best=fid", "monitor: best must be swd, or null, without a detector, got fid"),
        (
            "monitor.detector=none.pt",
            "--detector: wanted a TorchScript file or torch-fidelity, got none.pt: No such file",
        ),
        ("monitor.evaluate_images=3", "monitor: evaluate_images must be at least 4, got 3"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert train_here("--config", config_file(tmp_path), "--out", tmp_path / "run", "--set", setting) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "run").exists()


def test_the_best_of_a_resolution() -> None:
    best = Best()
    steps = [(9.0, 0, 8), (5.0, 10, 8), (7.0, 20, 8), (math.nan, 30, 8), (None, 40, 8), (6.0, 50, 16), (5.9, 60, 16)]
    seen = []
    for step in steps:
        best = best.after(*step)
        seen.append(best.images)
    assert seen == [None, 10, 10, 10, 10, 50, 60]


def test_a_spared_checkpoint_stays(tmp_path: Path) -> None:
    for images in (0, 1, 2, 3, 4):
        write_checkpoint(tmp_path, images, {}, {}, spare=1)
    assert sorted(p.name[6:] for p in (tmp_path / "checkpoints").iterdir()) == ["images-1", "images-3", "images-4"]
    write_checkpoint(tmp_path, 5, {}, {}, spare=4)
    assert sorted(p.name[6:] for p in (tmp_path / "checkpoints").iterdir()) == ["images-4", "images-5"]
