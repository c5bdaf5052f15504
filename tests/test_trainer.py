"""Runs that are stopped, killed or damaged and resumed equal runs that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint
from stylenerf.engine.training.config import FREE_ON_RESUME, Config
from stylenerf.engine.training.config_io import from_dict, leaves
from stylenerf.engine.training.stats import read_stats
from stylenerf.engine.training.step import Stepper
from stylenerf.engine.training.trainer import _crossed
from tests.checkpoints import assert_state_equal, spoil
from tests.conftest import ROOT
from tests.runs import (
    PATIENCE_S,
    assert_same_run,
    config_file,
    digests,
    fresh,
    outcome,
    start,
    train_here,
    wait_for_row,
)
from tests.sweeps import sweep

ENDLESS = ("--set", "train.total_kimg=10")


def total(images: int) -> tuple[str, str]:
    return "--set", f"train.total_kimg={images / 1000}"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted: 32 images in 8 steps, checkpoints at 0, 12, 24 and 32."""
    return fresh(tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """A copy of the reference to do harm to; its newest checkpoints are at 24 and 32 images."""
    return Path(shutil.copytree(reference, tmp_path / "run"))


def checkpoint(run: Path, images: int) -> Path:
    (found,) = (run / "checkpoints").glob(f"*-images-{images}")
    return found


def test_run_leaves_what_it_says(reference: Path) -> None:
    left = outcome(reference)
    assert sorted(p.name for p in reference.iterdir()) == ["checkpoints", "config.json", "images", "stats.jsonl"]
    assert sorted(p.name for p in (reference / "checkpoints").iterdir()) == ["00003-images-24", "00004-images-32"]
    kinds = [f"{kind}-{images:08d}.png" for kind in ("depth", "samples", "turn", "views") for images in (0, 12, 24, 32)]
    assert sorted(left.pictures) == sorted([*kinds, "reals.png"])
    assert [row["Progress/images"] for row in left.rows] == [0, 8, 12, 16, 24, 32]
    assert [row["Growth/resolution"] for row in left.rows[1:]] == [8, 16, 16, 16, 16]
    assert [row["Progress/images"] for row in left.rows if "Metric/swd" in row] == [0, 12, 24, 32]
    cfg = from_dict(Config, json.loads((reference / "config.json").read_text()), where="")
    assert from_dict(Config, left.meta["config"], where="") == cfg
    assert left.state["state"]["path_length_mean"] > 0
    assert {row["Stats/nonfinite_values"] for row in left.rows} == {0}


def test_every_part_of_training_took_part(reference: Path) -> None:
    """What the comparisons below would not notice if it were off."""
    rows = outcome(reference).rows
    seen = {key for row in rows for key, value in row.items() if value not in (0, None)}
    assert {"Loss/generator", "Loss/nerf_path", "Loss/path_length", "Loss/discriminator", "Loss/r1"} <= seen
    assert [0 < row["Growth/alpha"] < 1 for row in rows[2:-1]] == [True] * 3


@pytest.mark.slow
def test_kill_9_of_a_real_process(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    process = start(tmp_path / "log", "--config", config_file(tmp_path), "--out", killed, *ENDLESS)
    wait_for_row(killed, 16, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    newest = latest_checkpoint(killed)
    assert newest is not None
    end = read_checkpoint(newest)[1]["images_shown"] + 12
    done = start(tmp_path / "log", "--resume", killed, *total(end))
    assert done.wait(PATIENCE_S) == 0, (tmp_path / "log.err").read_text()
    assert_same_run(killed, fresh(tmp_path / "whole", *total(end)))


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_interruption_of_a_real_process(number: signal.Signals, tmp_path: Path) -> None:
    stopped, log = tmp_path / "a run", tmp_path / "log"  # a name that the shell would take apart
    process = start(log, "--config", config_file(tmp_path), "--out", stopped, *ENDLESS)
    wait_for_row(stopped, 8, process)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 130
    errors = Path(f"{log}.err").read_text()
    assert "interrupted: finishing this round, then saving" in errors
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    newest = latest_checkpoint(stopped)
    assert newest is not None
    state, meta = read_checkpoint(newest)
    assert state["state"]["step"] * 4 == meta["images_shown"] >= 8
    advice = log.read_text().splitlines()[-1].removeprefix("interrupted; go on with: ")
    assert shlex.split(advice) == ["python", "train.py", "--resume", str(stopped)]
    end = total(meta["images_shown"] + 8)
    assert train_here(*shlex.split(advice)[2:], *end) == 0
    assert_same_run(stopped, fresh(tmp_path / "whole", *end))


@pytest.mark.parametrize("step", sweep((1, 5, 8), always=(5,)))
def test_interruption_in_a_chosen_step(
    step: int, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first, between two rows of statistics (whose means are half gathered then), and in the last."""
    real = Stepper.run

    def run(self: Stepper) -> None:
        if self.state.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "run", run)
        assert train_here("--config", config_file(tmp_path), "--out", tmp_path / "run") == 130
    assert outcome(tmp_path / "run").meta["images_shown"] == 4 * (step - 1)  # the step is taken back
    assert "go on with: python train.py --resume" in capsys.readouterr().out
    assert train_here("--resume", tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", reference)


# One process imports torch and forks two children per stage: a run that is killed for real where the stage says, and
# its resumption.
KILLER = """
import importlib, os, signal, sys
from functools import reduce
import torch._dynamo  # the first optimiser would import it, in every child anew
from stylenerf.engine.command_line.main import train_main

def kill_at(place, number, when):
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    real, calls = getattr(owner, name), 0
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)

def child(prepare, *arguments):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for descriptor in (1, 2):
            os.dup2(os.open(f"{base}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        prepare()
        code = train_main([*arguments, "--no-progress"])
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

base, config = sys.argv[1:3]
for stage in sys.argv[3:]:
    place, number, when = stage.split(" ")
    run = f"{base}/{stage}"
    died = child(lambda: kill_at(place, int(number), when), "--config", config, "--out", run)
    print(died, child(lambda: None, "--resume", run), stage, flush=True)
"""

# function, number of the call, before or after it; the run writes its checkpoints at 0, 12, 24 and 32 images
STAGES = [
    "stylenerf.engine.training.step:Stepper.run 1 before",  # only the checkpoint of the start is there
    "torch.optim:Adam.step 16 after",  # in the middle of a step
    "stylenerf.engine.training.stats:StatsWriter.flush 5 after",  # the row of 24 images is there, its checkpoint is not
    "stylenerf.engine.training.checkpoint:_Sink.write 700 after",  # part of a state.pt
    "torch:save 3 before",
    "stylenerf.engine.training.checkpoint:_prune 3 before",  # the checkpoint has its name, older ones are still there
]


def killed_and_resumed(base: Path, stages: list[str]) -> dict[str, tuple[int, int]]:
    """Stage -> exit codes of the run that was killed and of its resumption; runs lie in ``base`` / stage."""
    command = [sys.executable, "-c", KILLER, str(base), config_file(base), *stages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {stage: (int(died), int(resumed)) for died, resumed, stage in lines}


@pytest.mark.slow
def test_kill_9_at_chosen_moments(tmp_path: Path, reference: Path) -> None:
    assert killed_and_resumed(tmp_path, STAGES) == dict.fromkeys(STAGES, (-signal.SIGKILL, 0))
    for stage in STAGES:
        assert_same_run(tmp_path / stage, reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "at_least"),
    [("os:fsync", 30), ("os:replace", 15), ("stylenerf.engine.training.step:Stepper.update_ema", 8)],
)
def test_kill_9_at_every_moment(place: str, at_least: int, tmp_path: Path, reference: Path) -> None:
    """Before the first checkpoint there is nothing to resume; from then on, every kill is made good."""
    stages = [f"{place} {number} before" for number in range(1, at_least + 8)]
    codes = killed_and_resumed(tmp_path, stages)
    died = [stage for stage in stages if codes[stage][0] == -signal.SIGKILL]
    assert len(died) >= at_least
    assert {codes[stage][0] for stage in stages} == {-signal.SIGKILL, 0}  # the last ones are beyond the run's end
    resumed = [stage for stage in died if codes[stage][1] == 0]
    assert {codes[stage][1] for stage in died if stage not in resumed} <= {2}
    assert resumed == died[-len(resumed) :]
    for stage in resumed:
        assert_same_run(tmp_path / stage, reference)


def test_finished_run_stays_as_it_is(copy: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(copy)
    assert train_here("--resume", copy) == 0
    assert digests(copy) == before
    assert f"checkpoint:  {checkpoint(copy, 32)}" in capsys.readouterr().out


def test_damaged_checkpoint_falls_back_to_the_one_before(
    copy: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(checkpoint(copy, 32))
    shutil.copytree(checkpoint(copy, 32), damaged := copy.parent / "damaged")
    assert train_here("--resume", copy) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"skipped checkpoint {copy}/checkpoints/00004-images-32: state.pt does not match its SHA-256" in out
    assert f"resuming from {checkpoint(copy, 24)} at 0.024 kimg" in out
    assert damaged.exists()
    assert_same_run(copy, reference)


def here(run: Path) -> str:
    return str(checkpoint(run, 24))


def from_inside(run: Path) -> str:
    os.chdir(run / "checkpoints")
    return checkpoint(run, 24).name


def through_a_link(run: Path) -> str:
    (run.parent / "link").symlink_to(checkpoint(run, 24))
    return str(run.parent / "link")


@pytest.mark.parametrize("name", [here, from_inside, through_a_link], ids=lambda f: f.__name__)
def test_chosen_checkpoint(
    name: Callable[[Path], str], copy: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and checkpoints after it are made anew, in the run that it belongs to."""
    monkeypatch.chdir(copy.parent)
    assert train_here("--resume", name(copy)) == 0
    assert_same_run(copy, reference)
    assert [p.name for p in (copy / "checkpoints").iterdir() if p.name.startswith("00005")] == ["00005-images-32"]


def test_checkpoint_without_a_run_around_it(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It must not spread a run over the folder above the one that it was copied to."""
    alone = Path(shutil.copytree(checkpoint(copy, 24), tmp_path / "saved" / "00003-images-24"))
    before = digests(tmp_path)
    assert train_here("--resume", alone) == 2
    assert f"--resume: wanted a run folder, or a checkpoint in its checkpoints/, got {alone}" in capsys.readouterr().err
    assert digests(tmp_path) == before


@pytest.mark.slow
def test_longer_than_planned(tmp_path: Path, reference: Path) -> None:
    """A run of 16 images that is taken on to 32 has the weights of one that was meant to have 32."""
    run = fresh(tmp_path / "run", *total(16))
    assert train_here("--resume", run, *total(32)) == 0
    got, want = outcome(run), outcome(reference)
    assert_state_equal(got.state["state"], want.state["state"])
    assert got.meta == want.meta
    assert json.loads((run / "config.json").read_text())["train"]["total_kimg"] == 0.032


def test_overrides_take_effect_on_resume(copy: Path) -> None:
    settings = ["optimiser.generator_lr=1e-5", "loss.r1_gamma=0", "train.snapshot_kimg=1"]
    shutil.rmtree(checkpoint(copy, 32))
    assert train_here("--resume", copy, *[part for s in settings for part in ("--set", s)]) == 0
    state, meta = read_checkpoint(checkpoint(copy, 32))
    assert meta["config"]["loss"]["r1_gamma"] == 0
    assert json.loads((copy / "config.json").read_text()) == meta["config"]
    (group,) = state["state"]["generator_optimiser"]["param_groups"]
    assert group["lr"] == pytest.approx(1e-5 * 2 / 3)
    assert "Loss/r1" not in read_stats(copy / "stats.jsonl")[-1]


OTHER_VALUES = {
    "generator.upsampler.recompute": "true",
    "generator.path_lattice": 2,
    "generator.field.samples": 4,
    "generator.field.render_samples": 6,
    "generator.background.samples": 3,
    "discriminator.fp16_levels": 0,
}


@pytest.mark.parametrize("key", sorted(FREE_ON_RESUME))
def test_key_that_shapes_no_network_may_change(key: str, copy: Path) -> None:
    shutil.rmtree(checkpoint(copy, 32))
    before, _ = read_checkpoint(checkpoint(copy, 24))
    assert train_here("--resume", copy, "--set", f"{key}={OTHER_VALUES[key]}", "--set", "monitor.swd_images=0") == 0
    after, meta = read_checkpoint(checkpoint(copy, 32))
    assert str(leaves(meta["config"])[key]).lower() == str(OTHER_VALUES[key])
    for part in ("generator", "discriminator", "average"):
        shapes = [{name: x.shape for name, x in state["state"][part].items()} for state in (before, after)]
        assert shapes[0] == shapes[1]


def test_recompute_on_resume_changes_no_bit(copy: Path, reference: Path) -> None:
    shutil.rmtree(checkpoint(copy, 32))
    assert train_here("--resume", copy, "--set", "generator.upsampler.recompute=true") == 0
    assert_state_equal(outcome(copy).state, outcome(reference).state)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "images", "wanted"), [(4, 14, 16), (4, 1, 4), (8, 16, 16)])
def test_length_is_rounded_up_to_whole_steps(batch: int, images: int, wanted: int, tmp_path: Path) -> None:
    run = fresh(tmp_path / "run", *total(images), "--set", f"train.batch={batch}", "--set", "monitor.swd_images=0")
    assert outcome(run).meta["images_shown"] == wanted


@pytest.mark.parametrize(
    ("before", "after", "every_kimg", "crossed"),
    [(0, 4, 0.004, True), (0, 4, 0.005, False), (4, 8, 0.005, True), (8, 12, 0.016, False), (12, 16, 0.016, True),
     (16, 20, 0.016, False), (0, 64, 0.01, True)],
)  # fmt: skip
def test_ticks_are_a_function_of_the_counts(before: int, after: int, every_kimg: float, crossed: bool) -> None:
    assert _crossed(before, after, every_kimg) == crossed
