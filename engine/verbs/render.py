"""``stylenerf render``: subjects along a camera path, as frames, moving pictures, depth and normals."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.rendering.jobs import FORMATS, KINDS, RenderJob, Writing, render_job
from engine.stats import ProgressBar
from engine.verbs.camera_arguments import SAVED, add_camera_arguments, path_options, pick_path
from engine.verbs.common import (
    add_model_arguments,
    add_subject_arguments,
    add_view_arguments,
    new_folder,
    open_model,
    pick_subjects,
    view_options,
)

HELP = """Render a model: pictures, depth, normals, along a camera path.

    stylenerf render runs/quickstart --out turn --seeds 0-3 --format png,gif --sheet
    stylenerf render runs/quickstart --out shape --path sweep --frames 8 --save image,depth,normals --sheet
    stylenerf render runs/ffhq256 --out film --seeds 7 --path ellipse --frames 240 --format mp4 --fps 30
    stylenerf render runs/ffhq256 --out film --seeds 7 --path ellipse --frames 240 --format mp4 --fps 30 --resume
    stylenerf render runs/ffhq256 --out views --path grid --grid 7x3 --yaw -0.5 0.5 --sheet
    stylenerf render runs/ffhq256 --out again --latents film/latents.npz --cameras film/cameras.json
    stylenerf render runs/ffhq256 --out fine --path still --strict --resolution 512 --save image,depth,depth-npy

Paths: turntable (a full turn where the model knows one, else to and fro over the yaw range that it knows), ellipse (the
paper's), sweep, zoom (field of view), dolly (radius), grid (yaw x pitch), random (the training cameras' distribution),
still, saved (the cameras in --latents). The folder gets cameras.json and latents.npz, which every verb takes, and
job.json: with --resume an interrupted job renders the frames that are missing, and another job is refused.
"""

_MOST_LINES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_subject_arguments(parser)
    add_camera_arguments(parser)
    add_view_arguments(parser)
    group = parser.add_argument_group("what is written")
    group.add_argument("--out", metavar="DIR", help="folder, new or empty")
    group.add_argument(
        "--save", metavar="LIST", default="image", help=f"some of {', '.join(KINDS)} (default: %(default)s)"
    )
    group.add_argument(
        "--format", metavar="LIST", default="png", help=f"some of {', '.join(FORMATS)} (default: %(default)s)"
    )
    group.add_argument("--fps", metavar="N", type=float, default=24.0, help="of moving pictures (default: %(default)g)")
    group.add_argument("--sheet", action="store_true", help="also lay frames out on sheet.png, a row per subject")
    group.add_argument(
        "--depth-range",
        nargs=2,
        metavar=("NEAR", "FAR"),
        type=float,
        help="depths of the warmest and the darkest colour (default: the model's near and far)",
    )
    group.add_argument("--batch", metavar="N", type=int, default=8, help="pictures at a time (default: %(default)s)")
    group.add_argument("--resume", action="store_true", help="go on with this job in a folder that holds a part of it")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Check everything, render what is missing, say what was written."""
    out = Path(args.out) if args.resume and args.out is not None else new_folder(args.out)
    kinds, formats = (tuple(part.strip() for part in text.split(",")) for text in (args.save, args.format))
    writing = Writing(kinds, formats, args.fps, args.sheet, args.depth_range and tuple(args.depth_range), args.batch)
    options = path_options(args)
    model = open_model(args)
    subjects, labels, saved = pick_subjects(args, model)
    path = pick_path(args, model, options, saved)
    view = view_options(args, subjects.ws.device)
    job = RenderJob(subjects, labels, path, view, writing, own_cameras=args.path == SAVED)
    with ProgressBar(len(subjects) * job.frames, "render", enabled=not args.no_progress) as bar:
        made = render_job(model, job, out, resume=args.resume, progress=bar.update)
    edge = args.resolution or model.generator.synthesis.growth().resolution
    print(f"rendered:    {len(subjects)} x {job.frames} views, {edge} px{', strict' if args.strict else ''}")
    shown = (
        made if len(made) <= _MOST_LINES else [*made[: _MOST_LINES - 1], f"... and {len(made) - _MOST_LINES + 1} more"]
    )
    for file in [*shown, out / "cameras.json", out / "latents.npz"]:
        print(f"wrote:       {file}")
    return 0
