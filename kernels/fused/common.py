"""What the fused ops share: one way to launch a kernel, one to register an op, and the formats of matrix operands."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..autocast import autocast_enabled

Precision = Literal["fp16", "bf16", "tf32", "fp32"]

# Triton decides at decoration whether kernels are compiled or interpreted, so this is a constant of the process.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
PI = tl.constexpr(3.141592653589793)
MOST_PROGRAMS, MOST_IN_SECOND = 2**31 - 1, 65535  # CUDA's limits on the dimensions of a grid
ROUND_TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds a float32 to an integer


class Operands(NamedTuple):
    """How matrix operands are held and multiplied; accumulators are float32 throughout."""

    storage: torch.dtype
    triton: tl.dtype
    input_precision: str


OPERANDS: dict[str, Operands] = {
    "fp16": Operands(torch.float16, tl.float16, "ieee"),
    "bf16": Operands(torch.bfloat16, tl.bfloat16, "ieee"),
    "tf32": Operands(torch.float32, tl.float32, "tf32"),
    "fp32": Operands(torch.float32, tl.float32, "ieee"),
}


@triton.jit
def dot(a, b, acc, INPUT_PRECISION: tl.constexpr):
    """acc + a @ b in float32."""
    if INTERPRETED and a.dtype == tl.bfloat16:  # the interpreter holds bfloat16 as integers and multiplies those
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc, input_precision=INPUT_PRECISION)


@triton.jit
def to_operand(x, DT: tl.constexpr):
    """Round a float32 tile to the operand type, to nearest also where the interpreter would cut off."""
    if INTERPRETED and DT == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DT)


@triton.jit
def leaky_relu(z, slope):
    """max(z, slope z), for slopes from 0 to 1."""
    return tl.maximum(z, slope * z)


@triton.jit
def sin_cos_pi(t):
    """sin(pi t), cos(pi t) of a float32 tile, error below 1e-6: t is reduced to [-1, 1] exactly, then one MUFU each."""
    period = (0.5 * t + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
    angle = tl.fma(period, -2.0, t) * PI
    if INTERPRETED:
        return tl.sin(angle), tl.cos(angle)
    return libdevice.fast_sinf(angle), libdevice.fast_cosf(angle)


@dataclass(frozen=True)
class Launch:
    """One launch as the runtime would see it; what ``python -m kernels.inspect`` compiles ahead of time."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    num_warps: int
    num_stages: int


# names of the registered ops that have a backward; every one must be in the table of tests/test_fused_order.py
differentiable: set[str] = set()

_recording: list[Launch] | None = None
_target: int | None = None


def launch(kernel: Any, grid: tuple[int, ...], *, num_warps: int = 4, num_stages: int = 1, **args: Any) -> None:
    """Launch ``kernel`` by keyword; an empty grid launches nothing, one that CUDA cannot take is refused."""
    if 0 in grid:
        return
    if grid[0] > MOST_PROGRAMS or any(size > MOST_IN_SECOND for size in grid[1:]):
        raise RuntimeError(
            f"a launch may have {MOST_PROGRAMS} programs, and {MOST_IN_SECOND} along its second dimension, got "
            f"{list(grid)}: split the batch, or take impl='ref'"
        )
    if _recording is not None:
        _recording.append(Launch(kernel, grid, args, num_warps, num_stages))
        return
    kernel[grid](**args, num_warps=num_warps, num_stages=num_stages)


@contextmanager
def record_launches(target: int) -> Iterator[list[Launch]]:
    """Collect launches instead of making them, as they would be on compute capability ``target`` (80, 90, ...).

    The tensors may be on the meta device, so that real shapes cost nothing.
    """
    global _recording, _target
    before = _recording, _target
    _recording, _target = [], target
    try:
        yield _recording
    finally:
        _recording, _target = before


def compute_capability(device: torch.device) -> int:
    """80 for sm_80 and so on: of ``device``, or of the target of :func:`record_launches`; 90 under the interpreter."""
    if _target is not None:
        return _target
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def has_warp_group_products(device: torch.device) -> bool:
    """sm_90 and sm_100: four warps multiply together, and 227 KiB of shared memory; elsewhere one warp multiplies."""
    return compute_capability(device) // 10 in (9, 10)


def namespace() -> str:
    """torch.library namespace of this copy of the folder, so that several copies live in one process."""
    return __name__.rpartition(".")[0].replace(".", "_")


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
        backward: (ctx, *grad_outputs), one entry per input. Its first act must be to ask ``torch.is_grad_enabled()``,
            which is True only under create_graph=True, and then to take :func:`differentiable_gradients`.
    """
    op = torch.library.custom_op(f"{namespace()}::{forward.__name__.strip('_')}", forward, mutates_args=())
    op.register_fake(fake)
    if backward is not None:
        op.register_autograd(_without_autocast(backward), setup_context=save)
        differentiable.add(forward.__name__.strip("_"))
    return op


def _without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """``backward`` in the types of the forward, whatever the context it is called in."""

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
    """Gradients as a graph of their own: run the plain torch ``reference`` on the inputs and differentiate that.

    What a backward does under create_graph=True (path length, R1): right at any order, at the plain form's cost.
    """
    # aliases, since one input may be computed from another: what reaches it by that way is the caller's to add
    inputs = [x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x for x in inputs]
    outputs = reference(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    pairs = [(o, g) for o, g in zip(outputs, grad_outputs) if g is not None and o is not None and o.requires_grad]
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    grads: list[Tensor | None] = [None] * len(wanted)
    if pairs and wanted:
        grads = list(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return tuple(grads.pop(0) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs)
