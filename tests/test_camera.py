"""Cameras: the convention by hand, reference numbers, round trips, priors, errors."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.render import RaySpan, depth_from_fraction
from stylenerf.kernels.rays.span import contract_ref
from stylenerf.models.camera import (
    Camera,
    CameraPrior,
    look_at,
    orbit_position,
    pixel_grid,
    roll_pixels,
    rotation_from_6d,
)
from tests.closeness import assert_relative
from tests.conftest import Fixture, load_fixture
from tests.inputs import cameras, source

FOVS = ("fov12", "fov16", "fov49.13")
PRIORS = ("ffhq_gauss", "ffhq_unif", "cars_unif", "nonangular", "nonangular_gauss")
RAYS = ("noalign", "align", "noalign_margin2", "noalign_theta", "align_full", "noalign_res6")
POINTS = {"none": "linear", "inverse": "inverse", "log": "log"}
SPACES = {"none": "plain", "inverse": "contracted", "log": "radial"}
RAY_FIELDS = (
    "params", "camera_mat", "world_mat", "vol_pixels", "tgt_pixels", "pixels_world", "camera_world", "ray_vector",
)  # fmt: skip
COMPARED = {
    "units.npz": [
        *(f"cammat/{case}/{field}" for case in FOVS for field in ("inverse", "forward")),
        *(f"campose_{kind}/{case}/{field}" for kind in ("tensor", "list") for case in PRIORS
          for field in ("params", "mode", "RT")),
        *(f"campose_random_np11/{case}/{field}" for case in PRIORS for field in ("params", "uvr", "RT")),
        *("lookat/eye", "lookat/R", "cam9d/d9", "cam9d/RT16", "rays/noalign_theta/theta"),
        *(f"rays/{case}/{field}" for case in RAYS for field in RAY_FIELDS),
        *(f"points/{case}/{field}" for case in POINTS
          for field in ("params", "di", "depth", "rays", "camera_mat", "world_mat")),
        *(f"points/{case}/points" for case in POINTS),
    ]
}  # fmt: skip
Q = math.pi / 2


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def camera_of(f: Fixture, case: str) -> Camera:
    return Camera(f[f"{case}/world_mat"], f[f"{case}/camera_mat"][:, [0, 1], [0, 1]])


def prior_of(f: Fixture, case: str) -> CameraPrior:
    p = json.loads(f.text(f"{case}/params"))
    return CameraPrior(
        "gaussian" if p["gaussian"] else "uniform",
        yaw=tuple(p["ru"]),
        pitch=tuple(p["rv"]),
        radius=tuple(p["rr"]),
        angular=p["angular"],
    )


def test_level_camera_by_hand() -> None:
    # yaw 0, level, 2 away: it stands on +x, sees +y at its right, +z above, and looks along -x
    camera = Camera.orbit(Q, 0.0, 2.0, fov_deg=90, dtype=torch.float64)
    want = torch.tensor([[0, 0, 1, 2], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(camera.cam2world[0], want, atol=1e-15, rtol=0)
    torch.testing.assert_close(camera.tan_half_fov, torch.ones(1, 2, dtype=torch.float64))
    rays = camera.rays(double(0.5, -1)[None])
    torch.testing.assert_close(rays.origins, double(2, 0, 0)[None, None], atol=1e-15, rtol=0)
    torch.testing.assert_close(rays.directions, double(-1, 0.5, -1)[None, None], atol=1e-15, rtol=0)


def test_orbit_by_hand() -> None:
    pitch, yaw, radius = double(0, Q, Q), double(1, 0, Q), double(3, 2, 1)
    want = torch.tensor([[0, 0, 3], [2, 0, 0], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(orbit_position(pitch, yaw, radius), want, atol=1e-15, rtol=0)


def test_pixels_by_hand() -> None:
    # centres of a 2x2 image, top row first and x fastest
    assert pixel_grid(2).tolist() == [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]
    assert pixel_grid(1, margin=1)[:3].tolist() == [[-2, 2], [0, 2], [2, 2]]
    assert pixel_grid(2, align_corners=True, image_resolution=5)[:2].tolist() == [[-1, 1], [0, 1]]
    quarter = roll_pixels(double(1, 0)[None], double(Q))
    torch.testing.assert_close(quarter, double(0, 1)[None, None], atol=1e-15, rtol=0)


def test_camera_on_the_axis_has_a_rotation() -> None:
    rotation = look_at(torch.tensor([[0.0, 0, 2], [0, 0, -2]], dtype=torch.float64))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert rotation[:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("case", FOVS)
def test_intrinsics(case: str) -> None:
    f = load_fixture("units.npz")
    inverse, forward = f[f"cammat/{case}/inverse"], f[f"cammat/{case}/forward"]
    half = Camera.orbit(Q, 0.0, fov_deg=float(case[3:])).tan_half_fov
    ones = torch.ones(1, 2)
    assert_relative("inverse", torch.diag_embed(torch.cat([half, ones], 1)), inverse)
    assert_relative("forward", torch.diag_embed(torch.cat([1 / half, ones], 1)), forward)


def test_look_at() -> None:
    f = load_fixture("units.npz")
    assert_relative("R", look_at(f["lookat/eye"]), f["lookat/R"])


def test_nine_numbers() -> None:
    f = load_fixture("units.npz")
    got = Camera.from_nine(f["cam9d/d9"], fov_deg=12.0).cam2world
    assert_relative("RT", got.flatten(1), f["cam9d/RT16"])


@pytest.mark.parametrize("case", PRIORS)
def test_poses_at_fractions(case: str) -> None:
    f = load_fixture("units.npz")
    prior, mode = prior_of(f, f"campose_list/{case}"), f[f"campose_list/{case}/mode"]
    # the public function that these come from scales its arguments like draws where it is told that they are Gaussian
    camera = prior.from_draws(mode[:, :2], mode[:, 2])
    assert_relative("poses", camera.cam2world, f[f"campose_list/{case}/RT"])
    flat = replace(prior, distribution="uniform")
    want = flat.from_draws(mode[:, :2], mode[:, 2]).cam2world
    assert torch.equal(prior.at(*mode.unbind(1)).cam2world, want)


@pytest.mark.parametrize("case", PRIORS)
def test_poses_from_draws(case: str) -> None:
    f = load_fixture("units.npz")
    prior, mode = prior_of(f, f"campose_tensor/{case}"), f[f"campose_tensor/{case}/mode"]
    middle = torch.full((len(mode),), 0.5)
    assert_relative("poses", prior.from_draws(mode, middle).cam2world, f[f"campose_tensor/{case}/RT"])


@pytest.mark.parametrize("case", PRIORS)
def test_random_poses(case: str) -> None:
    f = load_fixture("units.npz")
    prior, uvr, want = (
        prior_of(f, f"campose_random_np11/{case}"),
        *(f[f"campose_random_np11/{case}/{k}"] for k in ("uvr", "RT")),
    )
    assert_relative("at", prior.at(*uvr.unbind(1)).cam2world, want)
    rng = np.random.RandomState(11)
    draw = rng.randn if prior.distribution == "gaussian" else rng.rand
    angles = torch.from_numpy(np.stack([draw(len(uvr)), draw(len(uvr))], axis=1))
    radius = torch.rand(len(uvr), generator=source(11))
    assert_relative("from_draws", prior.from_draws(angles, radius).cam2world, want)


@pytest.mark.parametrize("case", RAYS)
def test_rays(case: str) -> None:
    f = load_fixture("units.npz")
    p = json.loads(f.text(f"rays/{case}/params"))
    grid = {"align_corners": p.get("ray_align_corner", False), "image_resolution": p["img_res"]}
    volume, target = pixel_grid(p["vol_res"], margin=p["margin"], **grid), pixel_grid(p["tgt_res"], **grid)
    camera = camera_of(f, f"rays/{case}")
    theta = f["rays/noalign_theta/theta"] if case == "noalign_theta" else torch.zeros(len(camera))
    volume, target = roll_pixels(volume, theta), roll_pixels(target, theta)
    rays = camera.rays(volume)
    assert_relative("pixels", volume, f[f"rays/{case}/vol_pixels"])
    assert_relative("image", target.mT.unflatten(2, (p["tgt_res"], -1)), f[f"rays/{case}/tgt_pixels"])
    assert_relative("origins", rays.origins, f[f"rays/{case}/camera_world"])
    assert_relative("directions", rays.directions, f[f"rays/{case}/ray_vector"])
    assert_relative("at depth 1", rays.origins + rays.directions, f[f"rays/{case}/pixels_world"])


@pytest.mark.parametrize("case", POINTS)
def test_points_along_rays(case: str) -> None:
    f = load_fixture("units.npz")
    near, far = json.loads(f.text(f"points/{case}/params")).get("depth_range", (0.88, 1.12))
    depth = depth_from_fraction(f[f"points/{case}/di"], RaySpan(near, far, POINTS[case]))  # type: ignore[arg-type]
    rays = camera_of(f, f"points/{case}").rays(pixel_grid(8))
    assert_relative("depth", depth, f[f"points/{case}/depth"])
    points = rays.origins[:, :, None] + depth[..., None] * rays.directions[:, :, None]
    assert_relative("rays", rays.directions[:, :, None].expand_as(points), f[f"points/{case}/rays"])
    # the radial space is centred where the prior's middle camera stands: level, in front
    contracted = contract_ref(points, RaySpan(near, far, space=SPACES[case], centre=(1.0, 0.0, 0.0)))  # type: ignore[arg-type]
    assert_relative("points", contracted, f[f"points/{case}/points"])


def test_projection_undoes_rays() -> None:
    camera = cameras(3).to(dtype=torch.float64)
    pixels = pixel_grid(4, dtype=torch.float64)
    rays = camera.rays(pixels)
    depth = torch.linspace(0.5, 2, 16, dtype=torch.float64).expand(3, 16)
    back, along = camera.project(rays.origins + depth[..., None] * rays.directions)
    torch.testing.assert_close(back, pixels.expand(3, -1, -1), atol=1e-6, rtol=0)  # poses are rounded to float32
    torch.testing.assert_close(along, depth, atol=1e-6, rtol=0)


def test_the_object_is_in_the_middle() -> None:
    pixel, depth = cameras(4).project(torch.zeros(4, 1, 3))
    torch.testing.assert_close(pixel, torch.zeros(4, 1, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(depth, torch.ones(4, 1))  # the prior's radius


@pytest.mark.parametrize("as_file", [False, True])
def test_json_round_trip(as_file: bool, tmp_path: Path) -> None:
    camera = cameras(3)
    text = camera.to_json()
    assert set(json.loads(text)[0]) == {"cam2world", "fov_deg"}
    (tmp_path / "cameras.json").write_text(text)
    back = Camera.from_json(tmp_path / "cameras.json" if as_file else text)
    assert torch.equal(back.cam2world, camera.cam2world)
    torch.testing.assert_close(back.tan_half_fov, camera.tan_half_fov)


def test_from_matrix() -> None:
    pose = cameras(2).cam2world
    intrinsics = torch.tensor([[2.0, 0, 0.5], [0, 4.0, 0.5], [0, 0, 1]])
    camera = Camera.from_matrix(pose, intrinsics=intrinsics)
    # half an image is 0.5 widths away at focal length 2: tan = 1/4
    assert camera.tan_half_fov.tolist() == [[0.25, 0.125]] * 2
    assert len(Camera.from_matrix(pose[0], fov_deg=90)) == 1
    each = Camera.from_matrix(pose, fov_deg=torch.tensor([90.0, 60.0]))
    torch.testing.assert_close(each.fov_deg, torch.tensor([90.0, 60.0]))


def test_rotation_from_six_numbers_is_a_rotation() -> None:
    six = torch.randn(5, 6, generator=source(0), dtype=torch.float64)
    rotation = rotation_from_6d(six)
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5, dtype=torch.float64))
    assert torch.autograd.gradcheck(rotation_from_6d, six.requires_grad_())


@pytest.mark.parametrize("index", [0, -1, slice(1, 3), torch.tensor([2, 0])], ids=str)
def test_indexing_keeps_the_batch_dim(index: Any) -> None:
    camera = cameras(3)
    want = camera.cam2world[index].reshape(-1, 4, 4)
    assert torch.equal(camera[index].cam2world, want) and len(camera[index]) == len(want)


def test_prior_repeats_with_its_generator() -> None:
    prior = CameraPrior(radius=(0.8, 1.2))
    a, b = (prior.sample(5, source(3)) for _ in range(2))
    assert torch.equal(a.cam2world, b.cam2world)
    assert not torch.equal(a.cam2world, prior.sample(5, source(4)).cam2world)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_prior_has_its_moments(distribution: Any) -> None:
    prior = CameraPrior(distribution, yaw=(-0.2, 0.4), pitch=(1.5, 1.7), radius=(0.9, 1.1))
    x, y, z = prior.sample(4000, source(0)).position.double().unbind(-1)
    yaw, radius = torch.atan2(y, x), (x * x + y * y + z * z).sqrt()
    half = {"uniform": 0.3 / math.sqrt(3), "gaussian": 0.3}[distribution]  # half the range is one standard deviation
    assert yaw.mean() == pytest.approx(0.1, abs=0.02) and yaw.std() == pytest.approx(half, rel=0.05)
    assert radius.min() >= 0.9 and radius.max() <= 1.1 and radius.mean() == pytest.approx(1, abs=0.01)


def test_prior_that_is_not_angular_covers_the_sphere_evenly() -> None:
    z = CameraPrior("uniform", yaw=(0, 1), pitch=(0, 1), angular=False).sample(4000, source(0)).position[:, 2]
    # equal areas of a sphere have equal heights
    torch.testing.assert_close(torch.histc(z, 4, -1, 1) / 4000, torch.full((4,), 0.25), atol=0.03, rtol=0)


EYE = torch.eye(4)[None]
OFF = torch.tensor([[2.0, 0, 0.4], [0, 2, 0.5], [0, 0, 1]])
BAD: dict[str, tuple[str, Callable[[], Any]]] = {
    "matrix": (r"cam2world must be \[B, 4, 4\], got \[1, 3, 4\]", lambda: Camera(EYE[:, :3], torch.ones(1, 2))),
    "tangents": (r"tan_half_fov must be \[B, 2\] with B=1, got \[2\]", lambda: Camera(EYE, torch.ones(2))),
    "neither": ("wanted exactly one of fov_deg and intrinsics", lambda: Camera.from_matrix(EYE)),
    "both": ("wanted exactly one of", lambda: Camera.from_matrix(EYE, fov_deg=12, intrinsics=OFF)),
    "view": ("fov_deg must be between 0 and 180, got 180", lambda: Camera.from_matrix(EYE, fov_deg=180)),
    "principal point": (r"principal point at \(0.5, 0.5\)", lambda: Camera.from_matrix(EYE, intrinsics=OFF)),
    "resolution": ("resolution must be at least 1, got 0", lambda: pixel_grid(0)),
    "margin": ("margin must be 0 with align_corners, got 2", lambda: pixel_grid(4, margin=2, align_corners=True)),
    "distribution": ("distribution must be .* got 'normal'", lambda: CameraPrior("normal")),  # type: ignore[arg-type]
    "range": (r"pitch must be \(low, high\) with low <= high, got \(2, 1\)", lambda: CameraPrior(pitch=(2, 1))),
    "radius": (r"radius must be positive, got \(0, 1\)", lambda: CameraPrior(radius=(0, 1))),
    "prior's view": ("fov_deg must be between 0 and 180, got 0", lambda: CameraPrior(fov_deg=0)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    text, call = BAD[name]
    with pytest.raises(ValueError, match=text):
        call()
