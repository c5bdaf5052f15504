"""Surfaces of equal density as triangles: marching cubes in slabs, closed everywhere, whatever the grid's size.

Each slab is a few layers of the grid and begins with the last layer of the one before, so that both have the same
vertices there, bit for bit, and these become one. A layer of empty space around the grid closes what reaches its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UserError
from ...extras import need

Floats = NDArray[np.floating[Any]]
Numbers = NDArray[np.integer[Any]]
Field = Callable[[Tensor], Tensor]  # points [N, 3] float32, world -> values [N]

_SLAB_POINTS = 2**22  # values in memory at a time, or two layers if these are more
LOOSE = 0.1  # of the largest part's surface: what is smaller, a floater, is a loose part
_OUTSIDE = -1e4  # so far below any level that a surface which is cut off ends flat, at the border of the grid


@dataclass(frozen=True)
class Mesh:
    """Triangles in world units; world z is up.

    Attributes:
        vertices: [V, 3] float32.
        faces: [F, 3] int32, counter-clockwise seen from outside.
        normals: [V, 3] float32, outward, of length 1: of the faces around, each as much as its area.
        colours: [V, 3] uint8 as displayed (sRGB), or None.
    """

    vertices: Floats
    faces: Numbers
    normals: Floats
    colours: NDArray[np.uint8] | None = None


def isosurface(
    field: Field,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    *,
    level: float,
    resolution: int,
    block_points: int = 2**16,
    progress: Callable[[int], None] | None = None,
) -> Mesh:
    """The closed surface around all points of a box where ``field`` is more than ``level``.

    Args:
        field: values at points, asked at most ``block_points`` at a time.
        low, high: opposite corners of the box.
        resolution: cells along the longest edge of the box; they are cubes, so that the box may grow by less than one.
        progress: called with a number of points after each block; they add up to those of ``grid_size``.
    Returns: a mesh, empty if no point of the grid is above the level.
    Raises: UserError if the extra is missing, a value is not finite, or there is no box.
    """
    marching_cubes = _marching_cubes()
    shape, cell = grid_size(low, high, resolution)
    thickness = max(_SLAB_POINTS // (shape[1] * shape[2]), 1)
    slabs: list[tuple[Floats, Numbers]] = []
    empty = np.full((1, shape[1] + 2, shape[2] + 2), _OUTSIDE, np.float32)
    last, first = empty, -1  # the layer before the grid
    while first < shape[0]:
        layers = min(thickness, shape[0] - first - 1)
        values = np.full((layers, *empty.shape[1:]), _OUTSIDE, np.float32)
        for i in range(layers):
            number = first + 1 + i
            layer = _layer(field, low, cell, shape, number, block_points, progress)
            values[i, 1:-1, 1:-1] = _off_zero(layer - np.float32(level))
        end = [empty] if first + layers + 1 == shape[0] else []
        slab = np.concatenate([last, values, *end])
        slabs.append(_march(marching_cubes, slab, first))
        last = slab[-1:]
        first += layers + len(end)
    vertices, faces = _join(slabs, max(thickness, 1))
    world = np.asarray(low) + vertices * cell
    return with_normals(world.astype(np.float32), faces)


def grid_size(
    low: tuple[float, float, float], high: tuple[float, float, float], resolution: int
) -> tuple[tuple[int, int, int], float]:
    """Points along each axis and the edge of a cell.

    Raises: UserError if the box has no inside, or the resolution is below 1.
    """
    edges = [b - a for a, b in zip(low, high)]
    if not all(0 < e < float("inf") for e in edges):
        raise UserError(f"--bounds: wanted the low corner before the high one, got {low} and {high}")
    if resolution < 1:
        raise UserError(f"--grid: wanted at least 1 cell, got {resolution}")
    cell = max(edges) / resolution
    x, y, z = (int(np.ceil(e / cell - 1e-9)) + 1 for e in edges)
    return (x, y, z), cell


def with_normals(vertices: Floats, faces: Numbers) -> Mesh:
    """A mesh with the normals that its faces give."""
    corners = vertices[faces].astype(np.float64)
    each = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # as long as twice the area
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(each[:, k], 3), minlength=len(vertices)) for k in range(3)], 1
    ) if len(faces) else np.zeros((0, 3))  # fmt: skip
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(vertices, faces, (normals / np.maximum(length, 1e-30)).astype(np.float32))


def face_parts(mesh: Mesh) -> Numbers:
    """For each face the number [F] of its connected part, 0 for that with the largest surface, and so on down."""
    if not len(mesh.faces):
        return np.zeros(0, np.int64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    a, b = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    _, part = connected_components(coo_matrix((np.ones(len(a), np.int8), (a, b)), (count, count)), directed=False)
    own = part[mesh.faces[:, 0]]
    rank = np.argsort(np.argsort(-np.bincount(own, face_areas(mesh), minlength=part.max() + 1), kind="stable"))
    numbers: Numbers = rank[own]
    return numbers


def face_areas(mesh: Mesh) -> Floats:
    """[F] square world units."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    areas: Floats = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return areas


def with_faces(mesh: Mesh, chosen: NDArray[np.bool_]) -> Mesh:
    """The faces that are marked [F], and their vertices."""
    faces = mesh.faces[chosen]
    keep = np.zeros(len(mesh.vertices), bool)
    keep[faces] = True
    number = np.cumsum(keep) - 1
    colours = None if mesh.colours is None else mesh.colours[keep]
    return Mesh(mesh.vertices[keep], number[faces].astype(np.int32), mesh.normals[keep], colours)


def largest_part(mesh: Mesh) -> Mesh:
    """The connected part with the largest surface."""
    return with_faces(mesh, face_parts(mesh) == 0) if len(mesh.faces) else mesh


def without_loose_parts(mesh: Mesh, share: float = LOOSE) -> tuple[Mesh, list[float]]:
    """The mesh without the connected parts whose surface is less than ``share`` of the largest one's.

    Returns: what is left, and the surfaces of what is not, in parts of the whole mesh's.
    """
    if not len(mesh.faces):
        return mesh, []
    part = face_parts(mesh)
    areas = np.bincount(part, face_areas(mesh))
    loose = areas < share * areas[0]
    left_out = [float(a) for a in areas[loose] / areas.sum()]
    return (with_faces(mesh, ~loose[part]) if left_out else mesh), left_out


def volume(mesh: Mesh) -> float:
    """Enclosed volume in cubic world units, positive where faces are counter-clockwise from outside."""
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def open_edges(mesh: Mesh) -> int:
    """Edges without exactly one face on either side, each walked once in both directions; a closed surface has none."""
    a, b = mesh.faces, np.roll(mesh.faces, -1, axis=1)
    count = np.int64(len(mesh.vertices))
    forward, backward = np.sort((a * count + b).ravel()), np.sort((b * count + a).ravel())
    once = len(np.unique(forward)) == len(forward)
    return 0 if once and np.array_equal(forward, backward) else len(np.setxor1d(forward, backward)) + int(not once)


def _marching_cubes() -> Callable[..., Any]:
    need("mesh", "mesh")
    from skimage.measure import marching_cubes

    function: Callable[..., Any] = marching_cubes
    return function


def _layer(
    field: Field,
    low: tuple[float, float, float],
    cell: float,
    shape: tuple[int, int, int],
    number: int,
    block_points: int,
    progress: Callable[[int], None] | None,
) -> Floats:
    """Values [Y, Z] of the grid's points with x number ``number``."""
    y, z = (torch.arange(n, dtype=torch.float64) * cell + a for n, a in zip(shape[1:], low[1:]))
    points = torch.cartesian_prod(y, z)
    points = torch.cat([torch.full_like(points[:, :1], low[0] + number * cell), points], dim=1).float()
    parts = []
    for block in points.split(block_points):
        parts.append(field(block).float().cpu())
        if progress is not None:
            progress(len(block))
    values: Floats = torch.cat(parts).view(shape[1], shape[2]).numpy()
    if not np.isfinite(values).all():
        raise UserError("mesh: wanted finite densities, got some that are not")
    return values


def _off_zero(values: Floats) -> Floats:
    """Values moved away from zero by next to nothing: a surface right through a grid point would pinch there."""
    least = np.float32(1e-4 * np.abs(values).mean() + 1e-30)
    moved: Floats = np.where(np.abs(values) < least, np.where(values < 0, -least, least), values)
    return moved


def _march(marching_cubes: Callable[..., Any], slab: Floats, first: int) -> tuple[Floats, Numbers]:
    """Vertices [V, 3] in cells from the grid's first point, and faces; none where the slab is all in or all out."""
    if len(slab) < 2 or not slab.min() < 0 < slab.max():
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    vertices, faces, _, _ = marching_cubes(slab, 0.0, allow_degenerate=True)
    return vertices + np.array([first, -1.0, -1.0]), faces[:, ::-1].astype(np.int64)


def _join(slabs: list[tuple[Floats, Numbers]], thickness: int) -> tuple[Floats, Numbers]:
    """One mesh: vertices at the same place become one, faces that have lost their area go."""
    starts = np.cumsum([0] + [len(v) for v, _ in slabs])
    vertices = np.concatenate([v for v, _ in slabs])
    faces = np.concatenate([f + start for (_, f), start in zip(slabs, starts)])
    if not len(vertices):
        return vertices, faces.astype(np.int32)
    vertices, number = np.unique(vertices, axis=0, return_inverse=True)
    faces = number.reshape(-1)[faces]
    flat = (faces == np.roll(faces, 1, axis=1)).any(1)
    return vertices, faces[~flat].astype(np.int32)
