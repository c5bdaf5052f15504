"""``stylenerf render``: subjects along a camera path, as frames, moving pictures, depth and normals."""

from __future__ import annotations

import argparse

from .camera_arguments import SAVED, add_camera_arguments, path_options, pick_path
from .common import (
    add_model_arguments,
    add_subject_arguments,
    add_view_arguments,
    open_model,
    pick_subjects,
    view_options,
)
from .consistency_check import add_consistency_arguments, run_check
from .writing_arguments import add_writing_arguments, job_folder, run_job, writing

HELP = """Render a model: pictures, depth, normals, along a camera path.

    stylenerf render runs/quickstart --out turn --seeds 0-3 --format png,gif --sheet
    stylenerf render runs/quickstart --out shape --path sweep --frames 8 --save image,depth,normals --sheet
    stylenerf render runs/ffhq256 --out film --seeds 7 --path ellipse --frames 240 --format mp4 --fps 30
    stylenerf render runs/ffhq256 --out film --seeds 7 --path ellipse --frames 240 --format mp4 --fps 30 --resume
    stylenerf render runs/ffhq256 --out views --path grid --grid 7x3 --yaw -0.5 0.5 --sheet
    stylenerf render runs/ffhq256 --out again --latents film/latents.npz --cameras film/cameras.json
    stylenerf render runs/ffhq256 --out fine --path still --strict --resolution 512 --save image,depth,depth-npy
    stylenerf render runs/ffhq256 --out check --seeds 0-3 --check-consistency

Paths: turntable (a full turn where the model knows one, else to and fro over the yaw range that it knows), ellipse (the
paper's), sweep, zoom (field of view), dolly (radius), grid (yaw x pitch), random (the training cameras' distribution),
still, saved (the cameras in --latents). `--save strict` renders by one ray a pixel beside the fast picture. The folder
gets cameras.json and latents.npz, which every verb takes, and job.json: with --resume an interrupted job renders the
frames that are missing, and another job is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_subject_arguments(parser)
    add_camera_arguments(parser)
    add_view_arguments(parser)
    add_consistency_arguments(parser)
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, render what is missing, say what was written."""
    from ...applications.render.jobs import RenderJob

    out, what, options = job_folder(args), writing(args), path_options(args)
    model = open_model(args)
    subjects, labels, saved = pick_subjects(args, model, follow=True)
    if args.check_consistency:
        run_check(args, model, subjects, out)
        return 0
    path = pick_path(args, model, options, saved)
    view = view_options(args, subjects.ws.device)
    job = RenderJob(subjects, labels, path, view, what, "own" if args.path == SAVED else "every")
    run_job(args, model, job, out)
    return 0
