"""volume_weights and composite: hand-computed values, reference numbers, sums, derivatives, errors."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.volume import FarEnd, composite, volume_weights
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import FIELD_CASES, FieldCase, make_fractions, make_points, source

REFERENCE: dict[str, tuple[FarEnd, bool]] = {
    "fg": ("open", True),
    "fg_inf": ("opaque", True),
    "noray": ("open", False),
    "bg": ("opaque", False),
}
FIELDS = ("sigma", "z", "last_dist", "weights", "T_last", "dists")
COMPARED = {
    "units.npz": [f"volweights/{case}/{field}" for case in REFERENCE for field in FIELDS]
    + [f"volweights/{case}/ray_vector" for case in ("fg", "fg_inf")]
}
ENDS: tuple[FarEnd, FarEnd] = ("open", "opaque")


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make(case: FieldCase) -> tuple[Tensor, Tensor, Tensor]:
    """Raw densities of both signs, ascending depths, ray norms."""
    density = 4 * make_points(case)[..., 0] + 1
    norm = 0.5 + torch.rand(case.batch, case.rays, generator=source(9), dtype=torch.float64)
    return density, make_fractions(case), norm


# density 1, intervals ln 2: every sample takes half of what reaches it; a ray twice as long, three quarters
HAND: dict[str, tuple[FarEnd, float | None, list[float], float]] = {
    "open": ("open", None, [0.5, 0.25, 0.0], 0.25),
    "opaque": ("opaque", None, [0.5, 0.25, 0.25], 0.25),
    "long ray": ("open", 2.0, [0.75, 0.1875, 0.0], 0.0625),
}


@pytest.mark.parametrize("name", HAND)
def test_hand_computed(name: str) -> None:
    end, norm, weights, transmittance = HAND[name]
    ray_norm = None if norm is None else torch.tensor(norm, dtype=torch.float64)
    got = volume_weights(double(1, 1, 7), double(0, 1, 2) * math.log(2), ray_norm=ray_norm, far_end=end)
    torch.testing.assert_close(got.weights, double(*weights), atol=1e-9, rtol=0)
    assert got.transmittance.item() == pytest.approx(transmittance, abs=1e-9)


def test_negative_density_is_empty() -> None:
    got = volume_weights(double(-3, 1, 0), double(0, 1, 2), far_end="opaque")
    torch.testing.assert_close(got.weights, double(0, 1 - math.exp(-1), math.exp(-1)), atol=1e-9, rtol=0)


def test_one_sample_takes_all_or_nothing() -> None:
    assert volume_weights(double(5), double(1), far_end="opaque").weights.tolist() == [1]
    assert volume_weights(double(5), double(1), far_end="open").weights.tolist() == [0]


@pytest.mark.parametrize("case", REFERENCE)
def test_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    end, has_ray = REFERENCE[case]
    norm = f[f"volweights/{case}/ray_vector"].norm(dim=-1) if has_ray else None
    sigma, z = f[f"volweights/{case}/sigma"], f[f"volweights/{case}/z"]
    got = volume_weights(sigma, z, ray_norm=norm, far_end=end)
    assert_relative("weights", got.weights, f[f"volweights/{case}/weights"])
    assert_relative("transmittance", got.transmittance, f[f"volweights/{case}/T_last"])

    # at density 1 the share that each sample takes gives its interval away: w / T = 1 - exp(-dist)
    wide = None if norm is None else norm.double()
    w = volume_weights(torch.ones_like(z, dtype=torch.float64), z.double(), ray_norm=wide, far_end=end).weights
    share = w / (1 - torch.cumsum(w, dim=-1) + w)
    dists = f[f"volweights/{case}/dists"]
    assert_relative("intervals", -torch.log1p(-share[..., :-1]), dists[..., :-1].double())
    last = f[f"volweights/{case}/last_dist"]
    assert torch.equal(dists[..., -1], last.expand_as(dists[..., -1]))
    torch.testing.assert_close(share[..., -1], (last > 0).double().expand_as(share[..., -1]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", FIELD_CASES)
def test_nothing_is_lost(case: str, end: FarEnd) -> None:
    density, depths, norm = make(FIELD_CASES[case])
    weights, trans = volume_weights(density, depths, ray_norm=norm, far_end=end)
    total = weights.sum(-1) + (trans if end == "open" else 0)
    torch.testing.assert_close(total, torch.ones_like(trans), atol=1e-8, rtol=0)
    assert (weights >= 0).all() and (trans >= 0).all()


def test_moving_the_ray_changes_nothing() -> None:
    density, depths, norm = make(FIELD_CASES["odd"])
    a = volume_weights(density, depths, ray_norm=norm)
    b = volume_weights(density, depths + 3, ray_norm=norm)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_composite_hand_computed() -> None:
    weights = double(0.5, 0.25, 0.0)
    features = torch.tensor([[2.0, 4.0], [8.0, -4.0], [100.0, 100.0]], dtype=torch.float64)
    assert composite(weights, features).tolist() == [3.0, 1.0]  # 1 + 2, 2 - 1


@pytest.mark.parametrize("case", FIELD_CASES)
def test_composite_is_a_weighted_sum(case: str) -> None:
    points, weights = make_points(FIELD_CASES[case]), make_fractions(FIELD_CASES[case])
    torch.testing.assert_close(composite(weights, points), (weights[..., None] * points).sum(-2))


@pytest.mark.parametrize("end", ENDS)
def test_derivatives_of_any_order(end: FarEnd) -> None:
    density, depths, norm = (t[:, :2].clone().requires_grad_() for t in make(FieldCase(samples=4)))

    def run(density: Tensor, depths: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(volume_weights(density, depths, ray_norm=norm, far_end=end))

    assert torch.autograd.gradcheck(run, (density, depths, norm))
    assert torch.autograd.gradgradcheck(run, (density, depths, norm))


def test_composite_derivatives_of_any_order() -> None:
    case = FieldCase(rays=2, samples=3)
    inputs = (make_fractions(case).requires_grad_(), make_points(case).requires_grad_())
    assert torch.autograd.gradcheck(composite, inputs)
    assert torch.autograd.gradgradcheck(composite, inputs)


D = torch.zeros(2, 3)
BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "depths": (ValueError, r"depths must be .*\[2, 3\].* got \[3\]", lambda: volume_weights(D, D[0])),
    "no sample": (ValueError, "S >= 1", lambda: volume_weights(D[:, :0], D[:, :0])),
    "norm": (ValueError, r"ray_norm must be \[2\], got \[3\]", lambda: volume_weights(D, D, ray_norm=D[0])),
    "end": (
        ValueError,
        r"far_end must be one of \['open', 'opaque'\], got 'closed'",
        lambda: volume_weights(D, D, far_end="closed"),  # type: ignore[arg-type]
    ),
    "half": (TypeError, "density must be one of .* got torch.float16", lambda: volume_weights(D.half(), D)),
    "mixed": (TypeError, "depths must be one of .* got torch.float64", lambda: volume_weights(D, D.double())),
    "features": (
        ValueError,
        r"features must be \[2, 3, 'C'\], got \[2, 4, 1\]",
        lambda: composite(D, D.new_zeros(2, 4, 1)),
    ),
    "feature dtype": (
        TypeError,
        "features must be one of .* got torch.float64",
        lambda: composite(D, D[..., None].double()),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()
