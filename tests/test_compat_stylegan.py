"""compat.stylegan: StyleGAN's arguments, by position too, against the ops in plain torch written the long way."""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylenerf import kernels
from stylenerf.kernels.compat import stylegan
from stylenerf.kernels.compat.stylegan.grid_sample_gradfix import grid_sample, grid_sample_ref
from stylenerf.kernels.compat.stylegan.modulated_conv2d import modulated_conv2d, modulated_conv2d_stylegan3
from stylenerf.kernels.compat.swap import _innermost
from tests.inputs import source
from tests.standins.torch_utils import ops as plain_ops
from tests.standins.torch_utils.ops import bias_act, upfirdn2d
from tests.standins.training import networks_stylegan2, networks_stylegan3
from tests.sweeps import slow


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64)


X, FIR = normal(2, 3, 7, 6), torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 2.0, 3.0, 1.0]))
CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "bias_act.bias_act": ("bias and clamp", (X, normal(3), 1, "lrelu", 0.1, 1.5, 0.7, "ref")),
    "bias_act.bias_act ": ("last dim", (X, normal(6), 3, "swish", None, None, None, "cuda")),
    "upfirdn2d.upfirdn2d": ("all", (X, FIR, 2, 3, [3, 2, -1, 4], True, 1.5, "ref")),
    "upfirdn2d.upfirdn2d ": ("numpy", (X, FIR, np.int64(2), 1, np.array([2, 1]), False, np.float64(2), "cuda")),
    "upfirdn2d.filter2d": ("all", (X, FIR, [1, 2, 0, 1], True, 2.0, "cuda")),
    "upfirdn2d.upsample2d": ("all", (X, FIR, 3, [1, 2], True, 2.0, "ref")),
    "upfirdn2d.downsample2d": ("all", (X, FIR, 2, np.int32(1), True, 2.0, "cuda")),
    "filtered_lrelu.filtered_lrelu": ("all", (X, FIR, FIR, normal(3), 3, 2, [5, 4, 3, 6], 1.2, 0.3, 0.9, True, "ref")),
    "conv2d_resample.conv2d_resample": ("up", (X, normal(4, 3, 3, 3), FIR, 2, 1, 1, 1, False, True)),
    "conv2d_resample.conv2d_resample ": ("down", (X, normal(6, 1, 3, 3), FIR, 1, 2, np.int64(1), 3)),
    "conv2d_gradfix.conv2d": ("all", (X, normal(6, 1, 3, 2), normal(6), 2, (1, 2), 1, 3)),
    "conv2d_gradfix.conv_transpose2d": ("all", (X, normal(3, 2, 3, 3), normal(6), 2, 1, 1, 3, 1)),
    "fma.fma": ("broadcast", (X, normal(2, 3, 1, 1), normal(6))),
    "grid_sample_gradfix.grid_sample": ("beyond the border", (X, 0.8 * normal(2, 4, 5, 2))),
}  # fmt: skip


def by_name(package: ModuleType, name: str) -> Callable[..., Any]:
    module, function = name.strip().split(".")
    found: Callable[..., Any] = getattr(import_module(f"{package.__name__}.{module}"), function)
    return found


@pytest.mark.parametrize("name", CALLS, ids=[f"{name.strip()}, {case}" for name, (case, _) in CALLS.items()])
def test_call_by_position(name: str) -> None:
    args = CALLS[name][1]
    got, want = by_name(stylegan, name)(*args), by_name(plain_ops, name)(*args)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", sorted({name.strip() for name in CALLS}))
def test_parameters_keep_their_names_and_order(name: str) -> None:
    theirs = _innermost(by_name(plain_ops, name))  # type: ignore[arg-type]
    assert [*signature(by_name(stylegan, name)).parameters] == [*signature(theirs).parameters]


def test_filters() -> None:
    args = ([1, 3, 3, 1], torch.device("cpu"), False, True, 4, None)
    got, want = stylegan.upfirdn2d.setup_filter(*args), upfirdn2d.setup_filter(*args)
    torch.testing.assert_close(got, want, atol=0, rtol=1e-6)


@pytest.mark.parametrize("name", bias_act.activation_funcs)
def test_activation_funcs(name: str) -> None:
    got, want = stylegan.bias_act.activation_funcs[name], bias_act.activation_funcs[name]
    assert got.def_gain == got["def_gain"] == want["def_gain"]
    torch.testing.assert_close(got.func(X, alpha=0.4), want["func"](X, 0.4), atol=1e-12, rtol=1e-12)
    assert not hasattr(got, "cuda_idx")


def test_unknown_impl() -> None:
    with pytest.raises(ValueError, match=r"impl must be one of \['cuda', 'ref', .*\], got 'cpu'"):
        stylegan.bias_act.bias_act(X, impl="cpu")


WEIGHT, STYLES, NOISE = normal(4, 3, 3, 3), 1 + 0.3 * normal(2, 3, seed=1), normal(2, 1, 14, 12)
STYLEGAN2: dict[str, dict[str, Any]] = {
    "plain": {"padding": 1},
    "up": {"up": 2, "padding": 1, "noise": NOISE, "resample_filter": FIR, "flip_weight": False},
    "down": {"down": 2, "padding": 1, "noise": NOISE[:, :, :3, :3], "resample_filter": FIR},
    "not demodulated": {"demodulate": False, "noise": NOISE[0, 0, :5, :4]},
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", STYLEGAN2)
def test_modulated_conv2d_of_stylegan2(case: str, fused: bool) -> None:
    options = STYLEGAN2[case] | {"fused_modconv": fused}
    got = modulated_conv2d(X, WEIGHT, STYLES, **options)
    want = networks_stylegan2.modulated_conv2d(X, WEIGHT, STYLES, **options)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-6)


def test_modulated_conv2d_of_stylegan2_by_position() -> None:
    args = (X, WEIGHT, STYLES, NOISE, 2, 1, 1, FIR, False, False, True)
    want = networks_stylegan2.modulated_conv2d(*args)
    torch.testing.assert_close(modulated_conv2d(*args), want, atol=1e-10, rtol=1e-6)


def test_modulated_conv2d_in_half_precision_does_not_overflow() -> None:
    args = (1000 * X[:, :, :4, :4].half(), 100 * WEIGHT.float(), 100 * STYLES.float())
    want = networks_stylegan2.modulated_conv2d(X[:, :, :4, :4], WEIGHT, STYLES) * 1000
    got = modulated_conv2d(*args)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.double(), want, atol=10, rtol=1e-2)


@pytest.mark.parametrize("gain", [None, torch.tensor(0.7), normal(3).abs(), normal(2, 3).abs()], ids=str)
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_conv2d_of_stylegan3(demodulate: bool, gain: Tensor | None) -> None:
    args = (X, 1e-3 * WEIGHT, 1e-3 * STYLES, demodulate, 2, gain)  # so small that the 1e-8 under the root would count
    want = networks_stylegan3.modulated_conv2d(*args)
    torch.testing.assert_close(modulated_conv2d_stylegan3(*args), want, atol=1e-10, rtol=1e-6)


def test_padding_of_stylegan3_is_torchs() -> None:
    got = modulated_conv2d_stylegan3(X, WEIGHT, STYLES, padding=[2, 1])
    assert got.shape == (2, 4, 9, 6)


def weighted(w: Tensor, x: Tensor) -> dict[str, Tensor]:
    styles = torch.ones(2, 3, dtype=torch.float64)
    return {
        "conv2d": stylegan.conv2d_gradfix.conv2d(x, w),
        "conv_transpose2d": stylegan.conv2d_gradfix.conv_transpose2d(x, w.transpose(0, 1)),
        "conv2d_resample": stylegan.conv2d_resample.conv2d_resample(x, w),
        "modulated_conv2d": modulated_conv2d(x, w, styles),
        "modulated_conv2d_stylegan3": modulated_conv2d_stylegan3(x, w, styles),
    }


@pytest.mark.parametrize("name", weighted(WEIGHT, X))
def test_no_weight_gradients(name: str) -> None:
    w, x = WEIGHT.clone().requires_grad_(), X.clone().requires_grad_()
    with stylegan.conv2d_gradfix.no_weight_gradients():
        assert stylegan.conv2d_gradfix.weight_gradients_disabled
        weighted(w, x)[name].square().sum().backward()
    assert w.grad is None and x.grad is not None and x.grad.abs().sum() > 0
    with stylegan.conv2d_gradfix.no_weight_gradients(disable=False):
        weighted(w, x)[name].square().sum().backward()
    assert w.grad is not None and w.grad.abs().sum() > 0


def test_weights_matter_to_a_gradient_taken_without_theirs() -> None:
    """As for R1: the gradient of x leaves out the weight's, and its own derivative does not."""
    w, x = WEIGHT.clone().requires_grad_(), X.clone().requires_grad_()
    with stylegan.conv2d_gradfix.no_weight_gradients():
        y = torch.tanh(stylegan.conv2d_gradfix.conv2d(x, w))
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (got,) = torch.autograd.grad(slope.square().sum(), w)
    (slope,) = torch.autograd.grad(torch.tanh(F.conv2d(x, w)).sum(), x, create_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(slope.square().sum(), w)[0], atol=1e-12, rtol=1e-12)


GRID = 0.9 * torch.rand(2, 3, 2, 2, generator=source(4), dtype=torch.float64) + 0.3 * normal(2, 3, 2, 2, seed=5)


def test_grid_sample_is_torchs() -> None:
    want = F.grid_sample(X, GRID, mode="bilinear", padding_mode="zeros", align_corners=False)
    assert torch.equal(grid_sample(X, GRID), want)
    torch.testing.assert_close(grid_sample_ref(X, GRID), want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("needed", ["image", slow("grid"), "both"])
def test_derivatives_of_grid_sample(needed: str) -> None:
    image = X[:, :1, :3, :3].clone().requires_grad_(needed != "grid")
    grid = GRID.clone().requires_grad_(needed != "image")
    assert torch.autograd.gradcheck(grid_sample, (image, grid))
    assert torch.autograd.gradgradcheck(grid_sample, (image, grid))


def test_third_derivative_of_what_grid_sample_gives() -> None:
    image = X[:1, :1, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda i: torch.autograd.grad(grid_sample(i, GRID[:1]).tanh().sum(), i, create_graph=True)[0], (image,)
    )


def test_grid_sample_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = grid_sample(X.bfloat16(), GRID.float())
    assert got.dtype == torch.float32


def test_grid_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"grid must be \[N, H', W', 2\] with N=2"):
        grid_sample(X, GRID[:1])


def test_runs_the_ops_of_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "stylenerf.kernels.filters.upfirdn2d.resolve", lambda op, impl, x, **_: seen.append((op, impl)) or "ref"
    )
    stylegan.upfirdn2d.upsample2d(X, FIR)
    stylegan.upfirdn2d.upsample2d(X, FIR, impl="ref")
    assert seen == [("upfirdn2d", "auto"), ("upfirdn2d", "ref")]
    assert stylegan.upfirdn2d.setup_filter is kernels.setup_filter
