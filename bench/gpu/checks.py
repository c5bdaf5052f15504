"""The same thing twice gives the same bits, and a resumed run is the uninterrupted one.

``python -m bench.gpu.checks repeat|resume --lines FILE [--work FOLDER]``
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import gate
from bench.gpu.lines import emit
from bench.machine import DEVICE
from bench.ray_cases import RayCase, make, render

CASES = {
    "FFHQ, batch 4": RayCase(4, fine=14),
    "28 samples, batch 4": RayCase(4, samples=28),
    "training, batch 4": RayCase(4, rays=1280, fine=14, sample_rays=256, noise=True),
    "width 256, batch 1": RayCase(1, samples=28, width=256),
}
FORWARDS, BACKWARDS = 20, 4
IMAGES = 48  # of the runs that are compared: six steps, a checkpoint after the third
SMALL = (
    "data.scenes=16",
    "monitor.grid_images=2",
    "monitor.turn_frames=2",
    "monitor.swd_images=0",
    "monitor.depth_scenes=0",
    "train.batch=8",
    "train.micro_batch=8",
    "train.tick_kimg=0.008",
)


def repeat(path: Path, work: Path) -> None:
    """Forwards and backwards of the ray pass, again and again on the same inputs: a race would move them."""
    for name, case in CASES.items():
        args = make(DEVICE, 0, case=case)
        call = partial(render, case=case, impl="triton")
        for direction, run, times in (("fwd", gate.forward, FORWARDS), ("fwd+bwd", gate.backward, BACKWARDS)):
            first = [t.clone() for t in run(call, args)]
            unequal = 0
            for _ in range(times - 1):
                unequal += any(not _same(a, b) for a, b in zip(first, run(call, args)))
            finite = all(bool(torch.isfinite(t).all()) for t in first)
            emit(path, call=f"{name}, {direction}", times=times, unequal=unequal, finite=finite)


def resume(path: Path, work: Path) -> None:
    """Two whole runs, and one stopped half way and resumed: their last checkpoints."""
    from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint

    def train(*more: str) -> None:
        from stylenerf.engine.command_line.main import train_main

        code = train_main([*more, "--no-progress"])
        if code != 0:
            raise RuntimeError(f"training ended with exit code {code}: {' '.join(more)}")

    def start(name: str, images: int) -> None:
        settings = [*SMALL, f"train.total_kimg={images / 1000}", "train.snapshot_kimg=1"]
        overrides = [part for setting in settings for part in ("--set", setting)]
        train("--preset", "quickstart", "--out", str(work / name), "--device", str(DEVICE), *overrides)

    def state(name: str) -> dict[str, Tensor]:
        folder = latest_checkpoint(work / name)
        assert folder is not None, f"{name}: no checkpoint"
        return dict(flatten(read_checkpoint(folder)[0]))

    start("whole", IMAGES)
    start("again", IMAGES)
    start("halves", IMAGES // 2)
    train("--resume", str(work / "halves"), "--device", str(DEVICE), "--set", f"train.total_kimg={IMAGES / 1000}")
    whole = state("whole")
    for name, question in {"again": "the same run twice", "halves": "stopped half way and resumed"}.items():
        emit(path, question=question, tensors=len(whole), differing=differing(whole, state(name)))


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor and number of nested mappings and lists, by its path."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from flatten(item, f"{name}/{i}")
    elif isinstance(value, int | float):
        yield name, torch.tensor(float(value), dtype=torch.float64)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of what is not the same bit for bit, or in one of them only."""
    missing = sorted(set(one) ^ set(other))
    return missing + [name for name in one if name in other and not _same(one[name], other[name])]


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, but for NaN, which equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


CHECKS: dict[str, Callable[[Path, Path], None]] = {"repeat": repeat, "resume": resume}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.checks", description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("."), help="where runs may be written")
    options = parser.parse_args(argv)
    CHECKS[options.name](options.lines, options.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
