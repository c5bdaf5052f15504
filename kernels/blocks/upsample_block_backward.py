"""Gradients of an upsampling block's output with respect to its low-resolution map and to the adapter's second layer.

With g the gradient before the activation, and gg = g filtered with the blur's transpose, both at the output's size:

    dx = sum of the four gg,   v = lrelu' W1^T gg,   dW1 = sum gg^T hidden,   db1 = sum gg,   dbias = sum g
    dA = sum of the four v,   dP = sum of the v where P was added   (pixelshuffle: no P, one unit),   dnoise = sum_c g

dx needs gg anyway, so the products take the hidden units unblurred, four per pixel of the map.

A program of the first kernel moves down a strip of the image with three filtered rows in registers, in the operand
type; it reads gradient and output once, and takes the gate of activation and clamp from the output. For nn_cat in 16
bit, with up to 128 channels, it also computes both products: v, a quarter of the channels, goes to memory, dW1 stays in
registers, and the programs' shares are added in a fixed order. Otherwise gg goes to memory, and two launches compute
the products. The last kernel gathers v for A and P. Deterministic: there are no atomics.

Elements per output pixel and channel, 256 to 1024 px: gradient and output 1 each, A and P 0.125, the map's gradient
0.375, v 0.25 written and read; 3.0, or 1.2 times the minimum of 2.5. With halos, which L2 serves, 3.5 to 4.1: 3 columns
and rows beyond a strip of 16 or 32 columns and 8 to 32 rows of the map, and the neighbours of the hidden units and of
v. With gg in memory 3 more, for nn_cat at sizes of up to 128 px, where L2 holds gg as well.
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.linear import PROGRAMS, launch_dgrad, launch_wgrad
from ..base.operands import OPERANDS, dot, leaky_relu, to_operand
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
    """Sum of four rows with weights (1, 3, 3, 1) / 64."""
    middle = r1.to(tl.float32) + r2.to(tl.float32)
    return (r0.to(tl.float32) + r3.to(tl.float32) + 3.0 * middle) / 64


@triton.jit
def _output_kernel(
    grad_map_ptr, grad_filtered_ptr, v_ptr, grad_weight_ptr, grad_adapter_bias_ptr, grad_bias_ptr,
    grad_noise_ptr, grad_out_ptr, out_ptr, sums_ptr, weight_ptr, bias_hidden_ptr,
    N, H, W, strips, bands, rows, slope, gain, limit,
    C: tl.constexpr, D: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, BLUR: tl.constexpr, NOISE: tl.constexpr,
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
                v_row_ptr, sums_row_ptr = v_ptr + pixels * 4 * D, sums_ptr + pixels * STRIDE
                acc_total += tl.where(valid, total, 0.0)
                acc = products(v_row_ptr, acc, g00, weight, sums_row_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
                               0, 0, STRIDE, D, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_row_ptr, acc, g01, weight, sums_row_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
                               0, 1, STRIDE, D, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_row_ptr, acc, g10, weight, sums_row_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
                               1, 0, STRIDE, D, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
                acc = products(v_row_ptr, acc, g11, weight, sums_row_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
                               1, 1, STRIDE, D, DT, INPUT_PRECISION, BLOCK_D)  # fmt: skip
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
    v_ptr, acc, grad, weight, sums_ptr, offs_x, y, x, H, W, offs_d, bias, slope,
    R: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, D: tl.constexpr, DT: tl.constexpr,
    INPUT_PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store v of the pixels (2y + R, 2x + K); return acc + grad^T h."""
    h = hidden(sums_ptr, offs_x * STRIDE, y, x, H, W, offs_d, bias, slope, R, K, STRIDE, D, BLOCK_D)
    valid = (x < W)[:, None]
    grad = to_operand(grad, DT)
    v = dot(grad, weight, tl.zeros(h.shape, tl.float32), INPUT_PRECISION) * tl.where(h > 0, 1.0, slope)
    ptr = v_ptr + (offs_x * 4 * D)[:, None] + (2 * R + K) * D + offs_d[None, :]
    tl.store(ptr, to_operand(v, v_ptr.dtype.element_ty), mask=valid & (offs_d < D)[None, :])
    return dot(tl.trans(grad), to_operand(tl.where(valid, h, 0.0), DT), acc, INPUT_PRECISION)


@triton.jit
def _tile(
    H, W, tiles_y, tiles_x, D: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program's tile and channels: index of the tile, its first pixel, pixel offsets, rows, columns, channels, and
    the mask [M, BLOCK_D]."""
    chunks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    pid = tl.program_id(0)
    offs_d = pid % chunks * BLOCK_D + tl.arange(0, BLOCK_D)
    tile = pid // chunks
    top, x0 = tile // tiles_x % tiles_y * TILE_H, tile % tiles_x * TILE_W
    first = ((tile // tiles_x // tiles_y).to(tl.int64) * H + top) * W
    row, column = tl.arange(0, TILE_H * TILE_W) // TILE_W, tl.arange(0, TILE_H * TILE_W) % TILE_W
    y, x = top + row, x0 + column
    mask = ((y < H) & (x < W))[:, None] & (offs_d < D)[None, :]
    return tile, first, row * W + x, y, x, offs_d, mask


@triton.jit
def _units_kernel(
    units_ptr, sums_ptr, bias_hidden_ptr, H, W, tiles_y, tiles_x, slope,
    D: tl.constexpr, STRIDE: tl.constexpr, SHUFFLE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Hidden units of each pixel of the map: four, or one for pixelshuffle."""
    PHASES: tl.constexpr = 1 if SHUFFLE else 4
    _, first, offs_m, y, x, offs_d, mask = _tile(H, W, tiles_y, tiles_x, D, TILE_H, TILE_W, BLOCK_D)
    sums_ptr += first * STRIDE
    units_ptr += first * PHASES * D + (offs_m * PHASES * D)[:, None] + offs_d[None, :]
    bias = tl.load(bias_hidden_ptr + offs_d, mask=offs_d < D, other=0.0)[None, :]
    for i in tl.static_range(PHASES):
        if SHUFFLE:
            h = near(sums_ptr, offs_m * STRIDE, y, x, H, W, offs_d, 0, 0, STRIDE, D, BLOCK_D)
            h = leaky_relu(h + bias, slope)
        else:
            h = hidden(sums_ptr, offs_m * STRIDE, y, x, H, W, offs_d, bias, slope, i // 2, i % 2, STRIDE, D, BLOCK_D)
        tl.store(units_ptr + i * D, to_operand(h, units_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gather_kernel(
    grad_map_ptr, grad_bias_hidden_ptr, v_ptr, H, W, tiles_y, tiles_x,
    C: tl.constexpr, D: tl.constexpr, S: tl.constexpr, SHUFFLE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of A and P, gathered from those of the surrounding hidden sums."""
    PHASES: tl.constexpr = 1 if SHUFFLE else 4
    tile, first, offs_m, y, x, offs_d, mask = _tile(H, W, tiles_y, tiles_x, D, TILE_H, TILE_W, BLOCK_D)
    v_ptr += first * PHASES * D
    grad_map_ptr += first * S + C + (offs_m * S)[:, None] + offs_d[None, :]
    offs_v = offs_m * PHASES * D
    own = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
    if SHUFFLE:
        own += near(v_ptr, offs_v, y, x, H, W, offs_d, 0, 0, D, D, BLOCK_D)
    else:
        added = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
        for i in tl.static_range(2):
            for j in tl.static_range(2):
                own += near(v_ptr + (2 * i + j) * D, offs_v, y, x, H, W, offs_d, 0, 0, 4 * D, D, BLOCK_D)
                # the adjacent pixels of the neighbours below and above, right and left
                vertical = v_ptr + (2 * (1 - i) + j) * D
                added += near(vertical, offs_v, y, x, H, W, offs_d, 2 * i - 1, 0, 4 * D, D, BLOCK_D)
                horizontal = v_ptr + (2 * i + 1 - j) * D
                added += near(horizontal, offs_v, y, x, H, W, offs_d, 0, 2 * j - 1, 4 * D, D, BLOCK_D)
        tl.store(grad_map_ptr + D, to_operand(added, grad_map_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_map_ptr, to_operand(own, grad_map_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_bias_hidden_ptr + tile.to(tl.int64) * D + offs_d, tl.sum(own, axis=0), mask=offs_d < D)


class Gradients(NamedTuple):
    """Gradients of the inputs of ``launch_combine``, in their shapes; float32 except that of the map."""

    map: Tensor
    weight: Tensor
    bias_hidden: Tensor
    bias_adapter: Tensor
    bias: Tensor
    noise: Tensor | None  # [N, 2H, 2W]


def launch_combine_backward(
    grad_out: Tensor, out: Tensor, sums: Tensor, adapter: PackedAdapter, noise: bool, how: Combine
) -> Gradients:
    """Gradients of ``launch_combine``.

    Args:
        grad_out, out: [N, 2H, 2W, C], contiguous.
        sums: [N, H, W, 2D or D], the map's channels from C on, or a contiguous tensor of those alone.
        adapter: that of the forward; ``noise``: compute the gradient of noise.
    """
    N, H, W, M = sums.shape
    phases, C, D = adapter.weight.shape
    grad_map = sums.new_empty(N, H, W, C + M)
    slots = 1 if how.shuffle else 4
    v = sums.new_empty(N, H, W, slots, D)
    most = 64 if noise else 128  # channels; with more, registers spill
    fused = not how.shuffle and how.precision in ("fp16", "bf16") and most >= C and D <= 32
    grad_filtered = None if fused else sums.new_empty(N, H, W, 4, C)
    grad_bias, grad_noise, grad_weight, grad_adapter_bias = _launch_output(
        grad_map, grad_filtered, v, grad_out, out, sums, adapter, noise, how
    )
    if grad_filtered is not None:
        rows = N * H * W * slots
        units = _launch_units(sums, adapter, how).view(1, rows, D)
        grad_z, weight = grad_filtered.view(1, rows, phases * C), adapter.weight.view(1, phases * C, D)
        grad_weight, grad_adapter_bias = launch_wgrad(grad_z, units, precision=how.precision)
        launch_dgrad(v.view(1, rows, D), grad_z, weight, units, slope=SLOPE, precision=how.precision)
    return Gradients(
        grad_map,
        grad_weight.view(phases, C, D),
        _launch_gather(grad_map, v, how),
        grad_adapter_bias.view(phases, C),
        grad_bias,
        grad_noise,
    )


class _Strip(NamedTuple):
    """Columns of the map and channels that a program of the first kernel holds at a time."""

    columns: int
    block_c: int
    num_warps: int


def _strip(C: int, fused: bool, sharp: bool) -> _Strip:
    """``sharp``: noise without blur, which spills a few registers at the tile size that fits with blur."""
    block_c = max(triton.next_power_of_2(C), 16)
    if fused:
        narrow = _Strip(16 if sharp else 32, block_c, 4)
        return narrow if block_c <= 32 else _Strip(16, block_c, block_c // (8 if sharp else 16))
    return _Strip(16, min(block_c, 64), 8)


def _band(H: int, strips: int) -> int:
    """Rows of the map per program, which reads three more: many, unless there are few programs."""
    return min(max(triton.cdiv(strips * H, 2 * PROGRAMS), 8), 32)


def _launch_output(
    grad_map: Tensor,
    grad_filtered: Tensor | None,
    v: Tensor,
    grad_out: Tensor,
    out: Tensor,
    sums: Tensor,
    adapter: PackedAdapter,
    noise: bool,
    how: Combine,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of bias, noise, and, where grad_filtered is None, the adapter's weight and bias."""
    N, H, W, S = grad_map.shape
    _, C, D = adapter.weight.shape
    strip = _strip(C, grad_filtered is None, noise and not how.blur)
    parts, strips = triton.cdiv(C, strip.block_c), triton.cdiv(W, strip.columns)
    rows = _band(H, N * strips * parts)
    bands = triton.cdiv(H, rows)
    programs = N * strips * bands
    new = partial(torch.empty, dtype=torch.float32, device=sums.device)
    grad_bias, grad_noise = new(programs, C), new(parts, N, 2 * H, 2 * W) if noise else None
    grad_weight, grad_adapter_bias = new(programs, C, D), new(programs, C)
    launch(
        _output_kernel,
        (programs * parts,),
        grad_map_ptr=grad_map,
        grad_filtered_ptr=grad_filtered,
        v_ptr=v,
        grad_weight_ptr=grad_weight,
        grad_adapter_bias_ptr=grad_adapter_bias,
        grad_bias_ptr=grad_bias,
        grad_noise_ptr=grad_noise,
        grad_out_ptr=grad_out,
        out_ptr=out,
        sums_ptr=sums,
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
        STRIDE=sums.stride(2),
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


class _Tiling(NamedTuple):
    """Tile of the map for the two kernels over its pixels, and the number of tiles."""

    height: int
    width: int
    block_d: int
    tiles_y: int
    tiles_x: int

    @staticmethod
    def of(H: int, W: int, D: int) -> "_Tiling":
        block = min(triton.next_power_of_2(D), 32)
        height, width = {32: (4, 8), 16: (8, 8)}.get(block, (8, 16))
        return _Tiling(height, width, block, triton.cdiv(H, height), triton.cdiv(W, width))


def _launch_units(sums: Tensor, adapter: PackedAdapter, how: Combine) -> Tensor:
    """The hidden units [N, H, W, 4 or 1, D], dtype of sums."""
    N, H, W, _ = sums.shape
    D = adapter.bias_hidden.shape[0]
    tiling = _Tiling.of(H, W, D)
    units = sums.new_empty(N, H, W, 1 if how.shuffle else 4, D)
    launch(
        _units_kernel,
        (N * tiling.tiles_y * tiling.tiles_x * triton.cdiv(D, tiling.block_d),),
        units_ptr=units,
        sums_ptr=sums,
        bias_hidden_ptr=adapter.bias_hidden,
        H=H,
        W=W,
        tiles_y=tiling.tiles_y,
        tiles_x=tiling.tiles_x,
        slope=SLOPE,
        D=D,
        STRIDE=sums.stride(2),
        SHUFFLE=how.shuffle,
        TILE_H=tiling.height,
        TILE_W=tiling.width,
        BLOCK_D=tiling.block_d,
    )
    return units


def _launch_gather(grad_map: Tensor, v: Tensor, how: Combine) -> Tensor:
    """Fill the rest of ``grad_map`` from v [N, H, W, 4 or 1, D]; return the gradient of the hidden bias."""
    N, H, W, _, D = v.shape
    S = grad_map.shape[3]
    tiling = _Tiling.of(H, W, D)
    tiles = N * tiling.tiles_y * tiling.tiles_x
    grad_bias_hidden = torch.empty(tiles, D, dtype=torch.float32, device=v.device)
    launch(
        _gather_kernel,
        (tiles * triton.cdiv(D, tiling.block_d),),
        grad_map_ptr=grad_map,
        grad_bias_hidden_ptr=grad_bias_hidden,
        v_ptr=v,
        H=H,
        W=W,
        tiles_y=tiling.tiles_y,
        tiles_x=tiling.tiles_x,
        C=S - (D if how.shuffle else 2 * D),
        D=D,
        S=S,
        SHUFFLE=how.shuffle,
        TILE_H=tiling.height,
        TILE_W=tiling.width,
        BLOCK_D=tiling.block_d,
    )
    return grad_bias_hidden.sum(0)
