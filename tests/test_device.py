"""The precision that a command computes in: fp32 on a CPU unless it was asked for something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stylenerf.engine.command_line.main import train_main
from stylenerf.engine.device import default_precision, with_precision_of
from stylenerf.engine.training.trainer import resolve_resume
from tests.runs import config_file, train_here
from tests.tiny import CPU, tiny_config

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "device", "overrides", "began_on", "wanted"),
    [
        ("fp16", CPU, [], "", "fp32"),
        ("bf16", CPU, [], "", "fp32"),
        ("fp16", CUDA, [], "", "fp16"),
        ("fp16", CPU, ["train.precision=fp16"], "", "fp16"),
        ("fp16", CPU, ["train.batch=4"], "", "fp32"),
        ("fp16", CPU, [], "cpu", "fp16"),
        ("fp16", CPU, [], "cuda", "fp32"),
        ("fp32", CPU, [], "", "fp32"),
    ],
)
def test_precision_of_a_run(
    precision: str, device: torch.device, overrides: list[str], began_on: str, wanted: str
) -> None:
    lines: list[str] = []
    cfg = tiny_config(f"train.precision={precision}")
    got = with_precision_of(cfg, device, overrides, lines.append, began_on=began_on)
    assert got.train.precision == wanted
    assert len(lines) == (precision != wanted)


def test_precision_of_the_verbs() -> None:
    assert (default_precision(CPU), default_precision(CUDA)) == ("fp32", "fp16")


def test_preset_on_a_cpu_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--preset", "ffhq256", "--device", "cpu", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["train"]["precision"] == "fp32"
    assert captured.err.count("\n") == 1 and "fp32, as fp16 is many times slower on a CPU" in captured.err


def test_chosen_precision_is_kept_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = ("--set", "train.precision=fp16", "--set", "train.total_kimg=0.004", "--device", "cpu")
    assert train_here("--config", config_file(tmp_path), "--out", tmp_path / "run", *half) == 0
    capsys.readouterr()
    longer = ("--resume", tmp_path / "run", "--device", "cpu", "--set", "train.total_kimg=0.008")
    assert train_here(*longer) == 0
    assert "precision:" not in capsys.readouterr().out
    assert resolve_resume(tmp_path / "run", [], None, print)[0].train.precision == "fp16"
