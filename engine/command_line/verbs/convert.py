"""``stylenerf convert``: snapshots of the public implementation to models of ours."""

import argparse
import os
from pathlib import Path

from ...applications.render.choices import NETWORKS
from ...errors import UserError
from ...ownership import check_writable

HELP = """Convert a snapshot (.pkl) of the public StyleNeRF code to a model that every other verb takes.

    stylenerf convert --inspect ffhq_512.pkl            what is in it, and what would be refused; writes nothing
    stylenerf convert ffhq_512.pkl --out models/ffhq    its averaged generator, G_ema, as a folder
    stylenerf convert ffhq_512.pkl --out models/raw --which G

Such a file is a program for Python's unpickler, and the public loader runs the source text that it brings along. Here
nothing in it is run: it is read as data, tensors are checked against the bytes that are there, and whatever else it
names is refused by name. The folder (state.pt, meta.json, manifest.json) must be new or empty; nothing is overwritten.
Bad input leaves with one line and exit code 2.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the snapshot, a .pkl of the public code")
    parser.add_argument("--out", metavar="DIR", help="folder of the converted model, new or empty")
    parser.add_argument("--which", choices=NETWORKS, default="G_ema", help="network to convert (default: %(default)s)")
    parser.add_argument(
        "--labels",
        choices=("class", "vector", "camera"),
        help="what the labels of a conditional model are (default: 25 numbers a camera, any others a class)",
    )
    parser.add_argument(
        "--inspect", action="store_true", help="list objects, globals, arguments, tensors and sources; write nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Convert, or only look."""
    if args.inspect:
        if args.out is not None:
            raise UserError("--inspect: wanted without --out, since it writes nothing; got both")
        return _inspect(args)
    return _convert(args)


def _inspect(args: argparse.Namespace) -> int:
    from ...applications.convert.inspection import describe
    from ...applications.convert.snapshot import read_snapshot

    for line in describe(read_snapshot(args.file, tolerant=True), args.which):
        print(line, flush=True)  # before torch is imported, which the last lines need
    return 0


def _convert(args: argparse.Namespace) -> int:
    if args.out is None:
        raise UserError("--out: wanted the folder of the converted model (or --inspect to look only), got nothing")
    from ...applications.convert.generator import convert_network
    from ...applications.convert.inspection import summary
    from ...applications.convert.snapshot import read_snapshot
    from ...data.labels import deduced_kind, kind_fault
    from ...model_io import save_model
    from ...training.checkpoint import check_vacant

    out = Path(args.out)
    check_vacant(out)
    check_writable(out)
    snapshot = read_snapshot(args.file)
    converted = convert_network(snapshot, args.which)
    label_dim = converted.generator.cfg.label_dim
    kind = args.labels or deduced_kind(label_dim)
    fault = kind_fault(kind, label_dim)
    if fault is not None:
        raise UserError(f"--labels: {fault}")
    source = {
        "file": os.path.basename(args.file),
        "sha256": snapshot.sha256,
        "network": args.which,
        "completed": sorted(converted.completed),
    }
    save_model(out, converted.generator, converted.prior, source, label_kind=kind)
    print(f"read:        {args.file}, {args.which}, SHA-256 {snapshot.sha256[:16]}...")
    for line in summary(converted):
        print(line)
    if label_dim:
        print(
            f"labels:      {kind}, {label_dim} numbers" + ("" if args.labels else " (deduced; --labels says otherwise)")
        )
    print(f"model:       {out}")
    return 0
