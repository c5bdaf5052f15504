"""Arguments of verbs that render into a folder, and how they end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...applications.render.choices import FORMATS, KINDS
from ...errors import UserError
from .common import add_depth_range, add_pace_arguments, hold_folder, new_folder

if TYPE_CHECKING:
    from ...applications.render.jobs import RenderJob, Writing
    from ...model_io import Model

_MOST_LINES = 10


def add_writing_arguments(
    parser: argparse.ArgumentParser, *, formats: str = "png", sheet: bool = False
) -> argparse._ArgumentGroup:
    """--out, --save, --format, --fps, --sheet or --no-sheet, and others; returns the group."""
    group = parser.add_argument_group("what is written")
    group.add_argument("--out", metavar="DIR", help="folder, new or empty")
    group.add_argument(
        "--save", metavar="LIST", default="image", help=f"some of {', '.join(KINDS)} (default: %(default)s)"
    )
    group.add_argument(
        "--format", metavar="LIST", default=formats, help=f"some of {', '.join(FORMATS)} (default: %(default)s)"
    )
    group.add_argument("--fps", metavar="N", type=float, default=24.0, help="of moving pictures (default: %(default)g)")
    group.add_argument(
        "--enlarge", metavar="N", type=int, default=1, help="moving pictures N times as large (default: %(default)s)"
    )
    group.add_argument("--beside", action="store_true", help="one moving picture with all of --save beside each other")
    if sheet:
        group.add_argument("--no-sheet", dest="sheet", action="store_false", help="no sheet.png")
    else:
        group.add_argument("--sheet", action="store_true", help="also lay frames out on sheet.png, a row per subject")
    add_depth_range(group)
    group.add_argument("--resume", action="store_true", help="go on with this job in a folder that holds a part of it")
    add_pace_arguments(group)
    return group


def job_folder(args: argparse.Namespace) -> Path:
    """--out, new or empty unless the job goes on; held until the verb ends."""
    if args.resume and args.out is not None and Path(args.out).is_dir():
        return hold_folder(args, Path(args.out))  # run_job looks into it
    if args.out is not None and (Path(args.out) / "job.json").is_file():
        raise UserError(
            f"{args.out}: wanted a new or empty folder, got one with a job in it (--resume goes on with it)"
        )
    return new_folder(args)


def writing(args: argparse.Namespace) -> Writing:
    """The arguments of :func:`add_writing_arguments`."""
    from ...applications.render.jobs import Writing

    kinds, formats = (tuple(part.strip() for part in text.split(",")) for text in (args.save, args.format))
    ends = None if args.depth_range is None else (args.depth_range[0], args.depth_range[1])
    return Writing(kinds, formats, args.fps, args.sheet, ends, args.batch, args.beside, args.enlarge)


def run_job(args: argparse.Namespace, model: Model, job: RenderJob, out: Path) -> list[Path]:
    """Render with a progress bar, say what was written, return it."""
    from ...applications.render.jobs import check_folder, describe_job, render_job
    from ...training.stats import ProgressBar

    job.check(model)
    check_folder(out, describe_job(model, job), resume=args.resume)
    with ProgressBar(len(job.strips) * job.frames, args.verb, enabled=not args.no_progress) as bar:
        made = render_job(model, job, out, resume=args.resume, progress=bar.update)
    edge = args.resolution or model.generator.synthesis.growth().resolution
    print(f"rendered:    {len(job.strips)} x {job.frames} views, {edge} px{', strict' if args.strict else ''}")
    more = len(made) - _MOST_LINES + 1
    shown = [*made[: _MOST_LINES - 1], f"... and {more} more"] if more > 1 else made
    for file in [*shown, out / "cameras.json", out / "latents.npz"]:
        print(f"wrote:       {file}")
    return made
