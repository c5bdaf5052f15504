"""Mesh files, read back by readers of the test's own: the same triangles, axes and colours as each format wants."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylenerf.engine.applications.mesh.isosurface import Mesh, with_normals
from stylenerf.engine.applications.mesh.mesh_files import write_mesh
from stylenerf.engine.errors import UserError

PLACES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.5]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)  # a corner of a box, outward
COLOURS = np.array([[0, 10, 255], [128, 64, 32], [255, 255, 255], [0, 0, 0]], np.uint8)
BARE = with_normals(PLACES, FACES)
MESHES = {"coloured": Mesh(PLACES, FACES, BARE.normals, COLOURS), "plain": BARE}


def read_ply(data: bytes) -> dict[str, Any]:
    header, body = data.split(b"end_header\n", 1)
    lines = [line.split() for line in header.decode("ascii").splitlines()]
    assert lines[:2] == [["ply"], ["format", "binary_little_endian", "1.0"]]
    counts = [int(line[2]) for line in lines if line[0] == "element"]
    kinds = {"float": "<f4", "uchar": "u1"}
    scalars = [(line[2], kinds[line[1]]) for line in lines if line[0] == "property" and line[1] != "list"]
    assert ["property", "list", "uchar", "int", "vertex_indices"] in lines
    table = np.frombuffer(body, scalars, counts[0])
    faces = np.frombuffer(body, [("n", "u1"), ("v", "<i4", 3)], counts[1], offset=table.nbytes)
    assert (faces["n"] == 3).all() and table.nbytes + faces.nbytes == len(body)

    def columns(*names: str) -> Any:
        return np.stack([table[n] for n in names], 1) if names[0] in (table.dtype.names or ()) else None

    return {
        "vertices": columns("x", "y", "z"),
        "normals": columns("nx", "ny", "nz"),
        "colours": columns("red", "green", "blue"),
        "faces": faces["v"],
    }


def read_obj(data: bytes) -> dict[str, Any]:
    rows = [line.split() for line in data.decode("ascii").splitlines()]
    vertices = np.array([r[1:] for r in rows if r[0] == "v"], float)
    faces = np.array([[c.split("/") for c in r[1:]] for r in rows if r[0] == "f"])
    assert (faces[..., 0] == faces[..., 2]).all() and (faces[..., 1] == "").all()
    colours = np.round(vertices[:, 3:] * 255).astype(np.uint8) if vertices.shape[1] == 6 else None
    return {
        "vertices": z_up(vertices[:, :3]),
        "normals": z_up(np.array([r[1:] for r in rows if r[0] == "vn"], float)),
        "colours": colours,
        "faces": faces[..., 0].astype(int) - 1,
    }


def read_glb(data: bytes) -> dict[str, Any]:
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    text, binary_at = json.loads(data[20 : 20 + size]), 20 + size
    binary_size, binary_kind = struct.unpack_from("<I4s", data, binary_at)
    assert (kind, binary_kind, size % 4, binary_size % 4) == (b"JSON", b"BIN\0", 0, 0)
    assert binary_at + 8 + binary_size == len(data) and text["buffers"] == [{"byteLength": binary_size}]

    def values(number: int) -> np.ndarray:
        accessor = text["accessors"][number]
        view = text["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        dtype = {5126: "<f4", 5125: "<u4", 5123: "<u2"}[accessor["componentType"]]
        assert (
            view["byteOffset"] % 4 == 0 and view["byteLength"] == accessor["count"] * width * np.dtype(dtype).itemsize
        )
        at = binary_at + 8 + view["byteOffset"]
        return np.frombuffer(data, dtype, accessor["count"] * width, offset=at).reshape(-1, width)

    primitive = text["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    places = values(attributes["POSITION"])
    bounds = text["accessors"][attributes["POSITION"]]
    assert bounds["min"] == places.min(0).tolist() and bounds["max"] == places.max(0).tolist()
    colours = None
    if "COLOR_0" in attributes:
        assert text["accessors"][attributes["COLOR_0"]]["normalized"] is True
        light = values(attributes["COLOR_0"])
        assert (light[:, 3] == 65535).all()
        colours = srgb(light[:, :3] / 65535.0)
    return {
        "vertices": z_up(places),
        "normals": z_up(values(attributes["NORMAL"])),
        "colours": colours,
        "faces": values(primitive["indices"]).reshape(-1, 3),
    }


def z_up(vectors: np.ndarray) -> np.ndarray:
    """From y up as Blender's importers turn it: (x, y, z) -> (x, -z, y)."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], 1)


def srgb(light: np.ndarray) -> np.ndarray:
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


READERS = {"ply": read_ply, "obj": read_obj, "glb": read_glb}


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("ending", READERS)
def test_a_file_holds_the_mesh(ending: str, kind: str, tmp_path: Path) -> None:
    mesh, path = MESHES[kind], tmp_path / "new" / f"a.{ending}"
    write_mesh(mesh, path)
    read = READERS[ending](path.read_bytes())
    np.testing.assert_allclose(read["vertices"], mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(read["normals"], mesh.normals, atol=1e-5)
    assert np.array_equal(read["faces"], mesh.faces)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if mesh.colours is None:
        assert read["colours"] is None
    else:
        assert np.array_equal(read["colours"], mesh.colours)


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("ending", READERS)
def test_another_library_reads_it_too(ending: str, kind: str, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    mesh, path = MESHES[kind], tmp_path / f"a.{ending}"
    write_mesh(mesh, path)
    read = trimesh.load(path, force="mesh", process=False)
    places = np.asarray(read.vertices)
    np.testing.assert_allclose(places if ending == "ply" else z_up(places), mesh.vertices, atol=1e-6)
    assert np.array_equal(read.faces, mesh.faces) and read.is_watertight
    assert read.volume == pytest.approx(1 * 2 * 3.5 / 6)


@pytest.mark.parametrize("name", ["a.stl", "a", "ply"])
def test_another_format_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out: wanted a name that ends with \.ply, \.obj, \.glb, got"):
        write_mesh(BARE, tmp_path / name)
    assert not list(tmp_path.iterdir())
