"""bias_act: the public numbers, values by hand, and that the lean path computes what the recorded one does."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.filters.bias_act import ACTIVATIONS, bias_act
from tests.closeness import assert_relative
from tests.conftest import load_fixture


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "lean"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_public_numbers(act: str, recorded: bool) -> None:
    units = load_fixture("units.npz")
    want = units.state(f"biasact/{act}/")
    x, b, b3 = units["biasact/x/v"].requires_grad_(recorded), units["biasact/b/v"], units["biasact/b_dim3/v"]
    assert_relative("plain", bias_act(x, b, act=act), want["plain"])
    assert_relative("nobias", bias_act(x, act=act), want["nobias"])
    assert_relative("clamp", bias_act(x, b, act=act, clamp=0.7), want["clamp"])
    assert_relative("gain", bias_act(x, b, act=act, gain=2, alpha=0.5), want["gain2_alpha05"])
    assert_relative("dim3", bias_act(x, b3, dim=3, act=act, gain=0.3, clamp=0.2), want["dim3"])
    assert_relative("dim-1", bias_act(x, b3, dim=-1, act=act, gain=0.3, clamp=0.2), want["dim3"])


HAND = {
    # x + b = [-2, 1], slope 0.2, gain 10: [-4, 10], clamp 6
    "lrelu": ({"gain": 10.0, "clamp": 6.0}, [-4.0, 6.0]),
    "relu": ({"gain": 3.0}, [0.0, 3.0]),
    "linear": ({"clamp": 1.5}, [-1.5, 1.0]),
    "tanh": ({}, [math.tanh(-2), math.tanh(1)]),
    "sigmoid": ({"gain": 2.0}, [2 / (1 + math.exp(2)), 2 / (1 + math.exp(-1))]),
    "elu": ({}, [math.exp(-2) - 1, 1.0]),
    "selu": ({}, [1.7580993408473766 * (math.exp(-2) - 1), 1.0507009873554805]),
    "softplus": ({}, [math.log1p(math.exp(-2)), math.log1p(math.exp(1))]),
    "swish": ({"gain": 1.0}, [-2 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))]),
}


@pytest.mark.parametrize("act", HAND)
def test_by_hand(act: str) -> None:
    options, want = HAND[act]
    x, b = torch.tensor([[-1.0, -1.0]], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64)
    assert_relative(act, bias_act(x, b, act=act, **options), torch.tensor([want]).double(), tol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("act", ["relu", "lrelu", "swish"])
def test_default_gain_keeps_variance(act: str) -> None:
    x = random(200_000)
    kept = bias_act(x, act=act).square().mean()
    assert 0.7 < kept < 1.05  # sqrt 2 restores what the negative side loses, for relu exactly


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("clamp", [None, 0.9])
def test_gradients(act: str, clamp: float | None) -> None:
    x, b = random(2, 3, 2).requires_grad_(), random(3, seed=1).requires_grad_()
    op = lambda x, b: bias_act(x, b, act=act, clamp=clamp)  # noqa: E731
    assert gradcheck(op, (x, b))
    assert gradgradcheck(op, (x, b))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("options", [{}, {"gain": 0.5, "clamp": 0.4}, {"gain": -1.5}, {"gain": 0.0}], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
def test_all_ways_agree(act: str, options: dict, bias: bool) -> None:
    x = random(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    b, before = (random(3, seed=1) if bias else None), x.clone()
    lean = bias_act(x, b, act=act, **options)
    assert torch.equal(x, before)
    assert lean.is_contiguous(memory_format=torch.channels_last)
    recorded = bias_act(x.clone().requires_grad_(), b, act=act, **options)
    assert_relative("recorded", recorded.detach(), lean, tol=1e-14)
    assert_relative("inplace", bias_act(x, b, act=act, inplace=True, **options), lean, tol=1e-14)


def test_inplace_reuses_memory_only_where_nothing_is_recorded() -> None:
    x, b = random(2, 3, 4), random(3)
    assert bias_act(x, b, act="lrelu", inplace=True).data_ptr() == x.data_ptr()
    leaf = random(2, 3, 4).requires_grad_()
    y = leaf * 1
    before = y.detach().clone()
    bias_act(y, b, act="lrelu", inplace=True).sum().backward()
    assert torch.equal(y, before)
    assert leaf.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x, b = random(2, 3, 8).to(dtype), random(3, seed=1, dtype=torch.float32)
    y = bias_act(x, b, act="lrelu", clamp=2)
    assert y.dtype == dtype
    want = bias_act(x.double(), b.to(dtype).double(), act="lrelu", clamp=2)
    assert_relative("dtype", y, want, tol=2 * torch.finfo(dtype).eps)


def test_negative_clamp_is_no_clamp_and_zero_is_one() -> None:
    x = random(5)
    assert torch.equal(bias_act(x, clamp=-1), x)
    assert bias_act(x, clamp=0).abs().max() == 0


def test_empty() -> None:
    assert bias_act(torch.zeros(0, 3, 2, 2), torch.zeros(3), act="lrelu", clamp=1).shape == (0, 3, 2, 2)


BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "act": ({"act": "gelu"}, ValueError, "act must be one of .*'lrelu'.*, got 'gelu'"),
    "b rank": ({"b": torch.zeros(3, 1)}, ValueError, r"b must be \[3\], the size of dim 1 of x, got \[3, 1\]"),
    "b size": ({"b": torch.zeros(4)}, ValueError, r"b must be \[3\], .*, got \[4\]"),
    "dim": ({"dim": 3}, ValueError, "dim must be a dim of x with 3 dims, got 3"),
    "x dtype": ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, TypeError, "x must be one of .*, got torch.int64"),
    "b dtype": ({"b": torch.zeros(3, dtype=torch.int64)}, TypeError, "b must be one of .*, got torch.int64"),
    "impl": ({"impl": "fast"}, ValueError, "bias_act: impl must be 'auto', 'triton' or 'ref', got 'fast'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict, type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        bias_act(**({"x": torch.zeros(2, 3, 4), "b": torch.zeros(3)} | changed))
