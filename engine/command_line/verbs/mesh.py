"""``stylenerf mesh``: a subject's surface as a file for other programs, and cameras that fit it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...extras import need
from ...ownership import check_writable
from .common import add_model_arguments, add_subject_arguments, open_model, pick_subjects

if TYPE_CHECKING:
    from ....models.camera import Camera
    from ...applications.mesh.mesh import MeshOptions
    from ...model_io import Model

PREVIEW_PX = 192
MAX_VIEWS = 1000

HELP = """Write a subject's surface as a mesh.

    stylenerf mesh runs/quickstart --out solid.ply --seeds 0 --largest --preview
    stylenerf mesh runs/ffhq256 --out head.glb --seeds 7 --grid 256
    stylenerf mesh runs/ffhq256 --out heads.obj --seeds 0-3        heads-seed-0.obj ... heads-seed-3.obj
    stylenerf mesh runs/ffhq256 --out head.ply --level 20          a surface further inside the fog (or outside)
    stylenerf mesh runs/ffhq256 --out head.ply --bounds -0.1 -0.15 -0.15 0.15 0.15 0.15

The surface is where light loses --level of itself per world unit: the field's density times its density_scale. Without
--level it is the density where half of the light has ended on the rays of training views, the median of them: the
surface that depth pictures show. The mesh ends where the training cameras see nothing, and is closed there.

Vertices have the field's own colour on the surface, the same from everywhere. PLY keeps the world's axes, z up; OBJ and
GLB are written y up, as programs assume; Blender's importers bring all to the same place. NAME-cameras.json has cameras
with Blender's matrix_world and angle_x, and is read by `render --cameras` too. Nothing that exists is overwritten.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_subject_arguments(parser)
    group = parser.add_argument_group("the surface")
    group.add_argument("--grid", metavar="N", type=int, default=128, help="cells along the box (default: %(default)s)")
    group.add_argument("--level", metavar="X", type=float, help="light lost per world unit (default: as views show it)")
    group.add_argument(
        "--bounds",
        nargs=6,
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        type=float,
        help="a box in world units (default: what the training cameras see)",
    )
    group.add_argument("--largest", action="store_true", help="only the connected part with the largest surface")
    group.add_argument("--no-colours", action="store_true", help="no colours of vertices")
    group.add_argument(
        "--block-points", metavar="N", type=int, default=2**16, help="points at a time (default: %(default)s)"
    )
    group = parser.add_argument_group("what is written")
    group.add_argument("--out", metavar="FILE", help="FILE.ply, FILE.obj or FILE.glb, none there yet")
    group.add_argument(
        "--views", metavar="N", type=int, default=5, help="cameras in NAME-cameras.json (default: %(default)s)"
    )
    group.add_argument("--preview", action="store_true", help="also NAME.png, the mesh drawn from these cameras")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Check everything, extract, write, say what was written."""
    from ...applications.mesh.isosurface import open_edges, volume
    from ...applications.mesh.mesh import extract_mesh, points_in_grid, view_cameras
    from ...applications.mesh.mesh_files import mesh_format, write_mesh
    from ...applications.mesh.raster import preview
    from ...applications.render.outputs import save_text
    from ...pictures import labelled_rows, save_png
    from ...training.stats import ProgressBar

    if args.out is None:
        raise UserError("--out: wanted FILE.ply, FILE.obj or FILE.glb, got nothing")
    out = Path(args.out)
    mesh_format(out)
    check_writable(out)
    if not 1 <= args.views <= MAX_VIEWS:
        raise UserError(f"--views: wanted 1 to {MAX_VIEWS}, got {args.views}")
    options = _options(args)
    need("mesh", "mesh")
    model = open_model(args)
    subjects, labels, _ = pick_subjects(args, model)
    files = _files(out, labels)
    cameras_file = out.with_name(f"{out.stem}-cameras.json")
    pictures = [file.with_suffix(".png") for file in files] if args.preview else []
    for file in [*files, cameras_file, *pictures]:
        if os.path.lexists(file):
            raise UserError(f"--out: wanted names that are not taken, got {file}, which exists")
    cameras = view_cameras(model, args.views)
    lines = []
    with ProgressBar(points_in_grid(model, options) * len(files), "mesh", enabled=not args.no_progress) as bar:
        meshes = (extract_mesh(model, subjects[i], options, progress=bar.update) for i in range(len(files)))
        for label, file, (mesh, level) in zip(labels, files, meshes):
            write_mesh(mesh, file, new=True)
            size = f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces, volume {volume(mesh):.4g}"
            closed = "closed" if not open_edges(mesh) else f"{open_edges(mesh)} open edges"
            lines.append(f"{label + ':':12s} level {level:.4g} per world unit, {size}, {closed}")
            if args.preview:
                save_png(labelled_rows(preview(mesh, cameras, PREVIEW_PX)), file.with_suffix(".png"), new=True)
    save_text(_cameras_text(model, cameras), cameras_file, new=True)
    print("\n".join(lines))
    for file in [*files, *pictures, cameras_file]:
        print(f"wrote:       {file}")
    return 0


def _options(args: argparse.Namespace) -> MeshOptions:
    from ...applications.mesh.mesh import MeshOptions

    bounds = None
    if args.bounds is not None:
        x0, y0, z0, x1, y1, z1 = args.bounds
        bounds = (x0, y0, z0), (x1, y1, z1)
    return MeshOptions(args.grid, args.level, bounds, args.largest, not args.no_colours, args.block_points)


def _files(out: Path, labels: list[str]) -> list[Path]:
    """One file is called as asked; of several each has its subject's name."""
    if len(labels) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{label.replace(' ', '-')}{out.suffix}") for label in labels]


def _cameras_text(model: Model, cameras: Camera) -> str:
    from ...applications.mesh.mesh import cameras_for_blender

    field, edge = model.config.field, model.generator.synthesis.growth().resolution
    return cameras_for_blender(cameras, near=field.near, far=field.far, resolution=edge)
