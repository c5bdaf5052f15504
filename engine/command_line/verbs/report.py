"""``stylenerf report``: what a training run's figures say, as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import UserError
from ...ownership import check_writable

HELP = """See how a training run goes: one HTML page of its figures, signs, pictures and next commands.

    stylenerf report runs/ffhq256                       report.html and curves.png in the run's folder
    stylenerf report runs/ffhq256 --out pages           elsewhere
    stylenerf report runs/ffhq256 --tensorboard         its figures for TensorBoard too, under the same names

The page needs nothing outside it: pass it on, open it without a network. Every figure has a sentence on what it means
and what is healthy; signs name trouble with the figures it comes from and what helps: samples that look alike, a
discriminator that knows the images by heart, shapes inside out, views that do not agree. Training writes the same page
at its end; the run may still be going on, and nothing in it is changed. curves.png wants an extra, pip install
'stylenerf-engine[plots]', and so does --tensorboard, 'stylenerf-engine[tensorboard]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a training run, finished or not")
    parser.add_argument("--out", metavar="DIR", help="where the files go (default: the run's folder)")
    parser.add_argument(
        "--tensorboard", action="store_true", help="write the figures as TensorBoard's events too, into tensorboard/"
    )


def run(args: argparse.Namespace) -> int:
    """Read the run, write the page, print signs and next commands."""
    from ...extras import need
    from ...training.report.page import PAGE, summary, write_report
    from ...training.report.record import read_record
    from ...training.report.tensorboard import FOLDER, write_events

    out = Path(args.folder if args.out is None else args.out)
    if args.out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out: wanted a folder, got {out}, which is a file")
    if args.out is not None:
        check_writable(out / PAGE)
    record = read_record(Path(args.folder))
    if args.tensorboard:
        need("tensorboard", "--tensorboard")
    found, steps = write_report(record, out, print)
    if args.tensorboard:
        write_events(record, out / FOLDER)
        print(f"tensorboard: {out / FOLDER}")
    for line in summary(found, steps):
        print(line)
    return 0
