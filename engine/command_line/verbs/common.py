"""Arguments that several verbs take, and what they mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...applications.render.choices import MAX_SEED
from ...applications.render.label_argument import add_label_argument
from ...errors import UserError, short
from ...ownership import own_folder

if TYPE_CHECKING:
    import torch

    from ....models.camera import Camera
    from ...applications.render.subjects import Subjects
    from ...applications.render.views import ViewOptions
    from ...model_io import Model

MAX_SEEDS = 100_000


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and --device."""
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a converted model, or demo")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")


def add_subject_arguments(parser: argparse.ArgumentParser, seeds: str = "0") -> argparse._ArgumentGroup:
    """--seeds, --latents, --truncation, --label; returns the group, for the verb's own."""
    group = parser.add_argument_group("what is in the picture")
    group.add_argument("--seeds", metavar="LIST", help=f"such as 0-7 or 3,14,15 (default: {seeds})")
    group.add_argument("--latents", metavar="FILE", help="a .npz of styles instead, as other verbs write them")
    group.add_argument(
        "--truncation",
        metavar="PSI",
        type=float,
        default=0.7,
        help="of seeds: 1 as drawn, 0 the average subject and background (default: %(default)s)",
    )
    add_label_argument(group)
    parser.set_defaults(default_seeds=seeds)
    return group


def add_view_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--strict, --resolution, --parts, --samples, --precision, --tile-rays; returns the group."""
    group = parser.add_argument_group("how it is rendered")
    group.add_argument(
        "--strict", action="store_true", help="every pixel by a ray of its own: consistent between views, and slow"
    )
    group.add_argument("--resolution", metavar="PX", type=int, help="edge of a strict picture (default: the model's)")
    group.add_argument("--parts", choices=("all", "foreground", "background"), default="all")
    group.add_argument("--samples", metavar="N", type=int, help="samples per ray and pass (default: the model's)")
    group.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="default: fp16 on CUDA, else fp32")
    group.add_argument(
        "--tile-rays",
        metavar="N",
        type=int,
        default=4096,
        help="strict rays in memory at a time (default: %(default)s)",
    )
    return group


def add_pace_arguments(group: argparse._ArgumentGroup) -> None:
    """--batch and --no-progress."""
    group.add_argument("--batch", metavar="N", type=int, default=8, help="pictures at a time (default: %(default)s)")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def add_depth_range(group: argparse._ArgumentGroup) -> None:
    """--depth-range."""
    group.add_argument(
        "--depth-range",
        nargs=2,
        metavar=("NEAR", "FAR"),
        type=float,
        help="depths of the warmest and the darkest colour (default: taken from the pictures)",
    )


def open_model(args: argparse.Namespace) -> Model:
    """The model that the arguments name, on their device."""
    from ...device import pick_device
    from ...model_io import load_model

    return load_model(args.model, pick_device(args.device))


def pick_subjects(
    args: argparse.Namespace, model: Model, *, follow: bool = False
) -> tuple[Subjects, list[str], Camera | None]:
    """The subjects that the arguments name, a name for each, and the cameras of a file that has them.

    ``follow``: whether styles of a model with camera labels follow the camera, or are those of the front view.
    """
    from ...applications.render.subjects import load_subjects, subjects_from_seeds

    if args.latents is not None:
        if args.seeds is not None:
            raise UserError("--seeds: wanted one of --seeds and --latents, got both")
        subjects, camera = load_subjects(args.latents, model)
        name = Path(args.latents).stem
        return subjects, [f"{name} {i}" if len(subjects) > 1 else name for i in range(len(subjects))], camera
    seeds = parse_seeds(args.seeds if args.seeds is not None else args.default_seeds)
    subjects = subjects_from_seeds(model, seeds, truncation_psi=args.truncation, label=args.label)
    return subjects if follow else subjects.fixed(), [f"seed {s}" for s in seeds], None


def view_options(args: argparse.Namespace, device: torch.device) -> ViewOptions:
    """The arguments of :func:`add_view_arguments`."""
    from ...applications.render.views import ViewOptions
    from ...device import default_precision

    precision = args.precision or default_precision(device)
    return ViewOptions(args.strict, args.resolution, args.parts, args.samples, precision, args.tile_rays)


def parse_seeds(text: str, name: str = "--seeds") -> list[int]:
    """'0-3,8' as [0, 1, 2, 3, 8].

    Raises: UserError naming ``name``.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdecimal() and (high.isdecimal() or not dash)):
            raise UserError(f"{name}: wanted numbers and ranges such as 0-7 or 3,14, got {short(text)}")
        first, last = int(low), int(high or low)
        if not first <= last <= MAX_SEED or len(seeds) + last - first >= MAX_SEEDS:
            raise UserError(f"{name}: wanted ascending ranges, at most {MAX_SEEDS} seeds, got {short(text)}")
        seeds.extend(range(first, last + 1))
    return seeds


def new_folder(args: argparse.Namespace) -> Path:
    """--out as a folder that is new or empty, held until the verb ends.

    Raises: UserError if it is not named, holds anything, cannot be written, or another process holds it.
    """
    from ...training.checkpoint import check_vacant

    if args.out is None:
        raise UserError("--out: wanted a new or empty folder, got nothing")
    path = Path(args.out)
    check_vacant(path)
    hold_folder(args, path)
    check_vacant(path)  # another process may have filled it before this one got the lock
    return path


def hold_folder(args: argparse.Namespace, path: Path) -> Path:
    """Keep other processes out of a folder until the verb ends; it goes again if nothing comes into it."""
    args.held.enter_context(own_folder(path))
    return path
