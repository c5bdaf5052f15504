"""``stylenerf compare``: figures of one protocol side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import UserError

HELP = """Compare figures of `stylenerf evaluate`, if they were made by one protocol.

    stylenerf compare before.json after.json            a table; 95 % intervals in brackets
    stylenerf compare a.json b.json c.json

Figures of another detector, resolution, resizing, number of images, truncation, rendering, seed, data set or mirroring
do not compare: the command refuses them and names the fields that differ.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="what `stylenerf evaluate --out` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises: UserError for a file that is none, or figures that do not compare."""
    from ...training.metrics.protocol import check_comparable, read_result
    from .evaluate import table

    if len(set(args.files)) < 2:
        raise UserError(f"FILE: wanted at least two different files, got {' '.join(args.files)}")
    results = {name: read_result(Path(name)) for name in args.files}
    check_comparable(results)
    for line in table(results):
        print(line)
    return 0
