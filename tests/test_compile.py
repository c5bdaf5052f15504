"""Compilers, exporters and transforms of torch on every registered op: a table of ops and of what works with them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stylenerf.kernels.base.register import differentiable, namespace
from stylenerf.kernels.blocks.mean_square import mean_square
from stylenerf.kernels.rays.importance import importance_sample
from stylenerf.kernels.rays.mlp import modulated_mlp
from tests.gradients import DEVICE, Op, cotangents
from tests.inputs import source
from tests.sweeps import sweep
from tests.test_fused_order import COMPOSED, CONSTANT, NARROW, RUNS, TABLE, make

GRAD = import_module("stylenerf.kernels.filters.bias_act_triton").bias_act_grad
WHOLE = import_module("stylenerf.kernels.blocks.upsample_block_triton").upsample_whole
OPS = sorted(differentiable | CONSTANT)
# in float32; not where fine samples fall by weights whose gradient does not count that
SMOOTH = differentiable - NARROW - {"hierarchical_pass"}
DERIVATIVES = ("gradcheck", "gradgradcheck")


def activation_slope(g: Tensor, kept: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    out: tuple[Tensor, ...] = GRAD(g, kept, b, 1, "swish", 0.0, 1.0, None, 1, True)
    return out


def narrow_block(*tensors: Tensor) -> Tensor:
    out: Tensor = WHOLE(*tensors, "nn_cat", True, 1.0, 2.0, False)
    return out


# calls that reach an op whose line in TABLE does not do, with the shapes of their arguments
OTHERS: dict[str, tuple[Op, dict[str, tuple[int, ...]]]] = {
    "bias_act_grad": (activation_slope, {"g": (2, 3, 4), "kept": (2, 3, 4), "b": (3,)}),
    "importance_sample": (partial(importance_sample, impl="triton"), {"edges": (2, 4), "w": (2, 3), "u": (2, 5)}),
    "square_sum": (partial(mean_square, impl="triton"), {"x": (2, 3, 4)}),
    "upsample_whole": (
        narrow_block,
        {"x": (1, 2, 3, 6), "w": (1, 8, 6), "w1": (4, 2), "b0": (2,), "b1": (4,), "b": (4,), "noise": (1, 4, 6)},
    ),
}


def call(name: str) -> tuple[Op, list[Tensor]]:
    """A function that runs the op, and arguments for it."""
    if name not in OTHERS:
        return TABLE[name].op("triton"), list(make(name).values())
    op, shapes = OTHERS[name]
    tensors = [torch.rand(shape, generator=source(i)).to(DEVICE) for i, shape in enumerate(shapes.values())]
    if name in NARROW:
        tensors[0] = tensors[0].half()
    return op, tensors


def gradients(op: Op, args: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of the arguments for random cotangents where there are any."""
    args = [x.detach().requires_grad_() for x in args]
    result = op(*args)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    moving = [o for o in outputs if o.requires_grad]
    drawn = cotangents(moving, torch.float32, 100)
    grads = torch.autograd.grad(moving, args, drawn, allow_unused=True, materialize_grads=True) if moving else []
    return [*(o.detach() for o in outputs), *grads]


class Calls(TorchDispatchMode):
    """Collects the arguments of our ops, the first call of each."""

    def __init__(self) -> None:
        super().__init__()
        self.args: dict[str, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == namespace():
            self.args.setdefault(func._opname, args)
        return func(*args, **(kwargs or {}))


def opcheck(name: str, op: Op, args: list[Tensor]) -> None:
    """Every test of ``torch.library.opcheck``, on the op and on the op of its backward."""
    with Calls() as calls:
        gradients(op, args)
    launches = {name, f"{name}_backward"} if name in differentiable - COMPOSED else {name}
    assert launches <= set(calls.args), f"the call does not reach {launches - set(calls.args)}"
    for each in launches:
        inputs = tuple(_leaf(x, each in differentiable) for x in calls.args[each])
        torch.library.opcheck(getattr(getattr(torch.ops, namespace()), each).default, inputs)


def _leaf(x: Any, with_grad: bool) -> Any:
    if isinstance(x, list):
        return [_leaf(t, with_grad) for t in x]
    return x.detach().requires_grad_(with_grad and x.is_floating_point()) if isinstance(x, Tensor) else x


def compiled(name: str, op: Op, args: list[Tensor], **how: Any) -> None:
    torch._dynamo.reset()
    want = gradients(op, args)
    got = gradients(torch.compile(op, fullgraph=True, **how), args)
    torch.testing.assert_close(got, want)


def autocast(name: str, op: Op, args: list[Tensor]) -> None:
    def within(*tensors: Tensor) -> Any:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            return op(*tensors)

    compiled(name, within, args, backend="aot_eager")


def export(name: str, op: Op, args: list[Tensor]) -> None:
    class Module(nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return op(*tensors)

    with torch.no_grad():
        program = torch.export.export(Module(), tuple(args), strict=True)
        torch.testing.assert_close(program.module()(*args), op(*args))


def vmap(name: str, op: Op, args: list[Tensor]) -> None:
    many = [torch.stack([x, 0.5 * x]) for x in args]
    got = torch.vmap(op)(*many)
    want = [op(*one) for one in zip(*many)]
    stacked = torch.stack(want) if isinstance(got, Tensor) else tuple(torch.stack(parts) for parts in zip(*want))
    torch.testing.assert_close(got, stacked)


def smooth(name: str, op: Op, args: list[Tensor]) -> tuple[Op, tuple[Tensor, ...]]:
    def moving(*tensors: Tensor) -> Any:
        result = op(*tensors)
        return result if isinstance(result, Tensor) else tuple(o for o in result if o.requires_grad)

    return moving, tuple(x.detach().requires_grad_() for x in args)


def gradcheck(name: str, op: Op, args: list[Tensor]) -> None:
    """In float32, in one random direction."""
    how: dict[str, Any] = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2, "fast_mode": True, "nondet_tol": 0.0}
    assert torch.autograd.gradcheck(*smooth(name, op, args), **how)


def gradgradcheck(name: str, op: Op, args: list[Tensor]) -> None:
    how: dict[str, Any] = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2, "fast_mode": True, "nondet_tol": 0.0}
    assert torch.autograd.gradgradcheck(*smooth(name, op, args), **how)


COLUMNS: dict[str, Callable[..., None]] = {
    "opcheck": opcheck,
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
    "fullgraph": partial(compiled, backend="aot_eager"),
    "dynamic shapes": partial(compiled, backend="aot_eager", dynamic=True),
    "inductor": partial(compiled, backend="inductor"),
    "inductor, dynamic": partial(compiled, backend="inductor", dynamic=True),
    "autocast": autocast,
    "export": export,
    "vmap": vmap,
}
CELLS = [(name, column) for name in OPS for column in COLUMNS if column not in DERIVATIVES or name in SMOOTH]
ALWAYS = [("composite", "opcheck"), ("modulated_mlp", "fullgraph")]


@pytest.mark.parametrize("name, column", sweep(CELLS, always=ALWAYS))
def test_table(name: str, column: str) -> None:
    COLUMNS[column](name, *call(name))


def scores(impl: Any, images: Tensor, weight: Tensor) -> Tensor:
    return modulated_mlp(images, [weight], [torch.zeros(4)], precision="fp32", impl=impl).square().sum()


def penalty(images: Tensor, weight: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(scores("triton", images, weight), images, create_graph=True)
    return slope.square().sum()


def plain_penalty(images: Tensor, weight: Tensor) -> Tensor:
    return torch.func.grad(partial(scores, "ref"))(images, weight).square().sum()


@pytest.mark.parametrize("function", sweep([penalty, plain_penalty], always=[penalty]))
def test_r1_inside_a_compiled_function(function: Callable[..., Tensor]) -> None:
    args = [torch.randn(5, 4, generator=source(1)), torch.randn(4, 4, generator=source(2))]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=function is penalty):
        got = gradients(torch.compile(function, backend="aot_eager", fullgraph=True), args)
    torch.testing.assert_close(got, gradients(penalty, args))


def test_gradient_of_a_sum() -> None:
    """It is one number, expanded, which a kernel must not take for many."""
    args = list(RUNS["single_pass"].inputs().values())

    def light(of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return gradients(lambda *x: of(TABLE["single_pass"].op("triton")(*x)[5]), args)

    torch.testing.assert_close(light(torch.sum), light(lambda t: (t * torch.ones_like(t)).sum()))
