"""``stylenerf mesh``: a subject's surface as a file for other programs, and cameras that fit it."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...extras import need
from ...ownership import check_writable
from .common import add_model_arguments, add_subject_arguments, open_model, pick_subjects

if TYPE_CHECKING:
    from ....models.camera import Camera
    from ...applications.mesh.isosurface import Mesh
    from ...applications.mesh.mesh import MeshOptions
    from ...applications.render.subjects import Subjects
    from ...model_io import Model

PREVIEW_PX = 192
MAX_VIEWS = 1000

HELP = """Write a subject's surface as a mesh.

    stylenerf mesh demo --out solid.glb --seeds 0 --preview        with a texture
    stylenerf mesh demo --out splats.ply --seeds 0 --splats        for viewers of Gaussian splats
    stylenerf mesh runs/quickstart --out solid.ply --seeds 0 --largest --preview
    stylenerf mesh runs/ffhq256 --out head.glb --seeds 7 --grid 256
    stylenerf mesh runs/ffhq256 --out heads.obj --seeds 0-3        heads-seed-0.obj ... heads-seed-3.obj
    stylenerf mesh runs/ffhq256 --out head.ply --level 20          a surface further inside the fog (or outside)
    stylenerf mesh runs/ffhq256 --out head.ply --bounds -0.1 -0.15 -0.15 0.15 0.15 0.15

The surface is where light loses --level of itself per world unit: the field's density times its density_scale. Without
--level it is the density where half of the light has ended on the rays of training views, the median of them: the
surface that depth pictures show. The mesh ends where the training cameras see nothing, and is closed there. Loose
parts, with less than a tenth of the largest part's surface, are left out unless --loose keeps them.

PLY and OBJ have the field's own colour on the surface for every vertex. GLB has a texture in the colours that pictures
show, light that goes on below the surface included, on a surface nearer to the outline (a third of the level); its
triangles share no vertices, and its connected parts are nodes, part-1 the largest. --splats writes a flat Gaussian for
every vertex, coloured like the texture, in the PLY layout of 3-D Gaussian splatting. PLY keeps the world's axes, z up;
OBJ and GLB are y up, as programs assume; Blender's importers bring all to the same place. NAME-cameras.json has cameras
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
    group.add_argument("--loose", action="store_true", help="loose parts, too")
    group.add_argument("--no-texture", action="store_true", help="in GLB colours of vertices instead of a texture")
    group.add_argument("--splats", action="store_true", help="Gaussian splats (.ply) instead of triangles")
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
    from ...applications.mesh.isosurface import open_edges, volume, without_loose_parts
    from ...applications.mesh.mesh import extract_mesh, points_in_grid, view_cameras
    from ...applications.mesh.mesh_files import mesh_format
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
    _check_form(args, out)
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
        for i, (label, file, (mesh, level)) in enumerate(zip(labels, files, meshes)):
            mesh, loose = (mesh, []) if args.loose else without_loose_parts(mesh)
            mesh = _write(args, model, subjects[i], mesh, level, file)
            size = f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces, volume {volume(mesh):.4g}"
            closed = "closed" if not open_edges(mesh) else f"{open_edges(mesh)} open edges"
            lines.append(f"{label + ':':12s} level {level:.4g} per world unit, {size}, {closed}")
            if loose:
                lines.append(f"left out:    {_shares(loose)} (--loose keeps them)")
            if args.preview:
                save_png(labelled_rows(preview(mesh, cameras, PREVIEW_PX)), file.with_suffix(".png"), new=True)
    save_text(_cameras_text(model, cameras), cameras_file, new=True)
    print("\n".join(lines))
    for file in [*files, *pictures, cameras_file]:
        print(f"wrote:       {file}")
    return 0


def _shares(loose: list[float]) -> str:
    return f"{len(loose)} loose part{'s' if len(loose) > 1 else ''}, {sum(loose):.1%} of the surface"


def _check_form(args: argparse.Namespace, out: Path) -> None:
    if args.splats and out.suffix.lower() != ".ply":
        raise UserError(f"--splats: wanted --out FILE.ply, got {out}")
    if args.splats and args.no_colours:
        raise UserError("--splats: wanted colours, got --no-colours")


def _as_seen(args: argparse.Namespace) -> bool:
    """Whether the file has the colours that pictures show, instead of those right on the surface."""
    textured = Path(args.out).suffix.lower() == ".glb" and not (args.no_texture or args.no_colours)
    return args.splats or textured


def _write(args: argparse.Namespace, model: Model, subject: Subjects, mesh: Mesh, level: float, file: Path) -> Mesh:
    """Write one subject's file in the form that was asked for; the mesh, with colours if it had none of its own."""
    from ...applications.mesh.mesh_files import write_mesh
    from ...applications.mesh.splats import surfels, write_splats
    from ...applications.mesh.texture import bake_texture, seen_colours

    if not _as_seen(args):
        write_mesh(mesh, file, new=True)
        return mesh
    if args.splats or args.preview:
        mesh = dataclasses.replace(mesh, colours=seen_colours(model, subject, mesh.vertices, mesh.normals, level))
    if args.splats:
        write_splats(surfels(mesh), file, new=True)
    else:
        write_mesh(mesh, file, new=True, texture=bake_texture(model, subject, mesh, level))
    return mesh


def _options(args: argparse.Namespace) -> MeshOptions:
    from ...applications.mesh.mesh import MeshOptions

    bounds = None
    if args.bounds is not None:
        x0, y0, z0, x1, y1, z1 = args.bounds
        bounds = (x0, y0, z0), (x1, y1, z1)
    colours = not (args.no_colours or _as_seen(args))
    return MeshOptions(args.grid, args.level, _as_seen(args), bounds, args.largest, colours, args.block_points)


def _files(out: Path, labels: list[str]) -> list[Path]:
    """One file is called as asked; of several each has its subject's name."""
    if len(labels) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{label.replace(' ', '-')}{out.suffix}") for label in labels]


def _cameras_text(model: Model, cameras: Camera) -> str:
    from ...applications.mesh.mesh import cameras_for_blender

    field, edge = model.config.field, model.generator.synthesis.growth().resolution
    return cameras_for_blender(cameras, near=field.near, far=field.far, resolution=edge)
