"""What one training step takes, phase by phase, from running it on tensors without memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..training.config import Config
from ..training.step import Stepper
from .counting import CUDA_GRANULE, Count, Counts, counted
from .stand_in import GPU, GROWN, Pictures, by_phase, one_round, stand_in, stepper_of

KEPT, UPDATE = "fakes kept for the discriminator", ", update"
NETWORKS = ("parameters", "moving average", "optimisers")


@dataclass(frozen=True)
class Phase:
    """One phase of a step. Bytes, operations and launches are those of all its rounds.

    ``parts`` says what lives at the peak, in bytes by what made it.
    """

    name: str
    peak: int
    parts: Counter[str]
    moved: int
    half_flop: int
    single_flop: int
    kernels: int
    torch_ops: int


@dataclass(frozen=True)
class StepPlan:
    """A step with every phase. ``networks``: bytes of what lives between steps, by kind."""

    cfg: Config
    networks: dict[str, int]
    phases: tuple[Phase, ...]
    seconds: float  # what planning took

    @property
    def peak(self) -> int:
        """Bytes that torch has allocated at the step's peak."""
        return max(phase.peak for phase in self.phases)

    @property
    def worst(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.peak)


def plan_step(
    cfg: Config, *, device: torch.device = GPU, label_dim: int = 0, work: bool = False, data: Any = None
) -> StepPlan:
    """Run a step of ``cfg`` without memory: its largest, at the end of growth, with every phase.

    Args:
        device: :data:`GPU` or :data:`CPU`.  data: a data set in place of one without pixels.
        work: count bytes moved and operations too, those in kernels from their definitions: a second step.
    """
    start_s = time.monotonic()
    step = _CountedStep(cfg, device, label_dim, data, work=work)
    plain = _CountedStep(cfg, device, label_dim, data, work=work, kernels=False) if work and device == GPU else None
    phases = []
    for name in step.phases:
        round_, update = step.found(name)
        half, single = round_.half_flop, round_.single_flop
        if plain is not None:
            whole = plain.found(name)[0]
            in_kernels = max(whole.half_flop + whole.single_flop - half - single, 0)
            half, single = (half, single + in_kernels) if cfg.train.precision == "fp32" else (half + in_kernels, single)
        times = 1 if name == "update_ema" else cfg.train.batch // cfg.train.micro_batch
        most = round_ if round_.peak >= update.peak else update
        parts, kept = most.parts.copy(), fakes_kept(cfg)
        parts[KEPT] += kept
        counted_ = [times * getattr(round_, key) + getattr(update, key) for key in ("moved", "kernels", "torch_ops")]
        phases.append(Phase(name, most.peak + kept, +parts, counted_[0], times * half, times * single, *counted_[1:]))
    return StepPlan(cfg, step.networks, tuple(phases), time.monotonic() - start_s)


def fakes_kept(cfg: Config) -> int:
    """Bytes of the images that ``train.reuse_fakes`` keeps of the rounds but one."""
    others = cfg.train.batch - cfg.train.micro_batch
    return cfg.train.reuse_fakes * others * 3 * cfg.generator.resolution**2 * 4


class _CountedStep:
    """One step of one round, counted. Gradients of the rounds before are there if there are any.

    Attributes: ``phases``, names in order; ``networks``, bytes of what lives between steps, by kind.
    """

    def __init__(
        self, cfg: Config, device: torch.device, label_dim: int, data: Any, *, work: bool, kernels: bool = True
    ) -> None:
        self.cfg, self.phases = cfg, list[str]()
        with stand_in(device, kernels=kernels) as launches:
            self.count = Count(launches, CUDA_GRANULE if device == GPU else 1, work=work)
            data = Pictures(device, label_dim) if data is None else data
            with self.count:
                self.stepper = stepper_of(one_round(cfg), data, device, last_shown(cfg))
                self.networks = _label_networks(self.count, self.stepper)
                self._update = self.stepper._update
                self.stepper._update = self._counted_update  # type: ignore[assignment, method-assign]
                by_phase(self.stepper, self._phase)

    def found(self, name: str) -> tuple[Counts, Counts]:
        """Of one round of a phase, and of the update after its last."""
        return self.count.phases[name], self.count.phases.get(name + UPDATE, Counts())

    def _phase(self, name: str, phase: Callable[[], Any]) -> None:
        self.phases.append(name)
        state, several = self.stepper.state, self.cfg.train.batch > self.cfg.train.micro_batch
        if several and name != "update_ema":
            module = state.generator if name in ("generator_main", "path_length") else state.discriminator
            self.count.label = "gradients"
            for p in module.parameters():
                p.grad = torch.zeros_like(p)
            self.count.label = ""
        self.count.begin(name)
        phase()

    def _counted_update(self, *args: Any) -> None:
        self.count.begin(self.phases[-1] + UPDATE)
        self._update(*args)


def last_shown(cfg: Config) -> int:
    """Images shown at the step that takes most: where the last level is still blended in, if there is growth."""
    growth = cfg.growth
    if not growth.enabled or growth.end_kimg <= growth.start_kimg:
        return GROWN
    return round(growth.start_kimg * 1000 + 0.999 * (growth.end_kimg - growth.start_kimg) * 1000)


def _label_networks(count: Count, stepper: Stepper) -> dict[str, int]:
    """Name what lives between steps, and give the optimisers the moments that their first step would make."""
    state = stepper.state
    networks: tuple[nn.Module, ...] = (state.generator, state.discriminator)
    for module in networks:
        count.relabel((p for p in (*module.parameters(), *module.buffers()) if counted(p)), "parameters")
    average = (*state.average.parameters(), *state.average.buffers())
    count.relabel((p for p in average if counted(p)), "moving average")
    count.label = "optimisers"
    for optimiser in (state.generator_optimiser, state.discriminator_optimiser):
        for p in (p for group in optimiser.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    count.label = ""
    for p in (p for module in networks for p in module.parameters()):
        p.requires_grad_(True)
        p.register_post_accumulate_grad_hook(lambda p: count.relabel([] if p.grad is None else [p.grad], "gradients"))
        p.requires_grad_(False)
    return {name: count.by(name) for name in NETWORKS}
