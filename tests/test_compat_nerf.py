"""compat.nerf: the formulas of EG3D, nerfacc and NeRF's PyTorch port, sample by sample; derivatives; errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylenerf.kernels.compat import nerf
from tests.gradients import DEVICE, assert_kernel_matches
from tests.inputs import source
from tests.standins.training import triplane
from tests.standins.training.volumetric_rendering import ray_marcher, renderer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64)


def ascending(*shape: int, seed: int = 0) -> Tensor:
    steps = torch.rand(shape, generator=source(seed), dtype=torch.float64)
    return 1 + (0.1 + steps).cumsum(-1)


RAW, DEPTHS, DIRECTIONS = 2 * normal(3, 5, 4), ascending(3, 5), normal(3, 3, seed=1)


def raw2outputs(raw: Tensor, z_vals: Tensor, rays_d: Tensor, white: bool) -> list[Tensor]:
    """One ray and sample after the other."""
    rows = []
    for sample, z, d in zip(raw, z_vals, rays_d):
        light, colour, weights = torch.ones((), dtype=raw.dtype), torch.zeros(3, dtype=raw.dtype), []
        for i in range(len(z)):
            length = (z[i + 1] - z[i] if i + 1 < len(z) else torch.tensor(1e10)) * d.norm()
            alpha = 1 - torch.exp(-torch.relu(sample[i, 3]) * length)
            weights.append(alpha * light)
            light = light * (1 - alpha)
            colour = colour + weights[-1] * torch.sigmoid(sample[i, :3])
        w = torch.stack(weights)
        depth = (w * z).sum()
        rows.append((colour + white * (1 - w.sum()), w.sum() / depth, w.sum(), w, depth))
    return [torch.stack(column) for column in zip(*rows)]


@pytest.mark.parametrize("white", [False, True])
def test_raw2outputs(white: bool) -> None:
    raw = RAW.clone()
    raw[:2, 1, 3] = 0.2
    raw[:2, -1, 3] = torch.tensor([1.0, -1.0])  # the last interval absorbs all that is left, or nothing
    got = nerf.raw2outputs(raw, DEPTHS, DIRECTIONS, 0, white)
    for g, w in zip(got, raw2outputs(raw, DEPTHS, DIRECTIONS, white)):
        torch.testing.assert_close(g, w, atol=1e-8, rtol=1e-8)
    assert got[2][0] == pytest.approx(1, abs=1e-8) and got[2][1] < 0.999


def test_raw2outputs_of_an_empty_ray() -> None:
    raw = RAW.clone()
    raw[..., 3] = -1
    colours, disparity, opacity, weights, depth = nerf.raw2outputs(raw, DEPTHS, DIRECTIONS, white_bkgd=True)
    assert (colours == 1).all() and disparity.isnan().all() and not opacity.any() and not weights.any()
    assert not depth.any()


def test_raw2outputs_with_noise() -> None:
    torch.manual_seed(3)
    got = nerf.raw2outputs(RAW, DEPTHS, DIRECTIONS, 0.5)
    torch.manual_seed(3)
    noisy = RAW.clone()
    noisy[..., 3] += torch.randn_like(noisy[..., 3]) * 0.5
    assert torch.equal(got[3], nerf.raw2outputs(noisy, DEPTHS, DIRECTIONS)[3])


def test_derivatives_of_raw2outputs() -> None:
    raw = torch.cat([RAW[:1, :3, :3], RAW[:1, :3, 3:].abs() + 0.1], -1)  # away from ReLU's corner
    inputs = [t.clone().requires_grad_() for t in (raw, DEPTHS[:1, :3], DIRECTIONS[:1])]
    assert torch.autograd.gradcheck(lambda *a: nerf.raw2outputs(*a)[:4], inputs)
    assert torch.autograd.gradgradcheck(lambda *a: nerf.raw2outputs(*a)[0], inputs)


EDGES, BINS = ascending(4, 7), torch.rand(4, 6, generator=source(2), dtype=torch.float64)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("det", [False, True])
def test_sample_pdf(det: bool, more: int) -> None:
    bins = BINS[:, : 6 - more].clone()
    bins[0], bins[1, -2:], bins[2, :2] = 0, 0, 0  # even rays, and flat ends of the cdf: which edge counts at 0 and 1
    bins[3] *= 1e4
    torch.manual_seed(1)
    got = nerf.sample_pdf(EDGES, bins, 9, det)
    torch.manual_seed(1)
    want = renderer.ImportanceRenderer().sample_pdf(EDGES, bins, 9, det)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)


def test_sample_pdf_draws_as_the_port_does() -> None:
    torch.manual_seed(1)
    got = nerf.sample_pdf(EDGES.float(), torch.ones(4, 6), 3)
    torch.manual_seed(1)
    place = torch.rand(4, 3) * 6
    low = EDGES.float().gather(1, place.long())
    want = low + (place % 1) * (EDGES.float().gather(1, place.long() + 1) - low)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_sample_importance() -> None:
    z, weights = ascending(2, 3, 9)[..., None], torch.rand(2, 3, 8, 1, generator=source(3), dtype=torch.float64)
    torch.manual_seed(1)
    got = nerf.sample_importance(z, weights.requires_grad_(), 6)
    torch.manual_seed(1)
    torch.testing.assert_close(got, renderer.ImportanceRenderer().sample_importance(z, weights, 6), atol=1e-9, rtol=0)
    assert not got.requires_grad and got.max() <= (z[..., -2, 0] + z[..., -3, 0]).max() / 2  # one edge unused


COLOURS, DENSITIES, Z = normal(2, 3, 6, 4).sigmoid(), 3 * normal(2, 3, 6, 1, seed=1), ascending(2, 3, 6)[..., None]


@pytest.mark.parametrize("white", [False, True])
def test_march_rays(white: bool) -> None:
    options = {"clamp_mode": "softplus", "white_back": white, "box_warp": 1}
    got = nerf.MipRayMarcher2()(COLOURS, DENSITIES, Z, options)
    want = ray_marcher.MipRayMarcher2()(COLOURS, DENSITIES, Z, options)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, atol=1e-9, rtol=1e-9)
    assert got[2].shape == (2, 3, 5, 1)


def test_depth_of_rays_without_weight_is_the_farthest() -> None:
    _, depth, _ = nerf.march_rays(COLOURS, torch.full_like(DENSITIES, -1e4), Z)
    assert (depth == Z.max()).all()


def test_derivatives_of_march_rays() -> None:
    inputs = [t[:1, :1, :3].clone().requires_grad_() for t in (COLOURS, DENSITIES, Z)]
    assert torch.autograd.gradcheck(nerf.march_rays, inputs)
    assert torch.autograd.gradgradcheck(lambda *a: nerf.march_rays(*a)[0], inputs)


PLANES, POINTS = normal(2, 3, 4, 5, 6), 1.2 * torch.rand(2, 7, 3, generator=source(1), dtype=torch.float64) - 0.4


def test_planes() -> None:
    axes = nerf.generate_planes()
    assert torch.equal(axes, renderer.generate_planes())
    x, y, z = POINTS.unbind(-1)
    want = torch.stack([torch.stack([x, y], -1), torch.stack([x, z], -1), torch.stack([z, x], -1)], 1).flatten(0, 1)
    torch.testing.assert_close(nerf.project_onto_planes(axes.double(), POINTS), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("turned", [False, True])
def test_sample_from_planes(turned: bool) -> None:
    axes = nerf.generate_planes().double() + (0.2 * normal(3, 3, 3) if turned else 0)
    got = nerf.sample_from_planes(axes, PLANES, POINTS, padding_mode="zeros", box_warp=1.3)
    want = renderer.sample_from_planes(axes, PLANES, POINTS, box_warp=1.3)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_derivatives_of_plane_samples() -> None:
    planes, points = PLANES[:1, :, :1, :3, :3].clone().requires_grad_(), POINTS[:1, :2].clone().requires_grad_()
    run = lambda p, x: nerf.sample_from_planes(nerf.generate_planes(), p, x)  # noqa: E731
    assert torch.autograd.gradcheck(run, (planes, points))
    assert torch.autograd.gradgradcheck(run, (planes, points))


def test_decode_planes() -> None:
    decoder, features = triplane.OSGDecoder(5).double(), normal(2, 3, 7, 5)
    layers = decoder.net[0], decoder.net[2]
    got = nerf.decode_planes(features, [m.weight for m in layers], [m.bias for m in layers])
    want = decoder(features, features)
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-10, rtol=1e-10)


@pytest.mark.slow
def test_decode_planes_as_kernel() -> None:
    shapes = {"x": (2, 3, 20, 8), "w0": (16, 8), "w1": (4, 16), "b0": (16,), "b1": (4,)}
    inputs = {name: 0.3 * normal(*shape).to(DEVICE, torch.float32) for name, shape in shapes.items()}

    def run(impl: Any) -> Callable[..., tuple[Tensor, ...]]:
        return lambda x, w0, w1, b0, b1: tuple(nerf.decode_planes(x, [w0, w1], [b0, b1], impl=impl).values())

    assert_kernel_matches(run("triton"), run("ref"), inputs)


LENGTHS = (3, 0, 5, 1)
INDICES = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
STARTS = torch.cat([ascending(max(n, 1), seed=n)[:n] for n in LENGTHS])
ENDS = STARTS + 0.1 * torch.rand(9, generator=source(3), dtype=torch.float64)  # gaps between samples
SIGMAS = 4 * normal(9).abs()
INFO = torch.tensor([[0, 3], [3, 0], [3, 5], [8, 1]])
PACKED: dict[str, dict[str, Any]] = {
    "indices": {"ray_indices": INDICES, "n_rays": 4},
    "indices alone": {"ray_indices": INDICES},
    "info": {"packed_info": INFO},
}


def by_ray(starts: Tensor, ends: Tensor, sigmas: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    """Weights, transmittance and opacity, one sample after the other."""
    rows = []
    for s, e, sigma in zip(starts.split(lengths), ends.split(lengths), sigmas.split(lengths)):
        light = torch.ones((), dtype=sigmas.dtype)
        for i in range(len(s)):
            alpha = 1 - torch.exp(-sigma[i] * (e[i] - s[i]))
            rows.append(torch.stack([light * alpha, light, alpha]))
            light = light * (1 - alpha)
    return list(torch.stack(rows, 1))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights(kind: str) -> None:
    got = nerf.render_weight_from_density(STARTS, ENDS, SIGMAS, **PACKED[kind])
    alone = nerf.render_transmittance_from_density(STARTS, ENDS, SIGMAS, **PACKED[kind])
    for g, w in zip((*got, *alone), [*(want := by_ray(STARTS, ENDS, SIGMAS, LENGTHS)), *want[1:]]):
        torch.testing.assert_close(g, w, atol=1e-8, rtol=1e-8)


def test_dense_weights_and_prefix() -> None:
    dense = [t[:8].reshape(2, 4) for t in (STARTS.sort()[0], ENDS.sort()[0], SIGMAS)]
    want = [t.reshape(2, 4) for t in by_ray(*(t.flatten() for t in dense), (4, 4))]
    prefix = torch.tensor([[0.5], [0.25]], dtype=torch.float64).expand(2, 4)
    got = nerf.render_weight_from_density(*dense, prefix_trans=prefix)
    for g, w in zip(got, (want[0] * prefix, want[1] * prefix, want[2])):
        torch.testing.assert_close(g, w, atol=1e-8, rtol=1e-8)
    trans, _ = nerf.render_transmittance_from_density(*dense, prefix_trans=prefix)
    torch.testing.assert_close(trans, want[1] * prefix, atol=1e-8, rtol=1e-8)


def test_an_opaque_sample_hides_only_its_own_ray() -> None:
    sigmas = torch.zeros(6)
    sigmas[1] = 1e12
    starts = torch.arange(6.0) % 3
    _, trans, _ = nerf.render_weight_from_density(
        starts, starts + 1, sigmas, ray_indices=torch.tensor([0, 0, 0, 1, 1, 1])
    )
    assert trans.tolist() == [1, 1, 0, 1, 1, 1]


def test_derivatives_of_packed_weights() -> None:
    inputs = [t[:4].clone().requires_grad_() for t in (STARTS, ENDS, SIGMAS)]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return nerf.render_weight_from_density(*tensors, ray_indices=INDICES[:4], n_rays=3)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("values", [None, normal(9, 2)], ids=["weights", "values"])
def test_accumulate_along_rays(values: Tensor | None) -> None:
    one = torch.ones(9, 1, dtype=torch.float64)
    want = torch.zeros(5, 1 if values is None else 2, dtype=torch.float64)
    want.index_add_(0, INDICES, SIGMAS[:, None] * (one if values is None else values))
    got = nerf.accumulate_along_rays(SIGMAS, values, INDICES, 5)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    dense = nerf.accumulate_along_rays(SIGMAS.view(3, 3), None if values is None else values.view(3, 3, 2))
    torch.testing.assert_close(dense[0], (SIGMAS[:3, None] * (one if values is None else values)[:3]).sum(0))


def test_no_samples() -> None:
    nothing, rays = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    weights, _, _ = nerf.render_weight_from_density(nothing, nothing, nothing, ray_indices=rays, n_rays=2)
    assert weights.shape == (0,)
    assert nerf.accumulate_along_rays(weights, None, rays, 2).tolist() == [[0], [0]]


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "unsorted": (
        RuntimeError,
        "ray_indices must ascend",
        lambda: nerf.accumulate_along_rays(SIGMAS, None, -INDICES, 4),
    ),
    "edges": (
        ValueError,
        r"bins must have more edges than the 6 weights, got \[4, 6\]",
        lambda: nerf.sample_pdf(EDGES[:, :6], BINS, 3),
    ),
    "pytest": (ValueError, "pytest must be False", lambda: nerf.sample_pdf(EDGES, BINS, 3, pytest=True)),
    "clamp": (
        ValueError,
        r"clamp_mode must be one of \['softplus'\], got 'relu'",
        lambda: nerf.march_rays(COLOURS, DENSITIES, Z, clamp_mode="relu"),
    ),
    "mode": (
        ValueError,
        r"mode must be one of \['bilinear'\], got 'nearest'",
        lambda: nerf.sample_from_planes(nerf.generate_planes(), PLANES, POINTS, mode="nearest"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()


def test_softplus_is_shifted() -> None:
    """One interval of length 2 and raw density 1: softplus(0) = log 2, alpha = 1 - exp(-2 log 2) = 3/4."""
    depths, one = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1), torch.ones(1, 1, 2, 1)
    colours, depth, weights = nerf.march_rays(one, one, depths)
    # 0.75 * 1 becomes 2 * 0.75 - 1; the mean depth is that of the middle
    assert (weights.item(), colours.item(), depth.item()) == pytest.approx((0.75, 0.5, 2.0))
    assert F.softplus(torch.zeros(())) == pytest.approx(0.6931472)


def there(*tensors: Tensor) -> list[Tensor]:
    """Where kernels run, float32."""
    return [t.to(DEVICE, torch.float32) for t in tensors]


def packed(impl: Any) -> Tensor:
    rays: dict[str, Any] = {"ray_indices": INDICES.to(DEVICE), "n_rays": 4, "impl": impl}
    return nerf.accumulate_along_rays(nerf.render_weight_from_density(*there(STARTS, ENDS, SIGMAS), **rays)[0], **rays)


KERNELS: dict[str, Callable[[Any], Tensor]] = {
    "march_rays": lambda impl: nerf.march_rays(*there(COLOURS, DENSITIES, Z), impl=impl)[0],
    "raw2outputs": lambda impl: nerf.raw2outputs(*there(RAW, DEPTHS, DIRECTIONS), impl=impl)[0],
    "sample_pdf": lambda impl: nerf.sample_pdf(*there(EDGES, BINS), 9, det=True, impl=impl),
    "packed": packed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_as_kernels(name: str) -> None:
    torch.testing.assert_close(KERNELS[name]("triton"), KERNELS[name]("ref"), atol=1e-5, rtol=1e-5)
