"""``stylenerf plan``: memory and work of a training step, predicted without running it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ...errors import UserError

if TYPE_CHECKING:
    from ...planning.step_plan import StepPlan
    from ...training.config import Config
    from ...training.stats import ProgressBar

SIZES_GIB = (12, 24, 48, 80)

HELP = """Predict the memory and the work of a training step on a GPU, without a GPU

    stylenerf plan --preset ffhq512                          by phases: memory, bytes, operations, launches, least ms
    stylenerf plan --preset ffhq512 --gpu-memory 24GiB       the largest train.micro_batch that fits
    stylenerf plan --preset ffhq512 --gpu rtx4090            the same for a GPU by name, and its least milliseconds
    stylenerf plan --preset ffhq256 --set train.micro_batch=16 --set generator.upsampler.recompute=true
    stylenerf plan --preset ffhq1024 --set train.precision=fp32 --json
    stylenerf plan --table --preset ffhq256 --preset ffhq512     presets by GPU memory, as Markdown

The step is run on tensors that have shapes and no memory, at the end of growth, where it takes most: parameters,
optimisers and what each op keeps or needs for a moment are counted. Nothing is measured, and what is predicted says so.
Training on a GPU makes the same prediction before it starts, and names the setting that would fit if it does not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what would be trained")
    group.add_argument("--preset", metavar="NAME", action="append", help="a named configuration; repeatable: --table")
    group.add_argument("--config", metavar="FILE", help="a YAML file instead of a preset")
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one key: train.batch=16; repeatable"
    )
    group = parser.add_argument_group("where")
    group.add_argument("--gpu", metavar="NAME", help="its ceilings and memory: h100, a100, rtx4090 ... (default: h100)")
    group.add_argument("--gpu-memory", metavar="SIZE", help="find the largest train.micro_batch for 24GiB, 80GB ...")
    group.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: plain torch (default: cuda)")
    group = parser.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="JSON in bytes, operations and milliseconds")
    group.add_argument("--table", action="store_true", help="presets by GPU memory (default: all), as Markdown")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Plan, print."""
    from ...planning.gpus import gpu_named, memory_of
    from ...training.config import load_config

    gpu = gpu_named(args.gpu or "h100")
    memory = None if args.gpu_memory is None else memory_of(args.gpu_memory)
    if args.table:
        return _table(args)
    if len(args.preset or ()) > 1:
        raise UserError(f"--preset: wanted one (several with --table), got {', '.join(args.preset)}")
    cfg = load_config(args.preset[0] if args.preset else None, args.config, args.set)
    if args.device == "cpu":
        if memory is not None or args.gpu is not None:
            raise UserError("--device cpu: wanted no --gpu and no --gpu-memory, got one")
        return _on_cpu(args, cfg)
    if args.gpu is not None and memory is None:
        memory = gpu.memory_gib * 2**30
    return _on_gpu(args, cfg, memory)


def _bar(args: argparse.Namespace) -> ProgressBar:
    from ...training.stats import ProgressBar

    return ProgressBar(0, "steps without memory", enabled=not args.no_progress)


def _on_cpu(args: argparse.Namespace, cfg: Config) -> int:
    import torch

    from ...device import with_precision_of
    from ...planning.stand_in import CPU
    from ...planning.step_plan import plan_step

    cfg = with_precision_of(cfg, torch.device("cpu"), args.set, lambda line: None)
    with _bar(args) as bar:
        bar.update(1, "a step")
        plan = plan_step(cfg, device=CPU, work=True)
    return _print(args, plan, "", None)


def _on_gpu(args: argparse.Namespace, cfg: Config, memory: int | None) -> int:
    from ...planning.fit import Planned, largest_micro_batch, with_rounds_of
    from ...planning.gpus import GIB
    from ...planning.step_plan import plan_step

    with _bar(args) as bar:
        best = None
        if memory is not None:
            planned = Planned(lambda size: bar.update(1, f"train.micro_batch={size}"))
            best = largest_micro_batch(cfg, memory, planned=planned)
        bar.update(1, "a step")
        size = cfg.train.micro_batch if best is None else best.cfg.train.micro_batch
        plan = plan_step(with_rounds_of(cfg, size), work=True)
    if memory is not None and not args.json:
        fits = f"train.micro_batch={size} is the largest that fits" if best else "no train.micro_batch fits"
        more = "" if best else "; try --set generator.upsampler.recompute=true, or a smaller resolution"
        print(f"{memory / GIB:.3g} GiB: {fits}{more}\n")
    return _print(args, plan, args.gpu or "h100", memory) if best or memory is None else 2


def _print(args: argparse.Namespace, plan: StepPlan, gpu_name: str, memory: int | None) -> int:
    from ...planning.gpus import GPUS
    from ...planning.report import NOTE, as_json, text

    gpu = GPUS.get(gpu_name)
    if args.json:
        print(json.dumps({**as_json(plan, gpu_name, gpu), "gpu_memory_bytes": memory}, indent=2))
    else:
        name = args.preset[0] if args.preset else args.config
        print(f"{text(plan, name, gpu_name, gpu)}\n\n{NOTE}")
    return 0


def _table(args: argparse.Namespace) -> int:
    from ...planning.report import table
    from ...training.config import PRESETS
    from ...training.config_io import list_presets

    if args.config or args.set or args.gpu or args.gpu_memory or args.json or args.device == "cpu":
        raise UserError("--table: wanted no other option but --preset, got one")
    names = args.preset or list(list_presets(PRESETS))
    with _bar(args) as bar:
        lines = table(names, SIZES_GIB, lambda name: bar.update(1, name))
    print("\n".join(lines))
    return 0
