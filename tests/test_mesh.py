"""Meshes of a model whose density is known: where they lie, what ends them, what cameras and pictures say of them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stylenerf.engine.applications.mesh.isosurface import Mesh, open_edges, volume
from stylenerf.engine.applications.mesh.mesh import (
    MeshOptions,
    cameras_for_blender,
    extract_mesh,
    points_in_grid,
    prior_cameras,
    seen_bounds,
    seen_level,
    seen_region,
    view_cameras,
)
from stylenerf.engine.applications.mesh.raster import draw_mesh
from stylenerf.engine.applications.render.subjects import Subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions, render_view
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.engine.pictures import to_uint8
from stylenerf.models.camera import Camera, CameraPrior
from tests.known_density import give_known_density, known_density
from tests.models_at_hand import tiny_model
from tests.tiny import TINY

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'stylenerf-engine[mesh]'")

FIELD, UPSAMPLER = TINY["generator"]["field"], TINY["generator"]["upsampler"]
BOX = ((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def model() -> Model:
    return give_known_density(tiny_model())


@pytest.fixture(scope="module")
def subject(model: Model) -> Subjects:
    return subjects_from_seeds(model, [3])


@pytest.fixture(scope="module")
def mesh(model: Model, subject: Subjects) -> Mesh:
    """On the level that a silhouette shows: light along a line that grazes it is half gone."""
    return extract_mesh(model, subject, MeshOptions(40, level=16.0))[0]


def surface_points(level: float, count: int = 1500) -> Tensor:
    """Points all over the surface of the known density, by bisection along spread directions."""
    number = torch.arange(count, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * number / count, math.pi * (1 + 5**0.5) * number
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1)
    low, high = torch.zeros(count).double(), torch.full((count,), 0.4).double()
    for _ in range(40):
        middle = (low + high) / 2
        inside = known_density(middle[:, None] * directions) > level
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low[:, None] * directions


def test_the_density_is_the_known_one(model: Model, subject: Subjects) -> None:
    points = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    volume = model.generator.synthesis.volume
    got = volume.extinction(subject.ws[:, : volume.num_ws], points)
    torch.testing.assert_close(got, known_density(points), rtol=0, atol=0.1)  # of values to 400


@pytest.mark.parametrize("level", [1.0, 40.0])
@pytest.mark.parametrize("bounds", [None, BOX])
def test_a_mesh_is_the_known_surface(model: Model, subject: Subjects, level: float, bounds: Any) -> None:
    told: list[int] = []
    options = MeshOptions(40, level=level, bounds=bounds, block_points=5000, colours=False)
    mesh, used = extract_mesh(model, subject, options, progress=told.append)
    assert used == level and sum(told) == points_in_grid(model, options) and max(told) <= 5000
    low, high = bounds or seen_bounds(model)
    cell = max(b - a for a, b in zip(low, high)) / 40
    points = surface_points(level)
    away = torch.cdist(torch.from_numpy(mesh.vertices).double(), points)
    assert away.amin(1).mean() + away.amin(0).mean() < cell  # Chamfer distance
    assert open_edges(mesh) == 0 and mesh.colours is None
    radius = points.norm(dim=1)
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * float((radius**3).mean()), rel=0.03)


def test_unasked_it_is_the_surface_that_depth_shows(model: Model, subject: Subjects) -> None:
    level = seen_level(model, subject)
    mesh, used = extract_mesh(model, subject, MeshOptions(24, colours=False))
    assert used == level and open_edges(mesh) == 0
    # light is half gone after 0.02 at 35 per unit: the density there is between some and some tens
    assert 10 < level < 80
    camera = view_cameras(model, 1)
    view = render_view(model, subject, camera, ViewOptions(strict=True, resolution=33, samples=96))
    front = torch.from_numpy(mesh.vertices).double() @ camera.cam2world[0, :3, 2].double() > 0.12
    depth = camera.project(torch.from_numpy(mesh.vertices)[None])[1][0, front].min()
    assert float(view.depth[0, 16, 16]) == pytest.approx(float(depth), abs=0.01)


def test_another_density_scale_has_the_same_level(subject: Subjects) -> None:
    thick = give_known_density(tiny_model(field={**FIELD, "density_scale": 3}))
    assert seen_level(thick, subject) == pytest.approx(seen_level(give_known_density(tiny_model()), subject), rel=0.01)


def as_blender_does(row: dict[str, Any], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of pixels, from ``matrix_world`` and ``angle_x_rad`` alone."""
    local = (np.linalg.inv(np.array(row["matrix_world"])) @ np.c_[points, np.ones(len(points))].T)[:3]
    x, y = local[:2] / -local[2] / math.tan(row["angle_x_rad"] / 2)
    width, height = row["resolution"]
    assert row["sensor_fit"] == "HORIZONTAL" and width == height
    return (x + 1) / 2 * width, (1 - y) / 2 * height


def test_vertices_meet_the_silhouette_by_the_written_camera(model: Model, subject: Subjects, mesh: Mesh) -> None:
    cameras = view_cameras(model, 3)
    rows = json.loads(cameras_for_blender(cameras, near=0.7, far=1.3, resolution=64))
    assert [r["name"] for r in rows] == ["camera-0", "camera-1", "camera-2"]
    options = ViewOptions(strict=True, resolution=64, samples=48)
    opaque = render_view(model, subject.repeat(3), cameras, options).opacity > 0.5
    drawn = draw_mesh(mesh, cameras, 64).cover > 0.5
    for row, own, cover in zip(rows, opaque.numpy(), drawn.numpy()):
        column, line = as_blender_does(row, mesh.vertices)
        met = own[line.astype(int), column.astype(int)]
        near_by = own | np.roll(own, 1, 0) | np.roll(own, -1, 0) | np.roll(own, 1, 1) | np.roll(own, -1, 1)
        assert met.mean() > 0.9 and near_by[line.astype(int), column.astype(int)].all()
        assert (own & cover).sum() > 0.93 * (own | cover).sum()
        assert 100 < own.sum() < 2500


def test_written_cameras_are_read_back(tmp_path: Path) -> None:
    cameras = CameraPrior(fov_deg=20).at(torch.tensor([0.1, 0.9]), 0.3)
    path = tmp_path / "cameras.json"
    path.write_text(cameras_for_blender(cameras, near=0.5, far=2.0, resolution=128))
    read = Camera.from_json(path)
    torch.testing.assert_close(read.cam2world, cameras.cam2world)
    torch.testing.assert_close(read.fov_deg, cameras.fov_deg)
    row = json.loads(path.read_text())[0]
    assert row["resolution"] == [128, 128] and (row["clip_start"], row["clip_end"]) == (0.5, 2.0)
    assert row["angle_x_rad"] == pytest.approx(math.radians(20)) == row["angle_y_rad"]


def test_vertices_have_the_colours_that_one_sees(model: Model, subject: Subjects, mesh: Mesh) -> None:
    camera = view_cameras(model, 1)
    options = ViewOptions(strict=True, resolution=64, samples=96)
    seen = to_uint8(render_view(model, subject, camera, options).image[0]).float()
    towards = mesh.normals @ camera.cam2world[0, :3, 2].numpy() > 0.7
    pixels, _ = camera.project(torch.from_numpy(mesh.vertices[towards])[None])
    column, line = ((1 + pixels[0, :, 0]) * 32).long(), ((1 - pixels[0, :, 1]) * 32).long()
    assert mesh.colours is not None and towards.sum() > 50
    own = torch.from_numpy(mesh.colours[towards]).float()
    assert (own - seen[:, line, column].T).abs().mean() < 3
    assert (own - seen[:, line.flip(0), column.flip(0)].T).abs().mean() > 6  # they differ from place to place


def test_wider_layers_leave_the_volumes_colours(subject: Subjects) -> None:
    wide = give_known_density(tiny_model(upsampler={**UPSAMPLER, "kernel_size": 3}))
    mesh, _ = extract_mesh(wide, subject, MeshOptions(12, level=10.0, bounds=BOX))
    volume = wide.generator.synthesis.volume
    want = volume.colours_at(subject.ws[:, : volume.num_ws], torch.from_numpy(mesh.vertices)[None])[0][0]
    assert mesh.colours is not None and np.abs(mesh.colours.astype(int) - to_uint8(want).numpy()).max() <= 1


def test_what_a_camera_sees_is_a_frustum() -> None:
    camera = Camera.orbit(math.pi / 2, 0.0, 1.0, fov_deg=60)  # on +x, looking along -x
    points = torch.tensor([[0.0, 0, 0], [0.4, 0, 0], [0.6, 0, 0], [0.0, 0.5, 0.0], [2.0, 0, 0], [0.0, 0.9, 0.0]])
    depth = seen_region(points, camera, 0.5, 1.2)
    # at distance 1 the far end is 0.2 away, at 0.6 the near end 0.1; the side is (tan 30 - 0.5) cos 30 from y = 0.5
    tan, cos = math.tan(math.pi / 6), math.cos(math.pi / 6)
    want = [0.2, 0.1, -0.1, (tan - 0.5) * cos, -1.5, (tan - 0.9) * cos]
    torch.testing.assert_close(depth, torch.tensor(want), rtol=0, atol=1e-5)
    both = Camera.orbit(math.pi / 2, torch.tensor([0.0, math.pi]), 1.0, fov_deg=60)
    assert seen_region(points[2:3], both, 0.5, 1.9)[0] > 0  # the camera opposite sees it


def test_a_mesh_ends_where_no_camera_sees(model: Model, subject: Subjects) -> None:
    volume = model.generator.synthesis.volume
    full = torch.full((), 50.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(volume), "extinction", lambda self, ws, points: full.expand(1, points.shape[1]))
        mesh, _ = extract_mesh(model, subject, MeshOptions(40, level=10.0, colours=False))
    assert open_edges(mesh) == 0
    edge = seen_region(torch.from_numpy(mesh.vertices), prior_cameras(model.prior), 0.7, 1.3)
    assert edge.abs().max() < 0.6 * 1.2 / 40  # within a fraction of a cell of the border, nowhere else
    low, high = (torch.tensor(c) for c in seen_bounds(model))
    assert (
        np.abs(mesh.vertices.min(0) - low.numpy()).max() < 0.04
        and np.abs(mesh.vertices.max(0) - high.numpy()).max() < 0.04
    )


def test_cameras_of_a_gaussian_prior_reach_two_deviations() -> None:
    prior = CameraPrior(yaw=(-0.3, 0.3), radius=(0.9, 1.1))
    cameras = prior_cameras(prior, yaws=3, pitches=3)
    yaw = torch.atan2(cameras.position[:, 1], cameras.position[:, 0])
    assert len(cameras) == 3 * 3 * 2 and yaw.max() == pytest.approx(0.6, abs=1e-5)
    assert sorted({round(float(r), 4) for r in cameras.position.norm(dim=1)}) == [0.9, 1.1]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no cells": ({"resolution": 1}, "--grid: wanted 2 to 2048 cells, got 1"),
    "too many cells": ({"resolution": 5000}, "--grid: wanted 2 to 2048"),
    "level": ({"level": 0.0}, "--level: wanted a positive number, got 0.0"),
    "level of nothing": ({"level": math.nan}, "--level: wanted a positive number"),
    "block": ({"block_points": 0}, "--block-points: wanted at least 1, got 0"),
    "box": ({"bounds": ((0, 0, 0), (1, 1, 0))}, "--bounds: wanted the low corner before the high one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_option_is_one_line(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        MeshOptions(**changes)


def test_no_surface_is_one_line(model: Model, subject: Subjects) -> None:
    with pytest.raises(UserError, match="--level: wanted one that the density crosses inside the bounds, got 1e"):
        extract_mesh(model, subject, MeshOptions(8, level=1e6))
    empty = tiny_model()
    empty.generator.synthesis.volume.foreground.density.bias.fill_(-1e4)
    with pytest.raises(UserError, match="--level: wanted a level, since no ray of the training cameras ends"):
        extract_mesh(empty, subject, MeshOptions(8))
    with pytest.raises(UserError, match="subject: wanted one, got 2"):
        extract_mesh(model, subject.repeat(2), MeshOptions(8))
