"""Arguments of verbs that move a camera, and what they mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from engine.errors import UserError
from engine.model_io import Model
from engine.rendering.paths import PATHS, CameraPath, PathOptions, camera_path, read_cameras, warn_of_radius
from models.camera import Camera

SAVED = "saved"
_RANGES = ("yaw", "pitch", "radius")
_PATH_ONLY = (*_RANGES, "fov", "frames", "magnify", "grid", "path_seed")
_ONE_USE = {"magnify": "zoom", "grid": "grid", "path_seed": "random"}


def add_camera_arguments(
    parser: argparse.ArgumentParser, default: str = "turntable", *, paths: Sequence[str] = (*PATHS, SAVED)
) -> argparse._ArgumentGroup:
    """--path and what it may be told, --cameras; returns the group."""
    group = parser.add_argument_group(
        "where the camera stands (angles in radians, pitch from the zenith: pi/2 is level)"
    )
    group.add_argument("--path", choices=tuple(paths), help=f"default: {default}")
    group.add_argument("--frames", metavar="N", type=int, help=f"cameras on the path (default: {PathOptions.frames})")
    group.add_argument("--yaw", nargs=2, metavar=("LOW", "HIGH"), type=float, help="default: the model's prior")
    group.add_argument("--pitch", nargs=2, metavar=("LOW", "HIGH"), type=float, help="default: the model's prior")
    group.add_argument("--radius", nargs=2, metavar=("NEAR", "FAR"), type=float, help="default: the model's prior")
    group.add_argument("--fov", metavar="DEG", type=float, help="field of view in degrees (default: the model's)")
    group.add_argument("--magnify", nargs=2, metavar=("FIRST", "LAST"), type=float, help="of zoom (default: 1 2)")
    group.add_argument("--grid", metavar="COLSxROWS", help="of grid: yaws x pitches (default: 5x3)")
    group.add_argument("--path-seed", metavar="N", type=int, help="of random (default: 0)")
    group.add_argument("--cameras", metavar="FILE", help="a JSON file of cameras instead of a path")
    parser.set_defaults(default_path=default)
    return group


def path_options(args: argparse.Namespace) -> PathOptions:
    """The arguments of a path, checked without a model.

    Raises: UserError naming the argument, also one that the path has no use for.
    """
    given = [name for name in _PATH_ONLY if getattr(args, name) is not None]
    kind = args.path or args.default_path
    if args.cameras is not None and (args.path is not None or given):
        other = f"--{given[0].replace('_', '-')}" if given else "--path"
        raise UserError(f"--cameras: wanted alone (the file says where cameras stand), got also {other}")
    if args.cameras is None:
        for name in given:
            useless = (
                _ONE_USE.get(name, kind) != kind or kind == SAVED or (name == "frames" and kind in ("still", "grid"))
            )
            if useless:
                raise UserError(f"--{name.replace('_', '-')}: has no meaning for --path {kind}")
    options = {
        "frames": args.frames,
        **{name: None if getattr(args, name) is None else tuple(getattr(args, name)) for name in _RANGES},
        "fov_deg": args.fov,
        "magnification": None if args.magnify is None else tuple(args.magnify),
        "grid": None if args.grid is None else _grid(args.grid),
        "seed": args.path_seed,
    }
    options["yaw_rad"], options["pitch_rad"] = options.pop("yaw"), options.pop("pitch")
    return PathOptions(**{name: value for name, value in options.items() if value is not None})


def pick_path(args: argparse.Namespace, model: Model, options: PathOptions, saved: Camera | None) -> CameraPath:
    """The cameras that the arguments name; ``saved`` are those of a file of latents."""
    if args.cameras is not None:
        path = CameraPath(read_cameras(args.cameras), loops=True)
    elif (args.path or args.default_path) == SAVED:
        if saved is None:
            raise UserError("--path: wanted --latents FILE with cameras in it for 'saved', got none")
        path = CameraPath(saved, loops=True)
    else:
        span = (model.config.field.near, model.config.field.far)
        path = camera_path(model.prior, args.path or args.default_path, options, span=span)
    line = warn_of_radius(path.camera, model.prior)
    if line is not None:
        print(f"warning: {line}", file=sys.stderr)
    return path


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and len(text) < 20):
        raise UserError(f"--grid: wanted COLUMNSxROWS such as 5x3, got {text[:40]!r}")
    return int(columns), int(rows)
