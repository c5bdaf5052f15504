"""encode_positions: hand-computed values, reference numbers, symmetries, derivatives, errors."""

import math

import pytest
import torch

from stylenerf.kernels.rays.encode import encode_positions
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import source

POSENC = {"p3_L10": (10, False), "p4_L10": (10, False), "p3_L4_usepos": (4, True)}
COMPARED = {"units.npz": [f"posenc/{case}/{field}" for case in POSENC for field in ("p", "out")]}


def positions(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (2 * torch.rand(shape, generator=source(0), dtype=torch.float64) - 1).to(dtype)


@pytest.mark.parametrize("include_input", [False, True])
def test_hand_computed(include_input: bool) -> None:
    half = math.sqrt(0.5)
    # p = (1/4, -1/2): octave 0 sin(pi/4), sin(-pi/2), cos(pi/4), cos(-pi/2); octave 1 the same at twice the angle
    want = [half, -1, half, 0, 1, 0, 0, -1] + ([0.25, -0.5] if include_input else [])
    got = encode_positions(torch.tensor([0.25, -0.5], dtype=torch.float64), 2, include_input=include_input)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("case", POSENC)
def test_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    num_freqs, include_input = POSENC[case]
    got = encode_positions(f[f"posenc/{case}/p"], num_freqs, include_input=include_input)
    assert_relative(case, got, f[f"posenc/{case}/out"])


def test_repeats_after_two_units() -> None:
    p = positions(4, 3)
    torch.testing.assert_close(encode_positions(p + 2, 6), encode_positions(p, 6), atol=1e-12, rtol=0)


def test_sines_and_cosines_belong_together() -> None:
    waves = encode_positions(positions(9, 3), 5).view(9, 5, 2, 3)
    torch.testing.assert_close(waves.square().sum(2), torch.ones(9, 5, 3, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 5, 4), (2, 3, 4, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    out = encode_positions(positions(*shape, dtype=dtype), 3)
    assert out.shape == (*shape[:-1], 6 * shape[-1]) and out.dtype == dtype


def test_reads_a_strided_tensor() -> None:
    p = positions(4, 5, 3)
    torch.testing.assert_close(encode_positions(p.transpose(0, 1), 3), encode_positions(p, 3).transpose(0, 1))


def test_derivatives_of_any_order() -> None:
    p = positions(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: encode_positions(x, 3, include_input=True), p)
    assert torch.autograd.gradgradcheck(lambda x: encode_positions(x, 3, include_input=True), p)


def test_errors() -> None:
    p = positions(2, 3)
    with pytest.raises(ValueError, match="num_freqs must be at least 1, got 0"):
        encode_positions(p, 0)
    with pytest.raises(TypeError, match=r"points must be one of .* got torch.int64"):
        encode_positions(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="impl must be 'auto', 'triton' or 'ref', got 'fast'"):
        encode_positions(p, impl="fast")  # type: ignore[arg-type]
