"""filtered_lrelu: by hand, against its parts, derivatives, errors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.filtered_lrelu import filtered_lrelu
from stylenerf.kernels.filters.upfirdn2d import setup_filter, upfirdn2d
from tests.closeness import assert_relative
from tests.inputs import source


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=dtype)


def test_by_hand() -> None:
    # x + b = [1, -2], enlarged to the nearest: twice the row [1, 1, -2, -2]; the gain 2 x 2 meets four taps of 1/4
    # slope 1/2, gain 3: [3, 3, -3, -3]; clamp 2.5: [2.5, 2.5, -2.5, -2.5]
    # means of neighbours [2.5, 0, -2.5], of which every second stays, and of two rows one
    x, b = torch.tensor([[[[0.0, -3.0]]]]), torch.tensor([1.0])
    fu, fd = torch.full((2, 2), 0.25), torch.tensor([[0.5, 0.5]])
    y = filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=[1, 0, 1, 0], gain=3.0, slope=0.5, clamp=2.5)
    assert y.tolist() == [[[[2.5, -2.5]]]]


OPTIONS: dict[str, dict[str, Any]] = {
    "filters alone": {"padding": 3},
    "up": {"up": 2, "padding": [2, 1, 2, 1]},
    "down": {"down": 2, "padding": 1, "clamp": 0.8},
    "both": {"up": 4, "down": 2, "padding": [5, 4, 3, 6], "gain": 1.0, "slope": 0.1, "flip_filter": True},
    "crop": {"up": 3, "down": 2, "padding": [-1, 3, 2, -2], "gain": -2.0},
}


@pytest.mark.parametrize("taps", [(4,), (3, 4)], ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_its_parts(options: str, taps: tuple[int, ...]) -> None:
    chosen = OPTIONS[options]
    x, b, fu, fd = random(2, 3, 6, 5), random(3, seed=1), random(*taps, seed=2), random(*taps, seed=3)
    up, down, flip = chosen.get("up", 1), chosen.get("down", 1), chosen.get("flip_filter", False)
    y = upfirdn2d(x + b[:, None, None], fu, up=up, padding=chosen.get("padding", 0), flip_filter=flip, gain=up**2)
    gain, slope = chosen.get("gain", math.sqrt(2)), chosen.get("slope", 0.2)
    y = bias_act(y, act="lrelu", alpha=slope, gain=gain, clamp=chosen.get("clamp"))
    want = upfirdn2d(y, fd, down=down, flip_filter=flip)
    before = x.clone()
    assert_relative(options, filtered_lrelu(x, fu, fd, b, **chosen), want, tol=1e-12)
    assert torch.equal(x, before)


def test_without_filters_and_bias_it_is_a_leaky_relu() -> None:
    x = random(2, 3, 4, 5)
    before = x.clone()
    assert_relative("lrelu", filtered_lrelu(x), bias_act(x, act="lrelu"), tol=1e-14)
    assert torch.equal(x, before)
    assert_relative("no bound", filtered_lrelu(x, clamp=-1.0), bias_act(x, act="lrelu"), tol=1e-14)


def test_size_and_memory_format() -> None:
    f = setup_filter([1.0] * 12, separable=True)
    x = random(2, 5, 16, 12, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    # (16 * 4 + 20 + 21 - 11 - 11 + 1) // 2 = 42
    y = filtered_lrelu(x, f, f, up=4, down=2, padding=[20, 21, 20, 21])
    assert y.shape == (2, 5, 42, 34)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert filtered_lrelu(x[:0], f, f, up=4, down=2, padding=[20, 21, 20, 21]).shape == (0, 5, 42, 34)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients(options: str) -> None:
    inputs = [random(1, 2, 4, 3), random(2, seed=1), random(3, seed=2), random(2, 3, seed=3)]
    x, b, fu, fd = (t.requires_grad_() for t in inputs)
    op = lambda x, b, fu, fd: filtered_lrelu(x, fu, fd, b, **OPTIONS[options])  # noqa: E731
    assert gradcheck(op, (x, b, fu, fd), fast_mode=True)
    assert gradgradcheck(op, (x, b, fu, fd), fast_mode=True)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"x": torch.zeros(3, 4, 4)}, ValueError, r"x must be \[N, C, H, W\], got 3 dims"),
    "dtype": ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.int32)}, TypeError, "x must be one of .*, got torch.int32"),
    "b": ({"b": torch.zeros(3)}, ValueError, r"b must be \[2\], one per channel of x, got \[3\]"),
    "b dtype": ({"b": torch.zeros(2, dtype=torch.int64)}, TypeError, "b must be one of .*, got torch.int64"),
    "fu": ({"fu": torch.zeros(1, 2, 2)}, ValueError, r"f must be \[k\] or \[kh, kw\] .*, got \[1, 2, 2\]"),
    "fd": ({"fd": torch.zeros(0)}, ValueError, r"f must be .* at least one tap, got \[0\]"),
    "up": ({"up": 0}, ValueError, "up must be an integer >= 1, got 0"),
    "down": ({"down": 1.5}, ValueError, "down must be an integer >= 1, got 1.5"),
    "padding": ({"padding": [1, 2, 3]}, ValueError, r"padding must be an integer, \[x, y\] or .*, got \[1, 2, 3\]"),
    "small": ({"fd": torch.ones(5)}, ValueError, r"fd \[5, 5\], got \[1, 2, 4, 4\] that becomes \[4, 4\]"),
    "small up": ({"fu": torch.ones(6)}, ValueError, r"fd \[1, 1\], got \[1, 2, 4, 4\] that becomes \[-1, -1\]"),
    "no pixels": ({"x": torch.zeros(1, 2, 0, 4)}, ValueError, "x must have pixels"),
    "impl": ({"impl": "fast"}, ValueError, "filtered_lrelu: impl must be 'auto', 'triton' or 'ref', got 'fast'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict[str, Any], type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        filtered_lrelu(**({"x": torch.zeros(1, 2, 4, 4)} | changed))
