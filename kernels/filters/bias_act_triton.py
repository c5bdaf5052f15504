"""bias_act and its derivatives: y = clamp(gain act(x + b), -c, c) in one pass over x in its memory format.
The n-th derivative is g gain act^(n)(x + b) inside the clamp and 0 outside. It is a separate op, ``bias_act_grad``,
linear in g; its derivative in x is the same op with n + 1, so these kernels serve every order. The same pass sums over
all dims but the channels, which gives the bias's gradient. Piecewise linear activations save y for the backward, the
others x. Bytes moved: forward x, y; backward g, y or x, and grad_x.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.operands import to_operand
from ..base.register import differentiate, register
from .activation import activate, derivative, series_of_sigmoid

BLOCK = 2048  # elements of a tile
PIECEWISE = ("linear", "relu", "lrelu")  # the sign of y determines their derivative


@triton.jit
def _tile(R, L, blocks_l, BLOCK_R: tl.constexpr, BLOCK_L: tl.constexpr):
    """First row, columns, offsets and mask of this program's tile of an [R, L] array."""
    row_0 = (tl.program_id(0) // blocks_l).to(tl.int64) * BLOCK_R
    columns = (tl.program_id(0) % blocks_l).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    rows = row_0 + tl.arange(0, BLOCK_R)
    return row_0, columns, rows[:, None] * L + columns[None, :], (rows < R)[:, None] & (columns < L)[None, :]


@triton.jit
def _load_bias(b_ptr, row_0, columns, channels, BIAS: tl.constexpr, BLOCK_R: tl.constexpr):
    """Biases to add to a tile: one channel per column, or channels cyclic over rows."""
    if BIAS == "columns":
        b = tl.load(b_ptr + columns, mask=columns < channels, other=0.0)[None, :]
    else:
        channel = ((row_0 % channels).to(tl.int32) + tl.arange(0, BLOCK_R)) % channels
        b = tl.load(b_ptr + channel)[:, None]
    return b.to(tl.float32)


@triton.jit
def _bias_act_kernel(
    y_ptr, x_ptr, b_ptr,
    R, L, channels, blocks_l, alpha, gain, clamp,
    ACT: tl.constexpr, BIAS: tl.constexpr, HAS_CLAMP: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row_0, columns, offs, mask = _tile(R, L, blocks_l, BLOCK_R, BLOCK_L)
    v = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if BIAS != "none":
        v += _load_bias(b_ptr, row_0, columns, channels, BIAS, BLOCK_R)
    y = gain * activate(v, alpha, ACT)
    if HAS_CLAMP:
        y = tl.where(y > clamp, clamp, tl.where(y < -clamp, -clamp, y))
    tl.store(y_ptr + offs, to_operand(y, y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _bias_act_grad_kernel(
    out_ptr, sums_ptr, g_ptr, kept_ptr, b_ptr,
    R, L, channels, blocks_l, alpha, gain, clamp,
    ACT: tl.constexpr, ORDER: tl.constexpr, SERIES: tl.constexpr, FROM_Y: tl.constexpr,
    BIAS: tl.constexpr, HAS_CLAMP: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row_0, columns, offs, mask = _tile(R, L, blocks_l, BLOCK_R, BLOCK_L)
    g = tl.load(g_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(kept_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if FROM_Y:
        out = g * gain * derivative(v * gain, alpha, ACT, ORDER, SERIES)
        if HAS_CLAMP:  # y holds the bound rounded to y's dtype
            bound = to_operand(tl.full([1, 1], clamp, tl.float32), kept_ptr.dtype.element_ty).to(tl.float32)
            out = tl.where(tl.abs(v) < bound, out, 0.0)
    else:
        if BIAS != "none":
            v += _load_bias(b_ptr, row_0, columns, channels, BIAS, BLOCK_R)
        out = g * gain * derivative(v, alpha, ACT, ORDER, SERIES)
        if HAS_CLAMP:
            out = tl.where(tl.abs(gain * activate(v, alpha, ACT)) <= clamp, out, 0.0)
    tl.store(out_ptr + offs, to_operand(out, out_ptr.dtype.element_ty), mask=mask)
    if SUMS == "columns":
        sums = tl.sum(tl.where(mask, out, 0.0), axis=0)
        tl.store(sums_ptr + (row_0 // BLOCK_R) * L + columns, sums, mask=columns < L)
    elif SUMS == "rows":
        sums = tl.sum(tl.where(mask, out, 0.0), axis=1)
        rows = row_0 + tl.arange(0, BLOCK_R)
        tl.store(sums_ptr + rows * blocks_l + tl.program_id(0) % blocks_l, sums, mask=rows < R)


def _keeps_y(act: str, alpha: float) -> bool:
    """Whether the backward can use y, which the next layer saves anyway, instead of x."""
    return act in ("linear", "relu") or (act == "lrelu" and alpha >= 0)


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """x in the strides of ``like``."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def _tiling(x: Tensor, dim: int | None) -> tuple[str, dict[str, int]]:
    """A dense x as an [R, L] array: whether "rows" or "columns" are entries of ``dim``; sizes and tile."""
    channels = 1 if dim is None else x.shape[dim]
    inner = x.numel() if channels == 1 or dim is None else x.stride(dim)  # consecutive elements of a channel
    lie = "columns" if inner == 1 else "rows"
    length = channels if inner == 1 else inner
    R = x.numel() // max(length, 1)
    block_l = min(triton.next_power_of_2(max(length, 1)), BLOCK)
    return lie, {
        "R": R,
        "L": length,
        "channels": channels,
        "blocks_l": triton.cdiv(length, block_l),
        "BLOCK_R": min(triton.next_power_of_2(max(R, 1)), BLOCK // block_l),
        "BLOCK_L": block_l,
    }


def _launch(kernel: Any, tile: dict[str, int], **args: Any) -> None:
    warps = max(min(tile["BLOCK_R"] * tile["BLOCK_L"] // 512, 4), 1)  # 16 elements a thread
    grid = (triton.cdiv(tile["R"], tile["BLOCK_R"]) * tile["blocks_l"],)
    launch(kernel, grid, num_warps=warps, **args, **tile)


def launch_bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    inplace: bool = False,
) -> Tensor:
    """A new y, or x itself with ``inplace``, where x has no gaps and no overlaps."""
    if inplace and x.stride() == torch.empty_like(x, device="meta").stride():
        y = x
    else:
        y = torch.empty_like(x)
        x = _dense(x, y)
    lie, tile = _tiling(x, None if b is None else dim)
    _launch(
        _bias_act_kernel,
        tile,
        y_ptr=y,
        x_ptr=x,
        b_ptr=None if b is None else b.contiguous(),
        alpha=float(alpha),
        gain=float(gain),
        clamp=0.0 if clamp is None else float(clamp),
        ACT=act,
        BIAS="none" if b is None else lie,
        HAS_CLAMP=clamp is not None,
    )
    return y


def _bias_act_grad(
    g: Tensor,
    kept: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    order: int,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    """g gain act^(order), and its sums over all dims but ``dim`` in float32, an empty tensor unless ``with_sums``."""
    out = torch.empty_like(kept)
    g, kept = _dense(g, out), _dense(kept, out)
    lie, tile = _tiling(out, dim if with_sums or b is not None else None)
    sums = torch.empty(0, device=g.device)
    if with_sums:
        parts = triton.cdiv(tile["R"], tile["BLOCK_R"]) if lie == "columns" else tile["R"]
        sums = torch.empty(parts, tile["L"] if lie == "columns" else tile["blocks_l"], device=g.device)
    _launch(
        _bias_act_grad_kernel,
        tile,
        out_ptr=out,
        sums_ptr=sums if with_sums else None,
        g_ptr=g,
        kept_ptr=kept,
        b_ptr=None if b is None else b.contiguous(),
        alpha=float(alpha),
        gain=float(gain),
        clamp=0.0 if clamp is None else float(clamp),
        ACT=act,
        ORDER=order,
        SERIES=series_of_sigmoid(order),
        FROM_Y=_keeps_y(act, alpha),
        BIAS="none" if b is None else lie,
        HAS_CLAMP=clamp is not None,
        SUMS=lie if with_sums else "none",
    )
    if with_sums and lie == "columns":
        sums = sums.sum(0)
    elif with_sums:
        channels = tile["channels"]
        sums = sums.reshape(tile["R"] // max(channels, 1), channels, tile["blocks_l"]).sum((0, 2))
    return out, sums


def _bias_act_grad_fake(g: Tensor, kept: Tensor, b: Tensor | None, dim: int, *options: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(kept), g.new_empty(kept.shape[dim] if options[-1] else 0, dtype=torch.float32)


def _save_grad(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    g, kept, b, *ctx.options, _ = inputs
    ctx.dtype = g.dtype
    ctx.save_for_backward(None if inputs[4] in PIECEWISE else g, kept, b)
    ctx.set_materialize_grads(False)


def _bias_act_grad_backward(ctx: Any, grad_out: Tensor | None, grad_sums: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradient in g: linear. Gradient in x + b: the next derivative."""
    g, kept, b = ctx.saved_tensors
    dim, act, *_, order = ctx.options
    if grad_sums is not None:
        spread = grad_sums.reshape([-1 if i == dim else 1 for i in range(kept.ndim)]).expand(kept.shape)
        grad_out = spread if grad_out is None else grad_out + spread
    grad_g = grad_kept = grad_b = None
    if grad_out is not None and ctx.needs_input_grad[0]:
        grad_g = bias_act_grad(grad_out, kept, b, *ctx.options, False)[0].to(ctx.dtype)
    if grad_out is not None and act not in PIECEWISE and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        product = grad_out.float() * g  # of two small numbers: fp16 would underflow
        options = (*ctx.options[:-1], order + 1)
        grad_kept, sums = bias_act_grad(product, kept, b, *options, ctx.needs_input_grad[2])
        grad_b = sums.to(b.dtype) if ctx.needs_input_grad[2] else None
    return (grad_g, grad_kept, grad_b, *(None,) * 7)


bias_act_grad = register(_bias_act_grad, fake=_bias_act_grad_fake)
differentiate(bias_act_grad, _save_grad, _bias_act_grad_backward)


def _bias_act(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return launch_bias_act(x, b, dim, act, alpha, gain, clamp)


def _bias_act_fake(x: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, *ctx.options = inputs
    _, act, alpha, _, clamp = ctx.options
    ctx.bias_dtype = None if b is None else b.dtype
    if act == "linear" and clamp is None:
        ctx.save_for_backward(None, None)
    elif _keeps_y(act, alpha):
        ctx.save_for_backward(output, None)
    else:
        ctx.save_for_backward(x, b)


def _bias_act_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Composed of registered and torch ops, so differentiable."""
    kept, b = ctx.saved_tensors
    dim, gain = ctx.options[0], ctx.options[3]
    of_bias = ctx.needs_input_grad[1]
    grad_b = None
    if kept is None:
        grad_x = grad if gain == 1 else grad * gain
        if of_bias:
            grad_b = grad_x.sum([i for i in range(grad.ndim) if i != dim], dtype=torch.float32)
    else:
        grad_x, sums = bias_act_grad(grad, kept, b, *ctx.options, 1, of_bias)
        grad_b = sums if of_bias else None
    return (grad_x, None if grad_b is None else grad_b.to(ctx.bias_dtype), *(None,) * 5)


registered = register(_bias_act, fake=_bias_act_fake)
differentiate(registered, _save, _bias_act_backward)


def bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    inplace: bool,
) -> Tensor:
    """All arguments given. Returns x itself for the identity; overwrites x where no gradient is recorded."""
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    recording = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    # a launch that is no registered op is for eager calls: a graph would not hold it
    if inplace and not recording and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        y = launch_bias_act(x, b, dim, act, alpha, gain, clamp, inplace=True)
        if y is x:
            torch.autograd.graph.increment_version(x)
        return y
    return registered(x, b, dim, act, alpha, gain, clamp)
