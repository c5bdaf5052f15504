"""``stylenerf interpolate``: from subject to subject, the camera still or moving."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from ...errors import UserError
from .camera_arguments import add_camera_arguments, path_options, pick_path
from .common import (
    add_model_arguments,
    add_subject_arguments,
    add_view_arguments,
    open_model,
    parse_seeds,
    pick_subjects,
    view_options,
)
from .writing_arguments import add_writing_arguments, job_folder, run_job, writing

if TYPE_CHECKING:
    from ...applications.render.paths import CameraPath
    from ...applications.render.subjects import Subjects
    from ...model_io import Model

HELP = """Go from subject to subject: a moving picture and a sheet.

    stylenerf interpolate runs/quickstart --out walk --seeds 0-3
    stylenerf interpolate runs/quickstart --out walk --seeds 0-3 --loop --frames 96
    stylenerf interpolate runs/quickstart --out walk --seeds 0-3 --loop --path ellipse --save image,depth --beside
    stylenerf interpolate runs/ffhq256 --out walk --latents mixed/latents.npz --format png,mp4 --fps 30
    stylenerf interpolate runs/ffhq256 --out walk --seeds 5,9 --space w --strict --resolution 512

In z the latents move along great circles through the mapping network, in w the styles move straight; w is the
smoother, z stays closer to what the model was trained on. Backgrounds with a code of their own move along with it, on
great circles. With --path the camera moves meanwhile. latents.npz and cameras.json hold every frame; --resume goes on.
"""

_FRAMES_A_STEP = 24
COLUMNS = 9  # of the sheet: with the middle of a step among them
MAX_STEPS = 16
_PATHS = ("still", "turntable", "ellipse", "sweep", "zoom", "dolly")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    group = add_subject_arguments(parser, seeds="0-3")
    group.add_argument("--space", choices=("z", "w"), help="default: z for seeds, w for --latents")
    group.add_argument("--loop", action="store_true", help="from the last subject on to the first")
    frames = f"in all (default: {_FRAMES_A_STEP} for each step)"
    add_camera_arguments(parser, "still", paths=_PATHS, frames=frames, bounce=False)
    add_view_arguments(parser)
    add_writing_arguments(parser, formats="png,gif", sheet=True)


def run(args: argparse.Namespace) -> int:
    """Check everything, render what is missing, say what was written."""
    from ...applications.render.interpolation import moments
    from ...applications.render.jobs import RenderJob

    if args.space == "z" and args.latents is not None:
        raise UserError("--space: wanted w with --latents (a file holds styles, no latents z), got z")
    seeds = None if args.latents is not None else parse_seeds(args.seeds or args.default_seeds)
    if seeds is not None:
        moments(len(seeds), args.frames or 2)
    out, what, options = job_folder(args), writing(args), path_options(args, frames_of_verb=True)
    model = open_model(args)
    subjects, labels = _frames(args, model, seeds)
    options = dataclasses.replace(options, frames=len(subjects))
    path = _camera(pick_path(args, model, options, None), len(subjects), args)
    view = view_options(args, subjects.ws.device)
    rows = _sheet_rows(labels, len(subjects), args.loop)
    job = RenderJob(subjects, ["interpolation"], path, view, what, "film", rows if len(labels) <= MAX_STEPS else None)
    run_job(args, model, job, out)
    return 0


def _frames(args: argparse.Namespace, model: Model, seeds: list[int] | None) -> tuple[Subjects, list[str]]:
    """The subject of every frame, and the names of those between which they go."""
    from ...applications.render.interpolation import between_seeds, between_subjects

    if seeds is not None and args.space != "w":
        frames = args.frames or _default_frames(len(seeds), args.loop)
        label, psi = args.label, args.truncation
        subjects = between_seeds(model, seeds, frames, loop=args.loop, truncation_psi=psi, label=label)
        return subjects, [f"seed {s}" for s in seeds]
    keys, labels, _ = pick_subjects(args, model)
    frames = args.frames or _default_frames(len(keys), args.loop)
    return between_subjects(keys, frames, loop=args.loop), labels


def _sheet_rows(labels: list[str], frames: int, loop: bool) -> list[tuple[str, list[int]]]:
    """A row for each step, from the frame nearest to one subject to the frame nearest to the next."""
    from ...applications.render.jobs import evenly

    steps = len(labels) if loop else len(labels) - 1
    last = frames if loop else frames - 1  # of a loop it is the first frame again
    rows = []
    for i in range(steps):
        ends = [round(j * last / steps) for j in (i, i + 1)]
        rows.append(
            (
                f"{labels[i]}\nto {labels[(i + 1) % len(labels)]}",
                [f % frames for f in evenly(ends[0], ends[1], COLUMNS)],
            )
        )
    return rows


def _default_frames(subjects: int, loop: bool) -> int:
    return _FRAMES_A_STEP * subjects if loop else _FRAMES_A_STEP * (subjects - 1) + 1


def _camera(path: CameraPath, frames: int, args: argparse.Namespace) -> CameraPath:
    """A camera for every frame; one camera sees them all."""
    from ....models.camera import Camera
    from ...applications.render.paths import CameraPath

    camera = path.camera
    if len(camera) == 1:
        camera = Camera(camera.cam2world.repeat(frames, 1, 1), camera.tan_half_fov.repeat(frames, 1))
    if len(camera) != frames:
        raise UserError(f"--cameras: wanted a file of 1 or {frames} cameras, one for each frame, got {len(camera)}")
    return CameraPath(camera, loops=args.loop)
