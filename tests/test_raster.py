"""Pictures of meshes: what is nearer hides what is not, faces cover what they should."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from stylenerf.engine.applications.mesh.isosurface import Mesh, with_normals
from stylenerf.engine.applications.mesh.raster import draw_mesh, preview
from stylenerf.models.camera import Camera

CAMERA = Camera.orbit(math.pi / 2, 0.0, 2.0, fov_deg=2 * math.degrees(math.atan(0.5)))  # at x = 2, sees y, z in -1..1


def plates() -> Mesh:
    """A red plate at x = 0 that fills half of the view, before it at x = 0.5 a green one that fills a ninth."""
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    places = np.concatenate([np.c_[np.zeros(4), square * [0.5, 1.0]], np.c_[np.full(4, 0.5), square * 0.25]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    bare = with_normals(places.astype(np.float32), faces.astype(np.int32))
    colours = np.repeat(np.array([[255, 0, 0], [0, 255, 0]], np.uint8), 4, axis=0)
    return Mesh(bare.vertices, bare.faces, bare.normals, colours)


def test_nearer_faces_hide_others() -> None:
    drawing = draw_mesh(plates(), CAMERA, 48)
    assert drawing.shape.shape == (1, 3, 48, 48) and drawing.colours is not None
    # columns 12 to 36; a border of half a pixel may go either way
    assert drawing.cover.mean().item() == pytest.approx(0.5, abs=0.5 / 24)
    red, green, blue = (drawing.colours[0] + 1) / 2
    seen = (green > 0.5) & (red < 0.1)
    assert seen.sum() == 16 * 16 and seen[16:32, 16:32].all()  # half a unit wide at distance 1.5: a third of 48
    around = torch.ones(48, 48, dtype=torch.bool)
    around[15:33, 15:33] = around[:, :13] = around[:, 35:] = False  # pixels on a border are a mixture
    assert (red[around] > 0.9).all() and (green[around] == 0).all() and (blue[:, 13:35] == 0).all()
    assert (drawing.colours[0, :, :, :11] == 1).all()  # paper


def test_what_faces_the_camera_is_bright() -> None:
    flat, steep = (
        draw_mesh(plates(), CAMERA, 24),
        draw_mesh(plates(), Camera.orbit(math.pi / 2, 1.2, 2.0, fov_deg=60), 24),
    )
    assert flat.shape[0, 0][flat.cover[0] == 1].mean() > steep.shape[0, 0][steep.cover[0] == 1].mean() + 0.2


def test_nothing_to_draw_is_paper() -> None:
    behind = Camera.orbit(math.pi / 2, 0.0, 2.0, fov_deg=30)
    turned = Camera(behind.cam2world * torch.tensor([-1.0, 1.0, -1.0, 1.0]), behind.tan_half_fov)  # looks away
    drawing = draw_mesh(plates(), turned, 8)
    assert (drawing.shape == 1).all() and drawing.cover.sum() == 0


def test_a_preview_has_a_row_for_each_look() -> None:
    mesh, both = plates(), Camera.orbit(math.pi / 2, torch.tensor([0.0, 0.3]), 2.0, fov_deg=60)
    assert [(name, tuple(row.shape)) for name, row in preview(mesh, both, 8)] == [
        ("shape", (2, 3, 8, 8)),
        ("colours", (2, 3, 8, 8)),
    ]
    assert [name for name, _ in preview(dataclasses.replace(mesh, colours=None), both, 8)] == ["shape"]
