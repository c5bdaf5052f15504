"""Positions along rays, the inverted sphere, the NeRF path's lattice, and a step's draws."""

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.span import RaySpan, depth_from_fraction
from stylenerf.models.camera import Camera, CameraPrior, pixel_grid
from stylenerf.models.sampling import StepDraws, fractions_in_ball, inverted_sphere_points, path_pixels, stratify
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import cameras, source

SPHERES = ("inside", "inside_unnormalised")
COMPARED = {
    "units.npz": [
        *(f"invsphere/{case}/{field}" for case in SPHERES
          for field in ("ray_o", "ray_d", "inv_depth", "pts", "depth_real")),
        *(f"points_bg/{field}" for field in ("di", "camera_mat", "world_mat", "points", "rays")),
        *(f"regpixels/{field}" for field in ("tgt_pixels", "u_xy", "rand_pixels", "rand_indexs")),
        *(f"interval_noise/{field}" for field in ("di", "u", "out")),
    ]
}  # fmt: skip


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inside(n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Origins inside the unit sphere, directions of any length, inverse radii."""
    g = source(0)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=g, dtype=torch.float64), dim=-1)
    origins = origins * torch.rand(n, 1, generator=g, dtype=torch.float64)
    directions = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return origins, directions, torch.rand(n, 4, generator=g, dtype=torch.float64)


def test_stratify_hand_computed() -> None:
    # bins of (0, 1, 3) end at the mid-points: [0, 1/2], [1/2, 2], [2, 3]
    line = double(0, 1, 3)
    assert stratify(line, double(0, 0, 0)).tolist() == [0, 0.5, 2]
    assert stratify(line, double(1, 1, 1)).tolist() == [0.5, 2, 3]
    assert stratify(line, double(0.5, 0.5, 0.25)).tolist() == [0.25, 1.25, 2.25]


def test_stratify_reference_numbers() -> None:
    f = load_fixture("units.npz")
    assert_relative("jitter", stratify(f["interval_noise/di"], f["interval_noise/u"]), f["interval_noise/out"])


def test_ball_by_hand() -> None:
    """From (0, 0, 2), a ball of radius 0.5: straight through, beside its centre, past it; and out of near and far."""
    origins = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64).expand(3, 3)
    directions = torch.tensor([[0, 0, -1], [0.2, 0, -1], [0, 1, -1]], dtype=torch.float64)
    first, last = fractions_in_ball(origins, directions, 0.5, RaySpan(1, 3))
    half = math.sqrt(0.25 * 1.04 - 4 * 0.04) / 1.04  # from |o + t d|^2 = 1.04 t^2 - 4 t + 4 = 0.25
    assert first.tolist() == pytest.approx([0.25, (2 / 1.04 - half - 1) / 2, 0])
    assert last.tolist() == pytest.approx([0.75, (2 / 1.04 + half - 1) / 2, 0])
    first, last = fractions_in_ball(origins, directions, 0.5, RaySpan(1.75, 2.25))
    assert (first[0].item(), last[0].item()) == (0, 1)


@pytest.mark.parametrize("warp", ["linear", "inverse", "log"])
def test_ends_in_the_ball_lie_on_its_surface(warp: str) -> None:
    span, radius = RaySpan(0.6, 1.4, warp), 0.3  # type: ignore[arg-type]
    camera = CameraPrior(fov_deg=50).at(torch.tensor([0.3, 0.6]), torch.tensor([0.5, 0.2]))
    rays = camera.rays(pixel_grid(8))
    for end in fractions_in_ball(rays.origins, rays.directions, radius, span):
        points = rays.origins + depth_from_fraction(end, span)[..., None] * rays.directions
        distance = points.norm(dim=-1)
        hits = torch.linalg.cross(rays.origins, rays.directions).norm(dim=-1) < radius * rays.directions.norm(dim=-1)
        assert 0 < hits.sum() < hits.numel()
        torch.testing.assert_close(distance[hits], torch.full_like(distance[hits], radius), rtol=0, atol=1e-4)
        assert (distance[~hits] > radius - 1e-4).all()


def test_sphere_hand_computed() -> None:
    # from (0, 1/2, 0) along +x the ray leaves at (cos 30, sin 30); at radius 1 it is there, and at radius r it is at
    # height 1/2, so at asin(1/(2 r)) above +x
    got = inverted_sphere_points(double(0, 0.5, 0), double(2, 0, 0), double(1, 0.5, 0))
    angles = [math.asin(0.5), math.asin(0.25), 0.0]
    want = torch.tensor([[math.cos(a), math.sin(a), 0, i] for a, i in zip(angles, (1, 0.5, 0))], dtype=torch.float64)
    torch.testing.assert_close(got, want, atol=1e-15, rtol=1e-12)


def test_sphere_points_lie_on_their_ray() -> None:
    origins, directions, inverse = inside()
    points = inverted_sphere_points(origins, directions, inverse)
    torch.testing.assert_close(points[..., :3].norm(dim=-1), torch.ones_like(inverse))
    assert torch.equal(points[..., 3], inverse)
    away = points[..., :3] / inverse[..., None] - origins[:, None]  # parallel to the ray, and ahead
    ray = torch.nn.functional.normalize(directions, dim=-1)[:, None]
    torch.testing.assert_close(torch.nn.functional.normalize(away, dim=-1), ray.expand_as(away))


@pytest.mark.parametrize("case", SPHERES)
def test_sphere_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    o, d, inverse = (f[f"invsphere/{case}/{field}"] for field in ("ray_o", "ray_d", "inv_depth"))
    assert_relative("points", inverted_sphere_points(o, d, inverse[..., None])[..., 0, :], f[f"invsphere/{case}/pts"])

    o, d, inverse = o.double(), d.double(), inverse.double()
    points = inverted_sphere_points(o, d, inverse[..., None])[..., 0, :]
    square = (d * d).sum(-1)
    nearest = -(o * d).sum(-1) / square  # position along the ray of the point nearest to the centre
    beyond = ((points[..., :3] / inverse[..., None] - o) * d).sum(-1) / square - nearest
    # the public code takes 1 / (inverse + 1e-6) for the radius here
    assert_relative("depth", nearest + beyond * inverse / (inverse + 1e-6), f[f"invsphere/{case}/depth_real"].double())


def test_background_points_reference_numbers() -> None:
    f = load_fixture("units.npz")
    camera = Camera(f["points_bg/world_mat"], f["points_bg/camera_mat"][:, [0, 1], [0, 1]])
    rays = camera.rays(pixel_grid(8))
    unit = torch.nn.functional.normalize(rays.directions, dim=-1)
    points = inverted_sphere_points(rays.origins, unit, -f["points_bg/di"])
    assert_relative("rays", unit[:, :, None].expand_as(f["points_bg/rays"]), f["points_bg/rays"])
    assert_relative("points", points, f["points_bg/points"])


@pytest.mark.parametrize("edge", [1, 5, 33])
def test_a_ray_through_the_centre_keeps_its_direction(edge: int) -> None:
    rays = cameras(2).rays(pixel_grid(edge))
    origins = rays.origins.detach().requires_grad_()
    inverse = torch.linspace(0, 0.5, 4).expand(2, edge * edge, 4)
    points = inverted_sphere_points(origins, rays.directions, inverse)
    assert torch.isfinite(points).all()
    middle = torch.nn.functional.normalize(rays.directions[:, edge * edge // 2], dim=-1)
    torch.testing.assert_close(points[:, edge * edge // 2, :, :3], middle[:, None].expand(2, 4, 3), atol=1e-5, rtol=0)
    points.square().sum().backward()
    assert origins.grad is not None and torch.isfinite(origins.grad).all()


def test_exactly_through_the_centre() -> None:
    got = inverted_sphere_points(double(0, 0, 1), double(0, 0, -2), double(0.5, 0))
    assert got.tolist() == [[0, 0, -1, 0.5], [0, 0, -1, 0]]


def test_sphere_derivatives() -> None:
    origins, directions, inverse = inside(2)
    inputs = (origins.requires_grad_(), directions.requires_grad_(), (0.05 + 0.9 * inverse).requires_grad_())
    assert torch.autograd.gradcheck(inverted_sphere_points, inputs)


def test_lattice_hand_computed() -> None:
    # pace 3; offsets floor(0.5 * 3) = 1 in x, floor(0.9 * 3) = 2 in y: pixels (1, 2), (4, 2), (1, 5), (4, 5)
    assert path_pixels(torch.tensor([[0.5, 0.9]]), 2, 6).tolist() == [[13, 16, 31, 34]]


def test_lattice_reference_numbers() -> None:
    f = load_fixture("units.npz")
    image, want = f["regpixels/tgt_pixels"], f["regpixels/rand_indexs"]
    count, edge = math.isqrt(want.shape[1]), image.shape[-1]
    indices = path_pixels(f["regpixels/u_xy"], count, edge)
    assert torch.equal(indices, want)
    pixels = torch.stack([p[:, i].T for p, i in zip(image.flatten(2), indices)])
    assert torch.equal(pixels, f["regpixels/rand_pixels"])
    assert_relative("grid", pixel_grid(edge)[indices], f["regpixels/rand_pixels"])


@pytest.mark.parametrize("u", [0.0, 0.999999])
@pytest.mark.parametrize("count, edge", [(2, 6), (3, 7), (16, 32), (4, 4)])
def test_lattice_stays_inside(count: int, edge: int, u: float) -> None:
    indices = path_pixels(torch.full((2, 2), u), count, edge)
    assert indices.shape == (2, count * count) and indices.unique().numel() == count * count
    assert indices.min() >= 0 and indices.max() < edge * edge


def draws(seed: int = 0, *, path: bool = True, hierarchical: bool = True, background: int = 3) -> StepDraws:
    return StepDraws.sample(source(seed), 2, 5, 4, path=path, hierarchical=hierarchical, background_samples=background)


def test_draws_follow_the_order_of_a_step() -> None:
    g, got = source(0), draws()
    assert got.path_offset is not None and torch.equal(got.path_offset, torch.rand(2, 2, generator=g))
    for name, shape, draw in (
        ("coarse_jitter", (2, 5, 4), torch.rand),
        ("coarse_noise", (2, 5, 4), torch.randn),
        ("fine_u", (2, 5, 4), torch.rand),
        ("fine_noise", (2, 5, 4), torch.randn),
        ("background_jitter", (2, 5, 3), torch.rand),
        ("background_noise", (2, 5, 3), torch.randn),
    ):
        assert torch.equal(getattr(got, name), draw(*shape, generator=g)), name


def test_draws_leave_out_what_is_not_wanted() -> None:
    got = draws(path=False, hierarchical=False, background=0)
    assert {f.name for f in fields(got) if getattr(got, f.name) is not None} == {"coarse_jitter", "coarse_noise"}
    moved = got.to("cpu")
    assert moved.fine_u is None and moved.coarse_noise is not None and got.coarse_noise is not None
    assert torch.equal(moved.coarse_noise, got.coarse_noise)
