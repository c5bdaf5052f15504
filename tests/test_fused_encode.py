"""encode_positions as a kernel: against the plain form, high octaves, errors."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.encode import encode_positions
from stylenerf.kernels.rays.encode_triton import encode_positions as registered
from tests.closeness import assert_no_worse_than_torch
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches
from tests.inputs import source

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    shape: tuple[int, ...]
    num_freqs: int = 3
    include_input: bool = False
    strided: bool = False


CASES = {
    "one": Case((1, 1), 1),
    "no lead dims": Case((3,)),
    "odd": Case((2, 5, 3), 5, include_input=True),
    "released": Case((33, 3), 10),
    "background": Case((9, 4), 10),
    "block - 1": Case((31, 3)),  # 32 points a block
    "block": Case((32, 3)),
    "block + 1": Case((33, 3)),
    "backward block + 1": Case((65, 3)),  # 64 points a block, its coordinates padded to 4
    "columns": Case((2, 8), 2),  # 32 columns a block
    "columns + 1": Case((2, 11), 1, include_input=True),
    "many dims": Case((3, 17), 4),
    "strided": Case((4, 6, 3), 3, strided=True),
    "empty": Case((0, 3)),
    "no dims": Case((4, 0)),
}


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Points in -1..1."""
    points = 2 * torch.rand(case.shape, generator=source(4), dtype=torch.float64) - 1
    if case.strided:
        points = points.transpose(0, -1).contiguous().transpose(0, -1)
    return {"points": points.to(DEVICE, dtype)}


def ops(num_freqs: int, include_input: bool) -> tuple[partial[Tensor], partial[Tensor]]:
    both = partial(encode_positions, num_freqs=num_freqs, include_input=include_input)
    return partial(both, impl="triton"), partial(both, impl="ref")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_plain_form(case: str, dtype: torch.dtype) -> None:
    assert_kernel_matches(*ops(CASES[case].num_freqs, CASES[case].include_input), make(CASES[case], dtype))


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(points=st.integers(0, 70), dims=st.integers(1, 20), num_freqs=st.integers(1, 12), raw=st.booleans())
def test_matches_at_any_size(points: int, dims: int, num_freqs: int, raw: bool) -> None:
    assert_kernel_matches(*ops(num_freqs, raw), make(Case((points, dims))))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_no_angle_is_rounded(scale: float) -> None:
    points = scale * make(Case((50, 3)))["points"]
    exact = encode_positions(points.double().cpu(), 40, impl="ref").to(DEVICE)
    # the reference multiplies by pi in float64: good to 2^-52 of an angle of up to 2^40 scale pi
    got = encode_positions(points, 40, impl="triton")
    assert_no_worse_than_torch("waves", got, [exact.float()], exact, floor=1e-6 + 2.0**-52 * 2.0**40 * scale * 4)


def test_octaves_to_the_end_of_float32() -> None:
    points = (1000 * make(Case((9, 3)))["points"]).round() / 1024
    got = encode_positions(points, 128, impl="triton").view(9, 128, 2, 3)
    torch.testing.assert_close(got.square().sum(2), torch.ones(9, 128, 3, device=DEVICE))
    torch.testing.assert_close(got[:, 11:, 1], torch.ones(9, 117, 3, device=DEVICE))  # whole periods


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, under the interpreter
def test_what_is_not_a_number_gives_none() -> None:
    points = torch.tensor([[torch.nan, 0.5], [torch.inf, 0.5]], device=DEVICE)
    got = encode_positions(points, 2, impl="triton").view(2, 4, 2)
    assert got[..., 0].isnan().all() and not got[..., 1].isnan().any()


def test_second_order() -> None:
    kernel, plain = ops(4, True)
    inputs = make(CASES["odd"])
    assert_derivatives_match(kernel, plain, inputs)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_registered_as_torch_wants_it(dtype: torch.dtype) -> None:
    points = make(CASES["odd"], dtype)["points"].requires_grad_()
    torch.library.opcheck(
        registered, (points, 3, True), test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    points = make(CASES["odd"])["points"]
    with pytest.raises(RuntimeError, match="encode_positions: impl='triton' does not cover float64; use impl='ref'"):
        encode_positions(points.double(), impl="triton")
    with pytest.raises(RuntimeError, match="impl='triton' does not cover 129 octaves, at most 128"):
        encode_positions(points, 129, impl="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="encode_positions: impl='triton' needs CUDA tensors, got device cpu"):
        encode_positions(points.cpu(), impl="triton")
