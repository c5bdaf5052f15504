"""The command line: ``stylenerf <verb>``, ``python -m stylenerf <verb>``; ``python train.py`` is the verb train."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError, to_stderr
from ..ownership import entries, make_numbered, own_folder
from ..training.config_io import PRESETS, list_presets, to_dict
from .guard import run_guarded
from .verbs import VERBS, verb_module

TRAIN_HELP = """Train a StyleNeRF.

    python train.py --preset quickstart                      minutes on a CPU, no data needed
    python train.py --preset ffhq256 --data photos/          a folder or zip of images
    python train.py --resume runs/ffhq256                    go on, bit for bit, after a stop or a crash
    python train.py --init runs/ffhq256 --data other/ --out runs/other     a new run from the weights of a model
    python train.py --preset ffhq512 --dry-run               print the resolved configuration
    python train.py --preset ffhq256 --set train.batch=16 --set generator.field.samples=16

Everything a run makes lies in its folder: config.json, stats.jsonl (one JSON object per line), images/*.png and
checkpoints/. Ctrl-C finishes the round, writes a checkpoint and leaves with exit code 130; bad input leaves with 2, a
run that diverged with 3.
"""


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("what to train")
    source.add_argument("--preset", metavar="NAME", help="a named configuration; --list-presets shows them")
    source.add_argument("--config", metavar="FILE", help="a YAML file instead of a preset (it may name its base)")
    source.add_argument("--resume", metavar="RUN", help="a run folder or checkpoint to go on from")
    source.add_argument(
        "--init",
        metavar="MODEL",
        help="a run, checkpoint or converted model whose weights a new run begins with, where they fit; without "
        "--preset or --config its configuration too",
    )
    source.add_argument("--data", metavar="PATH", help="folder or zip of images, or 'procedural'; sets data.path")
    source.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one key: train.batch=16; repeatable"
    )
    run = parser.add_argument_group("how to run")
    run.add_argument("--out", metavar="DIR", help="the run's folder, new or empty (default: runs/<preset>, numbered)")
    run.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    run.add_argument("--dry-run", action="store_true", help="print the resolved configuration as JSON and stop")
    run.add_argument("--list-presets", action="store_true", help="print the presets and stop")
    run.add_argument("--no-tune", action="store_true", help="on a GPU: the shipped choices of kernels, without timing")
    run.add_argument("--no-progress", action="store_true", help="no progress bar")


def train(args: argparse.Namespace) -> int:
    """Resolve the configuration, open the data, train."""
    if args.list_presets:
        for name, description in list_presets(PRESETS).items():
            print(f"{name:16s} {description}")
        return 0
    with contextlib.ExitStack() as held:
        return _train(args, held)


def _train(args: argparse.Namespace, held: contextlib.ExitStack) -> int:
    """``held`` keeps the run's folder for this process."""
    from ..device import pick_device, with_precision_of
    from ..machine.prepare import choose_for
    from ..planning.fit import check_fits
    from ..training.config import load_config  # these bring torch along, which takes seconds: not for --help
    from ..training.initial import read_initial
    from ..training.report.signs import FEW
    from ..training.trainer import Trainer, open_training_data, resolve_resume, with_data_path
    from .verbs.dataset_advice import of_number

    state = init = None
    if args.resume is not None:
        if args.preset or args.config or args.out or args.init:
            raise UserError("--resume: wanted alone (the run has its own configuration and folder), got also --preset, "
                            "--config, --init or --out")  # fmt: skip
        run_dir = _folder_to_resume(Path(args.resume))
        if not args.dry_run:  # before anything of the run is read; a dry run writes nothing
            held.enter_context(own_folder(run_dir))
        # a dry run's output is JSON and nothing else
        cfg, state = resolve_resume(Path(args.resume), args.set, args.data, to_stderr if args.dry_run else _report)
    else:
        init = None if args.init is None else read_initial(Path(args.init))
        own = init is not None and not (args.preset or args.config)
        cfg = init.config(args.set) if init and own else load_config(args.preset, args.config, args.set)
        cfg = with_data_path(cfg, args.data)
    device = pick_device(args.device)
    # a checkpoint that does not say where it was trained goes on as it is
    began_on = "" if state is None else state.get("device", "cpu")
    cfg = with_precision_of(cfg, device, args.set, to_stderr if args.dry_run else _report, began_on=began_on)
    if args.dry_run:
        print(json.dumps(to_dict(cfg), indent=2))
        return 0
    if args.resume is None:
        run_dir = held.enter_context(_new_run(args))
    _report(f"data:        opening {cfg.data.path}")
    data = open_training_data(cfg, _report)
    _report(f"data:        {data.describe()}")
    if cfg.data.path != "procedural" and data.num_images < FEW:
        for line in of_number(data.num_images):
            _report(f"few images:  {line}")
    check_fits(cfg, device, data.label_dim, _report)
    progress = not args.no_progress
    before = None if state is None else state.get("choices")
    choices = choose_for(cfg, data, device, kept=before, tuning=not args.no_tune, report=_report, progress=progress)
    trainer = Trainer(cfg, data, run_dir, device, resume=state, init=init, report=_report, progress=progress,
                      choices=choices)  # fmt: skip
    if init is not None:
        growth, edge = trainer.cfg.growth, trainer.cfg.generator.start_resolution
        how = f"begins at {edge} px (off: --set growth.enabled=false)" if growth.enabled else "is off"
        _report(f"init:        counters from zero, fresh optimisers, growth {how}")
    networks = (trainer.state.generator, trainer.state.discriminator)
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in networks]
    _report(f"networks:    generator {sizes[0]:.2f} M, discriminator {sizes[1]:.2f} M parameters on {device}")
    _report(f"run:         {run_dir}")
    return trainer.run()


def _folder_to_resume(path: Path) -> Path:
    """The folder of the run that a person means by its name or by that of one of its checkpoints."""
    from ..training.checkpoint import FOLDER as CHECKPOINTS

    if not os.path.isdir(path):  # unlike Path.is_dir, false for any name that leads nowhere, however long
        raise UserError(f"--resume: wanted a run folder with a checkpoint, got {path}, which is no folder")
    if not (path / "manifest.json").is_file():
        return path
    home = path.resolve().parent
    if home.name != CHECKPOINTS:
        raise UserError(f"--resume: wanted a run folder, or a checkpoint in its {CHECKPOINTS}/, got {path}")
    return home.parent


@contextlib.contextmanager
def _new_run(args: argparse.Namespace) -> Iterator[Path]:
    """Hold the folder of a new run, never one that holds anything; it goes again if nothing comes into it."""
    if args.out is None:
        made = make_numbered(Path("runs") / (args.preset or _name(args)))
        path = made[0]
    else:
        made, path = [], Path(args.out)
        _check_new(path)
    with own_folder(path, made):
        _check_new(path)  # another process may have filled it before this one got the lock
        yield path


def _name(args: argparse.Namespace) -> str:
    return Path(args.config).stem if args.config else Path(args.init).resolve().name


def _check_new(path: Path) -> None:
    if os.path.exists(path) and (not path.is_dir() or entries(path)):
        raise UserError(f"--out: wanted a new or empty folder (to go on with a run: --resume {path}), got {path}")


def _report(line: str) -> None:
    """Print at once: people follow the log of a long run."""
    print(line, flush=True)


class _Parser(argparse.ArgumentParser):
    """One line for a wrong command line, as for any other bad input; '~' is the home folder after '=' too."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        parsed, others = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            setattr(parsed, name, _expanded(value))
        return parsed, others


def _expanded(value: Any) -> Any:
    """Paths with the home folder in place of '~'; no argument has another use for a leading '~'."""
    if isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)
    return [_expanded(v) for v in value] if isinstance(value, list) else value


def train_main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``train.py``."""

    def run() -> int:
        parser = _Parser(prog="train.py", description=TRAIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_train_arguments(parser)
        return train(parser.parse_args(argv))

    return run_guarded(run)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``stylenerf`` and ``python -m stylenerf``."""

    def run() -> int:
        args = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        with contextlib.ExitStack() as args.held:  # folders that the verb keeps for this process
            code: int = args.run(args)
        return code

    return run_guarded(run)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """All verbs with a line each, and the arguments of the one that ``argv`` names."""
    parser = _Parser(
        prog="stylenerf",
        description="StyleNeRF on one GPU: `stylenerf VERB --help` explains each verb with examples.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    def add(name: str, summary: str, text: str | None) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        return verbs.add_parser(name, help=summary, description=text, formatter_class=form)

    sub = add("train", TRAIN_HELP.splitlines()[0].rstrip("."), TRAIN_HELP)
    add_train_arguments(sub)
    sub.set_defaults(run=train)
    for name, summary in VERBS.items():
        if name not in argv:
            add(name, summary, None)
            continue
        module = verb_module(name)
        sub = add(name, summary, module.HELP)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser
