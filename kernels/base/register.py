"""Registration of ops with torch, with backward passes that are correct at any order."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .autocast import autocast_enabled

# names of the registered ops that have a backward; every one must be in the table of tests/test_fused_order.py
differentiable: set[str] = set()


def namespace() -> str:
    """torch.library namespace of this copy of the folder, so that several copies live in one process."""
    return __name__.removesuffix(".base.register").replace(".", "_")


def register(
    forward: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register ``forward`` as a torch op under its own name, so that torch.compile, opcheck and autograd know it.

    Args:
        forward: allocates, launches, returns new tensors; its annotations are the op's schema.
        fake: same arguments, returns empty tensors of the right shapes.
        save: (ctx, inputs, output), keeps what the backward needs.
        backward: (ctx, *grad_outputs), one entry per input. It must first check ``torch.is_grad_enabled()``, which is
            True only under create_graph=True, and then return :func:`differentiable_gradients`.
    """
    op = torch.library.custom_op(f"{namespace()}::{forward.__name__.strip('_')}", forward, mutates_args=())
    op.register_fake(fake)
    if backward is not None:
        op.register_autograd(_without_autocast(backward), setup_context=save)
        differentiable.add(forward.__name__.strip("_"))
    return op


def _without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """``backward`` with autocast disabled, so that it computes in the types of the forward."""

    @wraps(backward)
    def run(ctx: Any, *grads: Tensor | None) -> Any:
        devices = {g.device for g in grads if isinstance(g, Tensor)}
        for device in devices:
            if autocast_enabled(device):
                with torch.autocast(device.type, enabled=False):
                    return backward(ctx, *grads)
        return backward(ctx, *grads)

    return run


def differentiable_gradients(
    reference: Callable[..., Any], inputs: Sequence[Any], grad_outputs: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients with a graph: run the plain torch ``reference`` on the inputs and differentiate it.

    The route of a backward under create_graph=True (path length, R1): correct at any order, at the plain form's cost.
    """
    # aliases: an input may be computed from another, and autograd adds that path's gradient itself
    inputs = [x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x for x in inputs]
    outputs = reference(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    pairs = [(o, g) for o, g in zip(outputs, grad_outputs) if g is not None and o is not None and o.requires_grad]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    grads: list[Tensor | None] = [None] * len(leaves)
    if pairs and leaves:
        grads = list(
            torch.autograd.grad(
                [o for o, _ in pairs], leaves, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return tuple(grads.pop(0) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs)
