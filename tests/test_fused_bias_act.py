"""bias_act as a kernel: every activation, dim and memory format against the plain form; derivatives; R1; errors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.filters.activation import series_of_sigmoid
from stylenerf.kernels.filters.bias_act import ACTIVATIONS, bias_act
from stylenerf.kernels.filters.bias_act_triton import bias_act_grad, registered
from stylenerf.kernels.filters.upfirdn2d import downsample2d, setup_filter, upsample2d
from tests.closeness import assert_no_worse_than_torch, assert_relative
from tests.conftest import load_fixture
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source
from tests.roundings import several_roundings

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SMOOTH = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


class Case(NamedTuple):
    shape: tuple[int, ...]
    dim: int = 1
    last: bool = False  # channels_last


CASES = {
    "one": Case((1,), dim=0),
    "odd": Case((2, 3, 5, 7)),
    "odd last": Case((2, 3, 5, 7), last=True),
    "rows": Case((5, 12)),
    "batch": Case((3, 4), dim=0),
    "columns": Case((2, 3, 4, 6), dim=3),
    "middle": Case((2, 3, 4, 6), dim=2, last=True),
    "negative dim": Case((2, 3, 4), dim=-2),
    "one channel": Case((3, 1, 4, 5)),
    "image": Case((2, 3, 16, 16), last=True),
    "small planes": Case((2, 70, 4, 4)),  # 128 of them a block
    "block - 1": Case((1, 2, 1, 2047)),  # 2048 columns a block
    "block + 1": Case((1, 2, 1, 2049)),
    "rows - 1": Case((31, 64)),  # 32 of them a block
    "rows + 1": Case((33, 64)),
    "wide": Case((2, 2050)),
    "empty": Case((0, 3, 4)),
    "no channels": Case((2, 0, 4)),
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float64).to(DEVICE, dtype)


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    x = random(*case.shape, dtype=dtype)
    if case.last:
        x = x.contiguous(memory_format=torch.channels_last)
    return {"x": x, "b": random(case.shape[case.dim], seed=1, dtype=dtype)}


def both(**options: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    return partial(bias_act, **options, impl="triton"), partial(bias_act, **options, impl="ref")


@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.parametrize("case", CASES)
def test_matches_at_every_shape(case: str, act: str) -> None:
    assert_kernel_matches(*both(dim=CASES[case].dim, act=act), make(CASES[case]))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clamp": {"clamp": 0.7},
    "gain": {"gain": 0.5, "alpha": 0.1},
    "negative gain": {"gain": -1.5, "clamp": 1.1},
    "no gain": {"gain": 0.0},
    "all clamped": {"clamp": 0.0},
    "slope 0": {"alpha": 0.0, "clamp": 0.9},
    "slope < 0": {"alpha": -0.5, "clamp": 0.9},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_matches_for_every_activation(act: str, options: str) -> None:
    assert_kernel_matches(*both(act=act, **OPTIONS[options]), make(CASES["odd last"]))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_matches_in_half_precision(act: str, dtype: torch.dtype) -> None:
    inputs, clamp = make(CASES["odd last"], dtype), None
    if act not in SMOOTH:  # values inside and outside the bound, none so near that the last bit decides
        x, clamp = inputs["x"], 8.0
        inputs["x"] = torch.where(x.abs() > 0.45, 100 * x, x)
    assert_kernel_matches(*both(act=act, clamp=clamp, gain=1.0), inputs)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_public_numbers(act: str) -> None:
    units = load_fixture("units.npz")
    want = units.state(f"biasact/{act}/")
    x, b, b3 = (units[f"biasact/{name}/v"].to(DEVICE) for name in ("x", "b", "b_dim3"))
    got = {
        "plain": bias_act(x, b, act=act, impl="triton"),
        "nobias": bias_act(x, act=act, impl="triton"),
        "clamp": bias_act(x, b, act=act, clamp=0.7, impl="triton"),
        "gain2_alpha05": bias_act(x, b, act=act, gain=2, alpha=0.5, impl="triton"),
        "dim3": bias_act(x, b3, dim=3, act=act, gain=0.3, clamp=0.2, impl="triton"),
    }
    stacked = torch.cat([y.flatten() for y in got.values()]).cpu()
    assert_relative(act, stacked, torch.cat([want[name].flatten() for name in got]))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_matches_at_any_size(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)))
    case = Case(shape, dim=data.draw(st.integers(0, len(shape) - 1)))
    inputs = make(case)
    order = data.draw(st.permutations(range(len(shape))))
    inputs["x"] = inputs["x"].permute(order).contiguous().permute([order.index(i) for i in range(len(shape))])
    assert_kernel_matches(*both(dim=case.dim, act=data.draw(st.sampled_from(["lrelu", "elu"]))), inputs)


@pytest.mark.parametrize("act", SMOOTH)
def test_relative_precision(act: str) -> None:
    """Far out, and so near to zero that a formula that cancels there has no digits left."""
    near = 10.0 ** torch.linspace(-12, 0, 50)
    lowest = -13.0 if act == "tanh" else -90.0  # further out float64 itself cancels in 1 - y^2
    inputs = {"x": torch.cat([torch.linspace(lowest, 13, 721), near, -near]).to(DEVICE)}
    kernel, plain = both(act=act)
    got, exact = outputs_and_gradients(kernel, inputs), outputs_and_gradients(plain, inputs, torch.float64)
    for name, want in exact.items():  # the output and its gradient
        normal = want.abs() > 1e-36
        error = (got[name] - want).abs()[normal] / want.abs()[normal]
        assert error.max() < 2e-5, f"{name}: {error.max():.1e}"  # a rounding of -90 moves exp(-90) by 4e-6


def test_nan_spreads() -> None:
    x = torch.tensor([float("nan"), 1.0, -1.0], device=DEVICE)
    results = [bias_act(x, act=act, clamp=5.0, impl="triton").isnan().tolist() for act in ACTIVATIONS]
    assert results == [[True, False, False]] * len(ACTIVATIONS)


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives(act: str, clamp: float | None) -> None:
    kernel, plain = both(act=act, clamp=clamp)
    orders = 3 if act in SMOOTH else 2
    squared = [lambda x, b, op=op: op(x, b) ** 2 for op in (kernel, plain)]
    assert_derivatives_match(*squared, make(CASES["odd last"]), orders=orders)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_second_derivatives_in_half_precision(act: str, dtype: torch.dtype) -> None:
    assert_derivatives_match(*both(act=act, gain=1.0), make(CASES["odd"], dtype))


def test_derivatives_of_the_sigmoid_by_hand() -> None:
    # s' = s (1 - s), s'' = s (1 - s) (1 - 2 s), s''' = s (1 - s) (1 - 6 s + 6 s^2)
    assert series_of_sigmoid(3) == ((), (1.0,), (1.0, -2.0), (1.0, -6.0, 6.0))


def test_gradient_of_the_bias_alone() -> None:
    inputs = make(CASES["odd last"])
    every = outputs_and_gradients(both(act="swish")[0], inputs)
    got = outputs_and_gradients(lambda b: bias_act(inputs["x"], b, act="swish", impl="triton"), {"b": inputs["b"]})
    assert torch.equal(got["gradient of b"], every["gradient of b"])


@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
def test_bias_of_another_dtype(act: str) -> None:
    x, b = make(CASES["odd"], torch.float16)["x"].requires_grad_(), random(3, seed=1).requires_grad_()
    y = bias_act(x, b, act=act, impl="triton")
    grad_x, grad_b = torch.autograd.grad(y.float().square().sum(), (x, b))
    assert (y.dtype, grad_x.dtype, grad_b.dtype) == (torch.float16, torch.float16, torch.float32)
    want = bias_act(x.double(), b.double(), act=act, impl="ref")
    assert_relative("output", y, want, tol=1e-3)
    assert_relative("gradient", grad_b, torch.autograd.grad(want.square().sum(), b)[0], tol=2e-3)


STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "every other": lambda x: x[:, ::2, ::3],
    "turned": lambda x: x.transpose(1, 3),
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "channels of more": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:3],
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("view", STRIDED)
def test_any_strides(view: str, inplace: bool) -> None:
    x = STRIDED[view](random(2, 4, 3, 5))
    b, before = random(x.shape[1], seed=1), x.clone()
    want = bias_act(x.double(), b.double(), act="lrelu", impl="ref")
    got = bias_act(x, b, act="lrelu", inplace=inplace, impl="triton")
    assert_relative(view, got, want, tol=1e-6)
    assert inplace or torch.equal(x, before)


@pytest.mark.parametrize("case", ["odd", "odd last"])
@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
def test_memory_format_is_kept(case: str, act: str) -> None:
    got = outputs_and_gradients(both(act=act, clamp=2.0)[0], make(CASES[case]))
    layout = torch.channels_last if CASES[case].last else torch.contiguous_format
    assert got["output 0"].is_contiguous(memory_format=layout)
    assert got["gradient of x"].is_contiguous(memory_format=layout)


def test_inplace_reuses_memory_only_where_nothing_is_recorded() -> None:
    x, b = random(2, 3, 4), random(3)
    version = x._version
    assert bias_act(x, b, act="lrelu", inplace=True, impl="triton").data_ptr() == x.data_ptr()
    assert x._version > version  # whoever saved the old values is told
    y = random(2, 3, 4).requires_grad_() * 1
    before = y.detach().clone()
    bias_act(y, b, act="lrelu", inplace=True, impl="triton")
    assert torch.equal(y, before)
    assert bias_act(x, act="linear", impl="triton") is x  # nothing to do


class Stack(torch.nn.Module):
    """A discriminator in small: convolution, bias and activation, halved; then enlarged and judged."""

    def __init__(self, impl: Any) -> None:
        super().__init__()
        self.impl = impl
        self.register_buffer("f", setup_filter([1, 3, 3, 1]))
        shapes = {"w0": (4, 3, 3, 3), "b0": (4,), "w1": (5, 4, 3, 3), "b1": (5,)}
        self.params = torch.nn.ParameterDict({k: random(*s, seed=i).cpu() for i, (k, s) in enumerate(shapes.items())})

    def forward(self, x: Tensor) -> Tensor:
        p = self.params
        x = bias_act(F.conv2d(x, p["w0"], padding=1), p["b0"], act="lrelu", clamp=20.0, impl=self.impl)
        x = downsample2d(x, self.f, impl=self.impl)
        x = bias_act(F.conv2d(x, p["w1"], padding=1), p["b1"], act="swish", impl=self.impl)
        return upsample2d(x, self.f, impl=self.impl).square().mean(dim=[1, 2, 3])


def penalty_and_gradients(impl: str, dtype: torch.dtype) -> list[Tensor]:
    """R1 and its gradient along every parameter."""
    stack = Stack(impl).to(DEVICE, dtype)
    image = random(2, 3, 6, 4, seed=9, dtype=dtype).requires_grad_()
    (slope,) = torch.autograd.grad(stack(image).sum(), image, create_graph=True)
    penalty = slope.square().sum(dim=[1, 2, 3]).mean()
    return [penalty.detach(), *torch.autograd.grad(penalty, list(stack.parameters()))]


def test_r1_through_a_stack() -> None:
    got = penalty_and_gradients("triton", torch.float32)
    plain = several_roundings(lambda: penalty_and_gradients("ref", torch.float32))
    exact = penalty_and_gradients("ref", torch.float64)
    for name, *tensors in zip(["penalty", "w0", "b0", "w1", "b1"], got, zip(*plain), exact):  # parts of one result
        assert_no_worse_than_torch(name, *tensors)


@pytest.mark.parametrize("op", [registered, bias_act_grad], ids=["bias_act", "bias_act_grad"])
def test_registered_as_torch_wants_it(op: Any) -> None:
    x, b = random(2, 3, 4).requires_grad_(), random(3).requires_grad_()
    args: tuple[Any, ...] = (x, b, 1, "swish", 0.0, 1.4, 2.0)
    if op is bias_act_grad:
        args = (random(2, 3, 4, seed=2).requires_grad_(), *args, 1, True)
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="bias_act: impl='triton' does not cover float64; use impl='ref'"):
        bias_act(random(2, 3, dtype=torch.float64), impl="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="bias_act: impl='triton' needs CUDA tensors, got device cpu"):
        bias_act(torch.zeros(2, 3), impl="triton")
