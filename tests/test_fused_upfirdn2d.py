"""upfirdn2d as a kernel: every geometry against the plain form, in both memory formats; derivatives; errors."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.filters.upfirdn2d import Ints, downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from stylenerf.kernels.filters.upfirdn2d_triton import upfirdn2d as registered
from tests.closeness import assert_no_worse_than_torch, assert_relative
from tests.conftest import load_fixture
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source
from tests.roundings import several_roundings
from tests.sweeps import sweep

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    taps: tuple[int, ...]
    up: Ints = 1
    down: Ints = 1
    padding: Ints = 0
    flip_filter: bool = False
    gain: float = 1.0


# heights small: the interpreter takes its time for every row
CASES = {
    "one": Case((1, 1, 1, 1), (1, 1)),
    "odd": Case((2, 3, 3, 5), (4, 4), padding=[2, 1, 2, 1]),
    "up 2": Case((1, 3, 3, 5), (4, 4), up=2, padding=[2, 1, 2, 1], gain=4.0),
    "down 2": Case((2, 3, 5, 7), (4, 4), down=2, padding=1),
    "flipped": Case((1, 5, 2, 4), (2, 3), up=2, padding=[1, 2, 3, 0], flip_filter=True, gain=-1.5),
    "separable": Case((1, 2, 2, 3), (8,), padding=[4, 3, 4, 3], gain=2.0),
    "separable up": Case((1, 3, 3, 4), (5,), up=2, padding=3, flip_filter=True, gain=4.0),
    "two passes": Case((1, 2, 2, 3), (12,), up=2, down=[1, 2], padding=[10, 9, 10, 9], gain=4.0),
    "largest": Case((1, 2, 3, 3), (8, 8), padding=[3, 4, 3, 4]),
    "longest": Case((1, 1, 1, 1), (32,), padding=[16, 15, 16, 15]),
    "crop": Case((2, 3, 5, 6), (3, 2), padding=[-1, 3, 2, -2]),
    "far": Case((1, 2, 3, 4), (4, 4), up=2, padding=[9, 6, -3, 8]),
    "identity": Case((1, 3, 2, 3), (1, 1), up=[3, 2], padding=[1, 0, 2, 1]),
    "nothing met": Case((1, 2, 3, 3), (1, 1), up=2, down=2, padding=[1, 0, 1, 0]),  # inserted zeros only
    "pair": Case((1, 3, 4, 5), (4, 4), up=[1, 2], down=[2, 1], padding=[3, 0, 1, 1]),
    "up 3 down 2": Case((1, 2, 3, 4), (4, 5), up=[3, 2], down=[2, 3], padding=2),
    "up 4": Case((1, 3, 3, 5), (8,), up=[4, 1], padding=[5, 2, 3, 4]),
    "a program per phase": Case((1, 2, 2, 3), (6, 4), up=[3, 2], down=[1, 3], padding=4),
    "long steps": Case((1, 2, 7, 9), (3, 3), down=[2, 5], padding=2),
    "strip - 1": Case((1, 1, 3, 8), (4, 1), padding=[0, 0, 2, 1]),  # 4 rows a strip
    "strip + 1": Case((1, 1, 5, 8), (4, 1), padding=[0, 0, 2, 1]),
    "columns + 1": Case((1, 64, 1, 33), (1, 4), padding=[2, 1, 0, 0]),  # NHWC: 8 runs of 4 columns a program
    "channels + 1": Case((1, 65, 1, 3), (1, 4), padding=[2, 1, 0, 0]),
    "channels - 1": Case((1, 63, 1, 3), (1, 4), padding=[2, 1, 0, 0]),
    "wide - 1": Case((1, 1, 1, 1023), (1, 4), padding=[2, 1, 0, 0]),  # NCHW: 256 runs of 4 columns a program
    "wide + 1": Case((1, 1, 1, 1025), (1, 4), padding=[2, 1, 0, 0]),
    "empty": Case((0, 3, 4, 5), (4, 4), up=2, padding=[2, 1, 2, 1]),
}

# geometries that the memory format has no part in, once each
ONCE = dict.fromkeys(("two passes", "longest", "up 3 down 2", "long steps", "crop", "nothing met"), "NCHW")
ONCE |= dict.fromkeys(("strip - 1", "strip + 1", "wide - 1", "wide + 1"), "NCHW")
ONCE |= dict.fromkeys(("largest", "identity", "up 4", "a program per phase", "far", "pair"), "NHWC")
ONCE |= dict.fromkeys(("columns + 1", "channels - 1", "channels + 1"), "NHWC")
RARE = ("longest", "largest", "far", "pair", "up 4", "long steps", "wide - 1", "channels - 1", "strip - 1")
RUNS = [(case, layout) for case in CASES for layout in LAYOUTS if ONCE.get(case, layout) == layout]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64).to(DEVICE, dtype)


def image(case: Case, layout: str = "NCHW", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"x": random(*case.shape, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])}


def op(case: Case, impl: Any) -> Callable[[Tensor], Tensor]:
    """upfirdn2d with everything but the image given."""
    _, taps, *options = case
    names = Case._fields[2:]
    return partial(upfirdn2d, f=random(*taps, seed=1), **dict(zip(names, options)), impl=impl)


@pytest.mark.parametrize("case, layout", sweep(RUNS, always=[run for run in RUNS if run[0] not in RARE]))
def test_matches_the_plain_form(case: str, layout: str) -> None:
    inputs = image(CASES[case], layout)
    assert_kernel_matches(op(CASES[case], "triton"), op(CASES[case], "ref"), inputs)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(("case", "layout"), [("flipped", "NHWC"), ("down 2", "NCHW"), ("separable up", "NCHW")])
def test_matches_in_half_precision(case: str, layout: str, dtype: torch.dtype) -> None:
    inputs = image(CASES[case], layout, dtype)
    assert_kernel_matches(op(CASES[case], "triton"), op(CASES[case], "ref"), inputs)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_matches_at_any_geometry(data: st.DataObject) -> None:
    draw = data.draw
    factor, side = st.sampled_from([1, 2, 3]), st.integers(-2, 3)
    case = Case(
        shape=(draw(st.integers(0, 1)), draw(st.integers(1, 9)), draw(st.integers(1, 2)), draw(st.integers(1, 4))),
        taps=draw(st.sampled_from([(1, 1), (3, 2), (2, 4), (2,), (3,)])),  # fits into the padding
        up=[draw(factor), draw(factor)],
        down=[draw(factor), draw(factor)],
        padding=[7 + draw(side), draw(side), 7 + draw(side), draw(side)],
        flip_filter=draw(st.booleans()),
    )
    inputs = image(case, draw(st.sampled_from(list(LAYOUTS))))
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), inputs)


@pytest.mark.parametrize("case", [f"{i:02d}" for i in range(14)])
def test_public_numbers(case: str) -> None:
    units = load_fixture("units.npz")
    params = json.loads(units.text(f"upfirdn/{case}/params"))
    name = {"f1331": "1331", "asym": "asym", "sep8": "sep8", "f2x4": "2x4"}.get(params["f"])
    f = None if name is None else units[f"filter_{name}/f"].to(DEVICE)
    got = upfirdn2d(units["upfirdn/x/v"].to(DEVICE), **(params | {"f": f}), impl="triton")
    assert_relative(case, got.cpu(), units[f"upfirdn/{case}/out"])


@pytest.mark.parametrize("resample", [upsample2d, downsample2d, filter2d])
def test_helpers(resample: Any) -> None:
    x, f = random(2, 3, 6, 8), setup_filter([1, 3, 3, 1], device=DEVICE)
    plain = several_roundings(lambda: resample(x, f, impl="ref"))
    exact = resample(x.double(), f, impl="ref")
    assert_no_worse_than_torch("helper", resample(x, f, impl="triton"), plain, exact)


STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "every other": lambda x: x[:, ::2, 1::2, ::3],
    "turned": lambda x: x.transpose(2, 3),
    "batch last": lambda x: x.permute(3, 1, 2, 0),
    "expanded": lambda x: x[:1, :, :1].expand(2, -1, 3, -1),
    "channels of more": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:4],
}


@pytest.mark.parametrize("view", STRIDED)
def test_any_strides(view: str) -> None:
    case = CASES["flipped"]
    x = STRIDED[view](random(2, 4, 3, 4))
    plain, exact = several_roundings(lambda: op(case, "ref")(x)), op(case, "ref")(x.double())
    assert_no_worse_than_torch(view, op(case, "triton")(x), plain, exact)


@pytest.mark.parametrize(("case", "layout"), [("flipped", "NHWC"), ("two passes", "NHWC"), ("up 2", "NCHW")])
def test_memory_format_is_kept(case: str, layout: str) -> None:
    inputs = image(CASES[case], layout)
    before = inputs["x"].clone()
    for_all = outputs_and_gradients(op(CASES[case], "triton"), inputs)
    assert for_all["output 0"].is_contiguous(memory_format=LAYOUTS[layout])
    assert for_all["gradient of x"].is_contiguous(memory_format=LAYOUTS[layout])
    assert torch.equal(inputs["x"], before)


def test_filter_of_another_dtype_and_strides() -> None:
    x, f = random(1, 2, 5, 6), random(4, 3, seed=1).t()
    want = upfirdn2d(x, f.contiguous(), up=2, padding=2, impl="triton")
    assert torch.equal(upfirdn2d(x, f, up=2, padding=2, impl="triton"), want)
    assert_relative("float64 taps", upfirdn2d(x, f.double(), up=2, padding=2, impl="triton"), want, tol=1e-6)


def cubed(case: Case, impl: Any) -> Callable[..., Tensor]:
    """Not linear in x, so that second derivatives say something."""
    options = dict(zip(Case._fields[2:], case[2:]))
    return lambda x, f: upfirdn2d(x, f, **options, impl=impl) ** 3


@pytest.mark.parametrize(
    ("case", "layout"), [("up 2", "NHWC"), ("down 2", "NCHW"), ("flipped", "NCHW"), ("separable up", "NHWC")]
)
def test_second_derivatives(case: str, layout: str) -> None:
    chosen = CASES[case]
    f = random(*chosen.taps, seed=1)
    kernel, reference = (partial(cubed(chosen, impl), f=f) for impl in ("triton", "ref"))
    assert_derivatives_match(kernel, reference, image(chosen, layout))


def test_third_derivatives_in_image_and_filter() -> None:
    case = CASES["flipped"]
    inputs = image(case) | {"f": random(*case.taps, seed=1)}
    assert_derivatives_match(cubed(case, "triton"), cubed(case, "ref"), inputs, orders=3)


@pytest.mark.parametrize("case", ["up 2", "separable"])
def test_gradient_of_the_filter(case: str) -> None:
    options = dict(zip(Case._fields[2:], CASES[case][2:]))
    inputs = image(CASES[case]) | {"f": random(*CASES[case].taps, seed=1)}
    kernel, reference = (partial(upfirdn2d, **options, impl=impl) for impl in ("triton", "ref"))
    assert_kernel_matches(kernel, reference, inputs)
    x = inputs["x"]
    assert_kernel_matches(partial(kernel, x), lambda f: reference(x.to(f.dtype), f), {"f": inputs["f"]})


def test_registered_as_torch_wants_it() -> None:
    x, f = random(2, 3, 5, 4).requires_grad_(), random(4, 4, seed=1)
    torch.library.opcheck(
        registered,
        (x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 1.0),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


BAD = {
    "float64": (torch.zeros(1, 1, 4, 4, dtype=torch.float64), (4, 4), "float64"),
    "large": (torch.zeros(1, 1, 9, 9), (9, 2), r"a filter \[9, 2\] of more than 8 taps along an axis"),
    "long": (torch.zeros(1, 1, 40, 40), (33,), r"a filter \[33\] of more than 32 taps along an axis"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses_what_it_does_not_cover(bad: tuple[Tensor, tuple[int, ...], str]) -> None:
    x, taps, text = bad
    with pytest.raises(RuntimeError, match=f"upfirdn2d: impl='triton' does not cover {text}; use impl='ref'"):
        upfirdn2d(x.to(DEVICE), torch.ones(taps, device=DEVICE), impl="triton")


def test_needs_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="upfirdn2d: impl='triton' needs CUDA tensors, got device cpu"):
        upfirdn2d(torch.zeros(1, 1, 4, 4), torch.ones(2, 2), impl="triton")
