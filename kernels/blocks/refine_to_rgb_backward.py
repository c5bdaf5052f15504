"""Gradients of a block's tail: in one pass over the pixels where both layers' weights fit a program, else in three.

    dr = d image' where |v y + b'| < clamp,   dy = d y + v^T dr,   dz = dy lrelu'(y) where |y| < clamp
    dx = w^T dz,   dw = sum dz x^T,   db = sum dz,   dv = sum dr y^T,   db' = sum dr

y is recomputed from x, which costs a product and moves no more bytes than reading y. In the narrow form, a program
iterates over its share of an image and keeps all weights and their gradients on the chip: x and the incoming gradients
are read once, dx is written once. The wide form writes dz, and the kernels of ``linear`` compute dx and dw. Shares of
the weights' gradients are added in a fixed order.

In the products that give the weights' gradients, the transposed factor is x, which was loaded, or the gradient of the
colours, whose transpose has 16 rows: other results, transposed, would meet ``turned_product`` of ``base/faults.py``.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.gate import scale_of
from ..base.launch import launch
from ..base.linear import launch_dgrad, launch_wgrad
from ..base.operands import OPERANDS, dot, to_operand
from .refine_to_rgb_forward import NARROW, Packed, Tail, activated, colours, constants_of, features
from .upsample_block_forward import rounded

PROGRAMS = 264  # of the narrow form, over all images: two on each of 132 multiprocessors; fixed, see ``linear``


@triton.jit
def colour_gradient(
    y, grad_out_ptr, rgb_weight_ptr, rgb_bias_ptr, offs_m, mask_m, P, clamp,
    CLAMPED: tl.constexpr, C: tl.constexpr, O: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dr of consecutive pixels [BLOCK_M, SIDE], zero beyond O; ``grad_out_ptr`` is at the first one's first colour."""
    offs_o = tl.arange(0, SIDE)
    grad = tl.zeros([BLOCK_M, SIDE], tl.float32)
    for o in tl.static_range(O):
        g = tl.load(grad_out_ptr + o * P + offs_m, mask=mask_m, other=0.0)
        grad = tl.where((offs_o == o)[None, :], g[:, None], grad)
    if CLAMPED:
        rgb = colours(y, rgb_weight_ptr, rgb_bias_ptr, C, O, INPUT_PRECISION, BLOCK_C, SIDE)
        grad = tl.where(tl.abs(rgb) < clamp, grad, 0.0)
    return grad


@triton.jit
def sum_gradient(
    y, grad_rgb, grad_y_ptr, rgb_weight_ptr, row, offs, mask, scale, slope, limit,
    GRAD_Y: tl.constexpr, CLAMPED: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr,  # noqa: E741
    INPUT_PRECISION: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dz as an operand; dz and ``grad_rgb``, also an operand, are multiplied by ``scale``."""
    offs_c, offs_o = tl.arange(0, BLOCK_C), tl.arange(0, SIDE)
    rgb_weight = tl.load(
        rgb_weight_ptr + offs_o[:, None] * C + offs_c[None, :], mask=(offs_o < O)[:, None] & (offs_c < C)[None, :],
        other=0.0,
    )  # fmt: skip
    grad = dot(grad_rgb, rgb_weight, tl.zeros([BLOCK_M, BLOCK_C], tl.float32), INPUT_PRECISION)
    if GRAD_Y:
        grad += tl.load(grad_y_ptr + row * C + offs, mask=mask, other=0.0).to(tl.float32) * scale
    out = y.to(tl.float32)
    grad = grad * tl.where(out > 0, 1.0, slope)
    if CLAMPED:
        grad = tl.where(tl.abs(out) < limit, grad, 0.0)
    return to_operand(grad, DT)


@triton.jit
def _wide_kernel(
    grad_z_ptr, grad_rgb_weight_ptr, grad_rgb_bias_ptr, grad_y_ptr, grad_out_ptr,
    x_ptr, weight_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr, scale_ptr,
    repeat, P, tiles, slope, clamp, limit,
    GRAD_Y: tl.constexpr, CLAMPED: tl.constexpr,
    I: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dz times ``scale``, and a share of the gradients of the colours' weight and bias."""
    n = (tl.program_id(0) // tiles).to(tl.int64)
    offs_m, offs_c, offs_o = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C), tl.arange(0, SIDE)
    mask_c, mask_o = offs_c < C, offs_o < O
    weight_ptr += n // repeat * C * I
    rgb_weight_ptr += n // repeat * O * C
    scale = tl.load(scale_ptr)
    first = tl.program_id(0) % tiles * BLOCK_M
    mask_m = first + offs_m < P
    row = n * P + first
    offs, mask = offs_m[:, None] * C + offs_c[None, :], mask_m[:, None] & mask_c[None, :]
    y = features(
        x_ptr + row * I, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
        I, C, CLAMPED, DT, INPUT_PRECISION, STAGES, BLOCK_M, BLOCK_K, BLOCK_C,
    )  # fmt: skip
    grad_rgb = colour_gradient(
        y, grad_out_ptr + n * O * P + first, rgb_weight_ptr, rgb_bias_ptr, offs_m, mask_m, P, clamp,
        CLAMPED, C, O, INPUT_PRECISION, SIDE, BLOCK_M, BLOCK_C,
    )  # fmt: skip
    part = tl.program_id(0).to(tl.int64) * O
    tl.store(grad_rgb_bias_ptr + part + offs_o, tl.sum(grad_rgb, axis=0), mask=mask_o)
    operand = to_operand(grad_rgb * scale, DT)
    grad_weight = dot(tl.trans(operand), y, tl.zeros([SIDE, BLOCK_C], tl.float32), INPUT_PRECISION) / scale
    offs_part = (part + offs_o)[:, None] * C + offs_c[None, :]
    tl.store(grad_rgb_weight_ptr + offs_part, grad_weight, mask=mask_o[:, None] & mask_c[None, :])
    grad_z = sum_gradient(
        y, operand, grad_y_ptr, rgb_weight_ptr, row, offs, mask, scale, slope, limit,
        GRAD_Y, CLAMPED, C, O, DT, INPUT_PRECISION, SIDE, BLOCK_M, BLOCK_C,
    )  # fmt: skip
    tl.store(grad_z_ptr + row * C + offs, grad_z, mask=mask)


@triton.jit
def _narrow_kernel(
    grad_x_ptr, grad_weight_ptr, grad_bias_ptr, grad_rgb_weight_ptr, grad_rgb_bias_ptr, grad_y_ptr, grad_out_ptr,
    x_ptr, weight_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr, scale_ptr,
    repeat, P, programs, rounds, gain, slope, clamp, limit,
    GRAD_Y: tl.constexpr, CLAMPED: tl.constexpr,
    I: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx, and a share of the gradients of both layers' weights and biases; BLOCK_K covers all of I."""
    n = (tl.program_id(0) // programs).to(tl.int64)
    offs_m, offs_k, offs_c, offs_o = (
        tl.arange(0, BLOCK_M),
        tl.arange(0, BLOCK_K),
        tl.arange(0, BLOCK_C),
        tl.arange(0, SIDE),
    )
    mask_k, mask_c, mask_o = offs_k < I, offs_c < C, offs_o < O
    rgb_weight_ptr += n // repeat * O * C
    scale = tl.load(scale_ptr)
    weight_ptr += n // repeat * C * I
    bias = tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0)
    acc_weight, acc_bias = tl.zeros([BLOCK_K, BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    acc_rgb_weight, acc_rgb_bias = tl.zeros([SIDE, BLOCK_C], tl.float32), tl.zeros([SIDE], tl.float32)
    offs_x, offs_y = offs_m[:, None] * I + offs_k[None, :], offs_m[:, None] * C + offs_c[None, :]
    for i in tl.range(0, rounds, num_stages=STAGES):
        first = (tl.program_id(0) % programs * rounds + i) * BLOCK_M
        mask_m = first + offs_m < P
        row = n * P + first
        mask_x = mask_m[:, None] & mask_k[None, :]
        mask_y = mask_m[:, None] & mask_c[None, :]
        x = tl.load(x_ptr + row * I + offs_x, mask=mask_x, other=0.0)
        weight = tl.load(
            weight_ptr + offs_c[:, None] * I + offs_k[None, :], mask=mask_c[:, None] & mask_k[None, :], other=0.0
        )
        z = dot(x, tl.trans(weight), tl.zeros([BLOCK_M, BLOCK_C], tl.float32), INPUT_PRECISION)
        y = activated(z + bias[None, :], slope, clamp, CLAMPED, DT)
        grad_rgb = colour_gradient(
            y, grad_out_ptr + n * O * P + first, rgb_weight_ptr, rgb_bias_ptr, offs_m, mask_m, P, clamp,
            CLAMPED, C, O, INPUT_PRECISION, SIDE, BLOCK_M, BLOCK_C,
        )  # fmt: skip
        acc_rgb_bias += tl.sum(grad_rgb, axis=0)
        operand = to_operand(grad_rgb * scale, DT)
        acc_rgb_weight = dot(tl.trans(operand), y, acc_rgb_weight, INPUT_PRECISION)
        grad_z = sum_gradient(
            y, operand, grad_y_ptr, rgb_weight_ptr, row, offs_y, mask_y, scale, slope, limit,
            GRAD_Y, CLAMPED, C, O, DT, INPUT_PRECISION, SIDE, BLOCK_M, BLOCK_C,
        )  # fmt: skip
        acc_bias += tl.sum(grad_z.to(tl.float32), axis=0)
        acc_weight = dot(tl.trans(x), grad_z, acc_weight, INPUT_PRECISION)
        grad_x = dot(grad_z, weight, tl.zeros([BLOCK_M, BLOCK_K], tl.float32), INPUT_PRECISION) / scale
        tl.store(grad_x_ptr + row * I + offs_x, to_operand(grad_x, DT), mask=mask_x)
    part = tl.program_id(0).to(tl.int64)
    tl.store(
        grad_weight_ptr + (part * C + offs_c)[None, :] * I + offs_k[:, None], acc_weight * (gain / scale),
        mask=mask_c[None, :] & mask_k[:, None],
    )  # fmt: skip
    tl.store(grad_bias_ptr + part * C + offs_c, acc_bias * (gain / scale), mask=mask_c)
    offs_rgb = (part * O + offs_o)[:, None] * C + offs_c[None, :]
    tl.store(grad_rgb_weight_ptr + offs_rgb, acc_rgb_weight / scale, mask=mask_o[:, None] & mask_c[None, :])
    tl.store(grad_rgb_bias_ptr + part * O + offs_o, acc_rgb_bias, mask=mask_o)


class Gradients(NamedTuple):
    """Results of ``launch_backward``; all but the first in float32."""

    x: Tensor | None  # [N, H, W, I], dtype of x
    weight: Tensor | None  # [B, C, I]
    bias: Tensor | None  # [C]
    rgb_weight: Tensor  # [B, O, C]
    rgb_bias: Tensor  # [O]


def launch_backward(
    grad_y: Tensor | None, grad_out: Tensor, x: Tensor, packed: Packed, how: Tail, *, need_x: bool, need_layer: bool
) -> Gradients:
    """Gradients of x and of both layers.

    Args:
        grad_y: [N, H, W, C], dtype of x, or None.  grad_out: [N, O, H, W] float32.  x: [N, H, W, I].  All contiguous.
        need_x, need_layer: compute the gradient of x, those of weight and bias.
    """
    B, C, I = packed.weight.shape  # noqa: E741
    scale = _scale(grad_y, grad_out, packed.rgb_weight, how.precision)
    constants = constants_of(x, C, packed.rgb_weight.shape[1], how, backward=True)
    inputs = {
        "grad_y_ptr": grad_y,
        "grad_out_ptr": grad_out,
        "x_ptr": x,
        **packed.pointers(),
        "scale_ptr": scale,
        "repeat": x.shape[0] // max(B, 1),
        "P": x.shape[1] * x.shape[2],
        "limit": rounded(how.clamp, x.dtype),
        "GRAD_Y": grad_y is not None,
        **constants,
    }
    if x.dtype.itemsize == 2 and max(C, I) <= NARROW:
        return _narrow(x, packed, how, inputs)
    return _wide(x, packed, how, inputs, scale, need_x, need_layer)


def _narrow(x: Tensor, packed: Packed, how: Tail, inputs: dict[str, Any]) -> Gradients:
    (N, H, W, I), (B, O, C) = x.shape, packed.rgb_weight.shape  # noqa: E741
    tiles = triton.cdiv(H * W, inputs["BLOCK_M"])
    rounds = triton.cdiv(tiles, max(min(PROGRAMS // max(N, 1), tiles), 1))
    programs = triton.cdiv(tiles, rounds)
    sizes = (C * I, C, O * C, O)
    weight, bias, rgb_weight, rgb_bias = (
        torch.empty(N * programs, size, dtype=torch.float32, device=x.device) for size in sizes
    )
    grad_x = torch.empty_like(x)
    launch(
        _narrow_kernel,
        (N * programs,),
        grad_x_ptr=grad_x,
        grad_weight_ptr=weight,
        grad_bias_ptr=bias,
        grad_rgb_weight_ptr=rgb_weight,
        grad_rgb_bias_ptr=rgb_bias,
        programs=programs,
        rounds=rounds,
        gain=how.gain,
        **inputs,
    )
    rows = B, N // max(B, 1) * programs
    return Gradients(
        grad_x, weight.view(*rows, C, I).sum(1), bias.sum(0), rgb_weight.view(*rows, O, C).sum(1), rgb_bias.sum(0)
    )


def _wide(
    x: Tensor, packed: Packed, how: Tail, inputs: dict[str, Any], scale: Tensor, need_x: bool, need_layer: bool
) -> Gradients:
    (N, H, W, I), (B, O, C) = x.shape, packed.rgb_weight.shape  # noqa: E741
    tiles = triton.cdiv(H * W, inputs["BLOCK_M"])
    grad_z = torch.empty(N, H, W, C, dtype=OPERANDS[how.precision].storage, device=x.device)
    part_weight = torch.empty(N * tiles, O, C, dtype=torch.float32, device=x.device)
    part_bias = torch.empty(N * tiles, O, dtype=torch.float32, device=x.device)
    launch(
        _wide_kernel,
        (N * tiles,),
        grad_z_ptr=grad_z,
        grad_rgb_weight_ptr=part_weight,
        grad_rgb_bias_ptr=part_bias,
        tiles=tiles,
        **inputs,
    )
    rows = B, N // max(B, 1) * H * W
    grad_x = torch.empty_like(x) if need_x else None
    if grad_x is not None:
        launch_dgrad(
            grad_x.view(*rows, I), grad_z.view(*rows, C), packed.weight, None, slope=1.0, precision=how.precision,
            factor=1 / scale,
        )  # fmt: skip
    grad_weight = grad_bias = None
    if need_layer:
        grad_weight, per_image = launch_wgrad(
            grad_z.view(*rows, C), x.view(*rows, I), precision=how.precision, factor=how.gain / scale
        )
        grad_bias = per_image.sum(0)
    rgb_weight = part_weight.view(B, N // max(B, 1) * tiles, O, C).sum(1)
    return Gradients(grad_x, grad_weight, grad_bias, rgb_weight, part_bias.sum(0))


def _scale(grad_y: Tensor | None, grad_out: Tensor, rgb_weight: Tensor, precision: str) -> Tensor:
    """[] float32: a power of two that brings gradients of y and of the colours into the range of float16, else 1."""
    if precision != "fp16" or grad_out.numel() == 0:
        return torch.ones((), dtype=torch.float32, device=grad_out.device)
    most = rgb_weight.float().abs().sum(1).amax().clamp(min=1.0)  # most gradient of y per unit in every colour
    peak = most * torch.linalg.vector_norm(grad_out, torch.inf)
    if grad_y is not None:
        peak = peak + torch.linalg.vector_norm(grad_y, torch.inf, dtype=torch.float32)
    return scale_of(peak)
