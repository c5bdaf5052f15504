"""Every public op in a host program that runs it under autocast, in another default dtype, or with an empty batch."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf import kernels
from tests.op_calls import OP_CALLS, change, leaves, results

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NO_GRADIENT = {"importance_sample", "mean_square"}
FLOAT32_INSIDE = {  # what 16-bit types do not hold
    "composite", "encode_positions", "evaluate_density", "evaluate_field", "importance_sample", "mean_square",
    "render_points", "render_rays", "render_volume", "volume_weights",
}  # fmt: skip
MIXED_REFUSED = {
    "composite", "evaluate_density", "evaluate_field", "importance_sample", "modulate_weights", "modulated_conv",
    "modulated_layer", "modulated_mlp", "refine_to_rgb", "render_points", "render_rays", "render_volume",
    "upsample_block", "volume_weights",
}  # fmt: skip


def call(op: str, args: tuple[Any, ...], named: dict[str, Any]) -> list[Tensor]:
    return results(getattr(kernels, op)(*args, **named))


def in_turns(made: Any, *dtypes: torch.dtype) -> Any:
    """The floating tensors of ``made`` as leaves, in the dtypes one after the other."""
    turn = [0]

    def cast(t: Tensor) -> Tensor:
        turn[0] += 1
        return t.detach().to(dtypes[(turn[0] - 1) % len(dtypes)]).requires_grad_()

    return change(made, cast)


@pytest.fixture
def float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_op_has_a_call() -> None:
    ops = {n for n in kernels.__all__ if inspect.isfunction(getattr(kernels, n))} - {"setup_filter"}
    assert ops == set(OP_CALLS)


@pytest.mark.parametrize("half_first", [True, False], ids=["x in 16 bit", "x in float32"])
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("op", OP_CALLS)
def test_takes_mixed_dtypes_under_autocast(op: str, name: str, half_first: bool) -> None:
    half = HALVES[name]
    dtypes = (half, torch.float32) if half_first else (torch.float32, half)
    made = in_turns(OP_CALLS[op].make(2), *dtypes)
    want = call(op, *change(made, lambda t: t.detach().double()))
    with torch.autocast("cpu", half):
        got = call(op, *made)
    kept = torch.float32 if op in FLOAT32_INSIDE else dtypes[0]
    assert got[0].dtype == kept
    tolerance = 1e-4 if kept == torch.float32 else 0.05
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("op", sorted(set(OP_CALLS) - NO_GRADIENT))
def test_gradients_under_autocast_to_second_order(op: str) -> None:
    made = in_turns(OP_CALLS[op].make(2), torch.float32, torch.bfloat16)
    inputs = leaves(made)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.stack([out.float().square().sum() for out in call(op, *made)]).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
        penalty = torch.stack([g.float().square().sum() for g in first if g is not None]).sum()
    second = torch.autograd.grad(penalty, inputs, allow_unused=True)
    assert first[0] is not None
    for t, *grads in zip(inputs, first, second):
        assert all(g is None or (g.dtype == t.dtype and bool(g.isfinite().all())) for g in grads)


@pytest.mark.parametrize("op", sorted(MIXED_REFUSED))
def test_refuses_mixed_dtypes_outside_autocast(op: str) -> None:
    every_third = op in ("modulated_conv", "modulated_layer", "upsample_block")  # x, weight, styles
    made = in_turns(OP_CALLS[op].make(2), *[torch.float32] * (1 + every_third), torch.bfloat16)
    with pytest.raises(TypeError, match="must be one of"):
        call(op, *made)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("op", OP_CALLS)
def test_follows_its_inputs_under_another_default_dtype(op: str) -> None:
    args, named = OP_CALLS[op].make(2)
    got = call(op, args, named)
    assert {out.dtype for out in got} == {torch.float32}
    torch.set_default_dtype(torch.float32)
    for a, b in zip(got, call(op, args, named), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OP_CALLS)
def test_an_empty_batch_gives_an_empty_result(op: str) -> None:
    made = in_turns(OP_CALLS[op].make(0), torch.float32)
    got = call(op, *made)
    assert [tuple(out.shape) for out in got][: len(OP_CALLS[op].shapes(0))] == OP_CALLS[op].shapes(0)
    if op in NO_GRADIENT:
        return
    inputs = leaves(made)
    total = torch.stack([out.sum() for out in got]).sum()
    for t, g in zip(inputs, torch.autograd.grad(total, inputs, allow_unused=True)):
        assert g is None or (g.shape == t.shape and not g.any())
