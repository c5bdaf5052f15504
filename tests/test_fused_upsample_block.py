"""The upsampling block as kernels: against the plain form in float64, rounding, borders."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.blocks.modulated_conv import modulate_weights
from stylenerf.kernels.blocks.upsample_block import upsample_block
from stylenerf.kernels.blocks.upsample_block_bilinear import upsample_bilinear
from stylenerf.kernels.blocks.upsample_block_forward import GAIN, SLOPE
from stylenerf.kernels.blocks.upsample_block_ref import TAPS
from stylenerf.kernels.blocks.upsample_block_triton import upsample_combine, upsample_map
from stylenerf.kernels.blocks.upsample_features import Adapter
from stylenerf.kernels.blocks.upsample_features_ref import corner_average
from stylenerf.kernels.filters.upfirdn2d_ref import upfirdn2d_ref
from tests.closeness import assert_relative
from tests.gradients import CHECKS, DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.sweeps import slow, sweep
from tests.upsample_blocks import HALF, Case, make, op

CASES = {
    "one pixel": Case(shape=(1, 1, 1, 1), channels=4, rows=1),
    "odd, everything": Case(noise=(2, 1, 6, 10), clamp=1.0),
    "one noise for all": Case(noise=(6, 10), rows=1, channels=12),
    "a column more than a tile": Case(shape=(1, 3, 2, 9), channels=12, rows=1),
    "a column more than a strip": Case(shape=(1, 2, 2, 17), channels=4, rows=1),
    "a row more than a band": Case(shape=(1, 2, 9, 2), channels=4, rows=1),
    "20 channels, two rows of styles for four": Case(shape=(4, 3, 1, 1), channels=20),
    "64 channels": Case(shape=(1, 5, 2, 2), channels=64, rows=1),
    "wide hidden layer": Case(shape=(1, 5, 2, 3), channels=4, rows=1, hidden=18),
    "without blur or bias": Case(blur=False, bias=False, noise=(1, 10)),
    "one row": Case(shape=(1, 3, 1, 6), channels=4, rows=1),
    "no images": Case(shape=(0, 6, 3, 5), noise=(6, 10)),
    "pixelshuffle": Case("pixelshuffle", noise=(2, 1, 6, 10), clamp=1.0),
    "pixelshuffle, wide": Case("pixelshuffle", shape=(1, 3, 2, 9), channels=36, rows=1, hidden=18),
    "pixelshuffle without blur": Case("pixelshuffle", blur=False, channels=20),
    "pixelshuffle, one pixel": Case("pixelshuffle", shape=(1, 1, 1, 1), channels=4, rows=1),
    "pixelshuffle, no images": Case("pixelshuffle", shape=(0, 6, 3, 5)),
    "bilinear": Case("bilinear", clamp=1.0),
    "bilinear, one pixel": Case("bilinear", shape=(1, 1, 1, 1), channels=4, rows=1),
    "bilinear, tall": Case("bilinear", shape=(2, 3, 5, 1), channels=70, rows=1, bias=False),
    "bilinear, no images": Case("bilinear", shape=(0, 6, 3, 5)),
    "3x3, everything": Case(noise=(2, 1, 6, 10), clamp=1.0, kernel=3),
    "pixelshuffle, 3x3": Case("pixelshuffle", channels=12, rows=1, kernel=3),
    "bilinear, 3x3": Case("bilinear", clamp=1.0, kernel=3),
    "transposed, everything": Case("transposed", noise=(2, 1, 6, 10), clamp=1.0, kernel=3),
    "transposed, one row of styles": Case("transposed", shape=(2, 3, 1, 4), channels=5, rows=1, bias=False, kernel=3),
    "transposed, 1x1": Case("transposed", shape=(4, 3, 2, 1), noise=(8, 4, 2), channels=8),
    "transposed, no images": Case("transposed", shape=(0, 6, 3, 5), kernel=3),
}
RARE = {"one noise for all", "20 channels, two rows of styles for four", "64 channels", "pixelshuffle, wide",
        "one pixel", "a column more than a strip", "a row more than a band", "pixelshuffle, 3x3", "one row",
        "bilinear, one pixel", "transposed, one row of styles", "bilinear, 3x3"}  # fmt: skip


@pytest.mark.parametrize("case", sweep(CASES, always=CASES.keys() - RARE))
def test_matches_the_plain_form(case: Case) -> None:
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case))


@settings(max_examples=3, deadline=None)
@given(
    mode=st.sampled_from(["nn_cat", "pixelshuffle", "bilinear"]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    channels=st.integers(1, 9),
    hidden=st.integers(1, 5),
    blur=st.booleans(),
)
def test_matches_at_any_size(mode: str, size: tuple[int, int], channels: int, hidden: int, blur: bool) -> None:
    case = Case(mode, (1, 2, *size), channels, rows=1, hidden=hidden, blur=blur)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case))


class Rounded:
    """The kernels' arithmetic of nn_cat in float64, rounded where they round; derivatives as if nothing was rounded.

    Which way the last activation goes is read off ``out``, as the backward does.
    """

    def __init__(self, dtype: torch.dtype, out: Tensor) -> None:
        self.dtype, self.out = dtype, out

    def to(self, x: Tensor) -> Tensor:
        return x + (x.to(self.dtype).double() - x).detach()

    def __call__(
        self, x: Tensor, weight: Tensor, styles: Tensor, weight0: Tensor, bias0: Tensor, weight1: Tensor,
        bias1: Tensor, input_gain: Tensor, bias: Tensor, noise: Tensor,
    ) -> Tensor:  # fmt: skip
        C, D = weight1.shape
        w = modulate_weights(weight[..., 0, 0], styles) * input_gain
        composed = self.to(torch.cat([w, weight0[:, :C] @ w, 0.5 * weight0[:, C:] @ w], dim=1))
        map = self.to(torch.einsum("noi,nihw->nohw", composed, x))
        taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS)

        def enlarge(image: Tensor) -> Tensor:
            return F.interpolate(image, scale_factor=2, mode="nearest")

        def blur(image: Tensor) -> Tensor:
            return upfirdn2d_ref(image, taps, (1, 1), (1, 1), (2, 1, 2, 1), False, 1)

        sums = enlarge(map[:, C : C + D] + bias0[:, None, None]) + corner_average(2 * map[:, C + D :])
        hidden = self.to(blur(F.leaky_relu(sums, SLOPE)))
        y = F.conv2d(hidden, self.to(weight1 * GAIN)[..., None, None])
        y = y + blur(enlarge(map[:, :C] + bias1[:, None, None])) + noise + bias[:, None, None]
        return self.to(torch.where(self.out > 0, y, SLOPE * y) * GAIN)


@pytest.mark.parametrize(
    "channels, hidden, dtype",
    [slow(8, 2, HALF), slow(20, 13, HALF), slow(20, 13, torch.bfloat16), (24, 33, HALF)],
    ids=["pairs", "on the way", "on the way, bfloat16", "in memory"],
)
def test_rounds_where_it_says(channels: int, hidden: int, dtype: torch.dtype) -> None:
    """To within three roundings of the largest number, whichever way the backward takes."""
    case = Case(shape=(1, 5, 2, 9), channels=channels, hidden=hidden, rows=1, noise=(1, 1, 4, 18))
    inputs = make(case, dtype)
    got = outputs_and_gradients(op(case, "triton"), inputs)
    exact = Rounded(dtype, got["output 0"])
    want = outputs_and_gradients(exact, {name: x.double() for name, x in inputs.items()})
    for name in want:
        assert_relative(name, got[name], want[name], tol=3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    "mode, kernel", [slow("nn_cat", 1), slow("pixelshuffle", 1), slow("nn_cat", 3), ("transposed", 3)]
)
def test_half_precision_is_no_worse_than_torch(mode: str, kernel: int) -> None:
    case = Case(mode, shape=(2, 5, 2, 3), channels=20, kernel=kernel)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case, HALF))


@pytest.mark.parametrize("mode", [slow("nn_cat"), "bilinear"])
def test_no_gradient_where_the_output_has_reached_its_bound(mode: str) -> None:
    bound = 181.0193  # 181.0 in float16, which is less
    case = Case(mode, shape=(1, 1, 1, 1), channels=4, rows=1, clamp=bound)
    inputs = make(case, HALF)
    inputs["bias"] += 1000.0
    got = outputs_and_gradients(op(case, "triton"), inputs)
    assert (got.pop("output 0") == 181.0).all() and not any(grad.any() for grad in got.values())


def test_what_is_not_a_number_is_not_clamped_away() -> None:
    case = Case(shape=(1, 2, 1, 8), channels=4, rows=1, clamp=1.0)
    inputs = make(case)
    inputs["x"][..., 0] = torch.nan
    y = op(case, "triton")(*inputs.values())
    # the pixel becomes two; its neighbour's hidden units reach one further, and the blur takes two more
    assert y[..., :2].isnan().all() and y[..., 6:].isfinite().all()


def test_layout_of_x_does_not_matter() -> None:
    case = CASES["one row"]
    inputs = make(case)
    y = op(case, "triton")(*inputs.values())
    inputs["x"] = inputs["x"].contiguous(memory_format=torch.channels_last)
    assert torch.equal(op(case, "triton")(*inputs.values()), y)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode, kernel", [("nn_cat", 1), ("pixelshuffle", 1), ("bilinear", 1), ("nn_cat", 3),
                                          ("bilinear", 3), ("transposed", 3)])  # fmt: skip
def test_second_order(mode: str, kernel: int) -> None:
    noise = None if mode == "bilinear" else (4, 4)
    case = Case(mode, shape=(1, 2, 2, 2), channels=4, rows=1, noise=noise, clamp=1.0, kernel=kernel)
    assert_derivatives_match(op(case, "triton"), op(case, "ref"), make(case))


@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle"])
def test_registered_as_torch_wants_it(mode: str) -> None:
    C, D, phases = (4, 2, 1) if mode == "nn_cat" else (4, 2, 4)
    map = torch.randn(1, 2, 3, 8 if mode == "nn_cat" else 6, device=DEVICE)
    weight1, bias0, bias1 = (torch.randn(s, device=DEVICE) for s in ((phases * C, D), (D,), (phases * C,)))
    bias, noise = torch.randn(C, device=DEVICE), torch.randn(1, 4, 6, device=DEVICE)
    inputs = [x.requires_grad_() for x in (map, weight1, bias0, bias1, bias, noise)]
    torch.library.opcheck(upsample_combine, (*inputs, mode, True, 1.0, 2.0, False), test_utils=CHECKS)
    torch.library.opcheck(upsample_bilinear, (map, torch.randn(map.shape[3]), 1.0, 2.0), test_utils=CHECKS)
    weight = torch.randn(1, 5, map.shape[3], device=DEVICE).requires_grad_()
    torch.library.opcheck(upsample_map, (map.flatten(1, 2), weight, False), test_utils=CHECKS)


REFUSED: dict[str, tuple[Case, dict[str, Any], str]] = {
    "float64": (Case(), {"x": torch.zeros(2, 6, 3, 5, dtype=torch.float64)}, "float64"),
    "mode": (Case(), {"mode": "nearest", "adapter": None}, "mode 'nearest'"),
    "taps": (Case(), {"taps": (1, 2, 1)}, r"taps \[1, 2, 1\]"),
    "noise of channels": (Case(), {"noise": torch.zeros(8, 6, 10)}, "noise that differs between channels"),
    "noise, bilinear": (Case("bilinear"), {"noise": torch.zeros(6, 10)}, "noise with mode 'bilinear'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_cover(name: str) -> None:
    case, changed, reason = REFUSED[name]
    x, weight, styles, *rest = make(case).values()
    adapter = None if case.mode == "bilinear" else Adapter(*rest[:4])
    options: dict[str, Any] = {"x": x, "mode": case.mode, "adapter": adapter} | changed
    with pytest.raises(RuntimeError, match=f"upsample_block: impl='triton' does not cover {reason}"):
        upsample_block(weight=weight, styles=styles, **options, impl="triton")
    auto = upsample_block(weight=weight, styles=styles, **options)
    assert torch.equal(auto, upsample_block(weight=weight, styles=styles, **options, impl="ref"))


def test_needs_a_device_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    values = (x.cpu() for x in make(CASES["one pixel"]).values())
    with pytest.raises(RuntimeError, match="upsample_block: impl='triton' needs CUDA tensors, got device cpu"):
        op(CASES["one pixel"], "triton")(*values)
