"""A plan in words, as JSON, and the table of presets by GPU memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..training.config import Config, load_config
from .fit import Planned, largest_micro_batch, needed
from .gpus import GIB, Gpu
from .step_plan import Phase, StepPlan

MIB = 2**20
SHOWN = 8  # parts of the peak
NOTE = """\
Predicted, not measured. Memory is what torch allocates; a tenth and 1 GiB more are set aside for the CUDA context,
workspaces of cuBLAS and cuDNN and gaps. Milliseconds are the least at the GPU's ceilings; what the host needs to
launch is not in them."""


def every(plan: StepPlan, phase: Phase) -> int:
    """A phase runs in one of so many steps."""
    loss = plan.cfg.loss
    return {"path_length": loss.path_length_interval, "r1": loss.r1_interval}.get(phase.name, 1)


def step_ms(plan: StepPlan, gpu: Gpu) -> float:
    """Least milliseconds of a step on average, with lazy phases as often as they run."""
    return sum(gpu.least_ms(phase) / every(plan, phase) for phase in plan.phases)


def text(plan: StepPlan, name: str, gpu_name: str, gpu: Gpu | None) -> str:
    """The plan as the command prints it; without ``gpu``, no milliseconds."""
    train, generator = plan.cfg.train, plan.cfg.generator
    recompute = ", blocks recomputed" if generator.upsampler.recompute else ""
    lines = [
        f"{name}: a step at {generator.resolution} px, {train.batch} images in rounds of {train.micro_batch}, "
        f"{train.precision}{recompute}",
        "networks:    " + ", ".join(f"{kind} {size / MIB:.0f} MiB" for kind, size in plan.networks.items()),
        "",
        f"{'phase':20s}{'peak MiB':>9s}{'GB moved':>10s}{'GFLOP 16':>10s}{'GFLOP 32':>10s}{'kernels':>9s}"
        f"{'torch ops':>11s}" + (f"{'ms on ' + gpu_name:>14s}" if gpu else ""),
    ]
    for phase in plan.phases:
        rare = f", 1 in {every(plan, phase)}" if every(plan, phase) > 1 else ""
        lines.append(
            f"{phase.name.replace('_main', '').replace('_', ' ') + rare:20s}{phase.peak / MIB:9.0f}"
            f"{phase.moved / 1e9:10.1f}{phase.half_flop / 1e9:10.0f}{phase.single_flop / 1e9:10.0f}"
            f"{phase.kernels:9d}{phase.torch_ops:11d}" + (f"{gpu.least_ms(phase):14.1f}" if gpu else "")
        )
    if gpu:
        least = step_ms(plan, gpu)
        lines.append(f"\non average:  at least {least:.1f} ms a step on {gpu_name}, at most "
                     f"{1000 * train.batch / least:.0f} images/s")  # fmt: skip
    most = plan.worst
    shown = most.parts.most_common(SHOWN)
    rest = sum(most.parts.values()) - sum(size for _, size in shown)
    parts = ", ".join(f"{part} {size / MIB:.0f}" for part, size in [*shown, ("others", rest)])
    lines += [f"at the peak: {parts} MiB", f"needs:       {needed(plan) / GIB:.1f} GiB of GPU memory"]
    return "\n".join(lines)


def as_json(plan: StepPlan, gpu_name: str, gpu: Gpu | None) -> dict[str, Any]:
    train = plan.cfg.train
    phases = [
        {
            "phase": phase.name,
            "one_step_in": every(plan, phase),
            "peak_bytes": phase.peak,
            "peak_parts_bytes": dict(phase.parts.most_common()),
            "moved_bytes": phase.moved,
            "half_flop": phase.half_flop,
            "single_flop": phase.single_flop,
            "kernels": phase.kernels,
            "torch_ops": phase.torch_ops,
            **({"predicted_least_ms": gpu.least_ms(phase)} if gpu else {}),
        }
        for phase in plan.phases
    ]
    return {
        "predicted": True,
        "batch": train.batch,
        "micro_batch": train.micro_batch,
        "precision": train.precision,
        "gpu": gpu_name if gpu else None,
        "networks_bytes": plan.networks,
        "peak_bytes": plan.peak,
        "needed_bytes": needed(plan),
        "phases": phases,
    }


def table(names: Sequence[str], sizes_gib: Sequence[int], advance: Callable[[str], None]) -> list[str]:
    """Markdown: for each preset the largest ``train.micro_batch`` that each memory holds (and GiB that it needs)."""
    lines = [
        f"| preset | {' | '.join(f'{size} GiB' for size in sizes_gib)} |",
        f"| --- |{' --- |' * len(sizes_gib)}",
    ]
    for name in names:
        planned = Planned(lambda size, name=name: advance(f"{name}, train.micro_batch={size}"))  # type: ignore[misc]
        cells = [_cell(load_config(name, None, []), size * GIB, planned) for size in sizes_gib]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(cfg: Config, memory: int, planned: Planned) -> str:
    plan = largest_micro_batch(cfg, memory, planned=planned)
    return "none" if plan is None else f"{plan.cfg.train.micro_batch} ({needed(plan) / GIB:.1f})"
