"""Mesh files read by another library."""

from pathlib import Path

import numpy as np
import pytest

from stylenerf.engine.applications.mesh.isosurface import Mesh


def read_mesh(path: Path) -> Mesh:
    """The file as its own reader sees it, turned back to z up; colours as displayed."""
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed: pip install 'stylenerf-engine[mesh]'")
    (read,) = trimesh.load_scene(path, process=False, maintain_order=True).geometry.values()
    turn = np.asarray if path.suffix == ".ply" else z_up
    if path.suffix == ".glb":
        light = read.visual.vertex_attributes.get("color")  # as it is stored
        colours = None if light is None else srgb(light[:, :3] / 65535.0)
        assert light is None or (light.dtype == np.uint16 and (light[:, 3] == 65535).all())
        assert (read.visual.material.metallicFactor, read.visual.material.roughnessFactor) == (0, 1)
    else:
        colours = read.visual.vertex_colors[:, :3] if read.visual.kind == "vertex" else None
    assert "vertex_normals" in read._cache.cache  # those of the file
    return Mesh(turn(read.vertices), np.asarray(read.faces), turn(read.vertex_normals), colours)


def z_up(vectors: np.ndarray) -> np.ndarray:
    """From y up as Blender's importers turn it: (x, y, z) -> (x, -z, y)."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], 1)


def srgb(light: np.ndarray) -> np.ndarray:
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))
