"""The colours of a surface as a texture: every triangle has a corner of a small square of its own.

Two triangles share a square of n + 1 texels: one has its corners at the texels (0, 0), (n - 2, 0), (0, n - 2), the
other at (n, n), (2, n), (n, 2). The diagonal between them and the texels next to it belong to one of both, so that a
look-up between texels never meets the other's colours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...model_io import Model
from ...pictures import to_uint8
from ..render.subjects import Subjects
from .isosurface import Mesh

TEXELS = 4
_LAYERS = 10  # samples below each point of the surface
MAX_EDGE = 8192


class Texture(NamedTuple):
    """A texture of a mesh, in whose faces no two corners share a place."""

    uv: NDArray[np.float32]  # [F, 3, 2] of each face's corners, 0..1, v up
    image: NDArray[np.uint8]  # [T, T, 3] sRGB, the first row on top


@torch.no_grad()
def bake_texture(model: Model, subject: Subjects, mesh: Mesh, level: float) -> Texture:
    """Texture of ``mesh``, the surface of one subject at an extinction of ``level``, in the colours that one sees.

    Returns: texels enough for a triangle of one cell; fewer where the picture would pass 8192 px.
    """
    faces = len(mesh.faces)
    squares = math.ceil(math.sqrt(max(math.ceil(faces / 2), 1)))
    n = max(min(TEXELS, MAX_EDGE // squares - 1), 3)
    i, j = np.divmod(np.arange((n + 1) ** 2), n + 1)
    first = i + j <= n
    along, across = np.where(first, i, n - i) / (n - 2), np.where(first, j, n - j) / (n - 2)  # barycentric
    corners = mesh.vertices[mesh.faces]  # [F, 3, 3]
    image = np.zeros((squares * (n + 1), squares * (n + 1), 3), np.uint8)
    uv = np.zeros((faces, 3, 2))
    for odd, chosen in ((0, first), (1, ~first)):
        own = corners[odd::2]
        edges = own[:, 1:] - own[:, :1]  # [G, 2, 3]
        weights = np.stack([along[chosen], across[chosen]])  # [2, K]
        points = own[:, :1] + np.einsum("gec,ek->gkc", edges, weights)
        bent = mesh.normals[mesh.faces[odd::2]]
        normals = bent[:, :1] + np.einsum("gec,ek->gkc", bent[:, 1:] - bent[:, :1], weights)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
        colours = seen_colours(model, subject, points.reshape(-1, 3), normals.reshape(-1, 3), level)
        row, column = np.divmod(np.arange(len(own)), squares)
        y = row[:, None] * (n + 1) + j[chosen]
        x = column[:, None] * (n + 1) + i[chosen]
        image[y, x] = colours.reshape(*points.shape)
        at = np.array([[0, 0], [n - 2, 0], [0, n - 2]]) if not odd else np.array([[n, n], [2, n], [n, 2]])
        texel = np.stack([column, row], 1)[:, None] * (n + 1) + at + 0.5  # [G, 3, 2]
        uv[odd::2] = texel / len(image)
    uv[..., 1] = 1 - uv[..., 1]
    return Texture(uv.astype(np.float32), image)


@torch.no_grad()
def seen_colours(
    model: Model,
    subject: Subjects,
    points: NDArray[Any],
    normals: NDArray[Any],
    level: float,
    *,
    block_points: int = 2**13,
) -> NDArray[np.uint8]:
    """Colours of a surface as one sees them, who looks along its normals: c = sum w_i c_i / sum w_i.

    A field is fog, in which light goes on below the surface; the colour right on it is not what a picture shows. The
    samples lie along the inward normals, down to where an extinction of ``level`` leaves e^-3 of the light.

    Args:
        points, normals: [N, 3] of the surface, world units.
        level: extinction per world unit on the surface.
    Returns: [N, 3] sRGB.
    """
    synthesis, device = model.generator.synthesis, subject.ws.device
    ws = subject.ws[:, : synthesis.volume.num_ws]
    down = torch.linspace(0, 1, _LAYERS, device=device).square() * (3 / level)  # [S], dense near the surface
    steps = torch.diff(down, append=down[-1:] + (down[-1] - down[-2]))
    parts = []
    for at, normal in zip(*(torch.from_numpy(a.astype(np.float32)).split(block_points) for a in (points, normals))):
        samples = at.to(device)[:, None] - down[:, None] * normal.to(device)[:, None]  # [N, S, 3]
        flat = samples.flatten(0, 1)[None]
        optical = synthesis.volume.extinction(ws, flat)[0].view(-1, _LAYERS).relu() * steps
        before = optical.cumsum(1) - optical
        weights = (-before).exp() * (1 - (-optical).exp()) + 1e-6
        colours = synthesis.colours_at(subject.ws, flat)[0].view(3, -1, _LAYERS)
        parts.append(((colours * weights).sum(-1) / weights.sum(-1)).T.cpu())
    seen: NDArray[np.uint8] = to_uint8(torch.cat(parts) if parts else torch.zeros(0, 3)).numpy()
    return seen
