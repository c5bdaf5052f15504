"""The upsampling block's plain forms: against the ops that it joins, by hand, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.blocks.modulated_conv import modulate_weights, modulated_conv
from stylenerf.kernels.blocks.upsample_block import BLOCK_MODES, upsample_block
from stylenerf.kernels.blocks.upsample_block_ref import upsample_combine_ref
from stylenerf.kernels.blocks.upsample_features import Adapter, upsample_features
from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.upfirdn2d import setup_filter
from tests.closeness import assert_relative
from tests.inputs import source

C, I, D = 8, 5, 3  # noqa: E741


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64).to(dtype)


def make_adapter(mode: str, dtype: torch.dtype = torch.float64) -> Adapter | None:
    shapes = {"nn_cat": ((D, 2 * C), (C, D)), "pixelshuffle": ((D, C), (4 * C, D)), "bilinear_ada": ((D, C), (C, D))}
    if mode not in shapes:
        return None
    first, second = shapes[mode]
    sizes = (first, first[:1], second, second[:1])
    return Adapter(*(random(*shape, seed=i + 1, dtype=dtype) for i, shape in enumerate(sizes)))


LAYERS = [(mode, 1) for mode in BLOCK_MODES] + [("nn_cat", 3), ("nearest", 3), ("transposed", 3), ("transposed", 5)]


def steps(
    x: Tensor, weight: Tensor, styles: Tensor, mode: str, adapter: Adapter | None, noise: Tensor, bias: Tensor
) -> Tensor:
    """The ops that the block joins, one after the other."""
    f, learned = setup_filter([1, 3, 3, 1]), mode == "transposed"
    how: dict[str, Any] = {"up": 2, "filter": f} if learned else {}
    y = modulated_conv(x, weight, styles, input_gain=0.7, padding=weight.shape[2] // 2, flip_weight=False, **how)
    y = y if learned else upsample_features(y, mode=mode, adapter=adapter, filter=f)
    return bias_act(y + noise.to(y.dtype), bias, act="lrelu", gain=1.5, clamp=2.0)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("mode, kernel", LAYERS)
def test_is_its_ops_one_after_the_other(mode: str, kernel: int, rows: int, dtype: torch.dtype, impl: Any) -> None:
    x, weight = random(4, I, 3, 4, dtype=dtype), random(C, I, kernel, kernel).float()
    styles, adapter = random(rows, I, seed=5).float(), make_adapter(mode, torch.float32)
    noise, bias = random(6, 8, seed=6).float(), random(C, seed=7).float()
    got = upsample_block(
        x, weight, styles, mode=mode, adapter=adapter, input_gain=0.7, bias=bias, noise=noise, gain=1.5, clamp=2.0,
        impl=impl,
    )  # fmt: skip
    assert torch.equal(got, steps(x, weight, styles, mode, adapter, noise, bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_transposed_is_a_convolution_of_the_spread_image(dtype: torch.dtype) -> None:
    x, weight, styles = (random(*s, seed=i).to(dtype) for i, s in enumerate([(2, I, 3, 4), (C, I, 3, 3), (2, I)]))
    spread = x.new_zeros(2, I, 6, 8)
    spread[..., ::2, ::2] = x  # zeros after every pixel
    taps = torch.outer(*[torch.tensor([1.0, 3, 3, 1], dtype=dtype)] * 2) / 16
    w = modulate_weights(weight, styles).flip([3, 4])
    y = torch.stack([torch.nn.functional.conv2d(a[None], b, padding=2)[0] for a, b in zip(spread, w)])  # [.., 8, 10]
    y = torch.nn.functional.pad(y, [1, 0, 1, 0])
    y = torch.nn.functional.conv2d(y.flatten(0, 1)[:, None], taps[None, None]).view(2, C, 6, 8)
    got = upsample_block(x, weight, styles, mode="transposed")
    assert_relative("y", got, math.sqrt(2) * torch.nn.functional.leaky_relu(y, 0.2), tol=10 * torch.finfo(dtype).eps)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("mode", ["transposed", "nn_cat"])
def test_derivatives_of_larger_layers(mode: str, rows: int) -> None:
    shapes = [(2, 2, 2, 1), (2, 2, 3, 3), (rows, 2), (2,), (4, 2), ()]
    x, weight, styles, bias, noise, gain = (random(*s, seed=i) for i, s in enumerate(shapes))
    given = [t.requires_grad_() for t in (x, weight, styles, bias, noise, gain.abs() + 0.5)]
    adapter = None
    if mode == "nn_cat":
        adapter = Adapter(*(random(*s, seed=9) for s in ((1, 4), (1,), (2, 1), (2,))))

    def block(*args: Tensor) -> Tensor:
        x, weight, styles, bias, noise, gain = args
        return upsample_block(
            x, weight, styles, mode=mode, adapter=adapter, bias=bias, noise=noise, input_gain=gain, clamp=3.0
        )

    assert torch.autograd.gradcheck(block, given)
    assert torch.autograd.gradgradcheck(block, given)


@pytest.mark.parametrize("taps", [None, (1, 3, 3, 1), (0.25, 0.75, 0.75, 0.25)])
@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle"])
def test_second_half_by_itself(mode: str, taps: tuple[float, ...] | None) -> None:
    x, weight, styles, bias = random(2, I, 3, 4), random(C, I, 1, 1), random(2, I, seed=5), random(C, seed=6)
    adapter, noise = make_adapter(mode), random(1, 6, 8, seed=7)
    assert adapter is not None
    want = upsample_block(x, weight, styles, mode=mode, adapter=adapter, taps=taps, bias=bias, noise=noise, clamp=1.0)
    z = torch.einsum("noi,nihw->nhwo", modulate_weights(weight[..., 0, 0], styles), x)
    parts = [z, z @ adapter.weight0[:, :C].t()]
    parts += [0.5 * z @ adapter.weight0[:, C:].t()] if mode == "nn_cat" else []
    got = upsample_combine_ref(
        torch.cat(parts, dim=3), adapter.weight1, adapter.bias0, adapter.bias1, bias, noise,
        mode=mode, blur=taps is not None, gain=math.sqrt(2), clamp=1.0,
    )  # fmt: skip
    assert_relative("out", got.permute(0, 3, 1, 2), want, tol=1e-12)


def test_by_hand() -> None:
    # one pixel 3 of one channel, a lone demodulated weight is its sign, gain 2: x = -6; no neighbours, so that
    # hidden = -6 * 1 + 4 = -2 -> leaky -0.4, times sqrt 2; y = -6 + 5 * hidden + 1 + noise 2 + bias 1, leaky, gain 10
    one = torch.ones(1, 1)
    adapter = Adapter(torch.tensor([[1.0, 100.0]]), torch.tensor([4.0]), 5 * one, torch.tensor([1.0]))
    y = upsample_block(
        torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -7.0), one, mode="nn_cat", adapter=adapter, taps=None,
        input_gain=2.0, bias=torch.ones(1), noise=torch.full((2, 2), 2.0), gain=10.0,
    )  # fmt: skip
    assert_relative("y", y, torch.full((1, 1, 2, 2), 10 * 0.2 * (-2 - 2 * math.sqrt(2))), tol=1e-6)


GOOD: dict[str, Any] = {
    "x": torch.zeros(2, I, 3, 3),
    "weight": torch.zeros(C, I, 1, 1),
    "styles": torch.zeros(2, I),
    "mode": "nn_cat",
    "adapter": make_adapter("nn_cat", torch.float32),
}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"x": torch.zeros(I, 3, 3)}, ValueError, r"x must be \[N, I, H, W\], got 3 dims"),
    "kernel": ({"weight": torch.zeros(C, I, 3, 1)}, ValueError, r"weight must be \[C, I, K, K\] with K=3, got"),
    "even": ({"weight": torch.zeros(C, I, 2, 2)}, ValueError, r"weight must be .* with odd K, got \[8, 5, 2, 2\]"),
    "transposed": ({"mode": "transposed"}, ValueError, "adapter must be None for mode 'transposed', got Adapter"),
    "dtype": ({"x": torch.zeros(2, I, 3, 3).int()}, TypeError, "x must be one of .*, got torch.int32"),
    "no pixels": ({"x": torch.zeros(2, I, 0, 3)}, ValueError, r"x must have pixels .*, got \[2, 5, 0, 3\]"),
    "styles": ({"styles": torch.zeros(3, I)}, ValueError, r"styles must be \[B, I\] with B dividing the batch N=2"),
    "mode": ({"mode": "lanczos"}, ValueError, "mode must be one of .*'nn_cat'.*, got 'lanczos'"),
    "adapter": ({"adapter": None}, ValueError, "adapter must be given for mode 'nn_cat', got None"),
    "bias": ({"bias": torch.zeros(7)}, ValueError, r"bias must be \[O\] with O=8, got \[7\]"),
    "noise": ({"noise": torch.zeros(6, 5)}, ValueError, r"noise must broadcast to the output \[2, 8, 6, 6\]"),
    "input_gain": ({"input_gain": torch.ones(2)}, ValueError, r"input_gain must be one number, got \[2\]"),
    "taps": ({"taps": (1, -1)}, ValueError, r"taps must have a sum to scale by, got \[1, -1\]"),
    "gain": ({"gain": 0.0}, ValueError, "gain must be positive, got 0.0"),
    "clamp": ({"clamp": -1.0}, ValueError, "clamp must be positive or None, got -1.0"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict[str, Any], type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        upsample_block(**(GOOD | changed))
