"""conv2d_resample: the public numbers, and its definition by single steps in float64."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.filters.conv_resample import conv2d_resample
from stylenerf.kernels.filters.upfirdn2d import setup_filter, upfirdn2d
from tests.closeness import assert_relative
from tests.conftest import load_fixture

F1331 = setup_filter([1, 3, 3, 1])
FIXTURE_FILTERS = {"1331": "filter_1331/f", "asym": "filter_asym/f"}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_steps(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: tuple[int, int, int, int],
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """Enlarge and filter, correlate, filter and keep every down-th pixel; the filters' own pads centre them."""
    kh, kw = (1, 1) if f is None else f.shape
    x0, x1, y0, y1 = pads
    if up > 1:
        x0, x1, y0, y1 = x0 + (kw + up - 1) // 2, x1 + (kw - up) // 2, y0 + (kh + up - 1) // 2, y1 + (kh - up) // 2
    if down > 1:
        x0, x1 = x0 + (kw - down + 1) // 2, x1 + (kw - down) // 2
        y0, y1 = y0 + (kh - down + 1) // 2, y1 + (kh - down) // 2
    x = upfirdn2d(x, f if up > 1 else None, up, 1, (x0, x1, y0, y1), flip_filter, up**2)
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d(x, f, 1, down, 0, flip_filter) if down > 1 else x


@pytest.mark.parametrize("case", [f"{i:02d}" for i in range(9)])
def test_public_numbers(case: str) -> None:
    units = load_fixture("units.npz")
    params = json.loads(units.text(f"convresample/{case}/params"))
    params.pop("k")
    name = params.pop("filter")
    f = None if name == "none" else units[FIXTURE_FILTERS[name]]
    got = conv2d_resample(units["convresample/x/v"], units[f"convresample/{case}/w"], f, **params)
    assert_relative(case, got, units[f"convresample/{case}/out"])


def test_by_hand() -> None:
    # row [1, 2], kernel [1, 10, 100] beside zeros: correlation 10*1 + 100*2, 1*1 + 10*2; convolution is the mirror
    x, w = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 10.0, 100.0]]]])
    assert conv2d_resample(x, w, padding=[1, 0]).tolist() == [[[[210.0, 21.0]]]]
    assert conv2d_resample(x, w, padding=[1, 0], flip_weight=False).tolist() == [[[[12.0, 120.0]]]]
    # a box of two, with the gain of 4 that makes up for three zeros out of four, repeats every pixel
    box = torch.full((2, 2), 0.25)
    assert conv2d_resample(x, torch.ones(1, 1, 1, 1), box, up=2).tolist() == [[[[1.0, 1.0, 2.0, 2.0]] * 2]]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_matches_definition(data: st.DataObject) -> None:
    draw = data.draw
    up, down, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 3)]))
    side = st.integers(-1, 4)
    pads = (draw(side), draw(side), draw(side), draw(side))
    f = draw(st.sampled_from([None, random(3, 3, seed=1), random(4, 4, seed=2), random(2, 4, seed=3)]))
    flips = draw(st.booleans()), draw(st.booleans())
    # large enough that cropping by two and a 3x3 kernel leave every filter its taps
    x, w = random(2, 4, 9, 10), random(6, 4 // groups, *kernel, seed=4)
    want = by_steps(x, w, f, up, down, pads, groups, *flips)
    assert_relative("steps", conv2d_resample(x, w, f, up, down, pads, groups, *flips), want, tol=1e-11)


def test_linear_in_image_and_weight() -> None:
    x, y, w = random(1, 2, 6, 6), random(1, 2, 6, 6, seed=1), random(3, 2, 3, 3, seed=2)

    def op(x: Tensor, w: Tensor) -> Tensor:
        return conv2d_resample(x, w, F1331, up=2, padding=1)

    assert_relative("image", op(2 * x - y, w), 2 * op(x, w) - op(y, w), tol=1e-12)
    assert_relative("weight", op(x, -3 * w), -3 * op(x, w), tol=1e-12)


@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}, {"up": 2, "down": 2}, {"groups": 2}, {}], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_gradients(options: dict, k: int) -> None:
    x = random(1, 2, 4, 3).requires_grad_()
    w = random(2, 2 // options.get("groups", 1), k, k, seed=1).requires_grad_()

    def op(x: Tensor, w: Tensor) -> Tensor:
        return conv2d_resample(x, w, F1331, padding=k // 2, **options)

    assert gradcheck(op, (x, w), fast_mode=True)
    assert gradgradcheck(op, (x, w), fast_mode=True)


@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}, {}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtype_memory_format_and_size(options: dict, dtype: torch.dtype) -> None:
    x = random(2, 8, 6, 4).to(dtype).contiguous(memory_format=torch.channels_last)
    w = random(8, 8, 3, 3, dtype=torch.float32)
    y = conv2d_resample(x, w, F1331, padding=1, **options)
    assert y.dtype == dtype
    assert y.shape[2:] == {"up": (12, 8), "down": (3, 2), "": (6, 4)}[next(iter(options), "")]
    assert y.is_contiguous(memory_format=torch.channels_last)
    want = conv2d_resample(x.double(), w.to(dtype).double(), F1331, padding=1, **options)
    assert_relative("dtype", y, want, tol=10 * torch.finfo(dtype).eps)


def test_empty_batch() -> None:
    y = conv2d_resample(torch.zeros(0, 2, 4, 4), torch.zeros(3, 2, 3, 3), F1331, up=2, padding=1)
    assert y.shape == (0, 3, 8, 8)


BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "x rank": ({"x": torch.zeros(4, 4)}, ValueError, r"x must be \[N, C, H, W\], got 2 dims"),
    "w rank": ({"w": torch.zeros(2, 4)}, ValueError, r"w must be \[O, I, KH, KW\], got 2 dims"),
    "channels": (
        {"w": torch.zeros(2, 3, 3, 3)},
        ValueError,
        r"w must be \[O, 4/groups, kh, kw\] .*, got \[2, 3, 3, 3\]",
    ),
    "groups": ({"w": torch.zeros(3, 2, 3, 3), "groups": 2}, ValueError, r"O divisible by groups=2, got \[3, 2, 3, 3\]"),
    "no group": ({"groups": 0}, ValueError, "groups must be an integer >= 1, got 0"),
    "up": ({"up": 0}, ValueError, "up must be an integer >= 1, got 0"),
    "down": ({"down": 1.5}, ValueError, "down must be an integer >= 1, got 1.5"),
    "small": ({"padding": -2}, ValueError, r"padding must leave at least one pixel of x \[4, 4\] .*, got \[-2, -2"),
    "padding": ({"padding": [1, 1, 1]}, ValueError, "padding must be an integer"),
    "f": ({"f": torch.ones(1, 1, 1)}, ValueError, r"f must be \[k\] or \[kh, kw\]"),
    "dtype": ({"x": torch.zeros(1, 4, 4, 4).long()}, TypeError, "x must be one of .*, got torch.int64"),
    "impl": ({"impl": "fast"}, ValueError, "conv2d_resample: impl must be 'auto', 'triton' or 'ref', got 'fast'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict, type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        conv2d_resample(**({"x": torch.zeros(1, 4, 4, 4), "w": torch.zeros(2, 4, 3, 3)} | changed))


@pytest.mark.parametrize("size", [{"up": 2}, {"down": 2}], ids=str)
def test_filter_by_the_kernel(size: dict[str, int]) -> None:
    """The convolution is torch's either way; the filter is a kernel, with the same result and gradients."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    w = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    f = setup_filter([1, 3, 3, 1], device=device)
    found = []
    for impl in ("triton", "ref"):
        y = conv2d_resample(x, w, f, padding=1, impl=impl, **size)  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([y, grad, *torch.autograd.grad(grad.square().sum(), [x, w])])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
