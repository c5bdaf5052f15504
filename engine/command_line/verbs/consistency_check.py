"""``stylenerf render --check-consistency``: instead of frames, how far two views of a subject agree."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError

if TYPE_CHECKING:
    from ...applications.render.subjects import Subjects
    from ...model_io import Model

APART_RAD = 0.2


def add_consistency_arguments(parser: argparse.ArgumentParser) -> None:
    """--check-consistency, --apart."""
    group = parser.add_argument_group("do views agree")
    group.add_argument(
        "--check-consistency",
        action="store_true",
        help="no frames: carry one view into another, fast and strictly; writes consistency.png and consistency.json",
    )
    group.add_argument(
        "--apart",
        metavar="RAD",
        type=float,
        default=APART_RAD,
        help="yaw between the two views (default: %(default)s)",
    )


def run_check(args: argparse.Namespace, model: Model, subjects: Subjects, out: Path) -> None:
    """Compare, print the table, write it and the picture into ``out``."""
    from ...applications.render.consistency import check_consistency, comparison, table
    from ...applications.render.outputs import save_text
    from ...pictures import labelled_rows, save_png
    from ...training.stats import ProgressBar

    if args.resume:
        raise UserError("--resume: wanted without --check-consistency, which has no frames to go on with; got both")
    comparison(model, args.apart, args.resolution, args.samples, args.tile_rays)  # wrong ones end here, before the bar
    with ProgressBar(2 * len(subjects), args.verb, enabled=not args.no_progress) as bar:
        report = check_consistency(
            model,
            subjects,
            apart_rad=args.apart,
            resolution=args.resolution,
            samples=args.samples,
            tile_rays=args.tile_rays,
            progress=bar.update,
        )
    print(table(report.rows))
    save_png(labelled_rows(report.pictures), out / "consistency.png")
    rows = [{k: None if _no_number(v) else v for k, v in row._asdict().items()} for row in report.rows]
    save_text(json.dumps({"apart_rad": args.apart, "rows": rows}, indent=2) + "\n", out / "consistency.json")
    for name in ("consistency.png", "consistency.json"):
        print(f"wrote:       {out / name}")


def _no_number(value: str | float) -> bool:
    """NaN and infinity, which JSON has no word for."""
    return isinstance(value, float) and not math.isfinite(value)
