"""Outputs and gradients of one op by two implementations, side by side."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.closeness import assert_each_no_worse_than_torch
from tests.inputs import source
from tests.roundings import several_roundings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # where kernels run; interpreted on a CPU
CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration")  # of opcheck
Op = Callable[..., Tensor | tuple[Tensor, ...]]


def leaves(inputs: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The inputs as leaves of a new graph, strides kept."""
    return {name: x.detach().to(dtype or x.dtype).requires_grad_() for name, x in inputs.items()}


def cotangents(outputs: list[Tensor], dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Random numbers of ``dtype``, the same whatever the outputs are computed in."""
    drawn = [torch.randn(o.shape, generator=source(seed + i), dtype=torch.float64) for i, o in enumerate(outputs)]
    return [c.to(dtype).to(o) for c, o in zip(drawn, outputs)]


def outputs_and_gradients(op: Op, inputs: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """What ``op(*inputs)`` returns, and the gradient of every input for random cotangents."""
    args = leaves(inputs, dtype)
    drawn_in = next(iter(inputs.values())).dtype
    result = op(*args.values())
    outputs = [result] if isinstance(result, Tensor) else list(result)
    grads = torch.autograd.grad(
        outputs, list(args.values()), cotangents(outputs, drawn_in, 100), allow_unused=True, materialize_grads=True
    )
    named = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    return named | {f"gradient of {name}": g for name, g in zip(args, grads)}


def assert_kernel_matches(kernel: Op, reference: Op, inputs: dict[str, Tensor]) -> None:
    """Outputs and every gradient of ``kernel`` are as near to the reference in float64 as plain torch is."""
    got = outputs_and_gradients(kernel, inputs)
    plain = several_roundings(lambda: outputs_and_gradients(reference, inputs))
    exact = outputs_and_gradients(reference, inputs, torch.float64)
    assert_each_no_worse_than_torch(got, plain, exact)


def derivatives(op: Op, inputs: dict[str, Tensor], orders: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """By order and input: the gradient of a random projection of the outputs, of one of those gradients, and so on."""
    args, drawn_in = leaves(inputs, dtype), next(iter(inputs.values())).dtype
    result = op(*args.values())
    values = [result] if isinstance(result, Tensor) else list(result)
    found: dict[str, Tensor] = {}
    for order in range(1, orders + 1):
        drawn = cotangents(values, drawn_in, 100 * order)
        pairs = [(v, c) for v, c in zip(values, drawn) if v.requires_grad]
        values = [torch.zeros_like(x) for x in args.values()]
        if pairs:
            outputs, weights = zip(*pairs)
            options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
            values = list(torch.autograd.grad(outputs, list(args.values()), weights, **options))
        found |= {f"derivative {order} along {name}": v.detach() for name, v in zip(args, values)}
    return found


def assert_derivatives_match(kernel: Op, reference: Op, inputs: dict[str, Tensor], orders: int = 2) -> None:
    """Derivatives up to ``orders`` are as near to those of the reference in float64 as plain torch's are."""
    got = derivatives(kernel, inputs, orders)
    plain = several_roundings(lambda: derivatives(reference, inputs, orders))
    exact = derivatives(reference, inputs, orders, torch.float64)
    assert_each_no_worse_than_torch(got, plain, exact)
