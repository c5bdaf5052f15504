"""Meshes as files: PLY (binary), OBJ and GLB, each whole or not at all.

PLY keeps the world's axes, z up. OBJ and GLB are turned to y up, (x, y, z) -> (x, z, -y): glTF asks for it, and for OBJ
it is what programs assume. Blender's importers, left as they are, bring all three back to the same place, z up.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..render.outputs import save_bytes
from .isosurface import Mesh

_FLOAT, _UINT, _USHORT = 5126, 5125, 5123  # component types of glTF
_ARRAY, _INDICES = 34962, 34963  # targets of its buffer views


def write_mesh(mesh: Mesh, path: str | Path, *, new: bool = False) -> None:
    """Write ``mesh`` in the format that the name ends with.

    Raises: UserError naming the path: another ending, not writable, or with ``new`` there already.
    """
    path = Path(path)
    save_bytes(mesh_format(path)(mesh), path, new=new)


def mesh_format(path: Path) -> Callable[[Mesh], bytes]:
    """The writer for a path.

    Raises: UserError if there is none.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out: wanted a name that ends with {', '.join(FORMATS)}, got {path}")
    return FORMATS[path.suffix.lower()]


def ply_bytes(mesh: Mesh) -> bytes:
    """Binary little-endian PLY with normals and, where there are any, colours; z up."""
    columns = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    if mesh.colours is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
    table = np.zeros(len(mesh.vertices), columns)
    for names, values in (("xyz", mesh.vertices), (("nx", "ny", "nz"), mesh.normals)):
        for k, name in enumerate(names):
            table[name] = values[:, k]
    if mesh.colours is not None:
        for k, name in enumerate(("red", "green", "blue")):
            table[name] = mesh.colours[:, k]
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    kinds = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment world units, z up, seen from outside counter-clockwise",
        f"element vertex {len(table)}",
        *(f"property {kinds[kind]} {name}" for name, kind in columns),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + table.tobytes() + faces.tobytes()


def obj_bytes(mesh: Mesh) -> bytes:
    """OBJ with normals and, as most programs read them, colours behind the positions; y up."""
    lines = ["# world units, y up (z up in the model's world)"]
    places, normals = y_up(mesh.vertices), y_up(mesh.normals)
    if mesh.colours is None:
        lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in places.tolist()]
    else:
        both = np.concatenate([places, mesh.colours / np.float32(255)], 1).tolist()
        lines += [f"v {x:.7g} {y:.7g} {z:.7g} {r:.4f} {g:.4f} {b:.4f}" for x, y, z, r, g, b in both]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in normals.tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def glb_bytes(mesh: Mesh) -> bytes:
    """Binary glTF 2.0, one mesh with one primitive; y up, colours as the linear light that glTF wants."""
    parts: list[tuple[str, NDArray[Any], str, int]] = [
        ("POSITION", y_up(mesh.vertices).astype("<f4"), "VEC3", _FLOAT),
        ("NORMAL", y_up(mesh.normals).astype("<f4"), "VEC3", _FLOAT),
    ]
    if mesh.colours is not None:
        opaque = np.concatenate([linear_light(mesh.colours), np.ones((len(mesh.colours), 1))], 1)
        # two bytes each, since one is coarse for linear light in the dark
        parts.append(("COLOR_0", np.round(opaque * 65535).astype("<u2"), "VEC4", _USHORT))
    parts.append(("", mesh.faces.astype("<u4").reshape(-1), "SCALAR", _UINT))
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    attributes: dict[str, int] = {}
    offset = 0
    for name, values, shape, kind in parts:
        views.append(
            {
                "buffer": 0,
                "byteOffset": offset,
                "byteLength": values.nbytes,
                "target": _ARRAY if name else _INDICES,
            }
        )
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": kind,
            "count": len(values),
            "type": shape,
        }
        if name == "POSITION":
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        if name == "COLOR_0":
            accessor["normalized"] = True
        if name:
            attributes[name] = len(accessors)
        accessors.append(accessor)
        offset += values.nbytes
    material = {"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}
    document = {
        "asset": {"version": "2.0", "generator": "stylenerf-engine"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [material],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": len(accessors) - 1, "material": 0}]}],
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    binary = b"".join(values.tobytes() for _, values, _, _ in parts)  # all sizes are multiples of four
    size = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, size),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )


def y_up(vectors: NDArray[Any]) -> NDArray[Any]:
    """(x, y, z) with z up as (x, z, -y) with y up, [N, 3]; a rotation, so that faces keep their side."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], 1)


def linear_light(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB bytes as linear light 0..1 (IEC 61966-2-1)."""
    c = colours / 255.0
    linear: NDArray[np.float64] = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear


FORMATS: dict[str, Callable[[Mesh], bytes]] = {".ply": ply_bytes, ".obj": obj_bytes, ".glb": glb_bytes}
