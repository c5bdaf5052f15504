"""The check before timing: a fast form is timed only if it agrees with the plain reference.
Outputs and every gradient are compared with the plain reference in float64, by relative L2 norm: when rounding flips
the sign of a hidden unit, single gradients change a lot, but the norm only as much as in plain torch.

    float32          error <= 2 (error of plain torch in float32) + 1e-6
    16 bit and TF32  error <= 2 (cost of the format + error of plain torch in float32) + one rounding of the format

The cost of a format is the error of plain torch in float64 that rounds matrix operands where the kernels do
(``bench.rounded``): about 9e-4 in a field's features and 0.8 to 3.4 % in its gradients with float16, eight times that
with bfloat16, since gates of the leaky ReLU flip. The rule is the same in the kernel's own format, but it could mask an
error of a percent. So ray passes have a twin: the same kernels with float32 operands, on a field narrow enough for
them, which must first pass the rule for float32. The error of a tensor of fewer than 16 numbers is luck: its bound is
that of the least accurate tensor.
Sample positions are a result as well, and a steep one. Other results are compared at the positions of the form under
test, and those positions with the plain form's, by the same rule plus the error of a few samples that cross an empty
bin.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.rounded import rounded_operands
from stylenerf.engine.nests import mapped, tensors

Args = tuple[Any, ...]
Call = Callable[[Args], tuple[Tensor, ...]]

FACTOR, FLOOR = 2.0, 1e-6  # a fast form may have twice the error of plain torch in the same format
FEW = 16  # fewer numbers are too few for a norm
SAME_ALGEBRA = 1e-10  # two forms of one formula, both in float64
SANE = 5e-2  # the reference itself, float32 against float64: gradients through sines of 2^9 pi x reach 6e-3
UNIT = {"fp32": FLOOR, "fp16": 2.0**-11, "bf16": 2.0**-8, "tf32": 2.0**-10}  # one rounding; TF32 is cut off
COST = {"fp16": 0.1, "tf32": 0.5, "bf16": 0.5}  # largest error of a format at which a comparison is still meaningful
POSITIONS = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 5e-2, "tf32": 2e-2}  # one bin off everywhere would be 0.1


class Pin(NamedTuple):
    """For a form that chooses sample positions: the output that holds them, and arguments that prescribe them."""

    output: int
    place: Callable[[Args, Tensor], Args]


def to_double(value: Any) -> Any:
    """The same nest with float64 copies of its floating tensors; leaves stay leaves."""

    def double(t: Tensor) -> Tensor:
        return t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t

    return mapped(value, double)


def leaves(args: Args) -> list[Tensor]:
    return [t for t in tensors(args) if t.requires_grad]


def with_leaves(args: Args, values: Sequence[Tensor]) -> Args:
    """The same nest with ``values`` for its leaves, in their order."""
    left = iter(values)
    nest: Args = mapped(args, lambda t: next(left) if t.requires_grad else t)
    return nest


def cotangents(outputs: tuple[Tensor, ...], seed: int = 1) -> list[Tensor]:
    """Random output gradients, equal in every dtype up to its own rounding."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=rng).to(o) for o in outputs]


def forward(call: Call, args: Args) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return call(args)


def backward(call: Call, args: Args, grad_outputs: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    """Outputs, then the gradient of every leaf, through those outputs that depend on one."""
    outputs = call(args)
    with_grad = differentiable(outputs)
    grad_outputs = cotangents(with_grad) if grad_outputs is None else grad_outputs
    return (*(o.detach() for o in outputs), *torch.autograd.grad(with_grad, leaves(args), grad_outputs))


def differentiable(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(o for o in outputs if o.requires_grad)


def relative_errors(got: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Per tensor |got - exact| / |exact| in L2; infinite if got is not finite."""
    errors = []
    for g, e in zip(got, exact, strict=True):
        if g.shape != e.shape:
            raise AssertionError(f"output must be {list(e.shape)}, got {list(g.shape)}")
        error = ((g.double() - e).norm() / e.norm().clamp_min(1e-300)).item()
        errors.append(error if error == error else float("inf"))
    return errors


def check(
    call: Call,
    plain: Call,
    args: Args,
    *,
    both: bool,
    exact_form: bool = False,
    precision: str = "fp32",
    pin: Pin | None = None,
) -> float:
    """Raise AssertionError unless ``call`` agrees with ``plain``; return its largest relative error against float64.

    Args:
        call: the form to be timed.  plain: the reference's definition, eager.
        args: float32 inputs.
        both: compare gradients too.
        exact_form: ``call`` also takes float64 and must then agree to rounding (another form of the same formula).
        precision: of the matrix operands of ``call``.
        pin: given if ``call`` chooses sample positions.
    """
    run = backward if both else forward
    got = run(call, args)
    if pin is not None and call is not plain:
        where = [got[pin.output]]
        _compare("positions", where, lambda a: [forward(plain, a)[pin.output]], args, precision, POSITIONS[precision])
    placed = args if pin is None else pin.place(args, got[pin.output])
    if exact_form and call is not plain:
        args64 = to_double(placed)
        worst = max(relative_errors(run(call, args64), run(plain, args64)))
        if worst > SAME_ALGEBRA:
            raise AssertionError(f"form: differs by {worst:.1e} in float64, wanted at most {SAME_ALGEBRA:.0e}")
    compared = run(plain, placed) if call is plain else got
    return _compare("tensor", compared, lambda a: run(plain, a), placed, precision, UNIT[precision])


def _compare(
    name: str,
    got: Sequence[Tensor],
    plain: Callable[[Args], Sequence[Tensor]],
    args: Args,
    precision: str,
    floor: float,
) -> float:
    """Hold ``got`` to the rule for ``precision``; return its largest error against float64."""
    args64 = to_double(args)
    exact = plain(args64)
    same = relative_errors(plain(args), exact)
    if max(same) > SANE:
        raise AssertionError(f"reference: float32 differs from float64 by {max(same):.1e}, wanted at most {SANE:.0e}")
    errors, cost = relative_errors(got, exact), [0.0] * len(exact)
    if precision != "fp32":
        with rounded_operands(precision):
            cost = relative_errors(plain(args64), exact)
        if max(cost) > COST[precision]:
            wanted = f"wanted at most {COST[precision]}"
            raise AssertionError(f"reference: rounded to {precision} differs from float64 by {max(cost):.1e}, {wanted}")
    for i, error in enumerate(errors):
        few = exact[i].numel() < FEW
        allowed = FACTOR * ((max(cost) + max(same)) if few else cost[i] + same[i]) + floor
        if not error <= allowed:  # false for NaN
            raise AssertionError(f"{name} {i} of {len(got)}: error {error:.1e}, wanted at most {allowed:.1e}")
    return max(errors)
