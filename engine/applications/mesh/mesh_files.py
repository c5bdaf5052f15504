"""Meshes as files: PLY (binary), OBJ and GLB, each whole or not at all.

PLY keeps the world's axes, z up. OBJ and GLB are turned to y up, (x, y, z) -> (x, z, -y): glTF asks for it, and for OBJ
it is what programs assume. Blender's importers, left as they are, bring all three back to the same place, z up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...extras import need
from ..render.outputs import save_bytes
from .isosurface import Mesh

FORMATS = (".ply", ".obj", ".glb")


def write_mesh(mesh: Mesh, path: str | Path, *, new: bool = False) -> None:
    """Write ``mesh`` in the format that the name ends with.

    Raises: UserError naming the path: another ending, not writable, or with ``new`` there already; trimesh is missing.
    """
    path = Path(path)
    save_bytes(_mesh_bytes(mesh, mesh_format(path)), path, new=new)


def mesh_format(path: Path) -> str:
    """The ending that tells the format. Raises: UserError for another one."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out: wanted a name that ends with {', '.join(FORMATS)}, got {path}")
    return path.suffix.lower()


def _mesh_bytes(mesh: Mesh, ending: str) -> bytes:
    need("mesh", "mesh")
    import trimesh

    vertices, normals = mesh.vertices, mesh.normals
    if ending != ".ply":
        vertices, normals = y_up(vertices), y_up(normals)
    colours = None if ending == ".glb" else mesh.colours
    out: Any = trimesh.Trimesh(vertices, mesh.faces, vertex_normals=normals, vertex_colors=colours, process=False)
    if ending == ".ply":
        return out.export(file_type="ply", vertex_normal=True)
    if ending == ".obj":
        header = "world units, y up (z up in the model's world)"
        return out.export(file_type="obj", include_normals=True, header=header).encode("ascii")
    if mesh.colours is not None:
        opaque = np.concatenate([linear_light(mesh.colours), np.ones((len(mesh.colours), 1))], 1)
        # two bytes each, since one is coarse for linear light in the dark; trimesh itself would write one
        out.vertex_attributes["_light"] = np.round(opaque * 65535).astype("<u2")
    return out.export(file_type="glb", include_normals=True, tree_postprocessor=_finish_glb)


def _finish_glb(tree: dict[str, Any]) -> None:
    """Name the colours as glTF does, and a material that shows them: without one, glTF takes polished metal."""
    primitive = tree["meshes"][0]["primitives"][0]
    if "_light" in primitive["attributes"]:
        primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_light")
        tree["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] = True
    primitive["material"] = 0
    tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}]


def y_up(vectors: NDArray[Any]) -> NDArray[Any]:
    """(x, y, z) with z up as (x, z, -y) with y up, [N, 3]; a rotation, so that faces keep their side."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], 1)


def linear_light(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB bytes as linear light 0..1 (IEC 61966-2-1)."""
    c = colours / 255.0
    linear: NDArray[np.float64] = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear
