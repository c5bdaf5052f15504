"""A step or the first pictures, interrupted between two rounds: nothing is left of it, and going on is exact."""

from __future__ import annotations

import copy
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from stylenerf.engine.command_line.main import train_main
from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint
from stylenerf.engine.training.monitor import Monitor
from stylenerf.engine.training.step import Interrupted, Stepper
from tests.checkpoints import assert_state_equal
from tests.runs import assert_same_run, config_file, fresh, train_here
from tests.sweeps import slow
from tests.tiny import build, tiny_config

PHASES = ("generator", "path length", "discriminator", "R1")


def everything(stepper: Stepper) -> dict[str, Any]:
    return copy.deepcopy({"state": stepper.state.state_dict(), "stats": stepper.stats.state_dict()})


@pytest.mark.parametrize("steps, phase", [*((0, phase) for phase in PHASES), *(slow(6, phase) for phase in PHASES)])
def test_interrupted_step_leaves_nothing(steps: int, phase: str) -> None:
    """In the second round; at step 0 and 6 all four phases are due."""
    stepper = build(tiny_config())
    for _ in range(steps):
        stepper.run()
    before = everything(stepper)

    def stop(now: str, round_number: int) -> None:
        if (now, round_number) == (phase, 1):
            raise Interrupted

    stepper.before_round = stop
    with pytest.raises(Interrupted):
        stepper.run()
    assert_state_equal(everything(stepper), before)
    networks = (stepper.state.generator, stepper.state.discriminator)
    assert all(p.grad is None and not p.requires_grad for network in networks for p in network.parameters())
    stepper.before_round = lambda phase, number: None
    stepper.run()
    whole = build(tiny_config())
    for _ in range(steps + 1):
        whole.run()
    assert_state_equal(everything(stepper), everything(whole))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh(tmp_path_factory.mktemp("reference") / "run")


def signal_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Ctrl-C at a call of a method."""
    real, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "call", "images"),
    [(Monitor, "_render", 1, 0), (Monitor, "turning", 1, 0), (Stepper, "_r1", 1, 0),
     (Stepper, "_discriminator_main", 5, 16), (Monitor, "figures", 2, 12), (Monitor, "turning", 2, 12)],
)  # fmt: skip
def test_going_on_after_an_interruption_is_exact(
    owner: type, name: str, call: int, images: int, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, owner, name, call)
        assert train_here("--config", config_file(tmp_path), "--out", run) == 130
    newest = latest_checkpoint(run)
    assert newest is not None and read_checkpoint(newest)[1]["images_shown"] == images
    assert train_here("--resume", run) == 0
    assert_same_run(run, reference)


def test_first_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenerf.engine.training.stats._REDRAW_S", 0.0)
    signal_at(monkeypatch, Stepper, "_generator_main", 2)
    endless = ("--set", "train.total_kimg=1e9", "--out", str(tmp_path / "run"))
    assert train_main(["--config", config_file(tmp_path), *endless]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data:        opening procedural"
    (first,) = (i for i, line in enumerate(lines) if line.startswith("first:       pictures and figures of the model"))
    at_least, estimate = (i for i, line in enumerate(lines) if line.startswith("estimate: "))
    assert first < at_least < estimate
    smaller = r"hours: python train.py --preset quickstart --data procedural"
    assert re.fullmatch(rf"estimate: +at least \S+ weeks, as one picture takes \S+ s; {smaller}", lines[at_least])
    assert re.fullmatch(
        r"estimate: +\S+ s for the first step, about \S+ weeks for the rest at that speed", lines[estimate]
    )


def test_short_run_names_no_smaller_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh(tmp_path / "run", "--set", "train.total_kimg=0.008", "--set", "monitor.swd_images=0")
    out = capsys.readouterr().out
    assert out.count("estimate: ") == 1 and "quickstart" not in out
