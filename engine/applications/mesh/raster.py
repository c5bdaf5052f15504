"""A mesh as a picture, without a graphics library: points on every triangle, the nearest of each pixel wins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....models.camera import Camera
from .isosurface import Mesh

_FINE = 2  # samples a side of a pixel
_PAPER, _CLAY = 1.0, np.array([0.78, 0.77, 0.75])


class Drawing(NamedTuple):
    """B pictures of a mesh."""

    shape: Tensor  # [B, 3, R, R] in -1..1, as clay lit from behind the camera
    colours: Tensor | None  # [B, 3, R, R] in the vertices' colours, hardly lit; None if it has none
    cover: Tensor  # [B, R, R] in 0..1


def draw_mesh(mesh: Mesh, camera: Camera, resolution: int) -> Drawing:
    """Draw ``mesh`` as B cameras see it."""
    parts = [_draw(mesh, camera[i], resolution * _FINE) for i in range(len(camera))]
    small = torch.nn.functional.avg_pool2d(torch.stack(parts), _FINE)  # [B, 4 or 7, R, R]
    images = small[:, 1:] * 2 - 1
    return Drawing(images[:, :3], None if mesh.colours is None else images[:, 3:], small[:, 0])


def _draw(mesh: Mesh, camera: Camera, edge: int) -> Tensor:
    """Coverage, clay and colours in 0..1, [1 + 3 + 3, E, E], one sample a pixel."""
    vertices = torch.from_numpy(mesh.vertices).double()
    pixels, depth = Camera(camera.cam2world.double(), camera.tan_half_fov.double()).project(vertices[None])
    # column and row, counted from the corner of the first pixel
    places = np.stack([(pixels[0, :, 0].numpy() + 1) / 2 * edge, (1 - pixels[0, :, 1].numpy()) / 2 * edge], 1)
    eye = camera.position[0].double().numpy() - mesh.vertices
    eye /= np.linalg.norm(eye, axis=1, keepdims=True)
    facing = np.clip((mesh.normals * eye).sum(1), 0, 1)[:, None]
    paints = [np.ones((len(facing), 1)), _CLAY * (0.35 + 0.65 * facing)]
    if mesh.colours is not None:
        paints.append(mesh.colours / 255.0 * (0.7 + 0.3 * facing))
    paint = np.concatenate(paints, 1)
    at, numbers, weights = _points_on(mesh, places, depth[0].numpy(), edge)
    image = np.full((edge * edge, paint.shape[1]), _PAPER)
    image[:, 0] = 0
    image[at] = (paint[mesh.faces[numbers]] * weights[..., None]).sum(1)
    return torch.from_numpy(image).float().T.reshape(-1, edge, edge)


def _points_on(
    mesh: Mesh, places: NDArray[Any], depth: NDArray[Any], edge: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Covered pixels [P], and of the nearest point in each its face [P] and its barycentric coordinates [P, 3]."""
    corners, far = places[mesh.faces], depth[mesh.faces]  # [F, 3, 2], [F, 3]
    reach = np.abs(corners - np.roll(corners, 1, axis=1)).max((1, 2))
    reach = np.where((far > 0).all(1) & np.isfinite(reach), reach, 0)
    steps = np.ceil(1.5 * reach).clip(1, 4 * edge).astype(int)  # points at most two thirds of a pixel apart
    points: list[tuple[NDArray[Any], ...]] = []
    for n in np.unique(steps):
        i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        inside = i + j <= n
        weights = np.stack([i[inside], j[inside], (n - i - j)[inside]], 1) / n  # [K, 3]
        chosen = np.flatnonzero((steps == n) & (far > 0).all(1))
        pace = max(2**20 // len(weights), 1)
        for first in range(0, len(chosen), pace):
            points.append(_nearest(chosen[first : first + pace], weights, corners, far, edge))
    if not points:
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3))
    at, t, number, weights = (np.concatenate(part) for part in zip(*points))
    first_of = _first_by_depth(at, t)
    return at[first_of], number[first_of], weights[first_of]


def _nearest(
    chosen: NDArray[Any], weights: NDArray[Any], corners: NDArray[Any], far: NDArray[Any], edge: int
) -> tuple[NDArray[Any], ...]:
    """Pixels that the points ``weights`` of the chosen faces meet, with the nearest point's depth, face, weights."""
    place = np.floor(np.einsum("kc,fcd->fkd", weights, corners[chosen]))
    t = np.einsum("kc,fc->fk", weights, far[chosen])
    seen = ((place >= 0) & (place < edge)).all(-1)
    f, k = np.nonzero(seen)
    at = (place[f, k, 1] * edge + place[f, k, 0]).astype(np.int64)
    keep = _first_by_depth(at, t[f, k])
    f, k = f[keep], k[keep]
    return at[keep], t[f, k], chosen[f], weights[k]


def _first_by_depth(at: NDArray[Any], t: NDArray[Any]) -> NDArray[Any]:
    """Numbers of the nearest entry of every pixel."""
    order = np.lexsort((t, at))
    first = np.ones(len(order), bool)
    first[1:] = at[order][1:] != at[order][:-1]
    nearest: NDArray[Any] = order[first]
    return nearest


def preview(mesh: Mesh, cameras: Camera, resolution: int) -> list[tuple[str, Tensor]]:
    """Rows for ``pictures.labelled_rows``: as clay, and with the vertices' colours if there are any."""
    drawing = draw_mesh(mesh, cameras, resolution)
    rows = [("shape", drawing.shape)]
    return rows if drawing.colours is None else [*rows, ("colours", drawing.colours)]
