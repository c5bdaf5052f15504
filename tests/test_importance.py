"""importance_sample: hand-computed values, reference numbers, order and range, no gradient, errors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.importance import importance_sample
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import source

COMPARED = {
    "units.npz": [
        *(f"samplepdf/det/{field}" for field in ("bins", "weights", "out")),
        *(f"samplepdf/random/{field}" for field in ("bins", "weights", "u", "out")),
        *(f"hierarchical/det/{field}" for field in ("di", "weights", "out")),
    ]
}


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make(edges: int = 6, count: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    g = source(0)
    line = torch.rand(2, 4, edges, generator=g, dtype=torch.float64).cumsum(-1)
    weights = torch.rand(2, 4, edges - 1, generator=g, dtype=torch.float64)
    return line, weights, torch.rand(2, 4, count, generator=g, dtype=torch.float64)


def test_hand_computed() -> None:
    # with the floor of 1e-5 the two bins have weights 1 and 3: cdf 0, 1/4, 1
    weights = double(1, 3) - 1e-5
    u = double(0, 0.125, 0.25, 0.625, 1)
    # half of the first bin; its end; half of the second bin, 1 + 0.5 * 2; its end
    got = importance_sample(double(0, 1, 3), weights, u)
    torch.testing.assert_close(got, double(0, 0.5, 1, 2, 3), atol=1e-12, rtol=0)


def test_empty_ray_is_sampled_evenly() -> None:
    got = importance_sample(double(0, 1, 2, 3), double(0, 0, 0), torch.linspace(0, 1, 7, dtype=torch.float64))
    torch.testing.assert_close(got, torch.linspace(0, 3, 7, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_a_bin_of_next_to_no_probability_is_not_interpolated(part: float) -> None:
    weights = double(1, 0, 1)
    pdf = (weights + 1e-5) / (weights + 1e-5).sum()  # the middle bin's is 5e-6, below 1e-5
    cdf = pdf.cumsum(0)
    u = cdf[0] + part * (cdf[1] - cdf[0])
    # its step counts as 1, so hardly past its first edge, and its very end still belongs to it
    got = importance_sample(double(0, 1, 2, 3), weights, u[None])
    assert got.item() == pytest.approx(1 + part * pdf[1].item(), abs=1e-12)


@pytest.mark.parametrize("case", ["det", "random"])
def test_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    edges, weights, want = (f[f"samplepdf/{case}/{name}"] for name in ("bins", "weights", "out"))
    count = want.shape[-1]
    u = f["samplepdf/random/u"] if case == "random" else torch.linspace(0, 1, count).expand(len(edges), count)
    assert_relative(case, importance_sample(edges, weights, u), want)


def test_reference_numbers_along_rays() -> None:
    f = load_fixture("units.npz")
    fractions, weights = f["hierarchical/det/di"], f["hierarchical/det/weights"]
    edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
    u = torch.linspace(0, 1, fractions.shape[-1]).expand_as(fractions)
    assert_relative("fine", importance_sample(edges, weights[..., 1:-1], u), f["hierarchical/det/out"])


def test_ascending_and_inside() -> None:
    edges, weights, u = make()
    got = importance_sample(edges, weights, u.sort(dim=-1).values)
    assert (got.diff(dim=-1) >= 0).all()
    assert (got >= edges[..., :1]).all() and (got <= edges[..., -1:]).all()


def test_shares_follow_the_weights() -> None:
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    got = importance_sample(double(0, 1, 2, 4), double(1, 5, 2), u)
    share = torch.histc(got, bins=4, min=0, max=4) / len(got)
    torch.testing.assert_close(share, double(1, 5, 1, 1) / 8, atol=1e-3, rtol=0)


def test_every_ray_by_itself() -> None:
    edges, weights, u = make()
    got = importance_sample(edges, weights, u)
    torch.testing.assert_close(got[1, 2], importance_sample(edges[1, 2], weights[1, 2], u[1, 2]))


def test_carries_no_gradient() -> None:
    edges, weights, u = (t.requires_grad_() for t in make())
    assert not importance_sample(edges, weights, u).requires_grad


E3, W2 = torch.zeros(4, 3), torch.zeros(4, 2)
BAD: dict[str, tuple[type[Exception], str, Callable[[], Tensor]]] = {
    "weights": (ValueError, r"weights must be \[4, 2\] .* got \[4, 3\]", lambda: importance_sample(E3, E3, W2)),
    "one edge": (ValueError, "E >= 2", lambda: importance_sample(E3[:, :1], E3[:, :0], W2)),
    "u": (ValueError, r"u must be \[4, 'N'\], got \[2\]", lambda: importance_sample(E3, W2, W2[0])),
    "dtype": (TypeError, "edges must be one of .* got torch.float16", lambda: importance_sample(E3.half(), W2, W2)),
    "mixed": (TypeError, "u must be one of .* got torch.float64", lambda: importance_sample(E3, W2, W2.double())),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()
