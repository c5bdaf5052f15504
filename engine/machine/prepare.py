"""Before a training on a CUDA device: the self-test, then the choices of this machine for this configuration.

Choices change the order of sums, so a run keeps those that it began with: they lie in its folder and its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from ...kernels.base.choices import choices, choose, replaced
from ...models.growth import growth_levels
from ..data import Dataset
from ..errors import one_line
from ..files import sha256_of
from ..training.config import Config
from ..training.config_io import to_dict
from ..training.stats import Accumulator, ProgressBar
from ..training.step import Stepper, TrainState
from .facts import facts
from .health import before_training
from .memory import Identity, recall, remember
from .tuning import Choice, Sample, as_rows, from_rows, sample_calls, table, tune

Report = Callable[[str], None]
Kept = dict[str, Any]  # in a checkpoint: {"machine": ..., "choices": rows}
LIMIT_S = 60.0


def choose_for(
    cfg: Config,
    data: Dataset,
    device: torch.device,
    *,
    kept: Kept | None,
    tuning: bool,
    report: Report,
    progress: bool = True,
) -> Kept | None:
    """Test this machine and make its choices, in force from here on; returns what a checkpoint keeps of them.

    Args:
        kept: of the checkpoint that the run goes on from; used again on the same machine, whatever the cache holds.
        tuning: False for the defaults that are shipped.
    """
    if device.type == "cpu":
        return None
    before_training(device, report)
    machine = facts(device).identity
    if not tuning:
        return {"machine": machine, "choices": as_rows(choices())}
    if kept is not None and kept["machine"] == machine:
        choose(from_rows(kept["choices"]))
        return {"machine": machine, "choices": as_rows(choices())}
    if kept is not None:
        report(
            "tuning:      the run began on another machine, or with other versions: sums are rounded in another order"
        )
    what = signature(cfg)
    known = recall(machine).get("tuned", {})
    if what not in known:
        report(f"tuning:      {machine['device']} has not been timed yet on this configuration (off: --no-tune)")
        try:
            decided = time_ways(cfg, data, device, progress=progress)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            report(f"tuning:      not done, defaults are kept: {one_line(error)[:200]}")
            return {"machine": machine, "choices": as_rows(choices())}
        known = remember_ways(machine, cfg, decided)
    choose(from_rows(known[what]))
    report(f"tuning:      {len(known[what])} choices differ from the defaults, {len(replaced())} ops are replaced")
    return {"machine": machine, "choices": as_rows(choices())}


def signature(cfg: Config) -> str:
    """Of what decides the shapes of a step: networks, growth, losses, micro-batch and precision."""
    parts = {k: v for k, v in to_dict(cfg).items() if k in ("generator", "discriminator", "growth", "loss")}
    parts |= {"micro_batch": cfg.train.micro_batch, "precision": cfg.train.precision}
    return sha256_of(parts)[:16]


def remember_ways(machine: Identity, cfg: Config, decided: Iterable[Choice]) -> dict[str, Any]:
    """Add to what is known of a machine, which is returned: choices by the signature of a configuration."""
    known = {**recall(machine).get("tuned", {}), signature(cfg): as_rows(table(decided))}
    remember(machine, tuned=known)
    return known


def time_ways(cfg: Config, data: Dataset, device: torch.device, *, progress: bool = True) -> list[Choice]:
    """Decide every offer that a step of this configuration meets, at each level of growth."""
    samples = calls_of(cfg, data, device)
    with ProgressBar(100, "tuning", enabled=progress) as bar:
        return tune(samples, device, budget_s=LIMIT_S, done=lambda share: bar.update(round(100 * share) - bar.count))


def calls_of(cfg: Config, data: Dataset, device: torch.device) -> list[Sample]:
    """The different calls of a step with every phase, of networks made for it, at each level of growth."""
    cfg = replace(cfg, train=replace(cfg.train, batch=cfg.train.micro_batch))
    with sample_calls() as samples:
        for shown in moments(cfg):
            state = TrainState.create(cfg, data.label_dim, device)
            state.images_shown = shown
            Stepper(cfg, data, state, Accumulator(), device).run()
    return list(samples.values())


def moments(cfg: Config) -> list[int]:
    """Numbers of images shown that lie within each level of growth, and after it."""
    if not cfg.growth.enabled:
        return [0]
    g = cfg.generator
    levels = len(growth_levels(g.start_resolution, g.volume_resolution, g.resolution))
    first, last = cfg.growth.start_kimg * 1000, cfg.growth.end_kimg * 1000
    within = [first + (last - first) * (i + 0.5) / levels for i in range(levels)]
    return sorted({0, *(int(shown) for shown in within), int(last) + 1})
