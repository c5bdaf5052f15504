"""Whether a training fits a GPU's memory, and which setting would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..errors import UserError, one_line
from ..training.config import Config
from .gpus import GIB
from .step_plan import StepPlan, plan_step

# beside what torch allocates: the CUDA context and workspaces of cuBLAS and cuDNN, and what lies between allocations.
# An allowance, not a measurement.
ALLOWANCE, SLACK = 1 * GIB, 1.1


class Planned:
    """Plans by ``train.micro_batch``, each made once; ``before`` is called with the size."""

    def __init__(self, before: Callable[[int], None] = lambda size: None, label_dim: int = 0) -> None:
        self.before, self.label_dim = before, label_dim
        self._plans: dict[int, StepPlan] = {}

    def __call__(self, cfg: Config, size: int) -> StepPlan:
        if size not in self._plans:
            self.before(size)
            self._plans[size] = plan_step(with_rounds_of(cfg, size), label_dim=self.label_dim)
        return self._plans[size]


def needed(plan: StepPlan) -> int:
    """Bytes of GPU memory that a training should find free."""
    return round(plan.peak * SLACK) + ALLOWANCE


def with_rounds_of(cfg: Config, micro_batch: int) -> Config:
    return replace(cfg, train=replace(cfg.train, micro_batch=micro_batch))


def with_recomputation(cfg: Config) -> Config:
    upsampler = replace(cfg.generator.upsampler, recompute=True)
    return replace(cfg, generator=replace(cfg.generator, upsampler=upsampler))


def micro_batches(cfg: Config) -> list[int]:
    """The values of ``train.micro_batch`` that the configuration allows, ascending."""
    allowed = []
    for size in range(1, cfg.train.batch + 1):
        try:
            with_rounds_of(cfg, size)
        except ValueError:
            continue
        allowed.append(size)
    return allowed


def largest_micro_batch(
    cfg: Config, memory: int, *, most: int | None = None, planned: Planned | None = None
) -> StepPlan | None:
    """The plan of the largest ``train.micro_batch``, of at most ``most``, that needs at most ``memory`` bytes."""
    sizes = [size for size in micro_batches(cfg) if most is None or size <= most]
    planned, best, low, high = planned or Planned(), None, 0, len(sizes)
    while low < high:  # memory grows with the size
        middle = (low + high) // 2
        plan = planned(cfg, sizes[middle])
        if needed(plan) <= memory:
            best, low = plan, middle + 1
        else:
            high = middle
    return best


def remedy(cfg: Config, memory: int, label_dim: int = 0) -> str:
    """The settings with which a configuration that does not fit would fit, as they are typed; "" without any."""
    most = cfg.train.micro_batch
    for recompute, settings in ((False, ""), (True, "--set generator.upsampler.recompute=true ")):
        trial = with_recomputation(cfg) if recompute else cfg
        plan = largest_micro_batch(trial, memory, most=most, planned=Planned(label_dim=label_dim))
        if plan is not None:
            return f"{settings}--set train.micro_batch={plan.cfg.train.micro_batch}"
    return ""


def check_fits(cfg: Config, device: torch.device, label_dim: int, report: Callable[[str], None]) -> None:
    """Predict the memory of a training on a CUDA device, before anything is allocated there.

    Raises: UserError, naming a setting that would fit, if torch would allocate more than there is. What is only tight
        is reported.
    """
    if device.type != "cuda":
        return
    free, whole = torch.cuda.mem_get_info(device)
    judge(cfg, free, whole, label_dim, report)


def judge(cfg: Config, free: int, whole: int, label_dim: int, report: Callable[[str], None]) -> None:
    """:func:`check_fits` for ``free`` of ``whole`` bytes."""
    try:
        plan = plan_step(cfg, label_dim=label_dim)
        tight = needed(plan) > free
        way = remedy(cfg, free, label_dim) if tight else ""
    except Exception as error:  # a prediction that fails must not keep anyone from training
        report(f"memory:      not predicted: {one_line(error)[:200]}")
        return
    size, got = f"{plan.peak / GIB:.1f} GiB", f"{free / GIB:.1f} of {whole / GIB:.1f} GiB"
    advice = f"; predicted to fit: {way}" if way else "; no train.micro_batch of this configuration would fit"
    if plan.peak > free:
        raise UserError(f"memory: wanted {size} for a step with train.micro_batch={cfg.train.micro_batch}, got {got} "
                        f"free{advice}")  # fmt: skip
    note = f": tight{advice if way else ''}" if tight else ""
    report(f"memory:      {size} at the peak of a step (predicted), {got} free{note}")
