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
from .isosurface import Mesh, face_parts, with_faces
from .texture import Texture

FORMATS = (".ply", ".obj", ".glb")


def write_mesh(mesh: Mesh, path: str | Path, *, new: bool = False, texture: Texture | None = None) -> None:
    """Write ``mesh`` in the format that the name ends with.

    In GLB its connected parts are meshes and nodes of their own, ``part-1`` the largest, and ``texture`` takes the
    place of the vertices' colours; its faces then share no vertices.
    Raises: UserError naming the path: another ending, not writable, or with ``new`` there already; trimesh is missing.
    """
    path = Path(path)
    ending = mesh_format(path)
    save_bytes(_glb_bytes(mesh, texture) if ending == ".glb" else _mesh_bytes(mesh, ending), path, new=new)


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
    out: Any = trimesh.Trimesh(vertices, mesh.faces, vertex_normals=normals, vertex_colors=mesh.colours, process=False)
    if ending == ".ply":
        return out.export(file_type="ply", vertex_normal=True)
    header = "world units, y up (z up in the model's world)"
    return out.export(file_type="obj", include_normals=True, header=header).encode("ascii")


def _glb_bytes(mesh: Mesh, texture: Texture | None) -> bytes:
    need("mesh", "mesh")
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial
    from trimesh.visual.texture import TextureVisuals

    scene, part = trimesh.Scene(), face_parts(mesh)
    if texture is not None:
        mesh = _torn(mesh)
        picture = Image.fromarray(texture.image)
        material = PBRMaterial("surface", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    for k in range(part.max(initial=0) + 1):
        piece = with_faces(mesh, part == k)
        visual = None if texture is None else TextureVisuals(texture.uv[part == k].reshape(-1, 2), material)
        out: Any = trimesh.Trimesh(
            y_up(piece.vertices), piece.faces, vertex_normals=y_up(piece.normals), process=False,
            visual=visual,
        )  # fmt: skip
        if piece.colours is not None:
            opaque = np.concatenate([linear_light(piece.colours), np.ones((len(piece.colours), 1))], 1)
            # two bytes each, since one is coarse for linear light in the dark; trimesh itself would write one
            out.vertex_attributes["_light"] = np.round(opaque * 65535).astype("<u2")
        scene.add_geometry(out, geom_name=f"part-{k + 1}", node_name=f"part-{k + 1}")
    return trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=_finish_glb)


def _torn(mesh: Mesh) -> Mesh:
    """The mesh with three vertices of its own for every face."""
    corners = mesh.faces.ravel()
    faces = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    return Mesh(mesh.vertices[corners], faces, mesh.normals[corners])


def _finish_glb(tree: dict[str, Any]) -> None:
    """Name the colours as glTF does, and a material that shows them: without one, glTF takes polished metal."""
    for mesh in tree["meshes"]:
        primitive = mesh["primitives"][0]
        if "_light" in primitive["attributes"]:
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_light")
            tree["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] = True
        if "textures" not in tree:
            primitive["material"] = 0
            tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}]
    if "textures" in tree:  # no smaller copies of the texture, which would mix neighbouring triangles
        tree["samplers"] = [{"magFilter": 9729, "minFilter": 9729, "wrapS": 33071, "wrapT": 33071}]
        for texture in tree["textures"]:
            texture["sampler"] = 0


def y_up(vectors: NDArray[Any]) -> NDArray[Any]:
    """(x, y, z) with z up as (x, z, -y) with y up, [N, 3]; a rotation, so that faces keep their side."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], 1)


def linear_light(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB bytes as linear light 0..1 (IEC 61966-2-1)."""
    c = colours / 255.0
    linear: NDArray[np.float64] = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear
