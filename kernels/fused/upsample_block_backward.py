"""Gradients of an upsampling block's output with respect to its low-resolution map and to the adapter's second layer.

With g the gradient before the activation, and gg = g filtered with the blur's transpose, both at the output's size:

    dx = sum of the four gg,   v = W1^T gg,   dW1 = sum gg^T hidden,   db1 = sum gg,   dbias = sum g,   dnoise = sum_c g
    dA = sum of the four v lrelu',   dP = sum of the v lrelu' where P was added   (pixelshuffle: no P, one hidden unit)

dx asks for gg anyway, so the hidden units are needed as they are, four per pixel of the map, and never blurred.

A program of the first kernel walks down a strip of the image with three filtered rows in registers, kept in the operand
type; it reads gradient and output once and the gate of activation and clamp off the output. For nn_cat in 16 bit, with
up to 128 channels, it makes both products on the way: v, a quarter of the channels, goes to memory, dW1 stays in
registers, and the programs' shares are added in a fixed order. Otherwise gg goes to memory, and two launches make the
products. The last kernel gathers v into A and P. No atomics anywhere: the same result every time.

Elements per output pixel and channel, 256 to 1024 px: gradient and output 1 each, of the map 0.125 for each kernel, its
gradient 0.375, v 0.25 written and read; 3.1, or 1.14 times the minimum of 2.75. Halos, which L2 serves, make it 3.6 to
4.2: 3 columns and rows beyond a strip of 16 or 32 columns and 8 to 32 rows of the map, and the neighbours of the hidden
units and of v. With gg in memory 3 more, for nn_cat at sizes of up to 128 px, where L2 holds that as well.
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import OPERANDS, dot, launch, leaky_relu, to_operand
from .linear import PROGRAMS, launch_dgrad, launch_wgrad
from .upsample_block_forward import SLOPE, Combine, PackedAdapter, hidden, near, rounded


@triton.jit
def gated(
    grad_ptr, out_ptr, x, W, row_inside, offs_c, positive, negative, limit,
    K: tl.constexpr, CLAMP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """g at the pixels 2x + K of a row [BLOCK_X, BLOCK_C], zero outside the image."""
    mask = (row_inside & (2 * x + K >= 0) & (2 * x + K < 2 * W))[:, None]
    if C % BLOCK_C != 0:
        mask = mask & (offs_c < C)[None, :]
    offs = ((2 * x + K) * C)[:, None] + offs_c[None, :]
    grad = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    out = tl.load(out_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    factor = tl.where(out > 0, positive, negative)
    if CLAMP:
        factor = tl.where(tl.abs(out) < limit, factor, 0.0)
    return grad * factor


@triton.jit
def gated_row(
    grad_ptr, out_ptr, n, row, x, H, W, offs_c, positive, negative, limit,
    BLUR: tl.constexpr, CLAMP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Eight times the row of g filtered along x (g itself without blur) at the pixels 2x and 2x + 1, and g there."""
    grad_ptr += (n * 2 * H + row) * 2 * W * C
    out_ptr += (n * 2 * H + row) * 2 * W * C
    inside = (row >= 0) & (row < 2 * H)
    g1 = gated(grad_ptr, out_ptr, x, W, inside, offs_c, positive, negative, limit, 0, CLAMP, C, BLOCK_C)
    g2 = gated(grad_ptr, out_ptr, x, W, inside, offs_c, positive, negative, limit, 1, CLAMP, C, BLOCK_C)
    if BLUR:
        g0 = gated(grad_ptr, out_ptr, x, W, inside, offs_c, positive, negative, limit, -1, CLAMP, C, BLOCK_C)
        g3 = gated(grad_ptr, out_ptr, x, W, inside, offs_c, positive, negative, limit, 2, CLAMP, C, BLOCK_C)
        g4 = gated(grad_ptr, out_ptr, x, W, inside, offs_c, positive, negative, limit, 3, CLAMP, C, BLOCK_C)
        return g0 + g3 + 3.0 * (g1 + g2), g1 + g4 + 3.0 * (g2 + g3), g1, g2
    return g1, g2, g1, g2


@triton.jit
def filtered(r0, r1, r2, r3):
    """A 64th of rows weighed 1, 3, 3, 1."""
    middle = r1.to(tl.float32) + r2.to(tl.float32)
    return (r0.to(tl.float32) + r3.to(tl.float32) + 3.0 * middle) / 64


@triton.jit
def _output_kernel(
    grad_map_ptr, grad_filtered_ptr, grad_hidden_ptr, grad_weight_ptr, grad_adapter_bias_ptr, grad_bias_ptr,
    grad_noise_ptr, grad_out_ptr, out_ptr, map_ptr, weight_ptr, bias_hidden_ptr,
    N, H, W, strips, bands, rows, slope, gain, limit,
    C: tl.constexpr, D: tl.constexpr, S: tl.constexpr, BLUR: tl.constexpr, NOISE: tl.constexpr,
    CLAMP: tl.constexpr, PRODUCTS: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    LAG: tl.constexpr = 1 if BLUR else 0  # a row of the map needs the rows below it
    pid = tl.program_id(0)
    part, program = pid % PARTS, pid // PARTS
    strip, band = program % strips, program // strips % bands
    n = (program // strips // bands).to(tl.int64)
    offs_x, offs_c, offs_d = tl.arange(0, BLOCK_X), part * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_D)
    x = strip * BLOCK_X + offs_x
    valid, mask_c = (x < W)[:, None], (offs_c < C)[None, :]
    first, last = band * rows, min(band * rows + rows, H)
    zero = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    rest = zero.to(DT)
    c0, c1, d0, d1, e0, e1 = rest, rest, rest, rest, rest, rest  # rows 2y, 2y + 1 and 2y - 1, filtered along x
    acc_bias, acc_total = zero, zero
    acc = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    mask_w = (offs_c < C)[:, None] & (offs_d < D)[None, :]
    if PRODUCTS:
        weight = tl.load(weight_ptr + offs_c[:, None] * D + offs_d[None, :], mask=mask_w, other=0.0)
        bias = tl.load(bias_hidden_ptr + offs_d, mask=offs_d < D, other=0.0)[None, :]
    for step in range(first - LAG, last + LAG):
        a0, a1, g00, g01 = gated_row(
            grad_out_ptr, out_ptr, n, 2 * step, x, H, W, offs_c, gain, gain * slope, limit, BLUR, CLAMP, C, BLOCK_C
        )
        b0, b1, g10, g11 = gated_row(
            grad_out_ptr, out_ptr, n, 2 * step + 1, x, H, W, offs_c, gain, gain * slope, limit, BLUR, CLAMP, C, BLOCK_C
        )
        own = (step >= first) & (step < last)
        acc_bias += tl.where(own & valid, (g00 + g01) + (g10 + g11), 0.0)
        if NOISE:
            noise_ptr = grad_noise_ptr + ((part * N + n) * 2 * H + 2 * step) * 2 * W + 2 * x
            mask_n = own & (x < W)
            tl.store(noise_ptr, tl.sum(g00, axis=1), mask=mask_n)
            tl.store(noise_ptr + 1, tl.sum(g01, axis=1), mask=mask_n)
            tl.store(noise_ptr + 2 * W, tl.sum(g10, axis=1), mask=mask_n)
            tl.store(noise_ptr + 2 * W + 1, tl.sum(g11, axis=1), mask=mask_n)
        if BLUR:
            g00, g10 = filtered(e0, c0, d0, a0), filtered(c0, d0, a0, b0)
            g01, g11 = filtered(e1, c1, d1, a1), filtered(c1, d1, a1, b1)
            e0, e1 = d0, d1
            c0, c1, d0, d1 = to_operand(a0, DT), to_operand(a1, DT), to_operand(b0, DT), to_operand(b1, DT)
        y = step - LAG
        if y >= first:
            pixels = (n * H + y) * W + strip * BLOCK_X
            total = (g00 + g01) + (g10 + g11)
            offs = (offs_x * S)[:, None] + offs_c[None, :]
            rounded = to_operand(total, grad_map_ptr.dtype.element_ty)
            tl.store(grad_map_ptr + pixels * S + offs, rounded, mask=valid & mask_c)
            if PRODUCTS:
                acc_total += tl.where(valid, total, 0.0)
                v_ptr = grad_hidden_ptr + pixels * 4 * D
                acc = products(v_ptr, acc, g00, weight, map_ptr + pixels * S, offs_x, y, x, H, W, offs_d, bias, slope,
                               0, 0, C, D, S, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_ptr, acc, g01, weight, map_ptr + pixels * S, offs_x, y, x, H, W, offs_d, bias, slope,
                               0, 1, C, D, S, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_ptr, acc, g10, weight, map_ptr + pixels * S, offs_x, y, x, H, W, offs_d, bias, slope,
                               1, 0, C, D, S, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_ptr, acc, g11, weight, map_ptr + pixels * S, offs_x, y, x, H, W, offs_d, bias, slope,
                               1, 1, C, D, S, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
            else:
                ptr = grad_filtered_ptr + pixels * 4 * C + (offs_x * 4 * C)[:, None] + offs_c[None, :]
                tl.store(ptr, to_operand(g00, DT), mask=valid & mask_c)
                tl.store(ptr + C, to_operand(g01, DT), mask=valid & mask_c)
                tl.store(ptr + 2 * C, to_operand(g10, DT), mask=valid & mask_c)
                tl.store(ptr + 3 * C, to_operand(g11, DT), mask=valid & mask_c)
    program = program.to(tl.int64)
    tl.store(grad_bias_ptr + program * C + offs_c, tl.sum(acc_bias, axis=0), mask=offs_c < C)
    if PRODUCTS:
        tl.store(grad_adapter_bias_ptr + program * C + offs_c, tl.sum(acc_total, axis=0), mask=offs_c < C)
        offs_w = program * C * D + offs_c[:, None] * D + offs_d[None, :]
        tl.store(grad_weight_ptr + offs_w, acc, mask=mask_w)


@triton.jit
def products(
    v_ptr, acc, grad, weight, map_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
    R: tl.constexpr, K: tl.constexpr, C: tl.constexpr, D: tl.constexpr, S: tl.constexpr, DT: tl.constexpr,
    INPUT_PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store grad weight, the gradient of the hidden units of the pixels (2y + R, 2x + K); return acc + grad^T h."""
    h = hidden(map_ptr, offs_x * S, y, x, H, W, offs_d, bias, slope, R, K, C, D, BLOCK_D)
    valid = (x < W)[:, None]
    grad = to_operand(grad, DT)
    v = dot(grad, weight, tl.zeros(h.shape, tl.float32), INPUT_PRECISION)
    ptr = v_ptr + (offs_x * 4 * D)[:, None] + (2 * R + K) * D + offs_d[None, :]
    tl.store(ptr, to_operand(v, v_ptr.dtype.element_ty), mask=valid & (offs_d < D)[None, :])
    return dot(tl.trans(grad), to_operand(tl.where(valid, h, 0.0), DT), acc, INPUT_PRECISION)


@triton.jit
def through(
    grad_hidden_ptr, map_ptr, offs_v, offs_m, y, x, H, W, offs_d, bias, slope,
    R: tl.constexpr, K: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient before nn_cat's hidden activation at the pixels (2y + R, 2x + K), zero outside the image."""
    ptr = grad_hidden_ptr + ((R % 2) * 2 + K % 2) * D
    v = near(ptr, offs_v, y, x, H, W, offs_d, R // 2, K // 2, 4 * D, D, BLOCK_D)
    h = hidden(map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, R, K, C, D, BLOCK_D)
    return v * tl.where(h > 0, 1.0, slope)


@triton.jit
def _hidden_kernel(
    grad_map_ptr, grad_bias_hidden_ptr, hidden_ptr, grad_hidden_ptr, map_ptr, bias_hidden_ptr,
    H, W, tiles_y, tiles_x, slope,
    C: tl.constexpr, D: tl.constexpr, S: tl.constexpr, SHUFFLE: tl.constexpr, FORWARD: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """FORWARD: write the hidden units, else the gradient of what they are made of."""
    PHASES: tl.constexpr = 1 if SHUFFLE else 4
    chunks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    pid = tl.program_id(0)
    offs_d = pid % chunks * BLOCK_D + tl.arange(0, BLOCK_D)
    tile = pid // chunks
    top, x0 = tile // tiles_x % tiles_y * TILE_H, tile % tiles_x * TILE_W
    n = (tile // tiles_x // tiles_y).to(tl.int64)
    offs_m = tl.arange(0, TILE_H * TILE_W)
    row, x = offs_m // TILE_W, x0 + offs_m % TILE_W
    y = top + row
    offs_v, offs_m = (row * W + x) * PHASES * D, (row * W + x) * S
    map_ptr += (n * H + top) * W * S
    bias = tl.load(bias_hidden_ptr + offs_d, mask=offs_d < D, other=0.0)[None, :]
    mask = ((y < H) & (x < W))[:, None] & (offs_d < D)[None, :]
    if FORWARD:
        hidden_ptr += (n * H + top) * W * PHASES * D + offs_v[:, None] + offs_d[None, :]
        for i in tl.static_range(PHASES):
            if SHUFFLE:
                h = near(map_ptr + C, offs_m, y, x, H, W, offs_d, 0, 0, S, D, BLOCK_D)
                h = leaky_relu(h + bias, slope)
            else:
                h = hidden(map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, i // 2, i % 2, C, D, BLOCK_D)
            tl.store(hidden_ptr + i * D, to_operand(h, hidden_ptr.dtype.element_ty), mask=mask)
    else:
        v_ptr = grad_hidden_ptr + (n * H + top) * W * PHASES * D
        grad_map_ptr += (n * H + top) * W * S + C + offs_m[:, None] + offs_d[None, :]
        own = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
        if SHUFFLE:
            z = near(map_ptr + C, offs_m, y, x, H, W, offs_d, 0, 0, S, D, BLOCK_D) + bias
            v = near(v_ptr, offs_v, y, x, H, W, offs_d, 0, 0, D, D, BLOCK_D)
            own = v * tl.where(z > 0, 1.0, slope)
        else:
            added = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    own += through(v_ptr, map_ptr, offs_v, offs_m, y, x, H, W, offs_d, bias, slope,
                                   i, j, C, D, BLOCK_D)  # fmt: skip
                    # the nearer pixels of the neighbours below and above, right and left
                    added += through(v_ptr, map_ptr, offs_v, offs_m, y, x, H, W, offs_d, bias, slope,
                                     2 - 3 * i, j, C, D, BLOCK_D)  # fmt: skip
                    added += through(v_ptr, map_ptr, offs_v, offs_m, y, x, H, W, offs_d, bias, slope,
                                     i, 2 - 3 * j, C, D, BLOCK_D)  # fmt: skip
            tl.store(grad_map_ptr + D, to_operand(added, grad_map_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_map_ptr, to_operand(own, grad_map_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_bias_hidden_ptr + tile.to(tl.int64) * D + offs_d, tl.sum(own, axis=0), mask=offs_d < D)


class Gradients(NamedTuple):
    """Of what ``launch_combine`` took, in its shapes; float32 except that of the map."""

    map: Tensor
    weight: Tensor
    bias_hidden: Tensor
    bias_adapter: Tensor
    bias: Tensor
    noise: Tensor | None  # [N, 2H, 2W]


def launch_combine_backward(
    grad_out: Tensor, out: Tensor, map: Tensor, adapter: PackedAdapter, noise: bool, how: Combine
) -> Gradients:
    """Gradients of ``launch_combine``.

    Args:
        grad_out, out: [N, 2H, 2W, C], contiguous.
        map, adapter: what went in; ``noise`` says whether the gradient of noise is wanted.
    """
    N, H, W, _ = map.shape
    phases, C, D = adapter.weight.shape
    grad_map = torch.empty_like(map)
    slots = 1 if how.shuffle else 4
    grad_hidden = map.new_empty(N, H, W, slots, D)
    most = 64 if noise else 128  # channels; beyond that registers spill
    fused = not how.shuffle and how.precision in ("fp16", "bf16") and C <= most and D <= 32
    grad_filtered = None if fused else map.new_empty(N, H, W, 4, C)
    grad_bias, grad_noise, grad_weight, grad_adapter_bias = _launch_output(
        grad_map, grad_filtered, grad_hidden, grad_out, out, map, adapter, noise, how
    )
    if grad_filtered is not None:
        rows = N * H * W * slots
        units = map.new_empty(N, H, W, slots, D)
        _launch_hidden(map, adapter, how, hidden=units)
        grad_z, weight = grad_filtered.view(1, rows, phases * C), adapter.weight.view(1, phases * C, D)
        grad_weight, grad_adapter_bias = launch_wgrad(grad_z, units.view(1, rows, D), precision=how.precision)
        launch_dgrad(grad_hidden.view(1, rows, D), grad_z, weight, None, slope=1.0, precision=how.precision)
    grad_bias_hidden = _launch_hidden(map, adapter, how, grad_map=grad_map, grad_hidden=grad_hidden)
    return Gradients(
        grad_map,
        grad_weight.view(phases, C, D),
        grad_bias_hidden,
        grad_adapter_bias.view(phases, C),
        grad_bias,
        grad_noise,
    )


class _Strip(NamedTuple):
    """Columns of the map and channels that a program of the first kernel holds at a time."""

    columns: int
    block_c: int
    num_warps: int


def _strip(C: int, fused: bool) -> _Strip:
    block_c = max(triton.next_power_of_2(C), 16)
    if fused:
        return _Strip(32, block_c, 4) if block_c <= 32 else _Strip(16, block_c, block_c // 16)
    return _Strip(16, min(block_c, 64), 8)


def _band(H: int, strips: int) -> int:
    """Rows of the map for a program; it reads three more: many, unless there are few programs."""
    return min(max(triton.cdiv(strips * H, 2 * PROGRAMS), 8), 32)


def _launch_output(
    grad_map: Tensor,
    grad_filtered: Tensor | None,
    grad_hidden: Tensor,
    grad_out: Tensor,
    out: Tensor,
    map: Tensor,
    adapter: PackedAdapter,
    noise: bool,
    how: Combine,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of bias, noise, and, where grad_filtered is None, the adapter's weight and bias."""
    N, H, W, S = map.shape
    _, C, D = adapter.weight.shape
    strip = _strip(C, grad_filtered is None)
    parts, strips = triton.cdiv(C, strip.block_c), triton.cdiv(W, strip.columns)
    rows = _band(H, N * strips * parts)
    bands = triton.cdiv(H, rows)
    programs = N * strips * bands
    new = partial(torch.empty, dtype=torch.float32, device=map.device)
    grad_bias, grad_noise = new(programs, C), new(parts, N, 2 * H, 2 * W) if noise else None
    grad_weight, grad_adapter_bias = new(programs, C, D), new(programs, C)
    launch(
        _output_kernel,
        (programs * parts,),
        grad_map_ptr=grad_map,
        grad_filtered_ptr=grad_filtered,
        grad_hidden_ptr=grad_hidden,
        grad_weight_ptr=grad_weight,
        grad_adapter_bias_ptr=grad_adapter_bias,
        grad_bias_ptr=grad_bias,
        grad_noise_ptr=grad_noise,
        grad_out_ptr=grad_out,
        out_ptr=out,
        map_ptr=map,
        weight_ptr=adapter.weight,
        bias_hidden_ptr=adapter.bias_hidden,
        N=N,
        H=H,
        W=W,
        strips=strips,
        bands=bands,
        rows=rows,
        slope=SLOPE,
        gain=how.gain,
        limit=rounded(how.clamp, out.dtype),
        C=C,
        D=D,
        S=S,
        BLUR=how.blur,
        NOISE=noise,
        CLAMP=how.clamp is not None,
        PRODUCTS=grad_filtered is None,
        DT=OPERANDS[how.precision].triton,
        INPUT_PRECISION=OPERANDS[how.precision].input_precision,
        BLOCK_X=strip.columns,
        BLOCK_D=max(triton.next_power_of_2(D), 16),
        BLOCK_C=strip.block_c,
        num_warps=strip.num_warps,
    )
    grads = grad_weight, grad_adapter_bias
    if grad_filtered is None:
        grads = grad_weight.sum(0), grad_adapter_bias.sum(0)
    return grad_bias.sum(0), None if grad_noise is None else grad_noise.sum(0), *grads


def _launch_hidden(
    map: Tensor,
    adapter: PackedAdapter,
    how: Combine,
    *,
    hidden: Tensor | None = None,
    grad_map: Tensor | None = None,
    grad_hidden: Tensor | None = None,
) -> Tensor:
    """Fill ``hidden``, or take ``grad_hidden`` to the rest of ``grad_map``; return the gradient of the hidden bias."""
    N, H, W, S = map.shape
    _, C, D = adapter.weight.shape
    block = min(triton.next_power_of_2(D), 32)
    height, width = {32: (4, 8), 16: (8, 8)}.get(block, (8, 16))
    tiles_y, tiles_x = triton.cdiv(H, height), triton.cdiv(W, width)
    grad_bias_hidden = torch.empty(N * tiles_y * tiles_x, D, dtype=torch.float32, device=map.device)
    launch(
        _hidden_kernel,
        (N * tiles_y * tiles_x * triton.cdiv(D, block),),
        grad_map_ptr=grad_map,
        grad_bias_hidden_ptr=grad_bias_hidden,
        hidden_ptr=hidden,
        grad_hidden_ptr=grad_hidden,
        map_ptr=map,
        bias_hidden_ptr=adapter.bias_hidden,
        H=H,
        W=W,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        slope=SLOPE,
        C=C,
        D=D,
        S=S,
        SHUFFLE=how.shuffle,
        FORWARD=hidden is not None,
        TILE_H=height,
        TILE_W=width,
        BLOCK_D=block,
    )
    return grad_bias_hidden if hidden is not None else grad_bias_hidden.sum(0)
