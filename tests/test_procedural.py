"""Rendered scenes: depth and area by hand, solids against their definition, two cameras, repeatability, the prior."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from stylenerf.engine.data import ProceduralScenes, camera_from_label, open_dataset
from stylenerf.engine.data.raycast import Background, Paint, Scene, SceneView, render
from stylenerf.engine.data.solids import CAPSULE_HALF_LENGTH, Floats, Kind, Solid
from stylenerf.engine.errors import UserError
from stylenerf.models.camera import Camera, CameraPrior, pixel_grid
from tests.closeness import assert_relative

KINDS: tuple[Kind, ...] = ("ellipsoid", "box", "cylinder", "capsule")
QUICKSTART = CameraPrior(
    distribution="uniform", yaw=(-0.6, 0.6), pitch=(math.pi / 2 - 0.25, math.pi / 2 + 0.15), radius=(1, 1), fov_deg=30
)
RED, BLUE = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
UP = np.array([0.0, 0.0, 1.0])


def solid(kind: Kind, size: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> Solid:
    return Solid(kind, np.array(centre, dtype=float), np.eye(3), np.array(size))


def scene(*solids: Solid, paint: Paint | None = None, light: Floats = UP, ambient: float = 1.0) -> Scene:
    paint = paint or Paint("stripes", RED, RED, 0, 1.0)
    return Scene(tuple((s, paint) for s in solids), light, ambient, Background(BLUE, BLUE, 0.0, 1.0))


def level(yaw: float = 0.0, radius: float = 1.0, fov_deg: float = 30.0) -> Camera:
    return Camera.orbit(math.pi / 2, yaw, radius, fov_deg=fov_deg, dtype=torch.float64)


def procedural(**options: object) -> ProceduralScenes:
    dataset = open_dataset(
        "procedural", **{"resolution": 64, "camera_prior": QUICKSTART, "num_scenes": 16, "workers": 1, **options}
    )
    assert isinstance(dataset, ProceduralScenes)
    return dataset


# The camera stands at (1, 0, 0) and looks along -x; the middle ray (odd resolution) runs along the x axis.
CENTRE_DEPTH: dict[str, tuple[Solid, float]] = {
    "sphere": (solid("ellipsoid", (0.2, 0.2, 0.2)), 1 - 0.2),
    "ellipsoid": (solid("ellipsoid", (0.1, 0.2, 0.15)), 1 - 0.1),
    "moved sphere": (solid("ellipsoid", (0.2, 0.2, 0.2), (0.05, 0, 0)), 1 - 0.25),
    # 0.12 beside the axis a sphere of radius 0.2 is sqrt(0.04 - 0.0144) = 0.16 thick on the near side.
    "sphere beside the axis": (solid("ellipsoid", (0.2, 0.2, 0.2), (0, 0.12, 0)), 1 - 0.16),
    "box": (solid("box", (0.15, 0.1, 0.2)), 1 - 0.15),
    "cylinder wall": (solid("cylinder", (0.1, 0.1, 0.2)), 1 - 0.1),
    # 0.06 beside the axis the wall of radius 0.1 is 0.08 before the middle.
    "cylinder wall beside the axis": (solid("cylinder", (0.1, 0.1, 0.2), (0, 0.06, 0)), 1 - 0.08),
    "capsule wall": (solid("capsule", (0.1, 0.1, 0.1), (0, 0, 0.05)), 1 - 0.1),
    # Its upper end ball has the centre 0.07 above the middle; lowered by 0.13 it lies 0.06 below the ray: 0.08.
    "capsule end": (solid("capsule", (0.1, 0.1, 0.1), (0, 0, -0.13)), 1 - 0.08),
}


@pytest.mark.parametrize("name", CENTRE_DEPTH)
def test_depth_in_the_middle(name: str) -> None:
    body, want = CENTRE_DEPTH[name]
    view = render(scene(body), level(), 5)
    assert view.mask[2, 2]
    assert view.depth[2, 2] == pytest.approx(want, abs=1e-6)


def test_cylinder_cap_and_capsule_pole_from_above() -> None:
    above = Camera.orbit(0.0, 0.0, 1.0, fov_deg=30.0, dtype=torch.float64)  # at (0, 0, 1)
    cap = render(scene(solid("cylinder", (0.1, 0.1, 0.2))), above, 5)
    assert cap.depth[2, 2] == pytest.approx(1 - 0.2, abs=1e-6)
    pole = render(scene(solid("capsule", (0.1, 0.1, 0.1))), above, 5)
    assert pole.depth[2, 2] == pytest.approx(1 - 0.1 * (1 + CAPSULE_HALF_LENGTH), abs=1e-6)


def test_box_face_has_one_depth() -> None:
    """Depth is counted along the optical axis: a face square to it has the same depth everywhere."""
    view = render(scene(solid("box", (0.15, 0.15, 0.15))), level(), 32)
    np.testing.assert_allclose(view.depth[view.mask], 0.85, atol=1e-6)
    assert np.isposinf(view.depth[~view.mask]).all() and not view.mask.all()


def test_nearer_solid_hides_the_farther_one() -> None:
    near, far = solid("ellipsoid", (0.05, 0.05, 0.05), (0.2, 0, 0)), solid("box", (0.1, 0.1, 0.1))
    assert render(scene(far, near), level(), 5).depth[2, 2] == pytest.approx(1 - 0.25, abs=1e-6)


def test_solid_behind_the_camera_is_not_seen() -> None:
    assert not render(scene(solid("ellipsoid", (0.2, 0.2, 0.2), (2, 0, 0))), level(), 8).mask.any()


def test_sphere_covers_its_area() -> None:
    """From distance 1 a sphere of radius s covers a disc of radius tan(asin s): here s = 0.15, tan(15 deg) = 0.267949.

    tan(asin 0.15) = 0.15 / sqrt(1 - 0.0225) = 0.151717, over half the width 0.566213; area pi r^2 / 4 = 0.251795.
    """
    view = render(scene(solid("ellipsoid", (0.15, 0.15, 0.15))), level(), 256)
    assert view.mask.mean() == pytest.approx(0.251795, abs=1e-3)


def test_box_covers_its_face() -> None:
    """The near face, half size 0.12, at depth 0.88: (0.12 / 0.88 / 0.267949)^2 = 0.258991 of the image."""
    view = render(scene(solid("box", (0.12, 0.12, 0.12))), level(), 256)
    assert view.mask.mean() == pytest.approx(0.258991, abs=4e-3)


def inside(kind: Kind, q: Floats) -> np.ndarray:
    """Whether points q [3, ...] of unit coordinates lie inside, shrunk by a hair."""
    x, y, z = q
    if kind == "ellipsoid":
        return x**2 + y**2 + z**2 < 1 - 1e-6
    if kind == "box":
        return np.abs(q).max(axis=0) < 1 - 1e-6
    if kind == "cylinder":
        return (x**2 + y**2 < 1 - 1e-6) & (np.abs(z) < 1 - 1e-6)
    beyond = np.maximum(np.abs(z) - CAPSULE_HALF_LENGTH, 0)
    return x**2 + y**2 + beyond**2 < 1 - 1e-6


def tilted(kind: Kind) -> Solid:
    axes = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    size = np.full(3, 0.1) if kind == "capsule" else np.array([0.15, 0.1, 0.2])
    return Solid(kind, np.array([0.03, -0.02, 0.04]), axes * np.sign(np.linalg.det(axes)), size)


def rays_of(camera: Camera, resolution: int) -> tuple[Floats, Floats]:
    rays = camera.rays(pixel_grid(resolution, dtype=torch.float64))
    return rays.origins[0, 0].numpy(), rays.directions[0].T.numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("yaw", [0.0, 1.0, 2.5, 4.0])
def test_first_entry_is_the_first_point_inside(kind: Kind, yaw: float) -> None:
    """March each ray in 400 steps: nothing inside before t, something just after, and nothing at all on a miss."""
    body = tilted(kind)
    origin, directions = rays_of(Camera.orbit(1.2, yaw, 1.0, fov_deg=35, dtype=torch.float64), 24)
    t = body.meet(origin, directions).t
    steps = np.linspace(0.5, 1.5, 400)[:, None]
    points = origin[:, None, None] + steps * directions[:, None, :]
    marched = inside(kind, body.to_unit(points.reshape(3, -1))).reshape(400, -1)
    assert not marched[:, np.isinf(t)].any()
    assert not (marched & (steps < t)).any()
    hit = np.isfinite(t)
    assert 0.05 < hit.mean() < 0.95
    entry = origin[:, None] + t[hit] * directions[:, hit]
    assert not inside(kind, body.to_unit(entry)).any()
    after = inside(kind, body.to_unit(entry + 2e-3 * directions[:, hit]))
    assert after.mean() > 0.95  # a grazing ray may have left again


@pytest.mark.parametrize("kind", KINDS)
def test_normals_are_square_to_the_surface(kind: Kind) -> None:
    """Neighbouring rays give two tangents by finite differences; the normal is square to both and faces the camera."""
    body, h = tilted(kind), 1e-6
    origin, directions = rays_of(Camera.orbit(1.2, 0.7, 1.0, fov_deg=35, dtype=torch.float64), 24)

    def surface(shift: Floats) -> Floats:
        moved = directions + h * shift[:, None]
        return origin[:, None] + body.meet(origin, moved).t * moved

    hit = body.meet(origin, directions)
    rays = np.flatnonzero(np.isfinite(hit.t))
    normals = hit.normals(rays)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-12)
    assert ((normals * directions[:, rays]).sum(axis=0) < 0).all()
    with np.errstate(invalid="ignore"):
        tangents = [(surface(shift) - surface(-shift))[:, rays] / (2 * h) for shift in np.eye(3)]
    slopes = np.abs(np.array([(normals * tangent).sum(axis=0) for tangent in tangents]))
    assert np.nanquantile(slopes, 0.97) < 1e-5  # the rest straddles an edge or the outline


def test_lambert_on_a_face() -> None:
    """Ambient 0.4, light 60 degrees off the face's normal: 0.4 + 0.6 * 0.5 = 0.7; red 255 * 0.7 = 178.5."""
    light = np.array([math.cos(math.pi / 3), 0.0, math.sin(math.pi / 3)])
    view = render(scene(solid("box", (0.2, 0.2, 0.2)), light=light, ambient=0.4), level(), 8)
    assert abs(int(view.image[4, 4, 0]) - 178.5) <= 0.5 and view.image[4, 4, 1:].tolist() == [0, 0]


def test_side_away_from_the_light_keeps_the_ambient_part() -> None:
    view = render(scene(solid("box", (0.2, 0.2, 0.2)), light=np.array([-1.0, 0, 0]), ambient=0.4), level(), 8)
    assert view.image[4, 4].tolist() == [102, 0, 0]  # 255 * 0.4


def test_stripes_change_where_they_should() -> None:
    """Frequency 1: floor(z + 0.5) is 0 for z in -0.5..0.5 of the longest half axis, so a band around the middle."""
    paint = Paint("stripes", RED, BLUE, 2, 1.0)
    points = np.array([[0.0, 0.0, 0.0, 0.0], [0.0] * 4, [-0.6, -0.4, 0.4, 0.6]])
    np.testing.assert_array_equal(paint.at(points)[0], [0, 1, 1, 0])


def test_checker_alternates_along_every_axis() -> None:
    paint = Paint("checker", RED, BLUE, 0, 1.0)
    points = np.array([[0.0, 0.6, 0.6, 0.6], [0.0, 0.0, 0.6, 0.6], [0.0, 0.0, 0.0, 0.6]])
    np.testing.assert_array_equal(paint.at(points)[0], [1, 0, 1, 0])


def test_gradient_meets_in_the_middle() -> None:
    paint = Paint("gradient", RED, BLUE, 1, 1.0)
    colours = paint.at(np.array([[0.0] * 3, [-1.0, 0.0, 1.0], [0.0] * 3]))
    np.testing.assert_allclose(colours[0], [1, 0.5, 0], atol=1e-12)


def test_background_depends_on_the_elevation_alone() -> None:
    ground = Background(RED, BLUE, 0.1, 0.2)  # from red at sine 0 to blue at sine 0.2
    directions = np.array([[3.0, 0.0, -2.0], [0.0, 5.0, 0.0], [-1.0, 0.5, 1.0]])
    sine = directions[2] / np.linalg.norm(directions, axis=0)
    assert sine[0] < 0 < 0.05 < sine[1] < 0.15 and sine[2] > 0.2
    share = (sine[1] - 0.1) / 0.2 + 0.5
    np.testing.assert_allclose(ground.at(directions)[2], [0, share**2 * (3 - 2 * share), 1], atol=1e-12)
    turned = directions[[1, 0, 2]] * np.array([[-1], [1], [1]])
    np.testing.assert_allclose(ground.at(turned), ground.at(directions), atol=1e-12)


def test_edges_are_antialiased() -> None:
    """Red on blue: most pixels are one or the other, those on the outline a mixture in quarters."""
    red = render(scene(solid("ellipsoid", (0.15, 0.15, 0.15))), level(), 64).image[..., 0]
    mixed = (red > 0) & (red < 255)
    assert 0 < mixed.mean() < 0.05
    assert set(np.unique(red)) <= {0, 64, 128, 191, 255}


def test_second_camera_sees_the_same_points_in_the_same_colours() -> None:
    """Lift pixels of one view by its depth into the world, project into another: same depth, same colour."""
    paint = Paint("gradient", RED, BLUE, 2, 1.0)
    lit = scene(
        dataclasses.replace(tilted("ellipsoid"), centre=np.zeros(3)), paint=paint, light=np.array([0.6, 0.0, 0.8])
    )
    lit = dataclasses.replace(lit, ambient=0.5)
    here, there = (render(lit, level(yaw), 256) for yaw in (0.0, 0.4))
    rays = here.camera.rays(pixel_grid(256, dtype=torch.float64))
    seen = torch.from_numpy(here.mask.reshape(-1))
    depth = torch.from_numpy(here.depth.reshape(-1)[here.mask.reshape(-1)]).double()
    points = rays.origins[:, seen] + depth[:, None] * rays.directions[:, seen]
    xy, want_depth = there.camera.project(points)
    columns = ((xy[0, :, 0] + 1) * 128).long().clamp(0, 255).numpy()
    rows = ((1 - xy[0, :, 1]) * 128).long().clamp(0, 255).numpy()
    visible = np.abs(there.depth[rows, columns] - want_depth[0].numpy()) < 1e-3
    assert visible.mean() > 0.6
    first = here.image.reshape(-1, 3)[here.mask.reshape(-1)][visible].astype(int)
    difference = np.abs(first - there.image[rows, columns][visible].astype(int))
    assert np.quantile(difference, 0.99) <= 6  # colours change by up to 3 levels per pixel here
    shifted = np.abs(first - there.image[rows, (columns + 24) % 256][visible].astype(int))
    assert np.quantile(shifted, 0.99) > 20  # the comparison can tell


def test_view_takes_another_camera() -> None:
    dataset = procedural()
    own, other = dataset.view(3, 32), dataset.view(3, 32, level(0.5))
    assert_relative("camera", own.camera.cam2world, dataset.camera(3).cam2world, 0)
    assert (own.image != other.image).any()
    with pytest.raises(ValueError, match="camera must be one camera, got 2"):
        dataset.view(3, 32, Camera.orbit(torch.tensor([1.0, 1.2]), 0.0, fov_deg=30))


@pytest.mark.parametrize("resolution", [1, 17, 64])
def test_view_and_image_agree(resolution: int) -> None:
    dataset = procedural()
    view = dataset.view(2, resolution)
    assert isinstance(view, SceneView)
    assert view.image.shape == (resolution, resolution, 3) and view.image.dtype == np.uint8
    assert view.depth.shape == view.mask.shape == (resolution, resolution) and view.depth.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(view.depth), view.mask)
    np.testing.assert_array_equal(dataset.image(2, resolution), view.image)


def test_scenes_are_a_function_of_seed_and_index() -> None:
    first, again = procedural(), procedural(num_scenes=4096, cache_bytes=0, workers=2)
    for index in (0, 7, 15):
        np.testing.assert_array_equal(first.image(index, 32), again.image(index, 32))
    other = procedural(seed=1)
    assert all((first.view(i, 32, level()).image != other.view(i, 32, level()).image).any() for i in range(16))
    assert len({first.image(i, 32).tobytes() for i in range(16)}) == 16


def test_resolutions_show_the_same_scene() -> None:
    """4 x 4 pixels of a large view average to a pixel of the small one, up to the sampling of edges."""
    dataset = procedural(resolution=256)
    large = dataset.image(5, 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(large - dataset.image(5, 64)).mean() < 1.0


@pytest.mark.parametrize("fov_deg", [12.0, 30.0])
def test_scenes_fit_the_prior(fov_deg: float) -> None:
    """40 scenes: clear of the border, one third to three quarters wide, and within the depths that rays sample."""
    dataset = procedural(camera_prior=dataclasses.replace(QUICKSTART, fov_deg=fov_deg), num_scenes=40)
    views = [dataset.view(i, 32) for i in range(40)]
    masks = np.array([view.mask for view in views])
    assert not masks[:, [0, -1]].any() and not masks[:, :, [0, -1]].any()
    widths = masks.any(axis=1).mean(axis=1)
    assert widths.min() >= 0.25 and widths.max() <= 0.78 and 0.4 < np.median(widths) < 0.6
    depths = np.concatenate([view.depth[view.mask] for view in views])
    reach = 0.3 * math.tan(math.radians(fov_deg / 2)) / math.tan(math.radians(15))
    assert 1 - reach < depths.min() and depths.max() < 1 + reach


def test_scenes_differ_and_are_colourful() -> None:
    dataset = procedural(num_scenes=60)
    scenes = [dataset.scene(i) for i in range(60)]
    assert {s.solids[0][0].kind for s in scenes} == set(KINDS)
    assert {s.solids[0][1].pattern for s in scenes} == {"stripes", "checker", "gradient"}
    assert {len(s.solids) for s in scenes} == {1, 2}
    colours = np.array([s.solids[0][1].first for s in scenes])
    assert (colours.max(axis=1) - colours.min(axis=1)).min() > 0.5  # far from grey
    assert colours.std(axis=0).min() > 0.2


def test_cameras_follow_the_prior() -> None:
    dataset = procedural(num_scenes=200)
    position = torch.cat([dataset.camera(i).position for i in range(200)]).double()
    yaw, pitch = torch.atan2(position[:, 1], position[:, 0]), torch.arccos(position[:, 2])
    assert yaw.abs().max() <= 0.6 + 1e-6 and yaw.std() > 0.3  # uniform over 1.2: 1.2 / sqrt(12) = 0.346
    assert QUICKSTART.pitch[0] - 1e-6 <= pitch.min() and pitch.max() <= QUICKSTART.pitch[1] + 1e-6


def test_labels_are_the_cameras() -> None:
    dataset = procedural(use_labels=True, mirror=True)
    batch = dataset.batch(0, 0, 4, 16)
    assert batch.labels.shape == (4, 25)
    items = dataset.order(0, 0, 32)
    plain = next(i for i in items if i < 16)
    assert_relative("pose", camera_from_label(dataset.label(plain)).cam2world, dataset.camera(plain).cam2world, 1e-6)


def test_mirrored_label_is_the_mirrored_camera() -> None:
    """A scene that is its own mirror image at y = 0, seen from the mirrored camera, is the flipped picture."""
    dataset = procedural(use_labels=True, mirror=True)
    twin = scene(solid("box", (0.1, 0.15, 0.05)))
    plain, copy = (render(twin, camera_from_label(dataset.label(i)), 33).depth for i in (4, 4 + 16))
    np.testing.assert_allclose(copy, plain[:, ::-1], atol=1e-5)
    assert not np.allclose(copy, plain, atol=1e-3)


def test_mirrored_copy_is_the_flip() -> None:
    dataset = procedural(mirror=True)
    assert len(dataset) == 32
    np.testing.assert_array_equal(dataset.image(16 + 4, 32), dataset.image(4, 32)[:, ::-1])


def test_description_and_defaults() -> None:
    dataset = open_dataset("procedural", resolution=8)
    assert isinstance(dataset, ProceduralScenes)
    assert dataset.camera_prior == CameraPrior() and len(dataset) == 4096 and dataset.label_dim == 0
    assert dataset.describe() == ("4096 procedural scenes of seed 0, 8 px, not mirrored, no labels, 0 files unusable")


def test_numbers_out_of_range() -> None:
    dataset = procedural()
    with pytest.raises(IndexError, match="index must be between 0 and 15, got 16"):
        dataset.scene(16)
    with pytest.raises(UserError, match="num_scenes: wanted at least 1, got 0"):
        procedural(num_scenes=0)
    with pytest.raises(ValueError, match="num_scenes must be at least 1, got 0"):
        ProceduralScenes(resolution=8, num_scenes=0)
