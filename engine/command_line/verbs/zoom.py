"""``stylenerf zoom``: the camera moves in."""

from __future__ import annotations

import argparse

from ...errors import UserError
from .camera_arguments import add_camera_arguments, path_options, pick_path
from .common import (
    add_model_arguments,
    add_subject_arguments,
    add_view_arguments,
    open_model,
    pick_subjects,
    view_options,
)
from .writing_arguments import add_writing_arguments, job_folder, run_job, writing

HELP = """Move the camera in: a moving picture and a sheet.

    stylenerf zoom runs/quickstart --out near --seeds 1
    stylenerf zoom runs/quickstart --out near --seeds 1 --magnify 0.7 3 --bounce
    stylenerf zoom runs/quickstart --out near --seeds 1 --compare                the fast and the strict picture
    stylenerf zoom runs/quickstart --out near --seeds 1 --path dolly --radius 0.9 1.2
    stylenerf zoom runs/ffhq256 --out near --seeds 7 --strict --resolution 1024 --format mp4

--path zoom narrows the field of view (--magnify FIRST LAST, 2 is twice as large), which keeps the object between the
depths that the model samples. --path dolly moves the camera from its farthest radius to its nearest; beyond the radii
of the training it leaves those depths, and a line says so. A strict picture has a ray for every pixel and so gains
detail where the fast one only enlarges: --compare shows them beside each other. --resume goes on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    group = add_subject_arguments(parser)
    group.add_argument(
        "--compare", action="store_true", help="fast and strict beside each other; sets --save, --beside"
    )
    add_camera_arguments(parser, "zoom", paths=("zoom", "dolly"))
    add_view_arguments(parser)
    add_writing_arguments(parser, formats="png,gif", sheet=True)


def run(args: argparse.Namespace) -> int:
    """Check everything, render what is missing, say what was written."""
    from ...applications.render.jobs import RenderJob

    if args.compare:
        if args.strict or args.save != "image":
            raise UserError("--compare: wanted without --strict and --save (it shows the fast and the strict picture), "
                            f"got {'--strict' if args.strict else '--save'}")  # fmt: skip
        args.save, args.beside = "image,strict", True
    out, what, options = job_folder(args), writing(args), path_options(args)
    model = open_model(args)
    subjects, labels, _ = pick_subjects(args, model)
    path = pick_path(args, model, options, None)
    job = RenderJob(subjects, labels, path, view_options(args, subjects.ws.device), what)
    run_job(args, model, job, out)
    return 0
