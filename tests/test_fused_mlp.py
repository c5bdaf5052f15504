"""modulated_mlp as kernels: any width and depth against the plain form, low precision against one that rounds alike."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.base.operands import OPERANDS
from stylenerf.kernels.rays.mlp import modulated_mlp
from stylenerf.kernels.rays.mlp_ref import linear_ref
from stylenerf.kernels.rays.mlp_triton import gradient_scale
from stylenerf.kernels.rays.mlp_triton import modulated_mlp as registered
from tests.gradients import (
    DEVICE,
    assert_derivatives_match,
    assert_kernel_matches,
    cotangents,
    leaves,
    outputs_and_gradients,
)
from tests.inputs import source
from tests.sweeps import slow, sweep

GAIN = 2.0**0.5
UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # largest relative error of one rounding


class Case(NamedTuple):
    widths: tuple[int, ...]  # D, then one per layer
    rows: int = 21
    batch: int = 2
    weights: str = "per image"
    biases: str = "shared"
    slope: float = 0.2
    gain: float = GAIN
    flat: bool = False  # x [N, D]
    act: str = "lrelu"
    linear_end: bool = False


CASES = {
    "one": Case((1, 1), 1, 1),
    "1 to 7 to 16": Case((1, 7, 16)),
    "33": Case((7, 33, 33), weights="shared"),
    "128": Case((60, 128, 128, 128), weights="mixed", biases="mixed"),
    "256": Case((16, 256, 256), 37, biases="per image"),
    "300": Case((300, 300), weights="shared", biases="per image"),
    "deep": Case((33, 16, 7, 128, 1), 150, weights="mixed", biases="mixed"),
    "relu": Case((20, 31, 5), slope=0.0, gain=1.0),
    "one image": Case((20, 31, 5), batch=1, flat=True),
    "linear end": Case((20, 31, 5), weights="mixed", linear_end=True),
    "softplus": Case((20, 31, 5), weights="mixed", gain=1.0, act="softplus"),
    "decoder": Case((32, 64, 33), 40, weights="shared", gain=1.0, act="softplus", linear_end=True),
    "only linear": Case((7, 5), gain=2.0, linear_end=True),
    "no points": Case((7, 16, 3), 0),
    "no images": Case((7, 16, 3), batch=0, biases="per image"),
}
BY_CASE = pytest.mark.parametrize("case", sweep(list(CASES), always=CASES.keys() - {"256", "300"}))


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """x, then every weight, then every bias."""
    g = source(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def lead(kind: str, layer: int) -> tuple[int, ...]:
        return (case.batch,) if kind == "per image" or (kind == "mixed" and layer % 2) else ()

    pairs = list(enumerate(zip(case.widths, case.widths[1:])))
    inputs = {"x": normal(*(() if case.flat else (case.batch,)), case.rows, case.widths[0])}
    inputs |= {f"weight {i}": normal(*lead(case.weights, i), o, d) / d**0.5 for i, (d, o) in pairs}
    inputs |= {f"bias {i}": 0.3 * normal(*lead(case.biases, i), o) for i, (_, o) in pairs}
    return {name: t.to(DEVICE, dtype) for name, t in inputs.items()}


def chain(impl: Any, precision: Any, case: Case, x: Tensor, *layers: Tensor) -> Tensor:
    half = len(layers) // 2
    options = {"gain": case.gain, "negative_slope": case.slope, "act": case.act, "linear_end": case.linear_end}
    return modulated_mlp(x, layers[:half], layers[half:], precision=precision, impl=impl, **options)


def plain(case: Case) -> Callable[..., Tensor]:
    return partial(chain, "ref", None, case)


def kernel(case: Case, precision: str | None = "fp32") -> Callable[..., Tensor]:
    return partial(chain, "triton", precision, case)


class Operand(torch.autograd.Function):
    """Rounded to the operand type; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, storage: torch.dtype) -> Tensor:
        return t.float().to(storage).double()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class OperandGradient(torch.autograd.Function):
    """As it is; the gradient is rounded to the operand type, well inside its range."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, storage: torch.dtype) -> Tensor:
        ctx.storage = storage
        return t.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad * 2**8).float().to(ctx.storage).double() / 2**8, None


class RoundedSoftplus(torch.autograd.Function):
    """Rounded to the operand type; the derivative, 1 - exp(-h), is that of the rounded number."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, storage: torch.dtype) -> Tensor:
        h = torch.nn.functional.softplus(z).float().to(storage).double()
        ctx.save_for_backward(h)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -grad * torch.expm1(-ctx.saved_tensors[0]), None


def rounding_alike(storage: torch.dtype, case: Case, x: Tensor, *layers: Tensor) -> Tensor:
    """The chain in float64, but operands and gradients rounded where the kernels round them.

    Compared with a form that does not round, a leaky ReLU here and there has its other slope, and gradients differ by
    far more than a rounding.
    """
    half = len(layers) // 2
    h = x if x.ndim == 3 else x[None]
    for i, (weight, bias) in enumerate(zip(layers[:half], layers[half:])):
        last = i == half - 1
        linear = case.linear_end and last
        gain = 1.0 if linear else case.gain
        operands = Operand.apply(h, storage), Operand.apply(weight * gain, storage)
        z = OperandGradient.apply(linear_ref(*operands, bias * gain), storage)
        if linear:
            h = z
        elif case.act == "softplus":
            h = torch.nn.functional.softplus(z) if last else RoundedSoftplus.apply(z, storage)
        else:
            h = torch.nn.functional.leaky_relu(z, case.slope)
    return h.reshape(*x.shape[:-1], h.shape[-1])


def assert_within(got: dict[str, Tensor], want: dict[str, Tensor], bound: float) -> None:
    """Every tensor by its relative L2 norm."""
    assert got.keys() == want.keys()
    for name in want:
        error = (got[name].double() - want[name]).norm() / want[name].norm().clamp_min(1e-30)
        assert got[name].shape == want[name].shape, name
        assert want[name].numel() == 0 or error <= bound, f"{name}: relative error {error:.1e} > {bound:.1e}"


@BY_CASE
def test_matches_the_plain_form(case: str) -> None:
    assert_kernel_matches(kernel(CASES[case]), plain(CASES[case]), make(CASES[case]))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    rows=st.integers(0, 70),
    batch=st.integers(1, 3),
    weights=st.sampled_from(["shared", "per image", "mixed"]),
)
def test_matches_at_any_size(widths: list[int], rows: int, batch: int, weights: str) -> None:
    case = Case(tuple(widths), rows, batch, weights, "mixed")
    assert_kernel_matches(kernel(case), plain(case), make(case))


@pytest.mark.parametrize("precision", ["fp16", slow("bf16")])
@BY_CASE
def test_matches_a_form_that_rounds_alike(case: str, precision: str) -> None:
    inputs, storage = make(CASES[case]), OPERANDS[precision].storage
    got = outputs_and_gradients(kernel(CASES[case], precision), inputs)
    want = outputs_and_gradients(partial(rounding_alike, storage, CASES[case]), inputs, torch.float64)
    assert_within(got, want, UNIT[storage] / 2)  # now and then a sum between two numbers is rounded to the other one


@pytest.mark.parametrize("dtype", UNIT)
def test_half_precision_tensors_use_operands_of_their_own(dtype: torch.dtype) -> None:
    case = CASES["128"]
    inputs = make(case, dtype)
    got = outputs_and_gradients(kernel(case, None), inputs)
    want = outputs_and_gradients(partial(rounding_alike, dtype, case), inputs, torch.float64)
    assert {t.dtype for t in got.values()} == {dtype}
    assert_within(got, want, UNIT[dtype])


def test_float32_tensors_use_float16_operands() -> None:
    case = CASES["33"]
    inputs = make(case)
    assert torch.equal(kernel(case, None)(*inputs.values()), kernel(case, "fp16")(*inputs.values()))


def test_tf32() -> None:
    case = CASES["33"]
    inputs = make(case)
    got = kernel(case, "tf32")(*inputs.values())
    want = plain(case)(*leaves(inputs, torch.float64).values()).detach()
    assert_within({"out": got}, {"out": want}, 2.0**-10)


@pytest.mark.parametrize("needed", ["x", slow("weight 0"), "weight 2", slow("bias 1")])
def test_gradient_of_one_input_alone(needed: str) -> None:
    case = CASES["128"]
    inputs = make(case)
    every = outputs_and_gradients(kernel(case, "fp16"), inputs)

    def alone(t: Tensor) -> Tensor:
        return kernel(case, "fp16")(*(inputs | {needed: t}).values())

    got = outputs_and_gradients(alone, {needed: inputs[needed]})
    assert torch.equal(got[f"gradient of {needed}"], every[f"gradient of {needed}"])


def gradients(case: Case, precision: str, grad_out: Tensor) -> tuple[Tensor, ...]:
    args = list(leaves(make(case)).values())
    return torch.autograd.grad(kernel(case, precision)(*args), args, grad_out)


def grad_out(case: Case) -> Tensor:
    return cotangents([torch.empty(case.batch, case.rows, case.widths[-1], device=DEVICE)], torch.float32, 100)[0]


@pytest.mark.parametrize("exponent", [-80, -40, 40])
def test_float16_gradients_of_any_size(exponent: int) -> None:
    case = CASES["33"]
    want = gradients(case, "fp16", grad_out(case))
    got = gradients(case, "fp16", grad_out(case) * 2.0**exponent)
    # as if the range of float16 had no end: the scale is a power of two
    torch.testing.assert_close(tuple(g * 2.0**-exponent for g in got), want, atol=0, rtol=0)


# to a peak in [128, 256) where scale and inverse are float32 numbers; nothing to scale
SCALES = {3.0: 2**6, -1.0: 2**7, 2**-100: 2**107, 1e-40: 2**126, 1e38: 2**-119, 0.0: 1, torch.inf: 1, torch.nan: 1}


@pytest.mark.parametrize("peak", SCALES)
def test_scale_of_float16_gradients(peak: float) -> None:
    grad = torch.tensor([[0.0, peak / 4, peak]], device=DEVICE)
    assert gradient_scale(grad, "fp16").item() == SCALES[peak]
    assert gradient_scale(grad, "bf16").item() == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy says what it meets
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_gradients_stay_bad(bad: float) -> None:
    case = CASES["deep"]
    broken = grad_out(case)
    broken[1, 3] = bad
    got = gradients(case, "fp16", broken)
    assert all(not g.isfinite().all() for g in got)
    assert got[0][0].isfinite().all() and not got[0][1, 3].isfinite().any()


def test_zero_gradients_are_zero() -> None:
    case = CASES["deep"]
    assert all((g == 0).all() for g in gradients(case, "fp16", torch.zeros_like(grad_out(case))))


def test_strided_input_and_gradient() -> None:
    case = CASES["33"]
    inputs = make(case)
    strided = inputs | {"x": inputs["x"].mT.contiguous().mT}
    want, got = (outputs_and_gradients(lambda *a: kernel(case)(*a).sum(1), i) for i in (inputs, strided))
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("name", ["deep", "decoder"])
def test_second_order(name: str) -> None:
    case = CASES[name]._replace(rows=9)
    assert_derivatives_match(kernel(case), plain(case), make(case))


@pytest.mark.parametrize("case", ["33", "deep", "no points"])
def test_registered_as_torch_wants_it(case: str) -> None:
    x, *layers = (t.requires_grad_() for t in make(CASES[case]).values())
    half = len(layers) // 2
    weights = [t if t.ndim == 3 else t[None] for t in layers[:half]]
    biases = [t if t.ndim == 2 else t[None] for t in layers[half:]]
    args = (x, weights, biases, GAIN, 0.2, "fp16", False, False)
    torch.library.opcheck(registered, args, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


ONE = CASES["one"]
BAD: dict[str, tuple[type[Exception], str, Case, str, torch.dtype]] = {
    "precision": (ValueError, "precision must be one of .*'fp16'.* got 'fp8'", ONE, "fp8", torch.float32),
    "float64": (RuntimeError, "does not cover float64; use impl='ref'", ONE, "fp32", torch.float64),
    "slope": (RuntimeError, "negative_slope 2.0 outside 0..1", ONE._replace(slope=2.0), "fp32", torch.float32),
    "act": (
        ValueError,
        "act must be one of .*'softplus'.* got 'tanh'",
        ONE._replace(act="tanh"),
        "fp32",
        torch.float32,
    ),
    "gain": (ValueError, "gain must be 1 for softplus, got 1.4", ONE._replace(act="softplus"), "fp32", torch.float32),
    "no layers": (RuntimeError, "a chain without layers", Case((3,)), "fp32", torch.float32),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, case, precision, dtype = BAD[name]
    with pytest.raises(kind, match=text):
        kernel(case, precision)(*make(case, dtype).values())


def test_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="modulated_mlp: impl='triton' needs CUDA tensors, got device cpu"):
        kernel(ONE)(*(t.cpu() for t in make(ONE).values()))
