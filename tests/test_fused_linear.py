"""Linear layers of any width as kernels, and their gradients: against float64, tile edges, rounding, bad numbers."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.base.dispatch import PRECISIONS
from stylenerf.kernels.base.linear import PROGRAMS, launch_dgrad, launch_linear, launch_wgrad, shares
from stylenerf.kernels.base.operands import OPERANDS
from tests.closeness import assert_no_worse_than_torch
from tests.gradients import DEVICE
from tests.inputs import source
from tests.roundings import several_roundings

SLOPE = 0.2
FLOOR = 4e-6 if DEVICE.type == "cuda" else 1e-6  # tensor cores cut sums off where others round
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    batch: int
    rows: int
    inputs: int
    outputs: int
    shared: bool = False


CASES = {
    "one": Case(1, 1, 1, 1),
    "odd": Case(2, 5, 7, 3),
    "shared": Case(3, 18, 17, 33, shared=True),
    "tile - 1": Case(1, 127, 63, 127),
    "tile": Case(1, 128, 64, 128),
    "tile + 1": Case(2, 129, 65, 129),
    "released": Case(2, 70, 60, 128),
    "wide": Case(1, 33, 300, 256),
    "several shares": Case(2, 700, 12, 20),
    "no images": Case(0, 5, 7, 3),
    "no rows": Case(2, 0, 7, 3),
    "no inputs": Case(2, 5, 0, 3),
    "no outputs": Case(2, 5, 7, 0),
}
BY_CASE = pytest.mark.parametrize("case", CASES)
BY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)


class Layer(NamedTuple):
    """Numbers that the operand type holds exactly, so that float64 knows the result."""

    x: Tensor  # [B, N, I] also the gate
    weight: Tensor  # [B or 1, O, I]
    bias: Tensor  # [B or 1, O]
    grad_z: Tensor  # [B, N, O]


def make(case: Case, precision: str) -> Layer:
    g = source(0)
    storage = OPERANDS[precision].storage
    lead = 1 if case.shared else case.batch

    def normal(*shape: int) -> Tensor:
        numbers = torch.nn.functional.hardshrink(
            torch.randn(shape, generator=g), 0.05
        )  # with zeros, at the gate's edge
        return (numbers.half() if precision == "tf32" else numbers).to(DEVICE, storage)

    return Layer(
        normal(case.batch, case.rows, case.inputs),
        normal(lead, case.outputs, case.inputs),
        torch.randn(lead, case.outputs, generator=g).to(DEVICE),
        normal(case.batch, case.rows, case.outputs),
    )


def linear(layer: Layer, dtype: torch.dtype, slope: float | None = SLOPE) -> Tensor:
    z = layer.x.to(dtype) @ layer.weight.to(dtype).mT + layer.bias.to(dtype)[:, None]
    return z if slope is None else torch.nn.functional.leaky_relu(z, slope)


def dgrad(layer: Layer, dtype: torch.dtype, gated: bool = True) -> Tensor:
    grad = layer.grad_z.to(dtype) @ layer.weight.to(dtype)
    return torch.where(layer.x > 0, grad, SLOPE * grad) if gated else grad


def grad_weight(layer: Layer, dtype: torch.dtype) -> Tensor:
    return layer.grad_z.to(dtype).mT @ layer.x.to(dtype)


def grad_bias(layer: Layer, dtype: torch.dtype) -> Tensor:
    return layer.grad_z.to(dtype).sum(1)


def assert_exact(name: str, got: Tensor, layer: Layer, form: Callable[[Layer, torch.dtype], Tensor]) -> None:
    """As near to the form in float64 as the form in float32 is."""
    plain = several_roundings(lambda: form(layer, torch.float32))
    assert_no_worse_than_torch(name, got, plain, form(layer, torch.float64), floor=FLOOR)


def run_linear(layer: Layer, precision: str, slope: float | None = SLOPE, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.empty(layer.grad_z.shape, dtype=dtype, device=DEVICE)
    launch_linear(out, layer.x, layer.weight, layer.bias, slope=slope, precision=precision)
    return out


def run_dgrad(layer: Layer, precision: str, gated: bool = True, factor: Tensor | None = None) -> Tensor:
    grad_x = torch.empty(layer.x.shape, device=DEVICE)
    gate = layer.x if gated else None
    launch_dgrad(grad_x, layer.grad_z, layer.weight, gate, slope=SLOPE, precision=precision, factor=factor)
    return grad_x


@BY_PRECISION
@BY_CASE
def test_linear(case: str, precision: str) -> None:
    layer = make(CASES[case], precision)
    assert_exact("out", run_linear(layer, precision), layer, linear)


@BY_PRECISION
@BY_CASE
def test_dgrad(case: str, precision: str) -> None:
    layer = make(CASES[case], precision)
    assert_exact("grad_x", run_dgrad(layer, precision), layer, dgrad)


@BY_PRECISION
@BY_CASE
def test_wgrad(case: str, precision: str) -> None:
    layer = make(CASES[case], precision)
    weight, bias = launch_wgrad(layer.grad_z, layer.x, precision=precision)
    assert_exact("grad_weight", weight, layer, grad_weight)
    assert_exact("grad_bias", bias, layer, grad_bias)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 3), st.integers(0, 150), st.integers(0, 150), st.integers(0, 150)),
    precision=st.sampled_from(PRECISIONS),
    shared=st.booleans(),
)
def test_any_size(sizes: tuple[int, int, int, int], precision: str, shared: bool) -> None:
    layer = make(Case(*sizes, shared), precision)
    assert_exact("out", run_linear(layer, precision), layer, linear)
    assert_exact("grad_x", run_dgrad(layer, precision), layer, dgrad)
    got = launch_wgrad(layer.grad_z, layer.x, precision=precision)
    assert_exact("grad_weight", got[0], layer, grad_weight)
    assert_exact("grad_bias", got[1], layer, grad_bias)


@pytest.mark.parametrize("slope", [None, 0.0, 1.0])
def test_activations(slope: float | None) -> None:
    layer = make(CASES["shared"], "fp32")
    assert_exact("out", run_linear(layer, "fp32", slope), layer, partial(linear, slope=slope))


def test_without_gate_or_bias() -> None:
    layer = make(CASES["odd"], "fp32")
    assert_exact("grad_x", run_dgrad(layer, "fp32", gated=False), layer, partial(dgrad, gated=False))
    out = torch.empty(2, 5, 3, device=DEVICE)
    launch_linear(out, layer.x, layer.weight, None, slope=None, precision="fp32")
    unbiased = layer._replace(bias=torch.zeros_like(layer.bias))
    assert torch.equal(out, run_linear(unbiased, "fp32", None))


def test_factor() -> None:
    layer = make(CASES["several shares"], "fp16")
    half = torch.tensor(0.5, device=DEVICE)
    assert torch.equal(run_dgrad(layer, "fp16", factor=half), 0.5 * run_dgrad(layer, "fp16"))
    got = launch_wgrad(layer.grad_z, layer.x, precision="fp16", factor=half)
    whole = launch_wgrad(layer.grad_z, layer.x, precision="fp16")
    assert torch.equal(got[0], 0.5 * whole[0]) and torch.equal(got[1], 0.5 * whole[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_output_types(dtype: torch.dtype) -> None:
    layer = make(CASES["odd"], "fp32")
    plain = several_roundings(lambda: linear(layer, torch.float32).to(dtype))
    exact = linear(layer, torch.float64)
    assert_no_worse_than_torch("out", run_linear(layer, "fp32", dtype=dtype), plain, exact)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_operands_are_rounded_to_nearest(dtype: torch.dtype, precision: str) -> None:
    drawn = make(CASES["odd"], precision)  # one tile, whatever its size: the sums run in the same order
    g = source(1)
    x, grad_z = (torch.randn(t.shape, generator=g).to(DEVICE, dtype) for t in (drawn.x, drawn.grad_z))
    layer = drawn._replace(x=x, grad_z=grad_z)
    storage = OPERANDS[precision].storage
    rounded = drawn._replace(x=x.to(storage), grad_z=grad_z.to(storage))
    assert torch.equal(run_linear(layer, precision), run_linear(rounded, precision))
    assert torch.equal(run_dgrad(layer, precision), run_dgrad(rounded, precision))
    weight = launch_wgrad(grad_z, x, precision=precision)[0]
    assert torch.equal(weight, launch_wgrad(rounded.grad_z, rounded.x, precision=precision)[0])


def test_strided_inputs_and_weights_of_a_stack() -> None:
    layer = make(CASES["odd"], "fp32")
    stack = torch.stack([layer.weight, -layer.weight], dim=1)  # [B, 2, O, I]
    strided = layer._replace(x=layer.x.mT.contiguous().mT, weight=stack[:, 0], grad_z=layer.grad_z.mT.contiguous().mT)
    assert torch.equal(run_linear(strided, "fp32"), run_linear(layer, "fp32"))
    assert torch.equal(run_dgrad(strided, "fp32"), run_dgrad(layer, "fp32"))
    got = launch_wgrad(strided.grad_z, strided.x, precision="fp32")
    assert torch.equal(got[0], launch_wgrad(layer.grad_z, layer.x, precision="fp32")[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy says what it meets
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_bad_number_stays_on_its_row(precision: str, bad: float) -> None:
    clean = make(CASES["released"], precision)
    broken = clean._replace(x=clean.x.clone(), grad_z=clean.grad_z.clone())
    broken.x[1, 3, 5] = bad
    broken.grad_z[1, 3, 5] = bad
    others = torch.ones(clean.x.shape[:2], dtype=torch.bool)
    others[1, 3] = False
    for run in (run_linear, run_dgrad):
        want, got = run(clean, precision), run(broken, precision)
        assert torch.equal(got[others], want[others]) and not got[1, 3].isfinite().any()
    weight, bias = launch_wgrad(broken.grad_z, clean.x, precision=precision)
    assert not weight[1, 5].isfinite().any() and not bias[1, 5].isfinite()
    assert weight[0].isfinite().all() and weight[1, :5].isfinite().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_overflow_of_the_output_type_is_infinite() -> None:
    layer = make(CASES["odd"], "fp16")
    huge = layer._replace(x=torch.full_like(layer.x, 6e4), weight=torch.full_like(layer.weight, 6e4))
    assert (run_linear(huge, "fp16", dtype=torch.float16) == torch.inf).all()


def test_weight_gradient_is_the_same_every_time() -> None:
    layer = make(CASES["several shares"], "fp16")
    first, second = (launch_wgrad(layer.grad_z, layer.x, precision="fp16") for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(0, 10**9), st.integers(1, 64), st.sampled_from([16, 32, 64]))
def test_shares_cover_the_rows(batch: int, rows: int, tiles: int, block: int) -> None:
    count, per_share = shares(batch, rows, tiles, block)
    assert count >= 1 and count * per_share * block >= rows > (count - 1) * per_share * block - (rows == 0)
    assert count * batch * tiles <= max(PROGRAMS, batch * tiles)
