"""upfirdn2d and its helpers: the public numbers, a definition by loops, and what any linear filter must obey."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.filters.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from tests.closeness import assert_relative
from tests.conftest import load_fixture

F1331 = setup_filter([1, 3, 3, 1])
FIXTURE_FILTERS = {"f1331": "1331", "asym": "asym", "sep8": "sep8", "f2x4": "2x4"}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_loops(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pads: tuple[int, int, int, int],
    flip: bool,
    gain: float,
) -> Tensor:
    """The definition, one output pixel at a time; a position outside the image or between its pixels counts zero."""
    f = torch.outer(f, f) if f.ndim == 1 else f
    (kh, kw), (N, C, H, W) = f.shape, x.shape
    rows = range(0, H * up[1] + pads[2] + pads[3] - kh + 1, down[1])
    cols = range(0, W * up[0] + pads[0] + pads[1] - kw + 1, down[0])
    out = x.new_zeros(N, C, len(rows), len(cols))
    for i, top in enumerate(rows):
        for j, left in enumerate(cols):
            for a in range(kh):
                for b in range(kw):
                    y, x_ = top + a - pads[2], left + b - pads[0]
                    if 0 <= y < H * up[1] and 0 <= x_ < W * up[0] and y % up[1] == 0 and x_ % up[0] == 0:
                        tap = f[a, b] if flip else f[kh - 1 - a, kw - 1 - b]
                        out[:, :, i, j] += gain * tap * x[:, :, y // up[1], x_ // up[0]]
    return out


def fixture_filter(name: str) -> Tensor | None:
    return None if name == "none" else load_fixture("units.npz")[f"filter_{FIXTURE_FILTERS[name]}/f"]


@pytest.mark.parametrize("case", [f"{i:02d}" for i in range(14)])
def test_public_numbers(case: str) -> None:
    units = load_fixture("units.npz")
    params = json.loads(units.text(f"upfirdn/{case}/params"))
    f = fixture_filter(params.pop("f"))
    assert_relative(case, upfirdn2d(units["upfirdn/x/v"], f, **params), units[f"upfirdn/{case}/out"])


@pytest.mark.parametrize("name", FIXTURE_FILTERS)
def test_public_numbers_of_helpers(name: str) -> None:
    units, f = load_fixture("units.npz"), fixture_filter(name)
    x, want = units["upfirdn/x/v"], units.state(f"upfirdn_helpers/{name}/")
    assert_relative("up", upsample2d(x, f), want["upsample2d"])
    assert_relative("down", downsample2d(x, f), want["downsample2d"])
    assert_relative("filter", filter2d(x, f), want["filter2d"])
    flipped = filter2d(x, f, padding=1, flip_filter=True, gain=2)
    assert_relative("flipped", flipped, want["filter2d_flip_pad1_gain2"])


def test_public_numbers_of_setup_filter() -> None:
    units = load_fixture("units.npz")
    assert_relative("1331", F1331, units["filter_1331/f"])
    assert_relative("none", setup_filter(None), units["setup_filter/none/f"])
    assert_relative("nonorm", setup_filter([1, 3, 3, 1], normalize=False), units["setup_filter/nonorm/f"])
    assert_relative(
        "flip", setup_filter([1, 2, 3, 4], gain=4, flip_filter=True), units["setup_filter/1331_gain4_flip/f"]
    )


def test_setup_filter_by_hand() -> None:
    # [1, 3] sums to 4; its outer product with itself is [[1, 3], [3, 9]] / 16
    assert torch.equal(setup_filter([1, 3]), torch.tensor([[1.0, 3.0], [3.0, 9.0]]) / 16)
    # a separable filter runs along both axes, so it carries the root of the gain: 2 [1, 3] / 4
    assert torch.equal(setup_filter([1, 3], gain=4, separable=True), torch.tensor([0.5, 1.5]))
    assert setup_filter([1.0] * 8).shape == (8,)
    assert setup_filter([1.0] * 7).shape == (7, 7)
    assert torch.equal(setup_filter(3.0, normalize=False), torch.tensor([[9.0]]))


def test_enlarging_by_hand() -> None:
    # zero insertion: [1, 0, 2, 0]; two zeros to the left, one to the right; taps [1, 2, 3] reversed to [3, 2, 1]
    # windows 001 010 102 020 200 -> 1, 2, 3 + 2, 4, 6
    x = torch.tensor([[[[1.0, 2.0]]]])
    f = torch.tensor([[1.0, 2.0, 3.0]])
    assert upfirdn2d(x, f, up=[2, 1], padding=[2, 1, 0, 0]).tolist() == [[[[1.0, 2.0, 5.0, 4.0, 6.0]]]]
    # without the reversal 1*3, 2, 1*1 + 2*3, 2*2, 2*1
    flipped = upfirdn2d(x, f, up=[2, 1], padding=[2, 1, 0, 0], flip_filter=True)
    assert flipped.tolist() == [[[[3.0, 2.0, 7.0, 4.0, 2.0]]]]


def test_shrinking_by_hand() -> None:
    # cropped by one left: 2 3 4 5, then pairs (2+3)/2 and (4+5)/2
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    assert upfirdn2d(x, torch.tensor([[0.5, 0.5]]), down=[2, 1], padding=[-1, 0, 0, 0]).tolist() == [[[[2.5, 4.5]]]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_matches_definition(data: st.DataObject) -> None:
    draw = data.draw
    up = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    down = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    taps = draw(st.sampled_from([(1, 1), (2, 3), (4, 4), (1, 4), (3,), (4,)]))
    side = st.integers(-5, 9)  # a crop may take more than the image
    pads = (draw(side), draw(side), draw(side), draw(side))
    flip, channels = draw(st.booleans()), draw(st.sampled_from([1, 3, 5]))
    x, f = random(1, channels, 4, 3), random(*taps, seed=1)
    kh, kw = taps[0], taps[-1]
    if 4 * up[1] + pads[2] + pads[3] < kh or 3 * up[0] + pads[0] + pads[1] < kw:
        with pytest.raises(ValueError, match="x must have pixels, and after padding"):
            upfirdn2d(x, f, up, down, pads, flip, 1.5)
        return
    want = by_loops(x, f, up, down, pads, flip, 1.5)
    assert_relative("loops", upfirdn2d(x, f, up, down, pads, flip, 1.5), want, tol=1e-12)


def test_separable_equals_outer() -> None:
    x, f = random(2, 3, 7, 6), random(4, seed=1)
    options = {"up": 2, "down": [1, 3], "padding": [3, 0, -1, 4], "gain": -2.5}
    outer = upfirdn2d(x, torch.outer(f, f), **options)  # type: ignore[arg-type]
    assert_relative("outer", upfirdn2d(x, f, **options), outer, tol=1e-12)  # type: ignore[arg-type]


def test_identity() -> None:
    x = random(2, 3, 4, 5)
    assert torch.equal(upfirdn2d(x, None), x)
    assert torch.equal(upfirdn2d(x, torch.ones(1)), x)
    assert torch.equal(upfirdn2d(upfirdn2d(x, None, up=[2, 3]), None, down=[2, 3]), x)


def test_linear_in_image_and_filter() -> None:
    x, y, f = random(2, 3, 5, 6), random(2, 3, 5, 6, seed=1), random(3, 4, seed=2)
    both = upsample2d(2 * x - 3 * y, f)
    assert_relative("image", both, 2 * upsample2d(x, f) - 3 * upsample2d(y, f), tol=1e-12)
    assert_relative("filter", upsample2d(x, -2 * f), -2 * upsample2d(x, f), tol=1e-12)


def test_shift_equivariant() -> None:
    x = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    x[..., 4:8, 4:8] = random(1, 1, 4, 4)
    moved = x.roll((1, -1), dims=(2, 3))
    assert_relative("up", upsample2d(moved, F1331), upsample2d(x, F1331).roll((2, -2), dims=(2, 3)), tol=1e-12)
    assert_relative("blur", filter2d(moved, F1331), filter2d(x, F1331).roll((1, -1), dims=(2, 3)), tol=1e-12)


@pytest.mark.parametrize("op", [upsample2d, filter2d, downsample2d])
def test_constant_stays_constant_inside(op) -> None:  # type: ignore[no-untyped-def]
    y = op(torch.full((1, 2, 10, 8), 3.0, dtype=torch.float64), F1331)
    assert_relative("inside", y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 3.0), tol=1e-12)
    assert y[0, 0, 0, 0] < 2.9  # zeros outside darken the border


def test_up_and_down_are_adjoint() -> None:
    x, y = random(1, 2, 5, 4), random(1, 2, 10, 8, seed=1)
    f = F1331.double()
    up, down = upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1]), upfirdn2d(y, f, down=2, padding=1, flip_filter=True)
    assert_relative("adjoint", (up * y).sum(), (x * down).sum(), tol=1e-12)


GRADIENT_CASES = {
    "up": {"up": 2, "padding": [2, 1]},
    "down": {"down": 2, "padding": [1, 1]},
    "crop": {"padding": [-1, 3, 2, -1]},
    "pair": {"up": [1, 2], "down": [2, 1], "padding": [3, 0, 1, 1], "flip_filter": True, "gain": 3},
    "far": {"up": 2, "padding": [7, 6, -2, 7]},
}


@pytest.mark.parametrize("taps", [(4,), (3, 4)], ids=str)
@pytest.mark.parametrize("options", GRADIENT_CASES.values(), ids=GRADIENT_CASES)
def test_gradients(options: dict, taps: tuple[int, ...]) -> None:
    x = random(1, 2, 3, 2).requires_grad_()
    f = random(*taps, seed=1).requires_grad_()
    assert gradcheck(lambda x, f: upfirdn2d(x, f, **options), (x, f))
    assert gradgradcheck(lambda x, f: upfirdn2d(x, f, **options), (x, f), fast_mode=True)


def test_third_derivative() -> None:
    x = random(1, 1, 4, 4).requires_grad_()
    y = upsample2d(x, F1331).pow(4).sum()
    for _ in range(3):
        (grad,) = torch.autograd.grad(y, x, create_graph=True)
        y = (grad * random(1, 1, 4, 4, seed=2)).sum()
    # by hand: d3 of sum (Ux)^4 along c is sum 24 (Ux) (Uc)^3
    c = random(1, 1, 4, 4, seed=2)
    want = (24 * upsample2d(x, F1331) * upsample2d(c, F1331).pow(3)).sum()
    assert_relative("third", y.detach(), want.detach(), tol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("f", [F1331, setup_filter([1, 3, 3, 1], separable=True)], ids=["2d", "1d"])
def test_dtypes(dtype: torch.dtype, f: Tensor) -> None:
    x = random(2, 5, 6, 7).to(dtype)
    y = upsample2d(x, f)
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_relative("dtype", y, upsample2d(x.double(), f), tol=4 * eps)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 8, 5, 6), (1, 1, 4, 4)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_format_is_kept(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = random(*shape, dtype=torch.float32).contiguous(memory_format=layout)
    before = x.clone()
    y = upsample2d(x, F1331)
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(x, before)
    assert_relative("layout", y, upsample2d(x.double(), F1331))


@pytest.mark.parametrize("channels", [3, 6])
def test_empty_batch(channels: int) -> None:
    x = torch.zeros(0, channels, 4, 5, requires_grad=True)
    assert upsample2d(x, F1331).shape == (0, channels, 8, 10)
    assert downsample2d(x, F1331).shape == (0, channels, 2, 2)
    upsample2d(x, F1331).sum().backward()
    assert x.grad is not None


BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "rank": ({"x": torch.zeros(3, 4, 4)}, ValueError, r"x must be \[N, C, H, W\], got 3 dims"),
    "dtype": ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.int32)}, TypeError, "x must be one of .*, got torch.int32"),
    "f rank": ({"f": torch.zeros(1, 2, 2)}, ValueError, r"f must be \[k\] or \[kh, kw\] .*, got \[1, 2, 2\]"),
    "f empty": ({"f": torch.zeros(0)}, ValueError, r"f must be .* at least one tap, got \[0\]"),
    "f dtype": ({"f": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "f must be one of .*, got torch.int64"),
    "up": ({"up": 0}, ValueError, r"up must be an integer >= 1 or a pair \[x, y\] of them, got 0"),
    "up pair": ({"up": [2, 2, 2]}, ValueError, r"up must be .*, got \[2, 2, 2\]"),
    "down": ({"down": [1, -1]}, ValueError, r"down must be .*, got \[1, -1\]"),
    "padding": ({"padding": [1, 2, 3]}, ValueError, r"padding must be an integer, \[x, y\] or .*, got \[1, 2, 3\]"),
    "fraction": ({"padding": 0.5}, ValueError, r"padding must be an integer, .*, got 0.5"),
    "small": ({"f": torch.ones(9, 9)}, ValueError, r"f \[9, 9\], got \[1, 1, 4, 4\] padded to \[4, 4\]"),
    "no pixels": ({"x": torch.zeros(1, 1, 0, 4)}, ValueError, "x must have pixels"),
    "impl": ({"impl": "fast"}, ValueError, "impl must be 'auto', 'triton' or 'ref', got 'fast'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict, type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        upfirdn2d(**({"x": torch.zeros(1, 1, 4, 4), "f": F1331} | changed))


def test_setup_filter_refuses() -> None:
    with pytest.raises(ValueError, match=r"f must be a number, \[k\] or \[kh, kw\] .*, got \[1, 1, 1\]"):
        setup_filter(torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match=r"f must be \[k\] where separable=True, got \[2, 2\]"):
        setup_filter(torch.ones(2, 2), separable=True)
