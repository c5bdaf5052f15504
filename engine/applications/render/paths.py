"""Camera positions, frame by frame: paths around the object where the model has seen it, files of cameras.

Angles are radians: yaw around +z, pitch measured from +z, so that pi/2 is level (docs/cameras.md). Unless told
otherwise a path keeps to the ranges of the model's camera prior, in the middle of what it does not vary.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....models.camera import FOV_RANGE_DEG, Camera, CameraPrior, pose_fault
from ...errors import UserError, one_line, os_reason, short
from .path_options import MAX_FRAMES, PATHS, PathOptions, Range

MAX_FILE_BYTES = 2**28


class CameraPath(NamedTuple):
    """Cameras in the order of the frames."""

    camera: Camera  # [F]
    loops: bool  # whether the first frame may follow the last
    columns: int | None = None  # of a sheet; None where one row is as good as another
    shown: int | None = None  # a sheet shows some of the first so many; None: of all


class Ranges(NamedTuple):
    """A prior's ranges, in radians whatever the prior counts in."""

    yaw_rad: Range
    pitch_rad: Range
    radius: Range
    fov_deg: float


def prior_ranges(prior: CameraPrior) -> Ranges:
    """The prior's ranges in radians; of a gaussian one that is its middle and one standard deviation either way."""
    if prior.angular:
        return Ranges(prior.yaw, prior.pitch, prior.radius, prior.fov_deg)
    low, high = (math.acos(min(max(1 - 2 * v, -1.0), 1.0)) for v in prior.pitch)
    yaw = (2 * math.pi * prior.yaw[0], 2 * math.pi * prior.yaw[1])
    return Ranges(yaw, (low, high), prior.radius, prior.fov_deg)


def camera_path(
    prior: CameraPrior, kind: str, options: PathOptions | None = None, *, span: Range | None = None
) -> CameraPath:
    """The path called ``kind`` for a model whose cameras stood where ``prior`` says. t runs from 0 to 1.

    * ``turntable``: where the prior goes all the way round, a full turn at even pitch. Else the camera swings over the
      yaw range and back, yaw = middle + half sin(2 pi t): the model knows nothing of the other sides.
    * ``ellipse``: yaw = middle + half sin(2 pi t), pitch = middle + half cos(2 pi t): the paper's path.
    * ``sweep``: once over the yaw range, from its low end to its high end.
    * ``zoom``: a narrowing field of view, tan(fov/2) / m with m between ``magnification``, even in log m.
    * ``dolly``: the radius from its high end to its low end. Where the prior knows one radius only, a quarter of
      ``span`` = (near, far) around it.
    * ``grid``: yaws by pitches, rows from above to below.   ``random``: drawn from the prior.   ``still``: its middle.

    Raises: UserError for another kind.
    """
    options = options or PathOptions()
    if kind not in PATHS:
        raise UserError(f"--path: wanted one of {', '.join(PATHS)}, got {kind!r}")
    known = prior_ranges(prior)
    yaw, pitch = options.yaw_rad or known.yaw_rad, options.pitch_rad or known.pitch_rad
    radius = options.radius or known.radius
    ranges = Ranges(yaw, pitch, radius, options.fov_deg or known.fov_deg)
    if kind == "dolly" and options.radius is None and radius[0] == radius[1] and span is not None:
        reach = (span[1] - span[0]) / 4
        ranges = ranges._replace(radius=(max(radius[0] - reach, radius[0] / 2), radius[0] + reach))
    if kind == "random":
        return CameraPath(_random(prior, options, ranges), loops=False)
    return _MAKERS[kind](ranges, options)


def bounced(path: CameraPath) -> CameraPath:
    """There and back again: F cameras, then those between the ends in reverse, 2 F - 2 in all."""
    count = len(path.camera)
    order = [*range(count), *range(count - 2, 0, -1)]
    return CameraPath(path.camera[torch.tensor(order)], loops=True, shown=count)


def warn_of_radius(camera: Camera, prior: CameraPrior) -> str | None:
    """One line if cameras stand nearer to or farther from the origin than the prior's, else None.

    The volume samples its rays between fixed depths in front of the camera, around the origin as seen from the
    prior's radius: a camera that leaves it looks past a part of the object.
    """
    distance = camera.position.norm(dim=-1)
    low, high = prior.radius
    slack = 1e-3 * high
    nearest, farthest = float(distance.min()), float(distance.max())
    if nearest >= low - slack and farthest <= high + slack:
        return None
    return (
        f"cameras stand {_span_text(nearest, farthest)} from the origin, those of the training {_span_text(low, high)}:"
        " near and far no longer enclose the object evenly"
    )


def read_cameras(path: str | Path) -> Camera:
    """Cameras of a JSON file, a list of {"cam2world": 4x4, "fov_deg": number} as ``Camera.to_json`` writes it.

    Raises: UserError naming the file and the camera: not finite, a rotation that is none, a field of view outside
    (0, 180).
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: wanted at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: wanted a JSON file of cameras, got: {os_reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: wanted a JSON file of cameras, got: {one_line(error)[:200]}") from None
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_FRAMES:
        got = f"a list of {len(rows)}" if isinstance(rows, list) else type(rows).__name__
        raise UserError(f"{path}: wanted a list of 1 to {MAX_FRAMES} cameras, got {got}")
    read = [_read_camera(f"{path}: camera {i}", row) for i, row in enumerate(rows)]
    return Camera.from_matrix(torch.stack([pose for pose, _ in read]), fov_deg=torch.tensor([fov for _, fov in read]))


def _read_camera(where: str, row: Any) -> tuple[Tensor, float]:
    if not isinstance(row, dict) or not {"cam2world", "fov_deg"} <= set(row):
        got = sorted(map(str, row)) if isinstance(row, dict) else row
        raise UserError(f"{where}: wanted an object with cam2world and fov_deg, got {short(got)}")
    matrix, fov = row["cam2world"], row["fov_deg"]
    shaped = isinstance(matrix, list) and len(matrix) == 4 and all(isinstance(r, list) and len(r) == 4 for r in matrix)
    if not shaped or not all(_is_number(v) for r in matrix for v in r):
        raise UserError(f"{where}: wanted cam2world of 4 rows of 4 finite numbers, got {short(matrix)}")
    if not _is_number(fov) or not FOV_RANGE_DEG[0] <= fov <= FOV_RANGE_DEG[1]:
        raise UserError(f"{where}: wanted fov_deg between 0 and 180 (0.001 to 179.9), got {short(fov)}")
    pose = torch.tensor(matrix, dtype=torch.float64)
    fault = pose_fault(pose[None])
    if fault is not None:
        raise UserError(f"{where}: {fault[1]}")
    return pose.float(), float(fov)


def _turntable(ranges: Ranges, options: PathOptions) -> CameraPath:
    t = _turn(options.frames)
    low, high = ranges.yaw_rad
    if high - low >= 2 * math.pi - 1e-3:
        yaw = low + t * (high - low)
    else:
        yaw = _between(ranges.yaw_rad, 0.5 + 0.5 * (2 * math.pi * t).sin())
    return CameraPath(_orbit(ranges, yaw=yaw), loops=True)


def _ellipse(ranges: Ranges, options: PathOptions) -> CameraPath:
    angle = 2 * math.pi * _turn(options.frames)
    yaw, pitch = (
        _between(ends, 0.5 + 0.5 * wave)
        for ends, wave in ((ranges.yaw_rad, angle.sin()), (ranges.pitch_rad, angle.cos()))
    )
    return CameraPath(_orbit(ranges, yaw=yaw, pitch=pitch), loops=True)


def _sweep(ranges: Ranges, options: PathOptions) -> CameraPath:
    return CameraPath(_orbit(ranges, yaw=_between(ranges.yaw_rad, _line(options.frames))), loops=False)


def _zoom(ranges: Ranges, options: PathOptions) -> CameraPath:
    first, last = options.magnification
    factor = first * (last / first) ** _line(options.frames)
    camera = _orbit(ranges, yaw=torch.full((options.frames,), _middle(ranges.yaw_rad), dtype=torch.float64))
    return CameraPath(dataclasses.replace(camera, tan_half_fov=camera.tan_half_fov / factor[:, None].float()), False)


def _dolly(ranges: Ranges, options: PathOptions) -> CameraPath:
    return CameraPath(_orbit(ranges, radius=_between(ranges.radius[::-1], _line(options.frames))), loops=False)


def _grid(ranges: Ranges, options: PathOptions) -> CameraPath:
    columns, rows = options.grid
    yaw = _between(ranges.yaw_rad, _line(columns)).repeat(rows)
    pitch = _between(ranges.pitch_rad, _line(rows)).repeat_interleave(columns)
    return CameraPath(_orbit(ranges, yaw=yaw, pitch=pitch), loops=False, columns=columns)


def _still(ranges: Ranges, options: PathOptions) -> CameraPath:
    return CameraPath(_orbit(ranges, yaw=torch.tensor([_middle(ranges.yaw_rad)], dtype=torch.float64)), loops=True)


def _random(prior: CameraPrior, options: PathOptions, ranges: Ranges) -> Camera:
    """Draws of the prior; ranges that were given take the place of its own."""
    if options.yaw_rad or options.pitch_rad:
        prior = dataclasses.replace(prior, angular=True, yaw=ranges.yaw_rad, pitch=ranges.pitch_rad)
    prior = dataclasses.replace(prior, radius=(min(ranges.radius), max(ranges.radius)), fov_deg=ranges.fov_deg)
    return prior.sample(options.frames, torch.Generator().manual_seed(options.seed))


_MAKERS: dict[str, Callable[[Ranges, PathOptions], CameraPath]] = {
    "turntable": _turntable,
    "ellipse": _ellipse,
    "sweep": _sweep,
    "zoom": _zoom,
    "dolly": _dolly,
    "grid": _grid,
    "still": _still,
}


def _orbit(
    ranges: Ranges, yaw: Tensor | None = None, pitch: Tensor | None = None, radius: Tensor | None = None
) -> Camera:
    """Cameras that look at the origin; what is not given stands in the middle of its range."""
    return Camera.orbit(
        _middle(ranges.pitch_rad) if pitch is None else pitch,
        _middle(ranges.yaw_rad) if yaw is None else yaw,
        _middle(ranges.radius) if radius is None else radius,
        fov_deg=ranges.fov_deg,
    )


def _turn(frames: int) -> Tensor:
    """0 to 1 without the end, which would be the first frame again."""
    return torch.arange(frames, dtype=torch.float64) / frames


def _line(frames: int) -> Tensor:
    """0 to 1 with both ends; a single frame stands in the middle."""
    return torch.linspace(0, 1, frames, dtype=torch.float64) if frames > 1 else torch.tensor([0.5], dtype=torch.float64)


def _middle(ends: Range) -> float:
    return (ends[0] + ends[1]) / 2


def _between(ends: Range, t: Tensor) -> Tensor:
    return ends[0] + t * (ends[1] - ends[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6  # False for NaN


def _span_text(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
