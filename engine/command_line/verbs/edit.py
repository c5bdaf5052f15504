"""``stylenerf edit``: directions in the space of styles, shown as sweeps, listed, and applied."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...applications.render.choices import METHODS
from ...errors import UserError, short
from .camera_arguments import add_viewpoint_arguments, pick_viewpoint, viewpoint_options
from .common import (
    add_model_arguments,
    add_pace_arguments,
    add_subject_arguments,
    add_view_arguments,
    new_folder,
    open_model,
    parse_seeds,
    pick_subjects,
    view_options,
)

if TYPE_CHECKING:
    import torch

    from ....models.camera import Camera
    from ...applications.edit.directions import Directions
    from ...applications.render.subjects import Subjects
    from ...applications.render.views import ViewOptions
    from ...model_io import Model
    from ...training.stats import ProgressBar

HELP = """Edit subjects: find directions in the space of styles without labels, sweep along them, apply them.

    stylenerf edit runs/quickstart --list                                eigenvalues of the directions
    stylenerf edit runs/quickstart --out swept --seeds 3                 sweep.png: directions x strengths
    stylenerf edit runs/quickstart --out swept --method pca --layers shape    of the layers that make the shape
    stylenerf edit runs/quickstart --out swept --layers fine --pick 0-9 --reach 4 --columns 9
    stylenerf edit runs/quickstart --out me2 --latents me/latents.npz --apply 2:1.5,0:-2      edit a projected photo
    stylenerf edit runs/quickstart --out me3 --latents me/latents.npz --directions swept/directions.npz --apply 4:2
    stylenerf render runs/quickstart --out turn --latents me2/latents.npz    what was edited, from all sides

Methods: factor (eigenvectors of what the styles of the chosen layers are made by; nothing is sampled) and pca (the
directions along which styles of random latents differ most). Strengths are in standard deviations of random styles
along the direction, whichever the method. Layers: shape, coarse or field, middle, fine, 64px and numbers as for
`stylenerf mix`: directions are found for these layers and move these alone, so that --layers fine leaves the shape as
it is. Photos edited by --latents are seen by their own cameras unless one is named.
"""

MAX_CELLS = 4096
_LISTED, _EFFECTS = 10, 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_subject_arguments(parser)
    group = parser.add_argument_group("which directions")
    group.add_argument("--method", choices=METHODS, help="default: factor")
    group.add_argument("--layers", metavar="LIST", help="shape, coarse, fine, 64px, 0-3 ... (default: all)")
    group.add_argument("--directions", metavar="FILE", help="directions.npz of an earlier edit instead")
    group.add_argument("--list", action="store_true", help="print them and their eigenvalues; alone it writes nothing")
    group.add_argument("--pick", metavar="LIST", help="directions to sweep or list (default: 0-5, or 0-9 of a list)")
    group.add_argument("--reach", metavar="X", type=float, default=3.0, help="largest strength (default: %(default)g)")
    group.add_argument("--columns", metavar="N", type=int, default=5, help="strengths in a row (default: %(default)s)")
    group.add_argument("--apply", metavar="N:X,...", help="instead of sweeping, move along directions N by strengths X")
    add_viewpoint_arguments(parser)
    add_view_arguments(parser)
    written = parser.add_argument_group("what is written")
    written.add_argument("--out", metavar="DIR", help="folder, new or empty")
    add_pace_arguments(written)


def run(args: argparse.Namespace) -> int:
    """List, sweep or apply."""
    import torch

    from ...applications.edit.mixing import row_ranges
    from ...applications.render.views import check_options

    _check(args)
    out = None if args.list and args.out is None else new_folder(args)
    point, model = viewpoint_options(args), open_model(args)
    directions = _directions(args, model)
    pick = _pick(args, directions)
    if args.list:
        _print(directions, pick)
    if out is None:
        return 0
    subjects, labels, saved = pick_subjects(args, model)
    view = view_options(args, subjects.ws.device)
    check_options(model, view)
    camera_named = args.cameras is not None or any(
        getattr(args, n) is not None for n in ("yaw", "pitch", "radius", "fov")
    )
    if saved is None or camera_named:
        one = pick_viewpoint(args, model, point)
        saved = one[torch.zeros(len(subjects), dtype=torch.long)]
    camera = saved.to(subjects.ws.device)
    if args.apply is not None:
        made = _apply(args, model, directions, subjects, labels, camera, view, out)
    else:
        made = _sweep(args, model, directions, pick, (subjects, labels, camera), view, out)
    directions.save(out / "directions.npz")
    rows = "all layers" if args.layers is None and args.directions is None else f"layers {row_ranges(directions.rows)}"
    print(f"directions:  {len(directions)} by {directions.method}, {rows}")
    for path in [*made, out / "directions.npz"]:
        print(f"wrote:       {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.directions is not None:
        for name in ("method", "layers"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name}: wanted without --directions (the file says which), got both")
    if not 0 < args.reach <= 100:
        raise UserError(f"--reach: wanted a strength of 0 to 100, got {args.reach}")
    if not 2 <= args.columns <= 101:
        raise UserError(f"--columns: wanted 2 to 101, got {args.columns}")
    if not 1 <= args.batch <= 4096:
        raise UserError(f"--batch: wanted 1 to 4096, got {args.batch}")
    if args.apply is not None and (args.pick is not None or args.list):
        raise UserError("--apply: wanted without --pick and --list (it names its directions), got both")


def _directions(args: argparse.Namespace, model: Model) -> Directions:
    from ...applications.edit.directions import find_directions, load_directions
    from ...applications.edit.mixing import layer_rows

    if args.directions is not None:
        return load_directions(args.directions, model)
    rows = None if args.layers is None else layer_rows(model, args.layers)
    return find_directions(model, args.method or "factor", rows, label=args.label)


def _pick(args: argparse.Namespace, directions: Directions) -> list[int]:
    if args.pick is None:
        return list(range(min(_LISTED if args.list else _EFFECTS, len(directions))))
    pick = parse_seeds(args.pick, "--pick")
    if max(pick) >= len(directions):
        raise UserError(f"--pick: wanted directions of 0 to {len(directions) - 1}, got {max(pick)}")
    return pick


def _print(directions: Directions, pick: list[int]) -> None:
    total = float(directions.values.sum())
    print("direction   eigenvalue   share   one standard deviation of w")
    for i in pick:
        value, std = float(directions.values[i]), float(directions.stds[i])
        print(f"{i:9d}   {value:10.5f}   {value / total:4.1%}   {std:.4f}".replace("   0.0%", "  <0.1%"))


def _sweep(
    args: argparse.Namespace,
    model: Model,
    directions: Directions,
    pick: list[int],
    viewed: tuple[Subjects, list[str], Camera],
    view: ViewOptions,
    out: Path,
) -> list[Path]:
    """A sheet for each subject: a row for each direction, a column for each strength."""
    import torch

    from ...applications.render.outputs import to_pillow
    from ...applications.render.sheets import table, tile
    from ...files import file_names
    from ...pictures import save_png
    from ...training.stats import ProgressBar

    subjects, labels, camera = viewed
    strengths = torch.linspace(-args.reach, args.reach, args.columns)
    cells = len(pick) * args.columns
    if cells * len(subjects) > MAX_CELLS:
        raise UserError(f"--pick, --columns, --seeds: wanted at most {MAX_CELLS} pictures, got {cells * len(subjects)}")
    amounts = torch.zeros(len(pick), args.columns, len(directions))
    for row, i in enumerate(pick):
        amounts[row, :, i] = strengths
    rows = [f"{directions.method} {i}" for i in pick]
    columns = [f"{s:+.3g}" if abs(s) > 1e-6 else "0" for s in strengths.tolist()]
    made = []
    with ProgressBar(cells * len(subjects), "edit", enabled=not args.no_progress) as bar:
        for i, name in enumerate(file_names(labels, "subject")):
            moved = directions.apply(subjects[i].repeat(cells), amounts.flatten(0, 1))
            same = camera[torch.full((cells,), i)]
            pictures = [tile(p) for v in _render(model, moved, same, view, args.batch, bar) for p in to_pillow(v)]
            table_rows = [pictures[r : r + args.columns] for r in range(0, cells, args.columns)]
            made.append(out / ("sweep.png" if len(subjects) == 1 else f"sweep-{name}.png"))
            save_png(table(table_rows, rows, columns), made[-1])
    return made


def _apply(
    args: argparse.Namespace,
    model: Model,
    directions: Directions,
    subjects: Subjects,
    labels: list[str],
    camera: Camera,
    view: ViewOptions,
    out: Path,
) -> list[Path]:
    """Pictures and styles of every subject, moved."""
    import torch

    from ...applications.render.outputs import to_pillow
    from ...applications.render.sheets import table, tile
    from ...applications.render.subjects import save_subjects
    from ...files import file_names
    from ...pictures import save_png
    from ...training.stats import ProgressBar

    amounts = torch.zeros(len(directions))
    for part in args.apply.split(","):
        match = re.fullmatch(r"\s*(\d{1,9}):([+-]?[0-9.]{1,12})\s*", part)
        try:
            i, strength = int(match[1]), float(match[2])  # type: ignore[index]
        except (TypeError, ValueError):
            raise UserError(f"--apply: wanted direction:strength such as 2:1.5,0:-2, got {short(part)}") from None
        if i >= len(directions) or abs(strength) > 100:
            raise UserError(f"--apply: wanted a direction of 0 to {len(directions) - 1} and a strength of at most 100, "
                            f"got {short(part)}")  # fmt: skip
        amounts[i] += strength
    moved = directions.apply(subjects, amounts.expand(len(subjects), -1))
    with ProgressBar(2 * len(subjects), "edit", enabled=not args.no_progress) as bar:
        before, after = (
            [p for v in _render(model, s, camera, view, args.batch, bar) for p in to_pillow(v)]
            for s in (subjects, moved)
        )
    for name, picture in zip(file_names(labels, "subject"), after):
        save_png(picture, out / "images" / f"{name}.png")
    shown = slice(0, 16)
    cells = [[tile(p) for p in pictures[shown]] for pictures in (before, after)]
    save_png(table(cells, ["as it was", args.apply], labels[shown]), out / "sheet.png")
    save_subjects(out / "latents.npz", moved, camera)
    return [out / "images", out / "sheet.png", out / "latents.npz"]


def _render(
    model: Model, subjects: Subjects, camera: Camera, view: ViewOptions, batch: int, bar: ProgressBar
) -> list[torch.Tensor]:
    from ...applications.render.views import render_views

    images = []
    for views in render_views(model, subjects, camera, view, batch=batch):
        images.append(views.image.cpu())
        bar.update(len(views.image))
    return images
