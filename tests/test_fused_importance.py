"""importance_sample as a kernel: against the plain form, ends and floors of the distribution, errors."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.importance import importance_sample
from stylenerf.kernels.rays.importance_triton import importance_sample as registered
from tests.closeness import assert_no_worse_than_torch
from tests.gradients import DEVICE
from tests.inputs import source
from tests.roundings import several_roundings


class Case(NamedTuple):
    rays: tuple[int, ...]
    edges: int
    draws: int
    strided: bool = False


CASES = {
    "one": Case((1,), 2, 1),
    "no ray dims": Case((), 4, 5),
    "odd": Case((2, 3), 6, 9),
    "released": Case((5,), 13, 14),
    "bins - 1": Case((2,), 16, 16),
    "bins": Case((2,), 17, 16),
    "bins + 1": Case((2,), 18, 17),
    "block - 1": Case((31,), 13, 3),  # 32 rays a block
    "block": Case((32,), 13, 3),
    "block + 1": Case((33,), 13, 3),
    "more draws than bins": Case((3,), 5, 50),
    "most edges": Case((5,), 129, 129),
    "most edges - 1": Case((3,), 128, 2),
    "strided": Case((4, 3), 6, 7, strided=True),
    "no rays": Case((0,), 5, 3),
    "no draws": Case((3,), 5, 0),
}


def make(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Bins a third to thrice as wide as others, weights well above the floors, draws in no order."""
    g = source(5)
    jitter = torch.rand(*case.rays, case.edges, generator=g, dtype=torch.float64)
    edges = (torch.arange(case.edges) + 0.25 + 0.5 * jitter) / case.edges
    weights = 0.2 + torch.rand(*case.rays, case.edges - 1, generator=g, dtype=torch.float64)
    u = torch.rand(*case.rays, case.draws, generator=g, dtype=torch.float64)
    if case.strided:
        edges, weights = edges[:1].expand_as(edges), weights.movedim(-1, 0).contiguous().movedim(0, -1)
    return edges.to(DEVICE, torch.float32), weights.to(DEVICE, torch.float32), u.to(DEVICE, torch.float32)


def single(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=DEVICE)


def assert_matches(edges: Tensor, weights: Tensor, u: Tensor) -> None:
    got = importance_sample(edges, weights, u, impl="triton")
    plain = several_roundings(lambda: importance_sample(edges, weights, u, impl="ref"))
    exact = importance_sample(edges.double(), weights.double(), u.double(), impl="ref")
    assert_no_worse_than_torch("positions", got, plain, exact)


@pytest.mark.parametrize("case", CASES)
def test_matches_the_plain_form(case: str) -> None:
    assert_matches(*make(CASES[case]))


@settings(max_examples=20, deadline=None)
@given(rays=st.integers(0, 9), edges=st.integers(2, 129), draws=st.integers(0, 140))
def test_matches_at_any_size(rays: int, edges: int, draws: int) -> None:
    assert_matches(*make(Case((rays,), edges, draws)))


def test_a_draw_on_an_edge_belongs_to_the_bin_before() -> None:
    # four bins of 1/4 each, exact in float32 and far enough from the floor: the edges come back
    u = single(0, 0.25, 0.5, 0.75, 1)
    edges = single(0, 1, 3, 7, 15)
    got = importance_sample(edges, torch.full((4,), 1e5, device=DEVICE), u, impl="triton")
    assert got.tolist() == edges.tolist()


@pytest.mark.parametrize("u, want", [(0.25, 0.5), (0.5, 1.0), (0.50001, 2.00004), (1.0, 4.0)])
def test_an_empty_bin_is_stepped_over(u: float, want: float) -> None:
    # pdf 1/2, 5e-11, 1/2: in float32 the middle one adds nothing, and the second half begins behind it
    got = importance_sample(single(0, 1, 2, 4), single(1e5, 0, 1e5), single(u), impl="triton")
    assert got.item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("part", [0.25, 1.0])
def test_a_bin_of_next_to_no_probability_is_not_interpolated(part: float) -> None:
    # pdf about 1/2, 5e-6, 1/2, of which the middle one is below 1e-5: its step counts as 1
    edges, weights = single(0, 1, 2, 3), single(1, 0, 1)
    pdf = (weights.double() + 1e-5) / (weights.double() + 1e-5).sum()
    u = (pdf[0] + part * pdf[1]).float()[None]
    got = importance_sample(edges, weights, u, impl="triton")
    assert got.item() == pytest.approx(1, abs=1e-5)


def test_empty_ray_is_sampled_evenly() -> None:
    line = torch.linspace(0, 1, 7, device=DEVICE)
    got = importance_sample(single(0, 1, 2, 3), single(0, 0, 0), line, impl="triton")
    torch.testing.assert_close(got, 3 * line, atol=1e-6, rtol=0)


@pytest.mark.parametrize("u, want", [(-0.5, 0.0), (1.5, 3.0)])
def test_draws_outside_give_the_ends(u: float, want: float) -> None:
    assert importance_sample(single(0, 1, 3), single(1, 2), single(u), impl="triton").item() == want


def test_ascending_and_inside() -> None:
    edges, weights, u = make(Case((7,), 129, 129))
    u = torch.cat([u.sort(-1).values, torch.ones(7, 1, device=DEVICE)], dim=-1)
    u[:, 0] = 0
    got = importance_sample(edges, weights.square().square(), u, impl="triton")
    assert (got.diff(dim=-1) >= -1e-6).all()
    assert (got >= edges[:, :1]).all() and (got <= edges[:, -1:] + 1e-6).all()


def test_a_nan_stays_on_its_ray() -> None:
    edges, weights, u = make(CASES["released"])
    want = importance_sample(edges, weights, u, impl="triton")
    weights[1, 3] = torch.nan
    u[3, 2] = torch.nan
    got = importance_sample(edges, weights, u, impl="triton")
    assert got[1].isnan().all() and got[3, 2].isnan()
    rest = torch.ones_like(got, dtype=torch.bool)
    rest[1], rest[3, 2] = False, False
    assert torch.equal(got[rest], want[rest])


def test_carries_no_gradient() -> None:
    inputs = (t.requires_grad_() for t in make(CASES["odd"]))
    assert not importance_sample(*inputs, impl="triton").requires_grad


def test_registered_as_torch_wants_it() -> None:
    torch.library.opcheck(registered, make(CASES["odd"]), test_utils=("test_schema", "test_faketensor"))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, weights, u = make(CASES["odd"])
    with pytest.raises(RuntimeError, match="importance_sample: impl='triton' does not cover float64; use impl='ref'"):
        importance_sample(edges.double(), weights.double(), u.double(), impl="triton")
    with pytest.raises(RuntimeError, match="impl='triton' does not cover 130 edges, at most 129"):
        importance_sample(*make(Case((1,), 130, 2)), impl="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="importance_sample: impl='triton' needs CUDA tensors, got device cpu"):
        importance_sample(edges.cpu(), weights.cpu(), u.cpu(), impl="triton")
