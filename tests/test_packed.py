"""Packed rays and render_volume in plain torch: hand-computed values, rays one by one, derivatives, errors."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.volume import FarEnd, composite, render_volume, volume_weights
from tests.inputs import source

ENDS: tuple[FarEnd, FarEnd] = ("open", "opaque")
LENGTHS = {
    "mixed": [3, 0, 1, 5, 2],
    "equal": [4, 4, 4],
    "one": [6],
    "empty last": [2, 0],
    "all empty": [0, 0],
    "no rays": [],
}
LN2 = math.log(2)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make_offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def make(lengths: list[int], channels: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Densities of both signs, depths ascending along each ray, features, ray norms."""
    g = source(3)
    density = 4 * torch.randn(sum(lengths), generator=g, dtype=torch.float64) + 2
    each = [torch.rand(n, generator=g, dtype=torch.float64).sort().values for n in lengths]
    depths = torch.cat([double(), *each])
    features = torch.randn(sum(lengths), channels, generator=g, dtype=torch.float64)
    return density, depths, features, 0.5 + torch.rand(len(lengths), generator=g, dtype=torch.float64)


# density 1, intervals ln 2: every sample takes half of what reaches it; rays of 3, 0, 1 and 2 samples
HAND: dict[FarEnd, tuple[list[float], list[float]]] = {
    "open": ([0.5, 0.25, 0, 0, 0.5, 0], [0.25, 1, 1, 0.5]),
    "opaque": ([0.5, 0.25, 0.25, 1, 0.5, 0.5], [0.25, 1, 1, 0.5]),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("end", ENDS)
def test_hand_computed(end: FarEnd, dtype: torch.dtype) -> None:
    depths = double(0, 1, 2, 7, 4, 5) * LN2
    offsets = make_offsets([3, 0, 1, 2]).to(dtype)
    got = volume_weights(torch.ones_like(depths), depths, far_end=end, offsets=offsets)
    torch.testing.assert_close(got.weights, double(*HAND[end][0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(got.transmittance, double(*HAND[end][1]), atol=1e-9, rtol=0)


def test_composite_hand_computed() -> None:
    features = torch.tensor([[2.0, 4.0], [8.0, -4.0], [1.0, 3.0]], dtype=torch.float64)
    got = composite(double(0.5, 0.25, 2.0), features, offsets=make_offsets([2, 0, 1]))
    assert got.tolist() == [[3.0, 1.0], [0.0, 0.0], [2.0, 6.0]]  # 1 + 2, 2 - 1; nothing; 2, 6


def test_render_volume_hand_computed() -> None:
    depths = double(1, 2, 3, 5) * LN2
    features = torch.tensor([[4.0], [8.0], [16.0], [32.0]], dtype=torch.float64)
    offsets = make_offsets([3, 1, 0])
    got = render_volume(torch.ones_like(depths), depths, features, far_end="opaque", offsets=offsets)
    # weights 1/2, 1/4, 1/4 of the first ray: 2 + 2 + 4; (1/2 + 2/4 + 3/4) ln 2
    want = {
        "colours": double(8, 32, 0)[:, None],
        "weights": double(0.5, 0.25, 0.25, 1),
        "opacity": double(1, 1, 0),
        "depth": double(1.75, 5, 0) * LN2,
        "transmittance": double(0.25, 1, 1),
    }
    torch.testing.assert_close(got._asdict(), want, atol=1e-8, rtol=0)


def test_render_volume_of_one_length() -> None:
    density, depths, features, norm = make([4, 4, 4])
    grid = (density.view(3, 4), depths.view(3, 4), features.view(3, 4, 3))
    got = render_volume(*grid, ray_norm=norm)
    packed = render_volume(density, depths, features, ray_norm=norm, offsets=make_offsets([4, 4, 4]))
    torch.testing.assert_close(got._replace(weights=got.weights.flatten()), packed)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", LENGTHS)
def test_every_ray_as_if_alone(case: str, end: FarEnd) -> None:
    lengths = LENGTHS[case]
    density, depths, features, norm = make(lengths)
    offsets = make_offsets(lengths)
    got = volume_weights(density, depths, ray_norm=norm, far_end=end, offsets=offsets)
    colours = composite(got.weights, features, offsets=offsets)
    assert got.weights.shape == density.shape and got.transmittance.shape == norm.shape
    assert colours.shape == (len(lengths), 3)
    parts = [t.split(lengths) for t in (density, depths, features)]
    alone = [render_volume(d, t, f, ray_norm=n, far_end=end) for d, t, f, n in zip(*parts, norm) if len(d)]
    full = torch.tensor(lengths) > 0
    torch.testing.assert_close(list(got.weights.split([n for n in lengths if n])), [a.weights for a in alone])
    torch.testing.assert_close(list(got.transmittance[full]), [a.transmittance for a in alone])
    torch.testing.assert_close(list(colours[full]), [a.colours for a in alone])
    assert (got.transmittance[~full] == 1).all() and (colours[~full] == 0).all()


def test_a_nan_stays_on_its_ray() -> None:
    lengths = [3, 2, 4]
    density, depths, _, _ = make(lengths)
    depths[4] = torch.nan  # the end of the second ray
    got = volume_weights(density, depths, offsets=make_offsets(lengths))
    assert got.weights.isnan().tolist() == [False] * 3 + [True] * 2 + [False] * 4
    assert got.transmittance.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("end", ENDS)
def test_derivatives_of_any_order(end: FarEnd) -> None:
    lengths = [3, 0, 1, 2]
    inputs = tuple(t.requires_grad_() for t in make(lengths, channels=2))

    def run(density: Tensor, depths: Tensor, features: Tensor, norm: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            render_volume(density, depths, features, ray_norm=norm, far_end=end, offsets=make_offsets(lengths))
        )

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


N5, R2 = torch.zeros(5), torch.zeros(2)
OFFSETS = make_offsets([3, 2])
BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "offsets": (
        ValueError,
        r"offsets must be \[R \+ 1\], got \[0\]",
        partial(volume_weights, N5, N5, offsets=OFFSETS[:0]),
    ),
    "offsets dtype": (
        TypeError,
        "offsets must be one of .*int64.*int32.* got torch.float32",
        partial(volume_weights, N5, N5, offsets=OFFSETS.float()),
    ),
    "density": (
        ValueError,
        r"density must be \[N\] where offsets are given, got \[1, 5\]",
        partial(volume_weights, N5[None], N5[None], offsets=OFFSETS),
    ),
    "depths": (
        ValueError,
        r"depths must be \[5\] like density, got \[2\]",
        partial(volume_weights, N5, R2, offsets=OFFSETS),
    ),
    "norm": (
        ValueError,
        r"ray_norm must be \[2\], got \[5\]",
        partial(volume_weights, N5, N5, ray_norm=N5, offsets=OFFSETS),
    ),
    "norm dtype": (
        TypeError,
        "ray_norm must be one of .*float32.* got torch.float64",
        partial(volume_weights, N5, N5, ray_norm=R2.double(), offsets=OFFSETS),
    ),
    "weights": (
        ValueError,
        r"weights must be \[N\] where offsets are given, got \[5, 1\]",
        partial(composite, N5[:, None], N5[:, None, None], offsets=OFFSETS),
    ),
    "features": (
        ValueError,
        r"features must be \[5, 'C'\], got \[2, 1\]",
        partial(composite, N5, R2[:, None], offsets=OFFSETS),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()
