"""Whole runs of the tiny configuration: starting them, waiting for them, and comparing what they leave."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from stylenerf.engine.command_line.main import train_main
from stylenerf.engine.errors import UserError
from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint
from stylenerf.engine.training.stats import read_stats
from tests.checkpoints import assert_state_equal
from tests.conftest import ROOT
from tests.tiny import write_tiny

PATIENCE_S = 120.0
CLOCKS = ("Time/", "Memory/")  # what may differ between two equal runs


class Outcome(NamedTuple):
    """What a run leaves behind."""

    state: dict[str, Any]
    meta: dict[str, Any]
    rows: list[dict[str, Any]]
    pictures: dict[str, str]  # name -> SHA-256


def outcome(run: Path) -> Outcome:
    """The newest checkpoint, every row without its clocks, every picture."""
    newest = latest_checkpoint(run)
    assert newest is not None, f"{run} has no checkpoint"
    state, meta = read_checkpoint(newest)
    rows = [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in read_stats(run / "stats.jsonl")]
    pictures = {name: digest for name, digest in digests(run / "images").items() if name.endswith(".png")}
    return Outcome(state, meta, rows, pictures)  # a kill may leave a hidden part of a picture behind


def assert_same_run(got: Path, want: Path) -> None:
    """Bit for bit: weights, optimisers, averages, counters, configuration, statistics, pictures."""
    one, other = outcome(got), outcome(want)
    assert_state_equal(one.state, other.state)
    assert one.meta == other.meta
    assert one.rows == other.rows
    assert one.pictures == other.pictures


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def config_file(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(write_tiny(folder / "tiny.yaml"))


def train_here(*arguments: str | Path) -> int:
    """``train.py`` in this process, without a progress bar; its exit code."""
    return train_main([*map(str, arguments), "--no-progress"])


def fresh(out: Path, *arguments: str) -> Path:
    """A finished tiny run in ``out``."""
    assert train_here("--config", config_file(out.parent), "--out", out, *arguments) == 0
    return out


def start(log: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """``python train.py ...`` with its output in ``log`` (stdout) and ``log``.err."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
    with open(log, "w") as out, open(f"{log}.err", "w") as err:
        return subprocess.Popen(command, cwd=log.parent, stdout=out, stderr=err, text=True)


def wait_for_row(run: Path, images: int, process: subprocess.Popen[str]) -> None:
    """Wait until the statistics have reached ``images``."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            rows = read_stats(run / "stats.jsonl")
        except UserError:  # not there yet
            rows = []
        if rows and rows[-1]["Progress/images"] >= images:
            return
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"{run} did not reach {images} images: exit code {process.wait()}")
