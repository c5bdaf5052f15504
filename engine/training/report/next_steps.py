"""Three commands that fit a run's state."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from typing import NamedTuple

from ..checkpoint import checkpoint_at
from .record import Record
from .signs import Sign

COUNT = 3


class Step(NamedTuple):
    """A command line, and why."""

    command: str
    why: str


def next_steps(record: Record, found: list[Sign]) -> list[Step]:
    """The three commands to go on with, the most fitting first."""
    bad = {sign.kind for sign in found if sign.level == "bad"}
    seen = bad | {sign.kind for sign in found if sign.level == "watch"}
    steps: list[Step] = []
    if record.has_checkpoint:
        if "nonfinite" in bad:
            steps.append(_slower(record))
        elif not record.finished and not bad:
            steps.append(Step(f"python train.py --resume {_run(record)}", "goes on where it stopped"))
    if bad - {"nonfinite"} or ("discriminator" in seen and "few" in seen):
        steps += _again(record, found)
    if "distance" in seen:
        steps += _best(record)
    steps += _use(record, bool(bad))
    if record.has_checkpoint and record.finished and not bad and _still_better(record):
        steps.insert(2, _longer(record))
    steps += _fallback(record)
    return steps[:COUNT]


def _run(record: Record) -> str:
    return shlex.quote(str(record.folder))


def _beside(record: Record, ending: str) -> str:
    """A name beside the run's folder that is not taken."""
    folder = record.folder if record.folder.name not in ("", "..") else record.folder.resolve()
    names = (f"{folder.name}-{ending}" if i == 1 else f"{folder.name}-{i}-{ending}" for i in itertools.count(1))
    return shlex.quote(str(next(path for name in names if not (path := folder.with_name(name)).exists())))


def _slower(record: Record) -> Step:
    o = record.config.optimiser
    rates = {"generator": o.generator_lr / 2, "discriminator": o.discriminator_lr / 2}
    sets = " ".join(f"--set optimiser.{name}_lr={rate:g}" for name, rate in rates.items())
    return Step(f"python train.py --resume {_run(record)} {sets}", "the last good checkpoint, with half the rates")


def _longer(record: Record) -> Step:
    kimg = record.config.train.total_kimg * 1.5
    return Step(
        f"python train.py --resume {_run(record)} --set train.total_kimg={kimg:g}",
        "half as long again: the distance from the data is still falling",
    )


def _best(record: Record) -> list[Step]:
    """The checkpoint with the smallest distance from the data at the last resolution, if it was kept."""
    by_size = record.by_resolution("Metric/swd")
    kimg, _ = min(list(by_size.values())[-1], key=lambda point: point[1])
    path = checkpoint_at(record.folder, round(kimg * 1000))
    return (
        [] if path is None else [Step(f"stylenerf view {shlex.quote(str(path))}", f"the best snapshot, {kimg:g} kimg")]
    )


def _again(record: Record, found: list[Sign]) -> list[Step]:
    """New runs with what helps against the signs found, the worst first, then one with another seed."""
    makers = [_REMEDIES[sign.kind] for sign in found if sign.kind in _REMEDIES]
    steps = [make(record) for make in dict.fromkeys(makers)]
    seed = record.config.train.seed + 1
    other = _new(record, f"train.seed={seed}", "seed", "the same with another seed, to tell chance from settings")
    return [*steps, other][:2]


def _new(record: Record, sets: str, ending: str, why: str) -> Step:
    settings = " ".join(f"--set {part}" for part in sets.split())
    return Step(f"python train.py --config {_run(record)}/config.json {settings} --out {_beside(record, ending)}", why)


def _held_back(record: Record) -> Step:
    gamma = max(record.config.loss.r1_gamma * 4, 1.0)
    data = record.config.data
    mirror = "" if data.mirror or data.path == "procedural" else " data.mirror=true"
    return _new(record, f"loss.r1_gamma={gamma:g}{mirror}", "r1", "a new run whose discriminator is held back")


def _no_wall(record: Record) -> Step:
    field = record.config.generator.field
    room = max(min(1 - field.near, field.far - 1), 0.05)  # a ball between the planes of a camera at distance 1
    bound = "" if field.bound_radius else f" generator.field.bound_radius={room:.3g}"
    sets = f"generator.field.density_scale={field.density_scale / 2:g}{bound}"
    return _new(record, sets, "solid", "a new run that cannot begin as a wall before the cameras")


def _pulled_together(record: Record) -> Step:
    weight = max(record.config.loss.distortion_weight * 2, 1.0)
    return _new(record, f"loss.distortion_weight={weight:g}", "solid", "a new run whose surfaces are pulled together")


def _faster(record: Record) -> Step:
    rate = record.config.optimiser.discriminator_lr * 2
    return _new(record, f"optimiser.discriminator_lr={rate:g}", "faster", "a new run whose discriminator learns faster")


_REMEDIES: dict[str, Callable[[Record], Step]] = {
    "discriminator": _held_back, "variety": _held_back, "few": _held_back,
    "depth": _no_wall, "views": _pulled_together, "camera": _pulled_together, "blind": _faster,
}  # fmt: skip


def _use(record: Record, bad: bool) -> list[Step]:
    if not record.has_checkpoint:
        return []
    run = _run(record)
    view = Step(f"stylenerf view {run}", "look at it: turn, zoom, depth, strict pixels")
    check = Step(
        f"stylenerf render {run} --out {_beside(record, 'check')} --check-consistency --seeds 0-3",
        "how far two views of a subject agree, fast and strictly",
    )
    turn = Step(
        f"stylenerf render {run} --out {_beside(record, 'turn')} --seeds 0-3 --format png,gif --sheet",
        "four subjects under a turning camera",
    )
    mesh = Step(f"stylenerf mesh {run} --out {_beside(record, 'solid.glb')}", "the surface of one subject, as a mesh")
    return [view, check, turn] if bad else [view, turn, mesh]


def _fallback(record: Record) -> list[Step]:
    """For a run without a checkpoint."""
    base = f"python train.py --config {_run(record)}/config.json"
    data = shlex.quote(record.config.data.path)
    return [
        Step(f"{base} --out {_beside(record, 'again')}", "the same run anew"),
        Step(f"python train.py --preset quickstart --data {data}", "a small model of the same data, on a CPU too"),
        Step("stylenerf view demo", "what a trained model looks like"),
    ]


def _still_better(record: Record) -> bool:
    """Whether the last distance from the data is the smallest at its resolution, of several."""
    by_size = record.by_resolution("Metric/swd")
    if not by_size:
        return False
    values = [y for _, y in list(by_size.values())[-1]]
    return len(values) > 1 and values[-1] == min(values)
