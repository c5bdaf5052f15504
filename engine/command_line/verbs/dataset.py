"""``stylenerf dataset``: pictures of any kind to a set that training reads; a check of one that is there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError, to_stderr
from ...ownership import check_writable, entries
from .common import hold_folder

if TYPE_CHECKING:
    from ...data.prepare.job import Made
    from ...data.prepare.picture import Recipe
    from ...data.prepare.source import Source

HELP = """Make a checked set of pictures that training reads, from a folder, a zip or a video.

    stylenerf dataset photos/ --out faces.zip --resolution 256          centre squares, 256 px
    stylenerf dataset photos.zip --out faces.zip --resolution 256 --near-duplicates 4
    stylenerf dataset photos/ --out faces.zip --resolution 512 --crop boxes.csv
    stylenerf dataset turn.mp4 --out turn.zip --resolution 256 --every 10
    stylenerf dataset --check faces.zip                                 exit code 0 if it is sound, 1 if not
    python train.py --preset ffhq256 --data faces.zip

Each picture is turned upright, cropped to a square, converted to RGB and resized with Lanczos' filter, just as training
would do with the files themselves. Left out and named: what cannot be read; what is smaller than --resolution (unless
--enlarge); what has no box, or no label where others have one; what has the same pixels as an earlier picture, or with
--near-duplicates nearly the same look (the first in the order of names stays). A dataset.json goes along, for the
pictures that stay; the intrinsics of camera labels are changed to those of the square. Mirrored copies are left to
training (data.mirror).

SET.zip holds the pictures, dataset.json and manifest.json: SHA-256 of every source and picture, settings, colours, and
what was left out and why. SET.png is a contact sheet. Nothing that exists is overwritten. After Ctrl-C or a crash the
same command goes on, and writes the same bytes as if it had not been stopped.

A file of boxes says which square of a picture is cut, in pixels of the upright picture: JSON {"a/1.jpg": [left, top,
side], ...}, or CSV with the header name,left,top,side.
"""

_MOST_LINES = 10
MAX_RESOLUTION = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="a folder or zip of images, or a video")
    parser.add_argument("--out", metavar="SET.zip", help="the set, a new file")
    parser.add_argument("--check", metavar="SET", help="check a set, a zip or a folder, instead of making one")
    cut = parser.add_argument_group("how pictures are cut")
    cut.add_argument("--resolution", metavar="PX", type=int, help="side of the pictures, a power of two")
    cut.add_argument(
        "--crop",
        metavar="HOW",
        default="centre",
        help="centre: the largest square in the middle; none: pictures must be square; or a .json or .csv file of "
        "boxes (default: %(default)s)",
    )
    cut.add_argument("--enlarge", action="store_true", help="take pictures smaller than --resolution too")
    cut.add_argument("--every", metavar="N", type=int, help="of a video every Nth frame (default: 1)")
    chosen = parser.add_argument_group("which pictures come in")
    chosen.add_argument(
        "--near-duplicates",
        metavar="BITS",
        type=int,
        help="leave out a picture whose look, 64 bits, differs from an earlier one's in at most 0 to 16 bits, at a "
        "similar mean colour; 4 finds copies that were saved anew or resized (default: only the same pixels)",
    )
    chosen.add_argument("--no-labels", action="store_true", help="leave dataset.json behind")
    pace = parser.add_argument_group("pace")
    pace.add_argument("--workers", metavar="N", type=int, help="threads; the set is the same with any (default: cores)")
    pace.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Make a set, or check one."""
    if args.workers is not None and not 1 <= args.workers <= 256:
        raise UserError(f"--workers: wanted 1 to 256, got {args.workers}")
    args.workers = args.workers or os.cpu_count() or 1
    return _make(args) if args.check is None else _check(args)


def _make(args: argparse.Namespace) -> int:
    out = _check_arguments(args)
    check_writable(out)
    from ...data.prepare.boxes import read_boxes
    from ...data.prepare.job import make_set, sheet_path
    from ...data.prepare.picture import Recipe
    from ...data.prepare.source import open_source
    from ...training.stats import ProgressBar

    crop = args.crop if args.crop in ("centre", "none") else read_boxes(Path(args.crop))
    source = open_source(Path(args.source), use_labels=not args.no_labels, every=args.every, report=to_stderr)
    args.held.callback(source.close)
    recipe = Recipe(args.resolution, crop, source.labels is not None and source.labels.kind == "camera", args.enlarge)
    _check_boxes(source, recipe)
    work = out.with_name(f".{out.name}.work")
    hold_folder(args, work)
    if not entries(work) and os.path.lexists(sheet_path(out)):
        raise UserError(f"--out: wanted room for a contact sheet, got {sheet_path(out)}, which is there")
    if entries(work):
        to_stderr(f"dataset: goes on with the pictures in {work}")
    try:
        with ProgressBar(source.total, "dataset", enabled=not args.no_progress) as bar:
            made = make_set(
                source, recipe, out, work, near=args.near_duplicates, workers=args.workers, progress=bar.update
            )
    except KeyboardInterrupt:
        to_stderr("dataset: the same command goes on from here")
        raise
    _tell(args, source, made)
    print(f"wrote:       {out}, {sheet_path(out)}")
    _advise(args, made)
    return 0


def _check_arguments(args: argparse.Namespace) -> Path:
    """--out. Raises: UserError for arguments that cannot be right, whatever the source holds."""
    if args.source is None:
        raise UserError("SOURCE: wanted a folder of images, a zip or a video (or --check SET), got nothing")
    if args.out is None or Path(args.out).suffix != ".zip":
        raise UserError(f"--out: wanted the name of a new .zip, got {args.out or 'nothing'}")
    r = args.resolution
    if r is None or not 8 <= r <= MAX_RESOLUTION or r & (r - 1):
        raise UserError(f"--resolution: wanted a power of two from 8 to {MAX_RESOLUTION}, got {r or 'nothing'}")
    if args.near_duplicates is not None and not 0 <= args.near_duplicates <= 16:
        raise UserError(f"--near-duplicates: wanted 0 to 16 bits, got {args.near_duplicates}")
    if args.every is not None and args.every < 1:
        raise UserError(f"--every: wanted at least 1, got {args.every}")
    out = Path(args.out)
    if os.path.lexists(out):
        raise UserError(f"--out: wanted a new file, got {out}, which is there")
    if Path(args.source).resolve() in out.resolve().parents:
        raise UserError(f"--out: wanted a file outside SOURCE, got {out} in {args.source}")
    return out


def _check_boxes(source: Source, recipe: Recipe) -> None:
    """Boxes without pictures are told, and refused if there are no others."""
    if isinstance(recipe.crop, str) or not source.names:
        return
    lost = sorted(recipe.crop.squares.keys() - set(source.names))
    if len(lost) == len(recipe.crop.squares):
        raise UserError(f"--crop: wanted boxes of pictures in {source.name}, got none; the first is of {lost[0]!r}")
    if lost:
        to_stderr(f"dataset: {len(lost)} boxes belong to no picture, the first is of {lost[0]!r}")


def _tell(args: argparse.Namespace, source: Source, made: Made) -> None:
    from ...data.photos import printable
    from ...data.prepare.job import describe_left_out

    print(f"read:        {args.source}, {len(made.kept) + len(made.left_out)} pictures of a {source.kind}")
    print(f"left out:    {describe_left_out(made)}")
    shown = made.left_out if len(made.left_out) <= _MOST_LINES else made.left_out[: _MOST_LINES - 1]
    for missing in shown:
        print(f"             {printable(missing.source)}: {printable(missing.reason)}")
    if len(shown) < len(made.left_out):
        print(f"             ... and {len(made.left_out) - len(shown)} more, see manifest.json in the set")
    print(f"kept:        {len(made.kept)} pictures, {made.resolution} px, labels: {made.kind}")
    colours = made.statistics()
    mean, deviation = (" ".join(f"{value:.1f}" for value in colours[key]) for key in ("mean", "deviation"))
    print(f"colours:     mean {mean}, deviation {deviation} (red green blue, 0..255), {colours['grey']:.0%} grey")


def _advise(args: argparse.Namespace, made: Made) -> None:
    from .dataset_advice import advice

    for line in advice(len(made.kept), made.resolution, labelled=made.kind != "none", path=args.out):
        print(f"advice:      {line}")


def _check(args: argparse.Namespace) -> int:
    others = {"SOURCE": args.source, "--out": args.out, "--resolution": args.resolution}
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(f"--check: wanted alone, got also {', '.join(given)}")
    from ...data.photos import printable
    from ...data.prepare.check import check_set
    from ...training.stats import ProgressBar

    with ProgressBar(0, "check", enabled=not args.no_progress) as bar:

        def start(count: int) -> Callable[[int], None]:
            bar.total = count
            return bar.update

        result = check_set(Path(args.check), workers=args.workers, report=to_stderr, start=start)
    hashes = "no manifest" if result.hashes is None else f"{result.hashes} hashes compared"
    print(f"checked:     {args.check}: {result.images} pictures, {result.size} px, labels: {result.labels}, {hashes}")
    for fault in result.faults:
        print(f"fault:       {printable(fault)}")
    print(f"result:      {f'{len(result.faults)} faults' if result.faults else 'sound'}")
    return 1 if result.faults else 0
