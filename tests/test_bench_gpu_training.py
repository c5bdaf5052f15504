"""The short training run of ``python -m bench.gpu``: what it asks for, and what it reads off the statistics."""

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.gpu import training
from tests.conftest import ROOT


def test_training_is_summed_up() -> None:
    rows: list[dict[str, Any]] = [
        {"Progress/images": 0},
        {"Progress/images": 200, "Loss/generator": 1.5, "Time/sec_per_kimg": 99.0, "Memory/peak_mib": 300.0},
        {"Progress/images": 400, "Loss/generator": 1.2, "Time/sec_per_kimg": 20.0, "Memory/peak_mib": 310.0},
        {"Progress/images": 600, "Loss/generator": 1.1, "Time/sec_per_kimg": 30.0, "Memory/peak_mib": 310.0},
    ]
    found = training.summarise(rows)
    assert found["images"] == 600 and found["images_per_s"] == 40.0 and found["peak_mib"] == 310.0
    assert found["finite"] and found["last"] == {"Loss/generator": 1.1}
    assert not training.summarise([*rows, {**rows[-1], "Loss/generator": None}])["finite"]
    assert not training.summarise([*rows, {**rows[-1], "Gradient/generator_nonfinite": 2}])["finite"]
    assert training.summarise([])["images_per_s"] is None and not training.summarise([])["finite"]


def test_training_command_is_one_that_train_takes(tmp_path: Path) -> None:
    asked = [*training.command(tmp_path / "run", "cpu"), "--dry-run"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train"]["tick_kimg"] == 0.2
