"""``stylenerf mix``: a table of subjects that share layers."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ...applications.render.label_argument import add_label_argument
from ...errors import UserError
from .camera_arguments import add_viewpoint_arguments, pick_viewpoint, viewpoint_options
from .common import (
    add_depth_range,
    add_model_arguments,
    add_pace_arguments,
    add_view_arguments,
    new_folder,
    open_model,
    parse_seeds,
    view_options,
)

if TYPE_CHECKING:
    from PIL import Image

    from ....models.camera import Camera
    from ...applications.render.jobs import Writing
    from ...applications.render.subjects import Subjects
    from ...applications.render.views import ViewOptions
    from ...model_io import Model
    from ...training.stats import ProgressBar

HELP = """Mix styles: a table of subjects, rows with the coarse layers of one, columns with the other layers of another.

    stylenerf mix runs/quickstart --out mixed                                coarse layers of seeds 0-3, fine of 10-15
    stylenerf mix runs/quickstart --out mixed --coarse 1,5 --fine 20-27
    stylenerf mix runs/quickstart --out mixed --save image,depth             the depth is that of the row
    stylenerf mix runs/ffhq256 --out mixed --layers shape                    only the layers that make the density
    stylenerf mix runs/ffhq256 --out mixed --layers 0-6,64px --fine me.npz   rows by number and name; a file of styles
    stylenerf render runs/ffhq256 --out turn --latents mixed/latents.npz     the table's subjects, row by row, turning

Layers: coarse (or field: all of the radiance field), shape (the field up to its density), middle and fine (the first
half of the upsampler and the rest), 64px (the block that makes it), or numbers of rows. The field's layers decide about
geometry, the upsampler's only about appearance. The folder gets grid.png, latents.npz, cameras.json and mix.json.
"""

MAX_CELLS = 1024
KINDS = ("image", "depth", "normals", "opacity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    group = parser.add_argument_group("what is mixed")
    group.add_argument("--coarse", metavar="LIST", default="0-3", help="seeds, or a .npz (default: %(default)s)")
    group.add_argument("--fine", metavar="LIST", default="10-15", help="seeds, or a .npz (default: %(default)s)")
    group.add_argument("--layers", metavar="LIST", default="coarse", help="taken from --coarse (default: %(default)s)")
    group.add_argument(
        "--backdrop", choices=("coarse", "fine"), default="coarse", help="whose background code (default: %(default)s)"
    )
    group.add_argument("--truncation", metavar="PSI", type=float, default=0.7, help="of seeds (default: %(default)s)")
    add_label_argument(group)
    add_viewpoint_arguments(parser)
    add_view_arguments(parser)
    written = parser.add_argument_group("what is written")
    written.add_argument("--out", metavar="DIR", help="folder, new or empty")
    written.add_argument("--save", metavar="LIST", default="image", help=f"some of {', '.join(KINDS)}")
    add_depth_range(written)
    add_pace_arguments(written)


def run(args: argparse.Namespace) -> int:
    """Check, render every cell and the sources, write the tables."""
    from ....models.camera import Camera
    from ...applications.edit.mixing import layer_rows, mix_grid, row_ranges
    from ...applications.render.jobs import Writing
    from ...applications.render.outputs import save_text
    from ...applications.render.sheets import table
    from ...applications.render.subjects import Subjects, save_subjects
    from ...applications.render.views import check_options
    from ...pictures import save_png
    from ...training.stats import ProgressBar

    out, point = new_folder(args), viewpoint_options(args)
    kinds = tuple(part.strip() for part in args.save.split(","))
    if not set(kinds) <= set(KINDS):
        raise UserError(f"--save: wanted some of {', '.join(KINDS)}, got {args.save[:60]}")
    ends = None if args.depth_range is None else (args.depth_range[0], args.depth_range[1])
    what = Writing(kinds, depth_range=ends, batch=args.batch)
    model = open_model(args)
    rows = layer_rows(model, args.layers)
    view = view_options(args, next(model.generator.parameters()).device)
    check_options(model, view)
    (coarse, row_labels), (fine, column_labels) = (_sources(args, model, name) for name in ("coarse", "fine"))
    if (len(coarse) + 1) * (len(fine) + 1) > MAX_CELLS:
        raise UserError(f"--coarse, --fine: wanted a table of at most {MAX_CELLS}, got {len(coarse)} x {len(fine)}")
    camera = pick_viewpoint(args, model, point)
    mixed = mix_grid(coarse, fine, rows, background=args.backdrop)
    everything = Subjects.cat([fine, *_interleave(coarse, mixed, len(fine))])
    with ProgressBar(len(everything), "mix", enabled=not args.no_progress) as bar:
        tiles = _tiles(model, everything, camera, view, what, bar)
    written = []
    for kind in kinds:
        cells = [None, *tiles[kind]]
        lines = [cells[i : i + len(fine) + 1] for i in range(0, len(cells), len(fine) + 1)]
        picture = table(lines, ["", *row_labels], ["", *column_labels], sources=True)
        written.append(out / ("grid.png" if kind == "image" else f"grid-{kind}.png"))
        save_png(picture, written[-1])
    every = Camera(camera.cam2world.expand(len(mixed), 4, 4), camera.tan_half_fov.expand(len(mixed), 2))
    save_subjects(out / "latents.npz", mixed, every)
    save_text(camera.to_json(), out / "cameras.json")
    description = {"rows": rows, "coarse": row_labels, "fine": column_labels, "backdrop": args.backdrop}
    save_text(json.dumps(description, indent=2), out / "mix.json")
    print(f"mixed:       rows {row_ranges(rows)} of {model.generator.synthesis.num_ws} from {len(coarse)} subjects, "
          f"the others from {len(fine)}")  # fmt: skip
    for file in [*written, out / "latents.npz", out / "cameras.json", out / "mix.json"]:
        print(f"wrote:       {file}")
    return 0


def _sources(args: argparse.Namespace, model: Model, name: str) -> tuple[Subjects, list[str]]:
    """The subjects of --coarse or --fine and their labels."""
    from ...applications.render.subjects import load_subjects, subjects_from_seeds

    text: str = getattr(args, name)
    if text.endswith(".npz"):
        subjects, _ = load_subjects(text, model)
        return subjects, [f"{name} {i}" for i in range(len(subjects))]
    seeds = parse_seeds(text, f"--{name}")
    if len(seeds) > MAX_CELLS:
        raise UserError(f"--{name}: wanted at most {MAX_CELLS}, got {len(seeds)}")
    subjects = subjects_from_seeds(model, seeds, truncation_psi=args.truncation, label=args.label).fixed()
    return subjects, [f"{name} {seed}" for seed in seeds]


def _interleave(coarse: Subjects, mixed: Subjects, columns: int) -> list[Subjects]:
    """Each row of the table: its source, then what it was mixed to."""
    return [part for i in range(len(coarse)) for part in (coarse[i], mixed[slice(i * columns, (i + 1) * columns)])]


def _tiles(
    model: Model,
    subjects: Subjects,
    camera: Camera,
    options: ViewOptions,
    what: Writing,
    bar: ProgressBar,
) -> dict[str, list[Image.Image]]:
    """Pictures of every subject, of a size for the table."""
    import torch

    from ...applications.render.jobs import surface_picture
    from ...applications.render.outputs import depth_ends, enlarged, to_pillow
    from ...applications.render.sheets import tile
    from ...applications.render.views import render_view

    tiles: dict[str, list[Image.Image]] = {kind: [] for kind in what.kinds}
    ends = what.depth_range
    for first in range(0, len(subjects), what.batch):
        some = subjects[slice(first, first + what.batch)]
        cameras = camera[torch.zeros(len(some), dtype=torch.long)].to(subjects.ws.device)
        view = render_view(model, some, cameras, options)
        ends = ends or depth_ends(view.depth, view.opacity, model.config.field.far)  # the same for the whole table
        for kind in what.kinds:
            images = view.image
            if kind != "image":
                images = enlarged(surface_picture(model, kind, view, cameras, ends), view.image.shape[-1])
            tiles[kind] += [tile(picture) for picture in to_pillow(images)]
        bar.update(len(some))
    return tiles
