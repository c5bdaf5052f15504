"""Draw a scene of solids: one ray per sample, Lambert shading, a background that depends on the ray's direction.

Colour = paint * (ambient + (1 - ambient) * max(0, normal . light)), in display values 0..1. There are no shadows and
nothing depends on the view: a point of a surface has the same colour from everywhere, as a radiance field should have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.camera import Camera, pixel_grid
from .base import Pixels
from .solids import Floats, Solid

Pattern = Literal["stripes", "checker", "gradient"]

SUPERSAMPLING = 2  # samples per pixel and axis
_CHUNK = 2**14  # rays at a time: the arrays of a chunk stay in the processor's cache


@dataclass(frozen=True)
class Paint:
    """Two colours [3] and how they share a solid, in the solid's own coordinates, -1..1 across its longest axis.

    ``stripes`` and ``checker`` change ``frequency`` times per unit, ``gradient`` runs smoothly from one to the other;
    stripes and gradient go along coordinate ``axis``.
    """

    pattern: Pattern
    first: Floats
    second: Floats
    axis: int
    frequency: float

    def at(self, points: Floats) -> Floats:
        """Colours [3, R] at ``points`` [3, R]."""
        if self.pattern == "gradient":
            share = _smoothstep(0.5 + 0.6 * points[self.axis])
        else:
            counted = points if self.pattern == "checker" else points[self.axis : self.axis + 1]
            share = np.floor(counted * self.frequency + 0.5).sum(axis=0) % 2
        return _blend(self.first, self.second, share)


@dataclass(frozen=True)
class Background:
    """Colour by the sine of a direction's elevation: ``low`` to ``high`` [3] within ``width`` around ``horizon``."""

    low: Floats
    high: Floats
    horizon: float
    width: float

    def at(self, directions: Floats) -> Floats:
        """Colours [3, R] along ``directions`` [3, R] of any length."""
        x, y, z = directions
        sine = z / np.sqrt(x * x + y * y + z * z)
        return _blend(self.low, self.high, _smoothstep((sine - self.horizon) * (1 / self.width) + 0.5))


@dataclass(frozen=True)
class Scene:
    """A scene: painted solids, the direction towards the light [3] (length 1), and the background."""

    solids: tuple[tuple[Solid, Paint], ...]
    light: Floats
    ambient: float
    background: Background


class SceneView(NamedTuple):
    """A scene from one camera.

    ``image`` [r, r, 3] uint8, antialiased; ``depth`` [r, r] float32 at pixel centres, the ``t`` of point = origin +
    t * direction along the optical axis, +inf on the background; ``mask`` [r, r] true on solids; ``camera``, one.
    """

    image: Pixels
    depth: NDArray[np.float32]
    mask: NDArray[np.bool_]
    camera: Camera


def render(scene: Scene, camera: Camera, resolution: int) -> SceneView:
    """The scene from one ``camera`` at ``resolution``."""
    origin, directions = _rays(camera, resolution, torch.float64)
    nearest = np.full(directions.shape[1], np.inf)
    for solid, _ in scene.solids:
        np.minimum(nearest, solid.meet(origin, directions).t, out=nearest)
    depth = nearest.reshape(resolution, resolution).astype(np.float32)
    return SceneView(render_image(scene, camera, resolution), depth, np.isfinite(depth), camera)


def render_image(scene: Scene, camera: Camera, resolution: int) -> Pixels:
    """The image of :func:`render` alone."""
    fine = resolution * SUPERSAMPLING
    origin, directions = _rays(camera, fine, torch.float32)
    colours = np.empty_like(directions)
    for start in range(0, directions.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        colours[:, part] = _colours(scene, origin, directions[:, part])
    samples = colours.reshape(3, resolution, SUPERSAMPLING, resolution, SUPERSAMPLING)
    pixels = sum(samples[:, :, i, :, j] for i in range(SUPERSAMPLING) for j in range(SUPERSAMPLING))
    levels = np.clip(pixels * (255 / SUPERSAMPLING**2), 0, 255) + 0.5
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def _rays(camera: Camera, resolution: int, dtype: torch.dtype) -> tuple[Floats, Floats]:
    """The camera's origin [3] and directions [3, R]."""
    rays = camera.to(dtype=torch.float64).rays(_grid(resolution))
    return rays.origins[0, 0].to(dtype).numpy(), rays.directions[0].T.to(dtype).contiguous().numpy()


@lru_cache(maxsize=4)
def _grid(resolution: int) -> Tensor:
    return pixel_grid(resolution, dtype=torch.float64)


def _colours(scene: Scene, origin: Floats, directions: Floats) -> Floats:
    """Colours [3, R] of rays."""
    colours = scene.background.at(directions)
    hits = [solid.meet(origin, directions) for solid, _ in scene.solids]
    nearest = np.minimum.reduce([hit.t for hit in hits])
    for (solid, paint), hit in zip(scene.solids, hits):
        rays = np.flatnonzero((hit.t == nearest) & np.isfinite(nearest))
        points = origin[:, None] + nearest[rays] * directions[:, rays]
        own = solid.to_unit(points) * (solid.size / solid.size.max())[:, None].astype(points.dtype)
        lit = np.maximum(scene.light.astype(points.dtype) @ hit.normals(rays), 0)
        colours[:, rays] = paint.at(own) * (scene.ambient + (1 - scene.ambient) * lit)
    return colours


def _blend(first: Floats, second: Floats, share: Floats) -> Floats:
    """first + share (second - first): colours [3] twice and [R] to [3, R]."""
    start, step = (c.astype(share.dtype)[:, None] for c in (first, second - first))
    return start + step * share


def _smoothstep(x: Floats) -> NDArray[np.floating[Any]]:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
