"""The modulated 1x1 layer as a kernel: outputs and every gradient against float64, second order, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels import bias_act, modulated_conv, modulated_layer
from stylenerf.kernels.blocks.modulated_layer_triton import pointwise_layer
from tests.closeness import assert_each_no_worse_than_torch
from tests.inputs import source
from tests.roundings import several_roundings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# N, rows of styles, in, out, height, width
CASES: dict[str, tuple[int, int, int, int, int, int]] = {
    "one": (1, 1, 1, 1, 1, 1),
    "odd": (2, 2, 5, 7, 3, 5),
    "to rgb": (4, 2, 20, 3, 4, 3),
    "edge - 1": (1, 1, 16, 16, 9, 7),
    "edge": (1, 1, 64, 16, 8, 8),
    "edge + 1": (1, 1, 33, 17, 13, 5),
    "no pixels": (2, 2, 4, 3, 0, 5),
    "no images": (0, 0, 4, 3, 2, 2),
}
FINISH: dict[str, dict[str, Any]] = {
    "layer": {"slope": 0.2, "gain": 2**0.5, "clamp": 0.8},
    "sum": {"slope": None, "gain": 1.0, "clamp": None, "demodulate": False},
    "relu": {"slope": 0.0, "gain": 0.5, "clamp": None},
}


def make(case: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    N, B, fan_in, out, H, W = CASES[case]
    g = source(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(DEVICE, dtype)

    x = normal(N, H, W, fan_in).permute(0, 3, 1, 2)
    weight, styles, bias = normal(out, fan_in, 1, 1), 1 + 0.3 * normal(B, fan_in), normal(out)
    return {"x": x, "weight": weight, "styles": styles, "bias": bias, "input_gain": 1 + 0.1 * normal(1)}


def run(args: dict[str, Tensor], finish: dict[str, Any], impl: str) -> dict[str, Tensor]:
    """The output, and the gradient of every argument."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in args.items()}
    y = modulated_layer(**leaves, **finish, impl=impl)  # type: ignore[arg-type]
    cotangent = torch.randn(y.shape, generator=source(2)).to(y)
    grads = torch.autograd.grad(y, list(leaves.values()), cotangent)
    return {"y": y.detach(), **dict(zip(leaves, grads))}


@pytest.mark.parametrize("finish", FINISH.values(), ids=FINISH)
@pytest.mark.parametrize("case", CASES)
def test_float32(case: str, finish: dict[str, Any]) -> None:
    args = make(case)
    got, plain = run(args, finish, "triton"), several_roundings(lambda: run(args, finish, "ref"))
    exact = run({name: t.double() for name, t in args.items()}, finish, "ref")
    assert_each_no_worse_than_torch(got, plain, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half(dtype: torch.dtype) -> None:
    """The layer's own parameters stay float32; plain torch in the same type is what it may err twice as much as."""
    args, finish = make("edge + 1"), {"slope": None, "gain": 1.0, "clamp": None}
    args["x"] = args["x"].to(dtype)
    got, plain = run(args, finish, "triton"), several_roundings(lambda: run(args, finish, "ref"))
    exact = run({name: t.double() for name, t in args.items()}, finish, "ref")
    assert_each_no_worse_than_torch(got, plain, exact, floor=2e-3)


def test_clamp_and_activation_gate_the_gradient() -> None:
    """x = 1, -1, 9: by hand 1 -> sqrt 2, slope 1; -1 -> -0.2 sqrt 2, slope 0.2; 9 -> clamped at 4, slope 0."""
    x = torch.tensor([1.0, -1.0, 9.0], device=DEVICE).reshape(3, 1, 1, 1).requires_grad_()
    one = torch.ones(1, 1, 1, 1, device=DEVICE)
    y = modulated_layer(x, one, torch.ones(1, 1, device=DEVICE), demodulate=False, clamp=4.0, impl="triton")
    (grad,) = torch.autograd.grad(y.sum(), x)
    root = 2**0.5
    torch.testing.assert_close(y.flatten().detach().cpu(), torch.tensor([root, -0.2 * root, 4.0]))
    torch.testing.assert_close(grad.flatten().cpu(), torch.tensor([root, 0.2 * root, 0.0]))


def test_noise_comes_before_the_bias() -> None:
    args, noise = make("odd"), torch.randn(2, 1, 3, 5, generator=source(3)).to(DEVICE)
    got = modulated_layer(**args, noise=noise, clamp=1.0, impl="triton")  # type: ignore[arg-type]
    bias = args.pop("bias")
    want = bias_act(modulated_conv(**args, noise=noise, impl="ref"), bias, act="lrelu", clamp=1.0, impl="ref")  # type: ignore[arg-type]
    torch.testing.assert_close(got, want)


def test_modulated_conv_is_the_layer_without_a_finish() -> None:
    args = make("odd")
    got = modulated_conv(**args, impl="triton")  # type: ignore[arg-type]
    torch.testing.assert_close(got, modulated_conv(**args, impl="ref"))  # type: ignore[arg-type]
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_planar_images_give_the_same() -> None:
    args = make("odd")
    want = modulated_layer(**args, impl="triton")  # type: ignore[arg-type]
    args["x"] = args["x"].contiguous()
    torch.testing.assert_close(modulated_layer(**args, impl="triton"), want)  # type: ignore[arg-type]


def test_second_order() -> None:
    """The gradient of a gradient penalty through the layer, by the same rule as the gradient itself."""

    def penalty_gradients(impl: str, dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = {name: t.to(dtype, copy=True).requires_grad_() for name, t in make("odd").items()}
        y = modulated_layer(**leaves, clamp=2.0, impl=impl)  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(y.square().sum(), leaves["x"], create_graph=True)
        penalty = grad.square().sum()
        wanted = {name: leaves[name] for name in ("weight", "styles", "bias")}
        return {"penalty": penalty.detach(), **dict(zip(wanted, torch.autograd.grad(penalty, list(wanted.values()))))}

    got, exact = penalty_gradients("triton", torch.float32), penalty_gradients("ref", torch.float64)
    plain = several_roundings(lambda: penalty_gradients("ref", torch.float32))
    assert_each_no_worse_than_torch(got, plain, exact)


def test_the_registered_op() -> None:
    x, weight = torch.randn(2, 6, 5), torch.randn(2, 3, 5)
    args = (x.to(DEVICE).requires_grad_(), weight.to(DEVICE).requires_grad_(), None, 0.2, 1.5, 3.0, False)
    torch.library.opcheck(
        pointwise_layer, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "kernel": ({"weight": torch.zeros(3, 2, 3, 3)}, ValueError, r"weight must be \[O, I, 1, 1\]"),
    "styles": ({"styles": torch.ones(3, 2)}, ValueError, r"styles must be \[B, I\] with B dividing the batch N=4"),
    "bias": ({"bias": torch.ones(2)}, ValueError, r"bias must be \[O\] with O=3, got \[2\]"),
    "noise": ({"noise": torch.ones(5, 5)}, ValueError, "noise must broadcast to the output"),
    "slope": ({"slope": 1.5}, ValueError, "slope must be within 0..1 or None, got 1.5"),
    "gain": ({"gain": 0.0}, ValueError, "gain must be positive, got 0.0"),
    "clamp": ({"clamp": -1.0}, ValueError, "clamp must be positive or None, got -1.0"),
    "float64": ({"x": torch.zeros(4, 2, 3, 3).double(), "impl": "triton"}, RuntimeError, "does not cover float64"),
    "integers": ({"x": torch.zeros(4, 2, 3, 3).int()}, TypeError, "x must be one of"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict[str, Any], type[Exception], str]) -> None:
    changed, error, text = bad
    good = {"x": torch.zeros(4, 2, 3, 3), "weight": torch.ones(3, 2, 1, 1), "styles": torch.ones(2, 2)}
    with pytest.raises(error, match=text):
        modulated_layer(**(good | changed))
