"""Sines and cosines of octave frequencies, one kernel in each direction.
Forward: a program fills a block of rows and columns of the output, so that stores are coalesced; every element derives
its octave, its coordinate and sine or cosine from its column. Backward: a program sums the octaves of some coordinates.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.operands import PI, sin_cos_pi, to_operand
from ..base.register import Grads, register
from .encode_ref import encode_positions_ref

BLOCK_COLUMNS = 32
TILE = 1024


@triton.jit
def waves(p, scale):
    """Sine and cosine of scale pi p, scale a power of two, without rounding the angle at any size."""
    t = p * scale
    return sin_cos_pi(tl.fma(tl.floor(0.5 * t + 0.5), -2.0, t))  # which itself reduces |t| < 2^23 only


@triton.jit
def _encode_kernel(
    out_ptr, points_ptr,
    N, D, F, W,
    INCLUDE_INPUT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    mask = (n < N) & (column < W)
    octave = column // (2 * D)
    p = tl.load(points_ptr + n * D + column % D, mask=mask, other=0.0).to(tl.float32)
    scale = ((octave + 127) << 23).to(tl.float32, bitcast=True)  # 2^octave
    sin, cos = waves(p, scale)
    out = tl.where(column % (2 * D) < D, sin, cos)
    if INCLUDE_INPUT:
        out = tl.where(octave == F, p, out)
    tl.store(out_ptr + n * W + column, to_operand(out, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _grad_encode_kernel(
    grad_points_ptr, grad_out_ptr, points_ptr,
    N, D, F, W,
    INCLUDE_INPUT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask = (n < N) & (d < D)
    p = tl.load(points_ptr + n * D + d, mask=mask, other=0.0).to(tl.float32)
    acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_out_ptr += n * W + d
    scale = 1.0
    for octave in range(F):
        sin, cos = waves(p, scale)
        grad_sin = tl.load(grad_out_ptr + 2 * D * octave, mask=mask, other=0.0).to(tl.float32)
        grad_cos = tl.load(grad_out_ptr + 2 * D * octave + D, mask=mask, other=0.0).to(tl.float32)
        acc += scale * PI * (grad_sin * cos - grad_cos * sin)
        scale *= 2.0
    if INCLUDE_INPUT:
        acc += tl.load(grad_out_ptr + 2 * D * F, mask=mask, other=0.0).to(tl.float32)
    tl.store(grad_points_ptr + n * D + d, to_operand(acc, grad_points_ptr.dtype.element_ty), mask=mask)


def _width(dims: int, num_freqs: int, include_input: bool) -> int:
    return dims * (2 * num_freqs + include_input)


def launch_encode_forward(points: Tensor, num_freqs: int, include_input: bool) -> Tensor:
    """[..., 2 F D (+ D)] of contiguous points [..., D]."""
    D = points.shape[-1]
    N, W = points.shape[:-1].numel(), _width(D, num_freqs, include_input)
    out = torch.empty(*points.shape[:-1], W, dtype=points.dtype, device=points.device)
    launch(
        _encode_kernel,
        (triton.cdiv(N, TILE // BLOCK_COLUMNS), triton.cdiv(W, BLOCK_COLUMNS)),
        out_ptr=out,
        points_ptr=points,
        N=N,
        D=D,
        F=num_freqs,
        W=W,
        INCLUDE_INPUT=include_input,
        BLOCK_N=TILE // BLOCK_COLUMNS,
        BLOCK_W=BLOCK_COLUMNS,
    )
    return out


def launch_encode_backward(grad_out: Tensor, points: Tensor, num_freqs: int, include_input: bool) -> Tensor:
    """Gradient of contiguous points [..., D]."""
    D = points.shape[-1]
    N, W = points.shape[:-1].numel(), _width(D, num_freqs, include_input)
    block_d = min(triton.next_power_of_2(max(D, 1)), 16)
    grad_points = torch.empty_like(points)
    launch(
        _grad_encode_kernel,
        (triton.cdiv(N, 256 // block_d), triton.cdiv(D, block_d)),
        grad_points_ptr=grad_points,
        grad_out_ptr=grad_out,
        points_ptr=points,
        N=N,
        D=D,
        F=num_freqs,
        W=W,
        INCLUDE_INPUT=include_input,
        BLOCK_N=256 // block_d,
        BLOCK_D=block_d,
    )
    return grad_points


def _encode_positions(points: Tensor, num_freqs: int, include_input: bool) -> Tensor:
    return launch_encode_forward(points.contiguous(), num_freqs, include_input)


def _encode_positions_fake(points: Tensor, num_freqs: int, include_input: bool) -> Tensor:
    return points.new_empty(*points.shape[:-1], _width(points.shape[-1], num_freqs, include_input))


def _encode_positions_backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, _needs: Any) -> Grads:
    (grad_out,), (points, *options) = grads, inputs
    return (launch_encode_backward(grad_out, points.contiguous(), *options),)


encode_positions = register(
    _encode_positions,
    fake=_encode_positions_fake,
    backward=_encode_positions_backward,
    plain=lambda inputs, _: encode_positions_ref(*inputs),
)
