"""Built-in quality figures: sliced Wasserstein distance, depth correlation, consistency between views."""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from stylenerf.engine.errors import UserError
from stylenerf.engine.training.metrics import (
    SlicedWassersteinMetric,
    depth_correlation,
    mean_depth_correlation,
    reproject,
    sliced_wasserstein,
)
from stylenerf.engine.training.metrics.swd import _cut, laplacian_pyramid, wasserstein_1d
from stylenerf.models.camera import Camera, pixel_grid
from tests.closeness import assert_relative


@pytest.fixture(autouse=True)
def fixed_draws() -> None:
    torch.manual_seed(0)


FEW = {"patches_per_image": 16, "projections": 64}  # enough for an ordering, quick


def scenes(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth random colour images [n, 3, size, size] within -0.6..0.6: sums of a few waves."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.linspace(0, 2 * math.pi, size)] * 2, indexing="ij")
    images = torch.zeros(n, 3, size, size)
    for k in (1, 2, 4):
        phase = 2 * math.pi * torch.rand(n, 3, 1, 1, generator=generator)
        turn = 2 * math.pi * torch.rand(n, 1, 1, 1, generator=generator)
        images += 0.2 * torch.sin(k * (x * turn.cos() + y * turn.sin()) + phase)
    return images


def noise_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(7))


def blurred(x: Tensor, amount: float) -> Tensor:
    smooth = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    return torch.lerp(x, smooth, amount)


# ---- sliced Wasserstein distance


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        # sorted: 0 1 3 against 5 6 8, every pair 5 apart
        ([3.0, 0.0, 1.0], [6.0, 8.0, 5.0], 5.0),
        # sorted: 0 0 2 against 0 1 1: (0 + 1 + 1) / 3
        ([0.0, 2.0, 0.0], [1.0, 0.0, 1.0], 2 / 3),
        ([4.0], [4.0], 0.0),
    ],
)
def test_wasserstein_1d_by_hand(a: list[float], b: list[float], want: float) -> None:
    assert wasserstein_1d(torch.tensor([a]), torch.tensor([b])).tolist() == [pytest.approx(want)]


def test_wasserstein_1d_differentiable_and_plain_sorts_agree() -> None:
    a, b = torch.randn(3, 50), torch.randn(3, 50)
    assert_relative("w1", wasserstein_1d(a.requires_grad_(), b).detach(), wasserstein_1d(a.detach(), b))


def _pyramid_by_definition(x: Tensor, min_resolution: int) -> dict[int, Tensor]:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)

    def blur(v: Tensor, gain: float = 1.0) -> Tensor:
        return torch.nn.functional.conv2d(torch.nn.functional.pad(v, [2] * 4, mode="reflect"), gain * kernel, groups=3)

    bands = {}
    while x.shape[-1] // 2 >= min_resolution:
        half = blur(x)[:, :, ::2, ::2]
        stretched = torch.zeros_like(x)
        stretched[:, :, ::2, ::2] = half
        bands[x.shape[-1]] = x - blur(stretched, gain=4)
        x = half
    return bands | {x.shape[-1]: x}


def test_pyramid_follows_its_definition() -> None:
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    got, want = laplacian_pyramid(x, 8), _pyramid_by_definition(x, 8)
    assert list(got) == list(want) == [32, 16, 8]
    for resolution, band in want.items():
        assert_relative(f"band {resolution}", got[resolution], band, tol=1e-12)


@pytest.mark.parametrize(
    ("size", "levels"), [(16, [16]), (12, [12]), (31, [31]), (48, [48, 24]), (64, [64, 32, 16])], ids=str
)
def test_levels(size: int, levels: list[int]) -> None:
    distance = sliced_wasserstein(scenes(2, size), scenes(2, size, seed=1), **FEW)
    assert list(distance.levels) == levels
    assert distance.mean == pytest.approx(sum(distance.levels.values()) / len(levels))
    assert all(v > 0 for v in distance.levels.values())


def test_patches_are_cut_where_they_should_be() -> None:
    band, corners = torch.randn(2, 3, 9, 9), [(0, 0), (2, 1), (1, 2)]  # of the 3 x 3 places of a 7 x 7 patch
    got = _cut(band, torch.tensor([3 * y + x for y, x in corners]), 7)
    want = [image[:, y : y + 7, x : x + 7].flatten(1) for image in band for y, x in corners]
    assert torch.equal(got, torch.stack(want, dim=2))


def test_one_level_by_hand() -> None:
    # one-pixel patches of grey 4 x 4 images: v . d = (v1 + v2 + v3) x, so W1 = |v1 + v2 + v3| W1(x, y) for each v
    real, fake = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    real[0], real[1] = -0.5, 0.5  # mean 0, deviation 0.5: normalised to -1, 1
    fake[0], fake[1] = -0.5, 0.0  # normalised to -1, 0: W1 = 1/2
    options = {"min_resolution": 4, "patch": 1, "patches_per_image": 1, "projections": 4000, "seed": 3}
    distance = sliced_wasserstein(real.expand(-1, 3, -1, -1), fake.expand(-1, 3, -1, -1), **options)
    # mean |v1 + v2 + v3| on the sphere is sqrt(3) E|v1| = sqrt(3) / 2
    assert distance.levels[4] == pytest.approx(1000 * math.sqrt(3) / 4, rel=0.03)


def test_identical_sets_are_at_zero_in_any_order() -> None:
    real = scenes(6)
    metric = SlicedWassersteinMetric(real, **FEW)
    assert metric.distance(real).mean == 0
    assert metric.distance(real.flip(0)).mean == pytest.approx(0, abs=1e-3)


def test_order_of_the_images_does_not_matter() -> None:
    real, fake = scenes(8), scenes(8, seed=1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    want = sliced_wasserstein(real, fake, **FEW).mean
    assert sliced_wasserstein(real[order], fake, **FEW).mean == pytest.approx(want, rel=1e-5)
    assert sliced_wasserstein(real, fake[order], **FEW).mean == pytest.approx(want, rel=1e-5)


def test_nearly_symmetric() -> None:
    a, b = scenes(16), 0.9 * scenes(16, seed=1)
    there, back = sliced_wasserstein(a, b, **FEW).mean, sliced_wasserstein(b, a, **FEW).mean
    assert there == pytest.approx(back, rel=0.15)


WORSE = {
    "noise": lambda x, t: x + 0.2 * t * noise_like(x),
    "blur": blurred,
    "colour shift": lambda x, t: x + 0.3 * t * torch.tensor([1.0, 0.0, -0.5]).view(3, 1, 1),
    "contrast": lambda x, t: (1 - 0.5 * t) * x,
    "one picture": lambda x, t: torch.cat([x[: len(x) - int(t * 8)], x[:1].expand(int(t * 8), -1, -1, -1)]),
}


@pytest.mark.parametrize("kind", WORSE)
def test_grows_with_damage(kind: str) -> None:
    real = scenes(12)
    metric = SlicedWassersteinMetric(real, **FEW)
    found = [metric.distance(WORSE[kind](real, t)).mean for t in (0.0, 0.25, 0.5, 1.0)]
    assert found[0] == 0
    assert all(later > 1.2 * earlier for earlier, later in pairwise(found)), found
    assert found[1] > 1  # in units of a thousandth of a deviation: visible


def test_damage_shows_at_its_level() -> None:
    real = scenes(8, size=64)
    fine = sliced_wasserstein(real, real + 0.05 * noise_like(real), **FEW).levels
    coarse = sliced_wasserstein(real, real + 0.2, **FEW).levels
    assert fine[64] > 5 * fine[16]
    assert coarse[16] > 100 * coarse[64]


def test_seed_decides() -> None:
    real, fake = scenes(4), scenes(4, seed=1)
    first = sliced_wasserstein(real, fake, seed=5, **FEW)
    torch.manual_seed(99)  # the global generator has no say
    assert sliced_wasserstein(real, fake, seed=5, **FEW) == first
    assert sliced_wasserstein(real, fake, seed=6, **FEW).mean != first.mean


def test_kept_reals_give_the_same_figure() -> None:
    real, fakes = scenes(5), [scenes(5, seed=s) for s in (1, 2)]
    metric = SlicedWassersteinMetric(real, 3, **FEW)
    assert [metric.distance(f) for f in fakes] == [sliced_wasserstein(real, f, seed=3, **FEW) for f in fakes]


def test_chunks_and_rounds_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = scenes(7), scenes(7, seed=1)
    want = sliced_wasserstein(real, fake, **FEW).mean
    monkeypatch.setattr("stylenerf.engine.training.metrics.swd._IMAGES_PER_CHUNK", 3)
    monkeypatch.setattr("stylenerf.engine.training.metrics.swd._PROJECTIONS_PER_ROUND", 24)
    assert sliced_wasserstein(real, fake, **FEW).mean == pytest.approx(want, rel=1e-5)


def test_bytes_and_numbers_are_the_same_images() -> None:
    real, fake = ((x * 127.5 + 128).to(torch.uint8) for x in (scenes(3), scenes(3, seed=1)))
    as_numbers = sliced_wasserstein(real / 127.5 - 1, (fake / 127.5 - 1).double(), **FEW)
    assert sliced_wasserstein(real, fake, **FEW).mean == pytest.approx(as_numbers.mean, rel=1e-5)


def test_values_beyond_white_count_as_white() -> None:
    real, fake = scenes(3), 3 * scenes(3, seed=1)
    assert sliced_wasserstein(real, fake, **FEW) == sliced_wasserstein(real, fake.clamp(-1, 1), **FEW)


def test_flat_images_give_a_number() -> None:
    distance = sliced_wasserstein(torch.zeros(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.25), **FEW)
    assert distance.levels[32] == pytest.approx(0, abs=1e-3)
    assert 0 < distance.levels[16] < 1e4


def test_nan_is_not_hidden() -> None:
    fake = scenes(3)
    fake[1, 0, 4:12, 4:12] = float("nan")
    assert math.isnan(sliced_wasserstein(scenes(3), fake).mean)


@pytest.mark.gpu
def test_device_does_not_matter() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    real, fake = scenes(6), scenes(6, seed=1)
    want = sliced_wasserstein(real, fake, **FEW).mean
    assert sliced_wasserstein(real, fake, **FEW, device="cuda").mean == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize(
    ("real", "fake", "options", "error", "text"),
    [
        ((4, 3, 32, 32), (3, 3, 32, 32), {}, UserError, "fake: wanted 4 images, as many as real ones, got 3"),
        ((4, 3, 32, 32), (4, 3, 16, 16), {}, UserError, r"fake: wanted \[4, 3, 32, 32\] .*got \[4, 3, 16, 16\]"),
        ((0, 3, 32, 32), (0, 3, 32, 32), {}, UserError, "real: wanted at least one image, got none"),
        ((2, 3, 32, 16), (2, 3, 32, 16), {}, UserError, "real: wanted square images, got 32 x 16"),
        ((2, 3, 6, 6), (2, 3, 6, 6), {}, UserError, "real: wanted images of at least 7 x 7, got 6 x 6"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"min_resolution": 6}, UserError, "min_resolution: wanted at least 7 .*got 6"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"patch": 0}, UserError, "patch: wanted at least 1, got 0"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"projections": 0}, UserError, "projections: wanted at least 1, got 0"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"patches_per_image": -1}, UserError, "patches_per_image: wanted at least 1"),
        ((2, 1, 32, 32), (2, 3, 32, 32), {}, ValueError, r"real must be \[N, 3, H, W\]"),
        ((2, 3, 32, 32), (3, 32, 32), {}, ValueError, r"fake must be \[N, 3, H, W\]"),
    ],
)
def test_swd_refuses(
    real: tuple[int, ...], fake: tuple[int, ...], options: dict[str, int], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        sliced_wasserstein(torch.zeros(real), torch.zeros(fake), **options)


def test_swd_refuses_whole_numbers_that_are_no_bytes() -> None:
    with pytest.raises(TypeError, match=r"real must be uint8 or floating point, got torch\.int64"):
        sliced_wasserstein(torch.zeros(1, 3, 16, 16, dtype=torch.long), torch.zeros(1, 3, 16, 16))


# ---- depth correlation


def test_depth_correlation_by_hand() -> None:
    # x = 1 2 3 4, y = 2 1 4 3: centred -1.5 -.5 .5 1.5 and -.5 -1.5 1.5 .5: dot = 4 * .75 = 3, norms^2 = 5
    x, y = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[2.0, 1.0], [4.0, 3.0]]])
    assert depth_correlation(x, y, far=9.0) == pytest.approx(3 / 5)


def test_depth_correlation_takes_background_as_far() -> None:
    x, y = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[2.0, 1.0], [math.inf, 3.0]]])
    assert depth_correlation(x, y, far=4.0) == pytest.approx(3 / 5)
    assert depth_correlation(y, x, far=4.0) == pytest.approx(3 / 5)


@pytest.mark.parametrize(("gain", "want"), [(2.5, 1.0), (-0.1, -1.0)])
def test_depth_correlation_ignores_offset_and_scale(gain: float, want: float) -> None:
    depth = torch.rand(3, 8, 8) + 1
    assert depth_correlation(depth, gain * depth + 4, far=99.0) == pytest.approx(want, abs=1e-6)


def test_depth_correlation_mask() -> None:
    depth = torch.rand(2, 4, 4) + 1
    other = depth.clone()
    other[:, :2] = torch.rand(2, 2, 4) + 1
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[:, :2] = False
    assert depth_correlation(depth, other, far=9.0) < 0.95
    assert depth_correlation(depth, other, far=9.0, mask=mask) == pytest.approx(1)
    assert depth_correlation(depth, other, far=9.0, mask=torch.zeros_like(mask)) == 0.0


@pytest.mark.parametrize("level", [0.0, 1.1, 1e6])
def test_constant_depth_correlates_with_nothing(level: float) -> None:
    depth, varied = torch.full((1, 16, 16), level), torch.rand(1, 16, 16) + 1
    assert depth_correlation(depth, varied, far=9.0) == 0.0
    assert depth_correlation(varied, torch.full_like(varied, math.inf), far=9.0) == 0.0
    rounded = depth * (1 + 1.2e-7 * torch.randint(-2, 3, (16, 16)))
    assert depth_correlation(rounded, varied, far=9.0) == 0.0


def test_depth_correlation_shows_nan() -> None:
    depth = torch.rand(1, 4, 4) + 1
    broken = depth.clone()
    broken[0, 0, 0] = math.nan
    assert math.isnan(depth_correlation(broken, depth, far=9.0))


def test_mean_depth_correlation_compares_populations() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(4, 1, 8, 8, generator=generator) + 1  # what each camera sees on average
    fakes = shapes + 0.5 * torch.randn(4, 64, 8, 8, generator=generator)
    trues = shapes + 0.5 * torch.randn(4, 48, 8, 8, generator=generator)
    one_by_one = depth_correlation(fakes[:, 0], trues[:, 0], far=9.0)
    means = mean_depth_correlation(fakes, trues, far=9.0)
    assert means > 0.9 > 0.5 > one_by_one
    assert mean_depth_correlation(fakes.roll(1, dims=0), trues, far=9.0) < 0.3  # the wrong cameras


def test_mean_depth_correlation_by_hand() -> None:
    # camera 0: means (1 + 3) / 2 = 2 and (inf -> 6, 4) -> 5 rise as the truth does: 1. camera 1: constant: 0
    fakes = torch.tensor([[[[1.0, math.inf]], [[3.0, 4.0]]], [[[2.0, 2.0]], [[2.0, 2.0]]]])  # [2, 2, 1, 2]
    trues = torch.tensor([[[[1.0, 2.0]]], [[[1.0, 2.0]]]])
    assert mean_depth_correlation(fakes, trues, far=6.0) == pytest.approx(0.5)


def test_depth_refuses() -> None:
    maps = torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match=r"true_depth must be \[B, H, W\] with B=2"):
        depth_correlation(maps, maps[:1], far=9.0)
    with pytest.raises(ValueError, match=r"mask must be \[B, H, W\] with H=4"):
        depth_correlation(maps, maps, far=9.0, mask=maps[:, :2].bool())
    with pytest.raises(UserError, match="far: wanted a positive, finite depth, got inf"):
        depth_correlation(maps, maps, far=math.inf)
    with pytest.raises(ValueError, match=r"true_depths must be \[C, L, H, W\] with C=2"):
        mean_depth_correlation(maps[:, None], maps[:1, None], far=9.0)
    with pytest.raises(UserError, match="true_depths: wanted at least one map per camera"):
        mean_depth_correlation(maps[:, None], torch.ones(2, 0, 4, 4), far=9.0)


# ---- consistency between views


class View(NamedTuple):
    image: Tensor
    depth: Tensor
    camera: Camera


def cast(origins: Tensor, directions: Tensor) -> Tensor:
    """Distance t to a sphere (radius 0.3, centre 0) over a floor (z = -0.3); infinite where a ray meets neither."""
    a, b = (directions**2).sum(-1), (origins * directions).sum(-1)
    root = b**2 - a * ((origins**2).sum(-1) - 0.3**2)
    sphere = torch.where(root >= 0, (-b - root.clamp(min=0).sqrt()) / a, math.inf)
    floor = (-0.3 - origins[..., 2]) / directions[..., 2]
    return torch.minimum(sphere, torch.where((floor > 0) & (floor < 6), floor, math.inf))


def view(yaw_rad: list[float], size: int = 64, pitch_rad: float = 1.0) -> View:
    """The scene with a texture painted on its points, seen from ``yaw_rad``; black where there is nothing."""
    camera = Camera.orbit(pitch_rad, torch.tensor(yaw_rad), 2.0, fov_deg=40.0, dtype=torch.float64)
    rays = camera.rays(pixel_grid(size, dtype=torch.float64))
    t = cast(*rays)
    points = rays.origins + t.nan_to_num(posinf=0.0)[..., None] * rays.directions
    colour = torch.sin(7 * points + torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)) * t.isfinite()[..., None]
    return View(colour.mT.reshape(-1, 3, size, size), t.view(-1, size, size), camera)


def test_reprojection_of_a_solid_scene() -> None:
    result = reproject(*view([0.0, 1.0]), *view([0.3, 0.8]), occlusion_tolerance=0.05)
    assert result.baseline > 0.3
    assert result.residual < 0.03 * result.baseline
    assert result.valid.double().mean() > 0.6


def test_reprojection_finds_what_the_other_view_sees() -> None:
    a, b = view([0.0]), view([0.6])
    valid = reproject(*a, *b, occlusion_tolerance=0.05).valid[0].flatten()
    rays = b.camera.rays(pixel_grid(64, dtype=torch.float64))
    points = (rays.origins + b.depth.flatten(1)[..., None] * rays.directions)[0]
    back = points - a.camera.position  # cast from A towards each point: t = 1 is the point itself
    in_frame = (a.camera.project(points[None])[0][0].abs() <= 1).all(-1)
    truth = in_frame & (cast(a.camera.position.expand_as(points), back) > 1 - 1e-6)
    assert 0.3 < truth.double().mean() < 0.9
    assert (valid & ~truth).double().mean() < 0.005  # only beside silhouettes
    assert (truth & ~valid).double().mean() < 0.06
    hidden = in_frame & ~truth & points.isfinite().all(-1)
    assert hidden.sum() > 50  # the floor behind the sphere: the scene does test occlusion


def test_reprojection_without_occlusion_test_is_worse() -> None:
    views = *view([0.0]), *view([0.6])
    strict, blind = (reproject(*views, occlusion_tolerance=tolerance) for tolerance in (0.05, 1e6))
    assert blind.residual > 2 * strict.residual
    assert blind.valid.sum() > strict.valid.sum()


def test_identical_cameras() -> None:
    a = view([0.2], pitch_rad=1.4)  # the horizon is in sight: some depths are infinite
    result = reproject(*a, *a, occlusion_tolerance=1e-3)
    assert result.residual < 1e-9
    assert result.baseline == 0
    seen = a.depth.isfinite()
    assert 0.5 < seen.double().mean() < 0.99
    assert torch.equal(result.valid & seen, result.valid)
    assert (result.valid != seen).double().mean() < 0.03  # pixels whose neighbour is infinitely far may fall out
    assert torch.isfinite(result.warped).all()
    assert not result.warped[~result.valid[:, None].expand_as(result.warped)].any()


@pytest.mark.parametrize("factor", [0.9, 1.15])
def test_wrong_depth_shows(factor: float) -> None:
    a, b = view([0.0]), view([0.4])
    right = reproject(*a, *b, occlusion_tolerance=0.05)
    wrong_a, wrong_b = a._replace(depth=factor * a.depth), b._replace(depth=factor * b.depth)
    wrong = reproject(*wrong_a, *wrong_b, occlusion_tolerance=0.5)
    assert wrong.residual > 5 * right.residual


def test_reprojection_up_is_up() -> None:
    """A camera that only moves up sees a frontal wall shifted down by whole pixels: the values can be named."""
    wall = torch.full((1, 8, 8), 2.0)  # half the height of the picture there is 2 tan(45 deg) = 2, a pixel is 0.5
    pose = torch.eye(4)
    raised = pose.clone()
    raised[1, 3] = 1.0  # camera space y is up: 2 pixels
    low, high = (Camera.from_matrix(p[None], fov_deg=90.0) for p in (pose, raised))
    image_low = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    result = reproject(image_low, wall, low, torch.zeros(1, 3, 8, 8), wall, high, occlusion_tolerance=0.1)
    assert_relative("rows", result.warped[:, :, 2:], image_low[:, :, :-2], tol=1e-5)
    assert result.valid[0, :, 0].tolist() == [False] * 2 + [True] * 6
    assert result.residual == pytest.approx(image_low[:, :, :-2].mean().item(), rel=1e-5)
    assert result.baseline == pytest.approx(image_low[:, :, 2:].mean().item(), rel=1e-5)


def test_nothing_in_common_is_nan() -> None:
    a = view([0.0])
    away = Camera.from_matrix(
        torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])) @ a.camera.cam2world.float(), fov_deg=9.0
    )
    result = reproject(*a, a.image, torch.full_like(a.depth, math.inf), away, occlusion_tolerance=0.1)
    assert not result.valid.any()
    assert math.isnan(result.residual)
    assert math.isnan(result.baseline)


def test_points_behind_the_camera_do_not_count() -> None:
    a = view([0.0])
    backwards = a._replace(depth=-a.depth)  # every point lies behind A, mirrored onto the same pixels
    assert not reproject(*a, *backwards, occlusion_tolerance=1e6).valid.any()


def test_reproject_refuses() -> None:
    image, depth = torch.zeros(2, 3, 8, 8), torch.ones(2, 8, 8)
    two, one = (Camera.orbit(1.5, torch.zeros(n), fov_deg=12.0) for n in (2, 1))
    with pytest.raises(ValueError, match=r"depth_a must be \[B, H, H\] with H=8"):
        reproject(image, depth[:, :4, :4], two, image, depth, two, occlusion_tolerance=0.1)
    with pytest.raises(ValueError, match=r"image_a must be \[B, 3, H, H\] with H=8"):
        reproject(image[..., :4], depth, two, image, depth, two, occlusion_tolerance=0.1)
    with pytest.raises(ValueError, match="camera_b must have B=2 poses, got 1"):
        reproject(image, depth, two, image, depth, one, occlusion_tolerance=0.1)
    with pytest.raises(UserError, match="occlusion_tolerance: wanted a positive length, got 0"):
        reproject(image, depth, two, image, depth, two, occlusion_tolerance=0)
