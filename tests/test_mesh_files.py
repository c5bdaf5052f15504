"""Mesh files, read back: the same triangles, axes and colours as each format wants."""

import json
from pathlib import Path

import numpy as np
import pytest

from stylenerf.engine.applications.mesh.isosurface import Mesh, open_edges, volume, with_normals
from stylenerf.engine.applications.mesh.mesh_files import FORMATS, write_mesh
from stylenerf.engine.errors import UserError
from tests.mesh_readers import read_mesh

PLACES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.5]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)  # a corner of a box, outward
COLOURS = np.array([[0, 10, 255], [128, 64, 32], [255, 255, 255], [0, 0, 0]], np.uint8)
BARE = with_normals(PLACES, FACES)
MESHES = {"coloured": Mesh(PLACES, FACES, BARE.normals, COLOURS), "plain": BARE}


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_holds_the_mesh(ending: str, kind: str, tmp_path: Path) -> None:
    mesh, path = MESHES[kind], tmp_path / "new" / f"a{ending}"
    write_mesh(mesh, path)
    read = read_mesh(path)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(read.normals, mesh.normals, atol=1e-5)
    assert np.array_equal(read.faces, mesh.faces)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if mesh.colours is None:
        assert read.colours is None
    else:
        assert np.array_equal(read.colours, mesh.colours)
    assert volume(read) == pytest.approx(1 * 2 * 3.5 / 6) and not open_edges(read)


def test_colours_of_glb_are_normalised_by_name(tmp_path: Path) -> None:
    """Linear light in 16 bits means 0..1 only where the accessor says so."""
    write_mesh(MESHES["coloured"], tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    accessor = tree["accessors"][attributes["COLOR_0"]]
    assert attributes.keys() == {"POSITION", "NORMAL", "COLOR_0"}
    assert (accessor["componentType"], accessor["type"], accessor["normalized"]) == (5123, "VEC4", True)


@pytest.mark.parametrize("name", ["a.stl", "a", "ply"])
def test_another_format_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out: wanted a name that ends with \.ply, \.obj, \.glb, got"):
        write_mesh(BARE, tmp_path / name)
    assert not list(tmp_path.iterdir())
