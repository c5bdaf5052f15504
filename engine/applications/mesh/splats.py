"""A surface as Gaussian splats: a flat Gaussian on every vertex, in the file layout of 3-D Gaussian splatting.

Binary PLY with float32 properties x y z, nx ny nz, f_dc_0..2 (colour = 0.5 + f_dc / (2 sqrt pi)), opacity (its logit),
scale_0..2 (natural logarithms of the standard deviations), rot_0..3 (a quaternion, real part first). There are no
f_rest: the colours depend on no view. World axes are the model's own, z up.
Source: Kerbl et al., 3D Gaussian Splatting, 2023; surfels as in 2D Gaussian Splatting, 2024.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..render.outputs import save_bytes
from .isosurface import Mesh, face_areas

SH_C0 = 0.5 / math.sqrt(math.pi)  # the spherical harmonic of degree 0
OPACITY = 0.98
_WIDTH = 0.5  # standard deviation within the surface, in mean distances of splats
_INSET = 1.2  # of the centres below the surface, in these deviations: a Gaussian reaches beyond its centre
_THICKNESS = 0.1  # standard deviation along the normal, in those within the surface

_NAMES = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{k}" for k in range(3)),
    "opacity",
    *(f"scale_{k}" for k in range(3)),
    *(f"rot_{k}" for k in range(4)),
)


class Splats(NamedTuple):
    """N Gaussians in world units."""

    centres: NDArray[Any]  # [N, 3]
    normals: NDArray[Any]  # [N, 3]
    colours: NDArray[Any]  # [N, 3] 0..1 as displayed (sRGB)
    opacity: NDArray[Any]  # [N] 0..1
    scales: NDArray[Any]  # [N, 3] standard deviations; the last one is along the normal
    rotations: NDArray[Any]  # [N, 4] unit quaternions (w, x, y, z) that turn the axes of ``scales`` into the world's


def surfels(mesh: Mesh) -> Splats:
    """A flat Gaussian for every vertex of ``mesh``, as wide as its share of the surface.

    Raises: ValueError for a mesh without colours.
    """
    if mesh.colours is None:
        raise ValueError("mesh must have colours, got none")
    share = np.bincount(mesh.faces.ravel(), np.repeat(face_areas(mesh) / 3, 3), minlength=len(mesh.vertices))
    usual = share.mean() if len(share) else 1.0  # slivers of marching cubes would leave holes beside them
    width = _WIDTH * np.sqrt(np.maximum(share, usual))
    scales = np.stack([width, width, _THICKNESS * width], 1)
    opacity = np.full(len(mesh.vertices), OPACITY)
    centres = mesh.vertices - _INSET * width[:, None] * mesh.normals
    return Splats(centres, mesh.normals, mesh.colours / 255.0, opacity, scales, _turns(mesh.normals))


def _turns(normals: NDArray[Any]) -> NDArray[Any]:
    """Quaternions [N, 4] of the shortest turns from +z to the normals [N, 3]."""
    x, y, z = normals.astype(np.float64).T
    turn = np.stack([1 + z, -y, x, 0 * z], 1)
    turn[z < -1 + 1e-6] = (0, 1, 0, 0)  # half a turn about x
    turned: NDArray[Any] = turn / np.linalg.norm(turn, axis=1, keepdims=True)
    return turned


def splats_bytes(splats: Splats) -> bytes:
    """The content of a ``.ply``."""
    opacity = np.log(splats.opacity / (1 - splats.opacity))
    columns = np.concatenate(
        [splats.centres, splats.normals, (splats.colours - 0.5) / SH_C0, opacity[:, None],
         np.log(splats.scales), splats.rotations], 1,
    )  # fmt: skip
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    header += [f"property float {name}" for name in _NAMES] + ["end_header", ""]
    return "\n".join(header).encode("ascii") + columns.astype("<f4").tobytes()


def write_splats(splats: Splats, path: Path, *, new: bool = False) -> None:
    """Write splats; the file is whole or not there. Raises: UserError naming the path if it cannot be written."""
    save_bytes(splats_bytes(splats), path, new=new)
