"""A short training run: the quickstart for some seconds, then Ctrl-C; what its own statistics say.

``python -m bench.gpu.training --lines FILE --work FOLDER [--seconds 45]``
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.lines import emit
from stylenerf.engine.training.stats import read_stats

ROOT = Path(__file__).resolve().parent.parent.parent
GRACE_S = 25.0  # to finish a step and write a checkpoint
LOSSES = ("Loss/generator", "Loss/discriminator", "Loss/nerf_path", "Loss/r1")


def command(run: Path, device: str) -> list[str]:
    return [sys.executable, "train.py", "--preset", "quickstart", "--device", device, "--out", str(run),
            "--no-progress", "--set", "train.tick_kimg=0.2", "--set", "train.snapshot_kimg=2"]  # fmt: skip


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Images per second (median over the rows), peak memory, whether every loss and gradient was finite."""
    trained = [row for row in rows if "Loss/generator" in row]
    # the first row holds what is done once: compiling, cuDNN's choices
    paces = [row["Time/sec_per_kimg"] for row in trained[1:] if row.get("Time/sec_per_kimg")]
    losses = {name: [row[name] for row in trained if name in row] for name in LOSSES}
    replaced = sum(value or 0 for row in trained for name, value in row.items() if name.endswith("_nonfinite"))
    return {
        "images": rows[-1].get("Progress/images", 0) if rows else 0,
        "images_per_s": 1000 / statistics.median(paces) if paces else None,
        "peak_mib": max((row["Memory/peak_mib"] for row in trained if row.get("Memory/peak_mib")), default=None),
        # a number that is not finite is null in the file
        "finite": bool(trained) and not replaced and all(v is not None for values in losses.values() for v in values),
        "first": {name: values[0] for name, values in losses.items() if values},
        "last": {name: values[-1] for name, values in losses.items() if values},
    }


def run(work: Path, seconds: float, device: str) -> dict[str, Any]:
    """Train for at most ``seconds``; exit code 130 is an interruption that ended well."""
    folder = work / "quickstart"
    process = subprocess.Popen(command(folder, device), cwd=ROOT)
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        if os.name == "nt":
            process.terminate()  # Windows sends no SIGINT
        else:
            process.send_signal(signal.SIGINT)
        try:
            code = process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
    finally:
        process.kill()
    stats = folder / "stats.jsonl"
    return {"exit_code": code, **summarise(read_stats(stats) if stats.exists() else [])}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.training", description=__doc__)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(argv)
    found = run(options.work, options.seconds, options.device)
    emit(options.lines, **found)
    print(found)
    return 0 if found["exit_code"] in (0, 130) and found["finite"] else 1


if __name__ == "__main__":
    sys.exit(main())
