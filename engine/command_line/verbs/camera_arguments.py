"""Arguments of verbs that place or move a camera, and what they mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...applications.render.path_options import PATHS, PathOptions
from ...errors import UserError, short

if TYPE_CHECKING:
    from ....models.camera import Camera
    from ...applications.render.paths import CameraPath
    from ...model_io import Model

SAVED = "saved"
_TITLE = "where the camera stands (angles in radians, pitch from the zenith: pi/2 is level)"
_PRIOR = "default: the model's prior"
_OPEN = ("sweep", "zoom", "dolly")  # end elsewhere than they began
# Options of camera paths, and the paths that use each (None: every computed path).
_USES: dict[str, Sequence[str] | None] = {
    "yaw": None,
    "pitch": None,
    "radius": None,
    "fov": None,
    "frames": ("turntable", "ellipse", "sweep", "zoom", "dolly", "random"),
    "magnify": ("zoom",),
    "grid": ("grid",),
    "path_seed": ("random",),
    "bounce": _OPEN,
}


def add_camera_arguments(
    parser: argparse.ArgumentParser,
    default: str = "turntable",
    *,
    paths: Sequence[str] = (*PATHS, SAVED),
    frames: str = f"cameras on the path (default: {PathOptions.frames})",
    bounce: bool = True,
) -> argparse._ArgumentGroup:
    """--path and what these ``paths`` may be told, --cameras; returns the group."""
    group = parser.add_argument_group(_TITLE)
    group.add_argument("--path", choices=tuple(paths), help=f"default: {default}")
    group.add_argument("--frames", metavar="N", type=int, help=frames)
    group.add_argument("--yaw", nargs=2, metavar=("LOW", "HIGH"), type=float, help=_PRIOR)
    group.add_argument("--pitch", nargs=2, metavar=("LOW", "HIGH"), type=float, help=_PRIOR)
    group.add_argument("--radius", nargs=2, metavar=("NEAR", "FAR"), type=float, help=_PRIOR)
    group.add_argument("--fov", metavar="DEG", type=float, help="field of view in degrees (default: the model's)")
    if "zoom" in paths:
        group.add_argument("--magnify", nargs=2, metavar=("FIRST", "LAST"), type=float, help="of zoom (default: 1 2)")
    if "grid" in paths:
        group.add_argument("--grid", metavar="COLSxROWS", help="of grid: yaws x pitches (default: 5x3)")
    if "random" in paths:
        group.add_argument("--path-seed", metavar="N", type=int, help="of random (default: 0)")
    if bounce and set(paths) & set(_OPEN):
        group.add_argument("--bounce", action="store_true", help=f"there and back again, for {', '.join(_OPEN)}")
    group.add_argument("--cameras", metavar="FILE", help="a JSON file of cameras instead of a path")
    parser.set_defaults(default_path=default)
    return group


def path_options(args: argparse.Namespace, *, frames_of_verb: bool = False) -> PathOptions:
    """The arguments of a path, checked without a model; with ``frames_of_verb`` --frames is not the path's alone.

    Raises: UserError naming the argument, also one that the path has no use for.
    """
    values: dict[str, Any] = {name: getattr(args, name, None) for name in _USES}
    given = [n for n, value in values.items() if value not in (None, False) and not (frames_of_verb and n == "frames")]
    kind = args.path or args.default_path
    if args.cameras is not None and (args.path is not None or given):
        other = f"--{given[0].replace('_', '-')}" if given else "--path"
        raise UserError(f"--cameras: wanted alone (the file says where cameras stand), got also {other}")
    for name in given:
        uses = _USES[name]
        if kind == SAVED or (uses is not None and kind not in uses):
            raise UserError(f"--{name.replace('_', '-')}: has no meaning for --path {kind}")
    options = {
        "frames": values["frames"],
        "yaw_rad": _pair(values["yaw"]),
        "pitch_rad": _pair(values["pitch"]),
        "radius": _pair(values["radius"]),
        "fov_deg": values["fov"],
        "magnification": _pair(values["magnify"]),
        "grid": None if values["grid"] is None else _grid(values["grid"]),
        "seed": values["path_seed"],
    }
    return PathOptions(**{name: value for name, value in options.items() if value is not None})


def pick_path(args: argparse.Namespace, model: Model, options: PathOptions, saved: Camera | None) -> CameraPath:
    """The cameras that the arguments name; ``saved`` are those of a file of latents."""
    from ...applications.render.paths import CameraPath, bounced, camera_path, read_cameras

    if args.cameras is not None:
        path = CameraPath(read_cameras(args.cameras), loops=True)
    elif (args.path or args.default_path) == SAVED:
        if saved is None:
            raise UserError("--path: wanted --latents FILE with cameras in it for 'saved', got none")
        path = CameraPath(saved, loops=True)
    else:
        path = camera_path(model.prior, args.path or args.default_path, options, span=_span(model))
        if getattr(args, "bounce", False):
            path = bounced(path)
    _warn(path.camera, model)
    return path


def add_viewpoint_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--yaw, --pitch, --radius, --fov or --cameras of a single view; returns the group."""
    group = parser.add_argument_group(_TITLE)
    group.add_argument("--yaw", metavar="RAD", type=float, help="default: the middle of the model's prior")
    group.add_argument("--pitch", metavar="RAD", type=float, help="default: the middle of the model's prior")
    group.add_argument("--radius", metavar="R", type=float, help="default: the middle of the model's prior")
    group.add_argument("--fov", metavar="DEG", type=float, help="field of view in degrees (default: the model's)")
    group.add_argument("--cameras", metavar="FILE", help="a JSON file of cameras, of which the first is taken")
    return group


def viewpoint_options(args: argparse.Namespace) -> PathOptions:
    """The arguments of :func:`add_viewpoint_arguments`, checked without a model."""
    values = {name: getattr(args, name) for name in ("yaw", "pitch", "radius", "fov")}
    given = [name for name, value in values.items() if value is not None]
    if args.cameras is not None and given:
        raise UserError(f"--cameras: wanted alone (the file says where the camera stands), got also --{given[0]}")
    yaw, pitch, radius = (None if v is None else (v, v) for v in (values["yaw"], values["pitch"], values["radius"]))
    return PathOptions(frames=1, yaw_rad=yaw, pitch_rad=pitch, radius=radius, fov_deg=values["fov"])


def pick_viewpoint(args: argparse.Namespace, model: Model, options: PathOptions) -> Camera:
    """The one camera that the arguments name."""
    from ...applications.render.paths import camera_path, read_cameras

    if args.cameras is not None:
        camera = read_cameras(args.cameras)[0]
    else:
        camera = camera_path(model.prior, "still", options).camera
    _warn(camera, model)
    return camera


def _warn(camera: Camera, model: Model) -> None:
    from ...applications.render.paths import warn_of_radius

    line = warn_of_radius(camera, model.prior)
    if line is not None:
        print(f"warning: {line}", file=sys.stderr)


def _span(model: Model) -> tuple[float, float]:
    return model.config.field.near, model.config.field.far


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and len(text) < 20):
        raise UserError(f"--grid: wanted COLUMNSxROWS such as 5x3, got {short(text)}")
    return int(columns), int(rows)
