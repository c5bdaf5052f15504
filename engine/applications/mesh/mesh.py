"""A subject's surface as a mesh: where it lies, which part of the world was seen in training, its colours, cameras.

The level of the surface is counted in light lost per world unit, density times ``density_scale``: light that crosses a
length d of level s keeps exp(-s d) of itself. Counted so, a level means the same in models of any density scale.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....models.camera import Camera, pixel_grid
from ....models.generator import RenderOptions
from ...errors import UserError
from ...model_io import Model
from ...pictures import to_uint8
from ..render.consistency import median_depth
from ..render.region import Corner, prior_cameras, seen_bounds
from ..render.subjects import Subjects
from .isosurface import Mesh, grid_size, isosurface, largest_part

MAX_GRID = 2048
OUTLINE = 1 / 3  # of the level that depth pictures show
_LEVEL_PIXELS = 32  # edge of the views whose rays tell the level


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh is made.

    Attributes:
        resolution: cells along the longest edge of the box.
        level: light lost per world unit on the surface; None takes :func:`seen_level`.
        outline: without a level, a third of :func:`seen_level`: in a foggy field nearer to the outline that one sees.
        bounds: two corners of a box in world units; None is the region that the training cameras see, whose own shape
            then also ends the mesh (:func:`seen_region`).
        largest: keep only the connected part with the largest surface.
        colours: of the vertices.
        block_points: points that the field is asked for at a time.
    """

    resolution: int = 128
    level: float | None = None
    outline: bool = False
    bounds: tuple[Corner, Corner] | None = None
    largest: bool = False
    colours: bool = True
    block_points: int = 2**16

    def __post_init__(self) -> None:
        if not 2 <= self.resolution <= MAX_GRID:
            raise UserError(f"--grid: wanted 2 to {MAX_GRID} cells, got {self.resolution}")
        if self.level is not None and not 0 < self.level < math.inf:
            raise UserError(f"--level: wanted a positive number, got {self.level}")
        if self.block_points < 1:
            raise UserError(f"--block-points: wanted at least 1, got {self.block_points}")
        if self.bounds is not None:
            grid_size(*self.bounds, self.resolution)


@torch.no_grad()
def extract_mesh(
    model: Model,
    subject: Subjects,
    options: MeshOptions | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[Mesh, float]:
    """The surface of one subject's foreground, and the level that it lies on.

    Normals point outward, where the density falls. Colours are those of the field on the surface, each vertex through
    the upsampler's 1x1 layers as in a strict rendering (through the volume's colour head alone where these layers are
    wider): they depend on no view.

    Args:
        progress: called with a number of points; see :func:`points_in_grid` for their sum.
    Raises: UserError naming the argument: more than one subject, nothing solid, no surface at this level.
    """
    options = options or MeshOptions()
    if len(subject) != 1:
        raise UserError(f"subject: wanted one, got {len(subject)}")
    level = options.level or seen_level(model, subject) * (OUTLINE if options.outline else 1)
    low, high = seen_bounds(model) if options.bounds is None else options.bounds
    cameras = prior_cameras(model.prior) if options.bounds is None else None
    _, cell = grid_size(low, high, options.resolution)
    volume, device = model.generator.synthesis.volume, subject.ws.device
    ws = subject.ws[:, : volume.num_ws]

    def field(points: Tensor) -> Tensor:
        values = volume.extinction(ws, points[None].to(device))[0].cpu()
        if cameras is None:
            return values
        over = values - level
        dense = over > 0
        inside = seen_region(points[dense], cameras, model.config.field.near, model.config.field.far) / cell
        # falls through the level at the border of what is seen, as steeply on either side; keeps all that lies deeper
        over[dense] *= inside.clamp(-1, 1)
        return level + over

    mesh = isosurface(
        field,
        low,
        high,
        level=level,
        resolution=options.resolution,
        block_points=options.block_points,
        progress=progress,
    )
    if not len(mesh.faces):
        raise UserError(f"--level: wanted one that the density crosses inside the bounds, got {level:.6g}")
    if options.largest:
        mesh = largest_part(mesh)
    return (_coloured(model, subject, mesh, options.block_points) if options.colours else mesh), level


def points_in_grid(model: Model, options: MeshOptions) -> int:
    """Points that one mesh asks the field for."""
    shape, _ = grid_size(*(options.bounds or seen_bounds(model)), options.resolution)
    return math.prod(shape)


def seen_level(model: Model, subject: Subjects) -> float:
    """Median of the light lost per world unit where half of a ray's light has ended, over the rays of training views.

    That is the surface which depth maps show. Rays that let more than a tenth of their light pass do not count.
    Raises: UserError if there are none.
    """
    synthesis, cameras = model.generator.synthesis, prior_cameras(model.prior, yaws=5, pitches=1)
    device = subject.ws.device
    densities = []
    for i in range(len(cameras)):
        camera = cameras[i].to(device)
        samples = max(96, model.config.field.samples)
        options = RenderOptions(parts="foreground", samples=samples)
        pixels = pixel_grid(_LEVEL_PIXELS, device=device)
        out = synthesis.strict(subject.ws, camera, pixels, z_bg=subject.z_bg, options=options)
        weights = out.weights
        if model.config.background.kind == "none":  # the last sample stands for all that lies behind
            weights = torch.cat([weights[..., :-1], torch.zeros_like(weights[..., :1])], -1)
        depth, _ = median_depth(weights, out.depths)
        rays = camera.rays(pixels)
        points = rays.origins + depth[..., None] * rays.directions
        points = points[torch.isfinite(depth)]
        if len(points):
            densities.append(synthesis.volume.extinction(subject.ws[:, : synthesis.volume.num_ws], points[None])[0])
    values = torch.cat(densities) if densities else torch.zeros(0)
    values = values[values > 0]
    if not len(values):
        raise UserError("--level: wanted a level, since no ray of the training cameras ends in this subject; got none")
    return float(values.median())


def view_cameras(model: Model, count: int) -> Camera:
    """Cameras to see a mesh from: across the yaw range of the model's own, in the middle of the pitch range."""
    return prior_cameras(model.prior, yaws=count, pitches=1)


def seen_region(points: Tensor, cameras: Camera, near: float, far: float) -> Tensor:
    """How deep points [N, 3] lie in what any of the cameras sees between ``near`` and ``far``.

    Returns: [N] world units to the border of the view that holds a point best, negative outside of all.
    """
    best = torch.full((len(points),), -math.inf)
    for i in range(len(cameras)):
        pixels, depth = cameras[i].project(points[None])
        tan = cameras.tan_half_fov[i]
        sides = (1 - pixels[0].abs()) * depth[0, :, None] * tan / (1 + tan.square()).sqrt()
        inside = torch.minimum(torch.minimum(depth[0] - near, far - depth[0]), sides.amin(1))
        best = torch.maximum(best, inside)
    return best


def _coloured(model: Model, subject: Subjects, mesh: Mesh, block_points: int) -> Mesh:
    synthesis, device = model.generator.synthesis, subject.ws.device
    parts = [
        synthesis.colours_at(subject.ws, block[None].to(device))[0].T.cpu()
        for block in torch.from_numpy(mesh.vertices).split(
            max(block_points // 8, 1)
        )  # its layers are several times as wide
    ]
    return dataclasses.replace(mesh, colours=to_uint8(torch.cat(parts)).numpy())


def cameras_for_blender(cameras: Camera, *, near: float, far: float, resolution: int) -> str:
    """JSON text of cameras as Blender counts: a list with one object per camera, which ``Camera.from_json`` reads too.

    ``matrix_world`` is Blender's own: a camera looks along its -z with y up, in a world with z up, as ours do.
    ``angle_x_rad`` is ``camera.data.angle_x``, once ``camera.data.sensor_fit`` is ``sensor_fit``.
    """
    rows: list[dict[str, Any]] = []
    for i in range(len(cameras)):
        matrix = [[float(np.float32(v)) for v in row] for row in cameras.cam2world[i].tolist()]
        tan_x, tan_y = cameras.tan_half_fov[i].tolist()
        rows.append(
            {
                "name": f"camera-{i}",
                "matrix_world": matrix,
                "angle_x_rad": 2 * math.atan(tan_x),
                "angle_y_rad": 2 * math.atan(tan_y),
                "sensor_fit": "HORIZONTAL",
                "resolution": [resolution, resolution],
                "clip_start": near,
                "clip_end": far,
                "cam2world": matrix,
                "fov_deg": math.degrees(2 * math.atan(tan_x)),
            }
        )
    return json.dumps(rows, indent=2) + "\n"
