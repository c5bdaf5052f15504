"""A diverged run says so, stops with 3 and keeps its last good checkpoint; a model with such weights is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from stylenerf.engine.command_line.main import main
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import load_model
from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint, write_checkpoint
from stylenerf.engine.training.divergence import EXIT_DIVERGED, Watch
from stylenerf.engine.training.stats import read_stats
from tests.runs import config_file, fresh, train_here
from tests.tiny import build, tiny_config

TOO_HIGH = ("--set", "optimiser.generator_lr=1e30", "--set", "optimiser.discriminator_lr=1e30")


def flags(**bad: bool) -> dict[str, torch.Tensor]:
    return {name.replace("__", "/"): torch.tensor(value) for name, value in bad.items()}


def test_watch_counts_steps_in_a_row_and_tells_the_first_of_each_kind() -> None:
    lines: list[str] = []
    watch, state = Watch(2, lines.append), build(tiny_config()).state
    watch.step_done(1, flags(Loss__generator=False, Gradient__r1=True))
    watch.step_done(2, flags(Loss__generator=False))
    watch.step_done(3, flags(Loss__generator=True, Gradient__r1=True))
    assert lines == []  # nothing is read before it is asked for
    assert not watch.read(state) and watch.streak == 1
    watch.step_done(4, flags(Loss__generator=True))
    watch.step_done(5, flags(Loss__generator=False))
    assert watch.read(state) and watch.streak == 0  # two in a row within one read
    assert [line.split(";")[0] for line in lines] == [
        "warning: step 1: Gradient/r1 is not finite",
        "warning: step 3: Loss/generator is not finite",
    ]
    assert "loss.r1_gamma" in lines[0] and "optimiser.generator_lr" in lines[1]


@pytest.mark.parametrize("network", ["generator", "discriminator", "average"])
def test_watch_names_the_weight(network: str) -> None:
    lines: list[str] = []
    watch, state = Watch(None, lines.append), build(tiny_config()).state
    assert watch.unfit_to_save(state) is None
    name, weight = next(iter(getattr(state, network).named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = math.nan
    assert watch.unfit_to_save(state) == f"{network}.{name}: wanted finite numbers, got 1 that are not"
    assert len(lines) == 1 and f"{network}.{name}" in lines[0]


def test_every_loss_and_gradient_is_watched() -> None:
    stepper = build(tiny_config())
    stepper.run()
    phases = ("generator", "path_length", "discriminator", "r1")
    losses = {f"Loss/{name}" for name in (*phases, "nerf_path")}
    assert stepper.nonfinite.keys() >= losses - {"Loss/nerf_path"} | {f"Gradient/{name}" for name in phases}
    assert not any(bool(flag) for flag in stepper.nonfinite.values())


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    folder = tmp_path_factory.mktemp("diverged")
    lines: list[str] = []
    run = folder / "run"
    arguments = ("--config", config_file(folder), "--out", run, *TOO_HIGH, "--set", "train.max_nonfinite_steps=4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylenerf.engine.command_line.main._report", lines.append)
        code = train_here(*arguments)
    return run, code, "\n".join(lines)


def test_diverged_run_stops_with_3_and_says_why(diverged: tuple[Path, int, str]) -> None:
    run, code, text = diverged
    assert code == EXIT_DIVERGED == 3
    assert text.count("warning: step") >= 1 and "is not finite; if this lasts, lower optimiser." in text
    assert "4 steps in a row were not finite (train.max_nonfinite_steps)" in text
    assert str(latest_checkpoint(run)) in text
    assert any(row["Stats/nonfinite_values"] for row in read_stats(run / "stats.jsonl"))


def test_diverged_run_keeps_a_good_checkpoint_to_go_on_from(diverged: tuple[Path, int, str]) -> None:
    run = diverged[0]
    newest = latest_checkpoint(run)
    assert newest is not None
    load_model(newest)
    lower = ("--set", "optimiser.generator_lr=0.001", "--set", "optimiser.discriminator_lr=0.001")
    assert train_here("--resume", run, *lower) == 0


def test_steps_in_a_row_are_counted_across_a_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*TOO_HIGH, "--set", "train.max_nonfinite_steps=4")
    assert train_here("--config", config_file(tmp_path), "--out", tmp_path / "run", *arguments) == 3
    newest = latest_checkpoint(tmp_path / "run")
    assert newest is not None
    state, meta = read_checkpoint(newest)
    images = meta.pop("images_shown")
    write_checkpoint(tmp_path / "run", images, {**state, "nonfinite_steps": 3}, meta)
    capsys.readouterr()
    assert train_here("--resume", tmp_path / "run") == 3
    assert "diverged at step 1, 4 steps in a row" in capsys.readouterr().out


@pytest.mark.slow
def test_diverged_run_that_may_go_on_ends_with_3_and_shows_nan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = ("--set", "train.max_nonfinite_steps=null")
    assert train_here("--config", config_file(tmp_path), "--out", tmp_path / "run", *TOO_HIGH, *endless) == 3
    out = capsys.readouterr().out
    assert "no checkpoint at step 8" in out and "older ones are kept" in out
    assert "swd nan" in out and "-> " in out and out.count("nan") > 1
    load_model(tmp_path / "run")


def test_model_that_is_not_finite_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fresh(tmp_path / "run", "--set", "train.total_kimg=0.004")
    newest = latest_checkpoint(run)
    assert newest is not None
    state, meta = read_checkpoint(newest)
    name = next(iter(state["state"]["average"]))
    state["state"]["average"][name].view(-1)[0] = math.nan
    meta.pop("images_shown")
    write_checkpoint(run, 8, state, meta)
    with pytest.raises(UserError, match=f"{name}: wanted finite numbers, got 1 that are not"):
        load_model(run)
    capsys.readouterr()
    assert main(["render", str(run), "--out", str(tmp_path / "pictures")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "pictures").exists()
    assert train_here("--resume", run) == 2
    assert f"average.{name}" in capsys.readouterr().err
