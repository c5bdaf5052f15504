"""Enlarge twofold with the corners of the two images aligned, then bias, leaky ReLU, gain and clamp.

    out(r, s) = clamp(gain lrelu(sum of x[y, x'] k(r, y, H) k(s, x', W) + bias))
    k(r, y, H) = max(0, 1 - |r (H-1) - y (2H-1)| / (2H-1))

The position of a row between two others is computed in integers, so that a weight is rounded only once. The backward
gathers: a pixel contributes to at most 5 x 5 others. k sums to one over y, hence the bias's gradient is the sum of that
of x. Elements per output pixel and channel: forward 0.25 and 1, backward 2 with a halo of 30 %, and 0.25.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.operands import leaky_relu, to_operand
from ..base.register import Grads, register
from ..filters.bias_act_ref import bias_act_ref
from .upsample_block_forward import SLOPE, rounded

TILE = 8  # of the output in the forward, of x in the backward, along both axes


@triton.jit
def _bilinear_kernel(
    out_ptr, x_ptr, bias_ptr, H, W, C, tiles_y, tiles_x, tiles_c, slope, gain, clamp,
    CLAMP: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    offs_c = pid % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = pid // tiles_c
    n = (tile // tiles_x // tiles_y).to(tl.int64)
    offs_m = tl.arange(0, TILE * TILE)
    r, s = tile // tiles_x % tiles_y * TILE + offs_m // TILE, tile % tiles_x * TILE + offs_m % TILE
    valid, mask_c = (r < 2 * H) & (s < 2 * W), offs_c < C
    y0, x0 = r * (H - 1) // (2 * H - 1), s * (W - 1) // (2 * W - 1)
    y1, x1 = tl.minimum(y0 + 1, H - 1), tl.minimum(x0 + 1, W - 1)
    wy = ((r * (H - 1) - y0 * (2 * H - 1)).to(tl.float32) / (2 * H - 1))[:, None]
    wx = ((s * (W - 1) - x0 * (2 * W - 1)).to(tl.float32) / (2 * W - 1))[:, None]
    mask = valid[:, None] & mask_c[None, :]
    x_ptr += n * H * W * C + offs_c[None, :]
    x00 = tl.load(x_ptr + (y0 * W + x0).to(tl.int64)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
    x01 = tl.load(x_ptr + (y0 * W + x1).to(tl.int64)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
    x10 = tl.load(x_ptr + (y1 * W + x0).to(tl.int64)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
    x11 = tl.load(x_ptr + (y1 * W + x1).to(tl.int64)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
    z = (1 - wy) * ((1 - wx) * x00 + wx * x01) + wy * ((1 - wx) * x10 + wx * x11)
    z = leaky_relu(z + tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0)[None, :], slope) * gain
    if CLAMP:
        everything: tl.constexpr = tl.PropagateNan.ALL
        z = tl.minimum(tl.maximum(z, -clamp, propagate_nan=everything), clamp, propagate_nan=everything)
    offs = (r.to(tl.int64) * 2 * W + s)[:, None] * C + offs_c[None, :]
    tl.store(out_ptr + n * 4 * H * W * C + offs, to_operand(z, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _bilinear_backward_kernel(
    grad_x_ptr, grad_bias_ptr, grad_out_ptr, out_ptr, H, W, C, tiles_y, tiles_x, tiles_c, slope, gain, limit,
    CLAMP: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    offs_c = pid % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = pid // tiles_c
    n = (tile // tiles_x // tiles_y).to(tl.int64)
    offs_m = tl.arange(0, TILE * TILE)
    y, x = tile // tiles_x % tiles_y * TILE + offs_m // TILE, tile % tiles_x * TILE + offs_m % TILE
    valid, mask_c = (y < H) & (x < W), (offs_c < C)[None, :]
    # the first output row and column less than one pixel before (y, x)
    r0 = tl.where(y > 0, tl.maximum(y - 1, 0) * (2 * H - 1) // tl.maximum(H - 1, 1) + 1, 0)
    s0 = tl.where(x > 0, tl.maximum(x - 1, 0) * (2 * W - 1) // tl.maximum(W - 1, 1) + 1, 0)
    image = n * 4 * H * W * C + offs_c[None, :]
    grad = tl.zeros([TILE * TILE, BLOCK_C], tl.float32)
    for i in range(0, 25):
        r, s = r0 + i // 5, s0 + i % 5
        wy = 1.0 - tl.abs(r * (H - 1) - y * (2 * H - 1)).to(tl.float32) / (2 * H - 1)
        wx = 1.0 - tl.abs(s * (W - 1) - x * (2 * W - 1)).to(tl.float32) / (2 * W - 1)
        mask = (valid & (r < 2 * H) & (s < 2 * W) & (wy > 0) & (wx > 0))[:, None] & mask_c
        offs = image + (r.to(tl.int64) * 2 * W + s)[:, None] * C
        g = tl.load(grad_out_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        out = tl.load(out_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        factor = tl.where(out > 0, gain, gain * slope)
        if CLAMP:
            factor = tl.where(tl.abs(out) < limit, factor, 0.0)
        grad += g * factor * (wy * wx)[:, None]
    offs = n * H * W * C + (y.to(tl.int64) * W + x)[:, None] * C + offs_c[None, :]
    tl.store(grad_x_ptr + offs, to_operand(grad, grad_x_ptr.dtype.element_ty), mask=valid[:, None] & mask_c)
    tl.store(grad_bias_ptr + tile.to(tl.int64) * C + offs_c, tl.sum(grad, axis=0), mask=offs_c < C)


def _upsample_bilinear(x: Tensor, bias: Tensor, gain: float, clamp: float | None) -> Tensor:
    """x [N, H, W, C], bias [C]."""
    N, H, W, C = x.shape
    out = torch.empty(N, 2 * H, 2 * W, C, dtype=x.dtype, device=x.device)
    tiles_y, tiles_x = triton.cdiv(2 * H, TILE), triton.cdiv(2 * W, TILE)
    _launch(
        _bilinear_kernel,
        N * tiles_y * tiles_x,
        C,
        out_ptr=out,
        x_ptr=x.contiguous(),
        bias_ptr=bias.float().contiguous(),
        H=H,
        W=W,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        gain=gain,
        clamp=clamp or 0.0,
        CLAMP=clamp is not None,
    )
    return out


def launch_bilinear_backward(grad_out: Tensor, out: Tensor, gain: float, clamp: float | None) -> tuple[Tensor, Tensor]:
    """Gradients of x [N, H, W, C], dtype of ``out``, and of the bias [C], float32; both inputs contiguous."""
    N, H, W, C = out.shape[0], out.shape[1] // 2, out.shape[2] // 2, out.shape[3]
    tiles_y, tiles_x = triton.cdiv(H, TILE), triton.cdiv(W, TILE)
    grad_x = torch.empty(N, H, W, C, dtype=out.dtype, device=out.device)
    grad_bias = torch.empty(N * tiles_y * tiles_x, C, dtype=torch.float32, device=out.device)
    _launch(
        _bilinear_backward_kernel,
        N * tiles_y * tiles_x,
        C,
        grad_x_ptr=grad_x,
        grad_bias_ptr=grad_bias,
        grad_out_ptr=grad_out,
        out_ptr=out,
        H=H,
        W=W,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        gain=gain,
        limit=rounded(clamp, out.dtype),
        CLAMP=clamp is not None,
    )
    return grad_x, grad_bias.sum(0)


def _launch(kernel: Any, tiles: int, C: int, **args: Any) -> None:
    block_c = min(triton.next_power_of_2(C), 64)
    tiles_c = triton.cdiv(C, block_c)
    launch(kernel, (tiles * tiles_c,), C=C, tiles_c=tiles_c, slope=SLOPE, TILE=TILE, BLOCK_C=block_c, **args)


def _fake(x: Tensor, bias: Tensor, gain: float, clamp: float | None) -> Tensor:
    N, H, W, C = x.shape
    return x.new_empty(N, 2 * H, 2 * W, C)


def _plain(inputs: Sequence[Any], _kept: Any) -> Tensor:
    x, bias, gain, clamp = inputs
    y = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True)
    return bias_act_ref(y, bias, 1, "lrelu", SLOPE, gain, clamp, False).permute(0, 2, 3, 1)


def _backward(grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], _needs: Any) -> Grads:
    (grad_out,), (_, bias, gain, clamp), (out,) = grads, inputs, kept
    grad_x, grad_bias = launch_bilinear_backward(grad_out, out, gain, clamp)
    return grad_x, grad_bias.to(bias.dtype)


upsample_bilinear = register(_upsample_bilinear, fake=_fake, backward=_backward, plain=_plain, keep=(0,))
