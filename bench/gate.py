"""The gate before the clock: a fast form is timed only if it computes what the plain reference computes.

Outputs and every gradient are compared with the plain reference in float64, by relative L2 norm: a hidden unit whose
sign rounding flips changes single gradients a lot, but the norm only as much as in plain torch.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Args = tuple[Any, ...]
Call = Callable[[Args], tuple[Tensor, ...]]

FACTOR, FLOOR = 2.0, 1e-6  # a fast form may err twice as much as plain torch in the same dtype
SAME_ALGEBRA = 1e-10  # two forms of one formula, both in float64
SANE = 5e-2  # the reference itself, float32 against float64: gradients through sines of 2^9 pi x reach 6e-3


def tensors(value: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def to_double(value: Any) -> Any:
    """The same nest with float64 copies of its floating tensors; leaves stay leaves."""
    if isinstance(value, Tensor):
        return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        items = [to_double(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: to_double(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    return value


def leaves(args: Args) -> list[Tensor]:
    return [t for t in tensors(args) if t.requires_grad]


def cotangents(outputs: tuple[Tensor, ...], seed: int = 1) -> list[Tensor]:
    """Random output gradients, equal in every dtype up to its own rounding."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=rng).to(o) for o in outputs]


def forward(call: Call, args: Args) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return call(args)


def backward(call: Call, args: Args, grad_outputs: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    """Outputs, then the gradient of every leaf."""
    outputs = call(args)
    grad_outputs = cotangents(outputs) if grad_outputs is None else grad_outputs
    return (*(o.detach() for o in outputs), *torch.autograd.grad(outputs, leaves(args), grad_outputs))


def relative_errors(got: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """Per tensor |got - exact| / |exact| in L2; infinite if got is not finite."""
    errors = []
    for g, e in zip(got, exact, strict=True):
        if g.shape != e.shape:
            raise AssertionError(f"output must be {list(e.shape)}, got {list(g.shape)}")
        error = ((g.double() - e).norm() / e.norm().clamp_min(1e-300)).item()
        errors.append(error if error == error else float("inf"))
    return errors


def check(call: Call, plain: Call, args: Args, *, both: bool, exact_form: bool) -> float:
    """Raise AssertionError unless ``call`` agrees with ``plain``; return its largest relative error against float64.

    Args:
        call: what will be timed.  plain: the reference's definition, eager.
        args: float32 inputs.
        both: compare gradients too.
        exact_form: ``call`` also takes float64 and must then agree to rounding (another form of the same formula).
    """
    run = backward if both else forward
    args64 = to_double(args)
    exact = run(plain, args64)
    same = relative_errors(run(plain, args), exact)
    if max(same) > SANE:
        raise AssertionError(f"reference: float32 differs from float64 by {max(same):.1e}, wanted at most {SANE:.0e}")
    if call is plain:
        return max(same)
    if exact_form:
        worst = max(relative_errors(run(call, args64), exact))
        if worst > SAME_ALGEBRA:
            raise AssertionError(f"form: differs by {worst:.1e} in float64, wanted at most {SAME_ALGEBRA:.0e}")
    got = relative_errors(run(call, args), exact)
    for i, (error, plain_error) in enumerate(zip(got, same)):
        allowed = FACTOR * plain_error + FLOOR
        if not error <= allowed:
            raise AssertionError(f"tensor {i} of {len(got)}: error {error:.1e}, wanted at most {allowed:.1e}")
    return max(got)
