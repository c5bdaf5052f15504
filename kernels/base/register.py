"""Registration of ops with torch: every launch, in a backward too, lies inside a registered op.

    <name>            the forward's launches
    <name>_backward   the backward's launches: a compiler records this op, as it records the forward
    plain             the outputs by torch's own ops; the backward under create_graph=True differentiates it

A backward that consists of registered ops and torch's own needs neither of the last two.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from .autocast import autocast_enabled

# names of the registered ops that have a backward; every one must be in the table of tests/test_fused_order.py
differentiable: set[str] = set()

Grads = Sequence[Tensor | None]
# gradients of the outputs, inputs, kept outputs, which inputs need a gradient -> gradients of the first inputs
Backward = Callable[[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[Any]], Sequence[Any]]
Plain = Callable[[Sequence[Any], Sequence[Any]], Any]  # inputs, kept outputs -> outputs
SetupContext = Callable[[Any, tuple[Any, ...], Any], None]


def namespace() -> str:
    """torch.library namespace of this copy of the folder, so that several copies live in one process."""
    return __name__.removesuffix(".base.register").replace(".", "_")


def register(
    forward: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    backward: Backward | None = None,
    plain: Plain | None = None,
    keep: Sequence[int] = (),
) -> Callable[..., Any]:
    """Register ``forward`` as a torch op under its own name, so that torch.compile, opcheck and autograd know it.

    Args:
        forward: allocates, launches, returns new tensors; its annotations are the op's schema.
        fake: same arguments, returns empty tensors of the right shapes.
        backward: allocates and launches. An input that needs a gradient gets one of its own shape and type, or None
            for zeros; the gradients of the outputs are contiguous.
        plain: the definition, differentiable to any order.
        keep: indices of the outputs that ``backward`` and ``plain`` read; they read every input.
    """
    name = forward.__name__.strip("_")
    op = torch.library.custom_op(f"{namespace()}::{name}", forward, mutates_args=())
    op.register_fake(fake)
    op.register_vmap(_one_by_one(op))
    if backward is not None and plain is not None:
        launches = _register_backward(name, forward, backward)
        differentiate(op, *_through(launches, plain, keep))
    return op


def differentiate(op: Any, save: SetupContext, backward: Callable[..., Any]) -> None:
    """Give a registered op a ``backward`` (ctx, *grads) of registered ops and torch's own: right at any order."""
    op.register_autograd(_without_autocast(backward), setup_context=save)
    differentiable.add(op._name)


def _one_by_one(op: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.vmap`` by a loop; torch's own loop takes no lists of tensors."""

    def run(info: Any, dims: Sequence[Any], *inputs: Any) -> tuple[Any, Any]:
        tensors, along = _flat(inputs, inputs), _flat(inputs, dims)
        results = []
        for i in range(info.batch_size):
            each = [t if dim is None else t.select(dim, i) for t, dim in zip(tensors, along)]
            results.append(op(*_nested(inputs, each, inputs)))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results)), (0,) * len(results[0])

    return run


def _register_backward(name: str, forward: Callable[..., Any], backward: Backward) -> Callable[..., list[Tensor]]:
    """The gradients that are needed, as an op: of the outputs' gradients, kept outputs, flags and the op's inputs."""

    def launches(grads: Grads, kept: Sequence[Tensor], needed: Sequence[bool], *inputs: Any) -> list[Tensor]:
        grads = [None if g is None else g.contiguous() for g in grads]  # that of a sum is one number, expanded
        found = backward(grads, inputs, kept, _nested(inputs, needed))
        wanted = [pair for pair, need in zip(zip(_flat(inputs, inputs), _flat(inputs, found)), needed) if need]
        return [x.new_zeros(x.shape) if grad is None else _own(grad) for x, grad in wanted]

    def shapes(grads: Grads, kept: Sequence[Tensor], needed: Sequence[bool], *inputs: Any) -> list[Tensor]:
        return [x.new_empty(x.shape) for x, need in zip(_flat(inputs, inputs), needed) if need]

    arguments = torch.library.infer_schema(forward, mutates_args=()).rpartition(") -> ")[0].removeprefix("(")
    schema = f"(Tensor?[] grads, Tensor[] kept, bool[] needed, {arguments}) -> Tensor[]"
    op = torch.library.custom_op(f"{namespace()}::{name}_backward", launches, mutates_args=(), schema=schema)
    op.register_fake(shapes)
    return op


def _through(
    launches: Callable[..., list[Tensor]], plain: Plain, keep: Sequence[int]
) -> tuple[SetupContext, Callable[..., Any]]:
    """Save inputs and kept outputs; gradients from ``launches``, or with a graph from ``plain``."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = (output,) if isinstance(output, Tensor) else output
        ctx.save_for_backward(*(outputs[i] for i in keep), *_flat(inputs, inputs))
        ctx.inputs = _nested(inputs, repeat(SAVED), inputs)
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        kept, tensors = ctx.saved_tensors[: len(keep)], ctx.saved_tensors[len(keep) :]
        inputs = _nested(ctx.inputs, tensors, ctx.inputs)
        needed = _flat(inputs, ctx.needs_input_grad)
        if torch.is_grad_enabled():
            found = differentiable_gradients(lambda *x: plain(_nested(inputs, x, inputs), kept), tensors, grads)
        elif any(g is not None for g in grads):
            left = iter(launches(list(grads), list(kept), needed, *inputs))
            found = tuple(next(left) if need else None for need in needed)
        else:
            found = (None,) * len(tensors)
        return tuple(_nested(inputs, found))

    return save, backward


SAVED = torch.empty(0)  # stands for a tensor that the graph holds


def _is_list(x: Any) -> bool:
    return isinstance(x, list) and len(x) > 0 and isinstance(x[0], Tensor)


def _flat(inputs: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """What ``values`` holds for each tensor among ``inputs``, those in lists too."""
    flat: list[Any] = []
    for x, value in zip(inputs, values):
        flat += value if _is_list(x) else [value] if isinstance(x, Tensor) else []
    return flat


def _nested(inputs: Sequence[Any], values: Iterable[Any], others: Iterable[Any] = repeat(None)) -> list[Any]:
    """Inverse of ``_flat``: the next of ``values`` for each tensor among ``inputs``, else what ``others`` has."""
    left = iter(values)
    return [
        [next(left) for _ in x] if _is_list(x) else next(left) if isinstance(x, Tensor) else other
        for x, other in zip(inputs, others)
    ]


def _own(t: Tensor) -> Tensor:
    """Contiguous and in memory of its own: results of a registered op may not share any."""
    alone = t.is_contiguous() and t.untyped_storage().nbytes() == t.numel() * t.element_size() > 0
    return t if alone else t.clone(memory_format=torch.contiguous_format)


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
