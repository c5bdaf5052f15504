"""Surfaces of equal value: where they should be, closed, the same in slabs of any thickness."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stylenerf.engine.applications.mesh import isosurface as iso
from stylenerf.engine.applications.mesh.isosurface import Mesh, grid_size, isosurface, largest_part, open_edges, volume
from stylenerf.engine.errors import UserError

MISSING = "scikit-image is not installed: pip install 'stylenerf-engine[mesh]'"
pytest.importorskip("skimage", reason=MISSING)
cKDTree = pytest.importorskip("scipy.spatial", reason=MISSING).cKDTree  # comes with it

LOW, HIGH = (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)
CENTRE = torch.tensor([0.02, -0.05, 0.01])


def ball(points: Tensor) -> Tensor:
    return 0.3 - (points - CENTRE).norm(dim=1)


def two_balls(points: Tensor) -> Tensor:
    big, small = (r - (points - torch.tensor([x, 0.0, 0.0])).norm(dim=1) for x, r in ((-0.2, 0.2), (0.3, 0.1)))
    return torch.maximum(big, small)


def waves(points: Tensor) -> Tensor:
    """Nothing but saddles and thin bridges, cut off at every side."""
    pull = torch.randn(3, 40, generator=torch.Generator().manual_seed(1)) * 25
    return torch.sin(points @ pull).sum(1)


def edges_of_a_box(points: Tensor) -> Tensor:
    return 0.25 - points.abs().amax(1)  # with 32 cells exactly zero on whole layers of the grid


def steps(points: Tensor) -> Tensor:
    """Whole numbers: the level meets many points of the grid exactly, also where several pieces touch."""
    return torch.round(8 * torch.sin(20 * points).prod(1) + 3 * torch.cos(9 * points).sum(1))


def everywhere(points: Tensor) -> Tensor:
    return torch.ones(len(points))


def extract(field: Callable[[Tensor], Tensor], resolution: int = 32, **kwargs: Any) -> Mesh:
    return isosurface(field, LOW, HIGH, level=kwargs.pop("level", 0.0), resolution=resolution, **kwargs)


def test_a_ball_is_a_ball() -> None:
    mesh = extract(ball, 32)
    radii = np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1)
    assert np.abs(radii - 0.3).max() < 0.1 / 32  # a tenth of a cell
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.02)
    outward = (mesh.vertices - CENTRE.numpy()) / radii[:, None]
    assert (mesh.normals * outward).sum(1).min() > 0.97
    assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32
    assert len(mesh.vertices) - len(mesh.faces) / 2 == 2  # Euler: V - E + F, E = 3 F / 2


def test_the_level_is_where_the_surface_is() -> None:
    mesh = extract(ball, level=0.1)
    assert np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1) == pytest.approx(0.2, abs=0.1 / 32)


FIELDS = {f.__name__: f for f in (ball, two_balls, waves, edges_of_a_box, steps, everywhere)}


@pytest.mark.parametrize("name", FIELDS)
def test_closed_and_the_same_in_any_slabs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extract(FIELDS[name])
    assert len(whole.faces) > 100 and open_edges(whole) == 0 and volume(whole) > 0
    assert np.abs(whole.vertices).max() < 0.5 + 1e-4  # what is cut off ends at the border
    monkeypatch.setattr(iso, "_SLAB_POINTS", 1)  # a slab for each layer
    sliced = extract(FIELDS[name])
    assert sliced.faces.shape == whole.faces.shape and open_edges(sliced) == 0
    assert len(sliced.vertices) == len(whole.vertices) and volume(sliced) == pytest.approx(volume(whole), rel=1e-6)
    distance, partner = cKDTree(sliced.vertices).query(whole.vertices)
    assert distance.max() < 1e-6 and len(np.unique(partner)) > 0.99 * len(partner)


def test_the_field_is_asked_in_blocks_and_told_how_far() -> None:
    sizes: list[int] = []
    told: list[int] = []

    def asked(points: Tensor) -> Tensor:
        sizes.append(len(points))
        return ball(points)

    extract(asked, 20, block_points=100, progress=told.append)
    assert max(sizes) <= 100 and sizes == told and sum(told) == 21**3 == math.prod(grid_size(LOW, HIGH, 20)[0])


def test_cells_are_cubes_in_a_long_box() -> None:
    shape, cell = grid_size((0, 0, 0), (1.0, 0.33, 0.1), 10)
    assert cell == 0.1 and shape == (11, 5, 2)


def test_nothing_above_the_level_is_an_empty_mesh() -> None:
    mesh = extract(ball, level=1.0)
    assert mesh.vertices.shape == mesh.normals.shape == mesh.faces.shape == (0, 3)
    assert volume(mesh) == 0 and open_edges(mesh) == 0 and largest_part(mesh) is mesh


def test_the_largest_part_is_kept_with_its_colours() -> None:
    both = extract(two_balls)
    left = both.vertices[:, 0] < 0.1
    painted = Mesh(both.vertices, both.faces, both.normals, np.where(left[:, None], [[7, 8, 9]], 0).astype(np.uint8))
    one = largest_part(painted)
    assert len(one.vertices) == left.sum() and one.vertices[:, 0].max() < 0.1
    assert open_edges(one) == 0 and volume(one) == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.03)
    assert one.colours is not None and (one.colours == [7, 8, 9]).all()


@pytest.mark.parametrize("damage", ["missing", "twice", "turned"])
def test_an_open_surface_is_seen(damage: str) -> None:
    mesh = extract(ball, 8)
    faces = mesh.faces
    faces = {
        "missing": faces[1:],
        "twice": np.concatenate([faces, faces[:1]]),
        "turned": np.concatenate([faces[:1, ::-1], faces[1:]]),
    }[damage]
    assert open_edges(Mesh(mesh.vertices, faces, mesh.normals)) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ball, (0, 0, 0), (1, 0, 1)), "--bounds: wanted the low corner before the high one"),
        ((ball, (0, 0, 0), (1, math.inf, 1)), "--bounds: wanted"),
        ((lambda p: p[:, 0] * math.nan, LOW, HIGH), "wanted finite densities"),
    ],
)
def test_what_has_no_surface_is_one_line(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        isosurface(*arguments, level=0.0, resolution=4)
