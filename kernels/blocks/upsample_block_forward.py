"""Output of an upsampling block from its low-resolution map, in one launch.

    nn_cat        hidden(2y+i, 2x+j) = lrelu(A[y, x] + P[y+2i-1, x] + P[y, x+2j-1] + b0), zero outside the image
                  out = clamp(gain lrelu(nearest(x) * f + W1 (hidden * f) + b1 (1 * f) + noise + bias))
    pixelshuffle  the same with hidden = lrelu(A[y, x] + b0) and separate W1 and b1 for each of the four subpixels

f is the blur with taps [1, 3, 3, 1]/8 along both axes, or the identity. A program holds a tile of low-resolution pixels
and computes the four output pixels of each. nearest(x) * f is a polyphase filter on 3 x 3 neighbours; hidden * f reads
25 hidden pixels, for pixelshuffle 9 neighbours; all reads are from the map. Small products then map the hidden channels
to the output, summed over blocks of hidden channels.

Elements per output pixel and channel: the map 0.375, for pixelshuffle 0.3125, and the output 1. With the halo of a tile
of 8 x 8 (1024 px) or 4 x 8 the map counts 1.6 or 2.0 times: 1.17 or 1.26 times the minimum, of which L2 serves most.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.operands import OPERANDS, dot, leaky_relu, to_operand

SLOPE, GAIN = 0.2, 2**0.5  # of the hidden activation, and of the leaky ReLU at the end


@triton.jit
def near(
    ptr, offs_m, y, x, H, W, offs_c,
    DY: tl.constexpr, DX: tl.constexpr, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Channels of the pixels (y + DY, x + DX), float32 [M, BLOCK], zero outside the image; ``offs_m`` is at (y, x)."""
    inside = (y + DY >= 0) & (y + DY < H) & (x + DX >= 0) & (x + DX < W)
    mask = inside[:, None]
    if SIZE % BLOCK != 0:
        mask = mask & (offs_c < SIZE)[None, :]
    offs = offs_m[:, None] + offs_c[None, :]
    return tl.load(ptr + (DY * W + DX) * STRIDE + offs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def hidden(
    sums_ptr, offs_m, y, x, H, W, offs_d, bias, slope,
    R: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """nn_cat's hidden units of the pixels (2y + R, 2x + K) [M, BLOCK_D]; undefined outside the image.
    ``sums_ptr`` points to A, P follows; the stride between pixels is STRIDE.
    """
    DY: tl.constexpr = R // 2
    DX: tl.constexpr = K // 2
    own = near(sums_ptr, offs_m, y, x, H, W, offs_d, DY, DX, STRIDE, D, BLOCK_D)
    beside = near(sums_ptr + D, offs_m, y, x, H, W, offs_d, DY, DX + 2 * (K % 2) - 1, STRIDE, D, BLOCK_D)
    across = near(sums_ptr + D, offs_m, y, x, H, W, offs_d, DY + 2 * (R % 2) - 1, DX, STRIDE, D, BLOCK_D)
    return leaky_relu(own + bias + beside + across, slope)


@triton.jit
def hidden_sums(
    map_ptr, offs_m, y, x, H, W, offs_d, bias,
    DY: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Terms shared by the hidden pixels 2x - 2 to 2x + 2 of the rows 2(y + DY) and 2(y + DY) + 1."""
    S: tl.constexpr = C + 2 * D
    a0 = near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, -1, S, D, BLOCK_D) + bias
    a1 = near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, 0, S, D, BLOCK_D) + bias
    a2 = near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, 1, S, D, BLOCK_D) + bias
    p0 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, DY, -2, S, D, BLOCK_D)
    p1 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, DY, -1, S, D, BLOCK_D)
    p2 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, DY, 0, S, D, BLOCK_D)
    p3 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, DY, 1, S, D, BLOCK_D)
    return a0 + p0, a0 + p2, a1 + p1, a1 + p3, a2 + p2


@triton.jit
def hidden_row(
    map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4,
    UP: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Eight times a hidden row blurred along x, at the pixels 2x and 2x + 1.
    Args: y + UP is the row of P in its sum, the sums are those of ``hidden_sums``; ``left`` and ``right`` [M, 1] are
    1 where pixels x - 1 and x + 1 exist, else 0.
    """
    S: tl.constexpr = C + 2 * D
    p0 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, UP, -1, S, D, BLOCK_D)
    p1 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, UP, 0, S, D, BLOCK_D)
    p2 = near(map_ptr + C + D, offs_m, y, x, H, W, offs_d, UP, 1, S, D, BLOCK_D)
    h0, h1 = left * leaky_relu(s0 + p0, slope), left * leaky_relu(s1 + p0, slope)
    h2, h3 = leaky_relu(s2 + p1, slope), leaky_relu(s3 + p1, slope)
    h4 = right * leaky_relu(s4 + p2, slope)
    return h0 + h3 + 3.0 * (h1 + h2), h1 + h4 + 3.0 * (h2 + h3)


@triton.jit
def blurred_hidden(
    map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right, top, bottom,
    C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """nn_cat's hidden units after the blur, at the four output pixels of (y, x), [M, BLOCK_D] each."""
    s0, s1, s2, s3, s4 = hidden_sums(map_ptr, offs_m, y, x, H, W, offs_d, bias, -1, C, D, BLOCK_D)
    g0, g1 = hidden_row(
        map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4, -2, C, D, BLOCK_D
    )  # row 2y - 2
    h00, h01 = top * g0, top * g1
    g0, g1 = hidden_row(
        map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4, 0, C, D, BLOCK_D
    )  # row 2y - 1
    h00, h01, h10, h11 = h00 + (3.0 * top) * g0, h01 + (3.0 * top) * g1, top * g0, top * g1
    s0, s1, s2, s3, s4 = hidden_sums(map_ptr, offs_m, y, x, H, W, offs_d, bias, 0, C, D, BLOCK_D)
    g0, g1 = hidden_row(
        map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4, -1, C, D, BLOCK_D
    )  # row 2y
    h00, h01, h10, h11 = h00 + 3 / 64 * g0, h01 + 3 / 64 * g1, h10 + 3 / 64 * g0, h11 + 3 / 64 * g1
    g0, g1 = hidden_row(
        map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4, 1, C, D, BLOCK_D
    )  # row 2y + 1
    h00, h01, h10, h11 = h00 + 1 / 64 * g0, h01 + 1 / 64 * g1, h10 + 3 / 64 * g0, h11 + 3 / 64 * g1
    s0, s1, s2, s3, s4 = hidden_sums(map_ptr, offs_m, y, x, H, W, offs_d, bias, 1, C, D, BLOCK_D)
    g0, g1 = hidden_row(
        map_ptr, offs_m, y, x, H, W, offs_d, slope, left, right, s0, s1, s2, s3, s4, 0, C, D, BLOCK_D
    )  # row 2y + 2
    return h00, h01, h10 + bottom * g0, h11 + bottom * g1


@triton.jit
def nearest_row(
    map_ptr, offs_m, y, x, H, W, offs_c,
    DY: tl.constexpr, S: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Row y + DY of x, enlarged and blurred along x: the pixels 2x and 2x + 1."""
    left = near(map_ptr, offs_m, y, x, H, W, offs_c, DY, -1, S, C, BLOCK_C)
    mid = near(map_ptr, offs_m, y, x, H, W, offs_c, DY, 0, S, C, BLOCK_C)
    right = near(map_ptr, offs_m, y, x, H, W, offs_c, DY, 1, S, C, BLOCK_C)
    return 0.5 * (left + mid), 0.125 * (left + right) + 0.75 * mid


@triton.jit
def nearest(
    map_ptr, offs_m, y, x, H, W, offs_c,
    BLUR: tl.constexpr, S: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x enlarged and blurred: the four output pixels of (y, x), [M, BLOCK_C] each."""
    if BLUR:
        a0, a1 = nearest_row(map_ptr, offs_m, y, x, H, W, offs_c, -1, S, C, BLOCK_C)
        b0, b1 = nearest_row(map_ptr, offs_m, y, x, H, W, offs_c, 0, S, C, BLOCK_C)
        c0, c1 = nearest_row(map_ptr, offs_m, y, x, H, W, offs_c, 1, S, C, BLOCK_C)
        x00, x01 = 0.5 * (a0 + b0), 0.5 * (a1 + b1)
        x10, x11 = 0.125 * (a0 + c0) + 0.75 * b0, 0.125 * (a1 + c1) + 0.75 * b1
        return x00, x01, x10, x11
    mid = near(map_ptr, offs_m, y, x, H, W, offs_c, 0, 0, S, C, BLOCK_C)
    return mid, mid, mid, mid


@triton.jit
def load_weight(ptr, offs_k, offs_c, K: tl.constexpr, C: tl.constexpr, D: tl.constexpr, PAIRED: tl.constexpr):
    """Weights [K, BLOCK_C] from (C, D); PAIRED: every second row, from K on, the others zero."""
    if PAIRED:
        offs_d = offs_k // 2
        mask_k = (offs_k % 2 == K) & (offs_d < D)
    else:
        offs_d = offs_k
        mask_k = offs_k < D
    mask = mask_k[:, None] & (offs_c < C)[None, :]
    return tl.load(ptr + offs_c[None, :] * D + offs_d[:, None], mask=mask, other=0.0)


@triton.jit
def finish(
    out_ptr, noise_ptr, z, offs_out, offs_noise, valid, offs_c, W, slope, gain, clamp,
    R: tl.constexpr, K: tl.constexpr, NOISE: tl.constexpr, CLAMP: tl.constexpr,
    C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Noise, activation, gain and clamp of the pixels (2y + R, 2x + K), then store."""
    if NOISE:
        noise = tl.load(noise_ptr + offs_noise + R * 2 * W + K, mask=valid, other=0.0).to(tl.float32)
        z += noise[:, None]
    z = leaky_relu(z, slope) * gain
    if CLAMP:
        everything: tl.constexpr = tl.PropagateNan.ALL
        z = tl.minimum(tl.maximum(z, -clamp, propagate_nan=everything), clamp, propagate_nan=everything)
    mask = valid[:, None]
    if C % BLOCK_C != 0:
        mask = mask & (offs_c < C)[None, :]
    offs = offs_out[:, None] + offs_c[None, :]
    tl.store(out_ptr + (R * 2 * W + K) * C + offs, to_operand(z, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def shuffled_row(
    map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right,
    DY: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Eight times the three blends along x of pixelshuffle's hidden units in row y + DY, as ``mixed`` has it."""
    S: tl.constexpr = C + D
    before = leaky_relu(near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, -1, S, D, BLOCK_D) + bias, slope)
    mid = leaky_relu(near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, 0, S, D, BLOCK_D) + bias, slope)
    after = leaky_relu(near(map_ptr + C, offs_m, y, x, H, W, offs_d, DY, 1, S, D, BLOCK_D) + bias, slope)
    return mixed(before, mid, after, left, right, 1.0)


@triton.jit
def mixed(before, mid, after, first, last, unit):
    """Three blends along an axis. Of the first and second subpixels, pixel 2x takes the blends 0 and 1, pixel 2x + 1
    the blends 2 and 0. ``first`` and ``last`` are ``unit`` where the previous and the next pixel exist, else 0.
    """
    return first * before + 3.0 * unit * mid, (3.0 * first) * before + unit * mid, 3.0 * unit * mid + last * after


@triton.jit
def four(h0, h1, h2, h3, w0, w1, w2, w3, acc, INPUT_PRECISION: tl.constexpr):
    """acc + h0 w0 + h1 w1 + h2 w2 + h3 w3."""
    acc = dot(h1, w1, dot(h0, w0, acc, INPUT_PRECISION), INPUT_PRECISION)
    return dot(h3, w3, dot(h2, w2, acc, INPUT_PRECISION), INPUT_PRECISION)


@triton.jit
def shuffled_products(
    z00, z01, z10, z11, map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right, above, below,
    w00, w01, w10, w11,
    BLUR: tl.constexpr, C: tl.constexpr, D: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """z plus the products of pixelshuffle's blurred hidden units with the weights of each subpixel."""
    if BLUR:
        a0, a1, a2 = shuffled_row(map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right, -1, C, D, BLOCK_D)
        m0, m1, m2 = shuffled_row(map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right, 0, C, D, BLOCK_D)
        e0, e1, e2 = shuffled_row(map_ptr, offs_m, y, x, H, W, offs_d, bias, slope, left, right, 1, C, D, BLOCK_D)
        h00, h10, h20 = mixed(a0, m0, e0, above, below, 1 / 64)  # h[blend along y][blend along x]
        h01, h11, h21 = mixed(a1, m1, e1, above, below, 1 / 64)
        h02, h12, h22 = mixed(a2, m2, e2, above, below, 1 / 64)
        h00, h01, h02 = to_operand(h00, DT), to_operand(h01, DT), to_operand(h02, DT)
        h10, h11, h12 = to_operand(h10, DT), to_operand(h11, DT), to_operand(h12, DT)
        h20, h21, h22 = to_operand(h20, DT), to_operand(h21, DT), to_operand(h22, DT)
        z00 = four(h00, h01, h10, h11, w00, w01, w10, w11, z00, INPUT_PRECISION)
        z01 = four(h02, h00, h12, h10, w00, w01, w10, w11, z01, INPUT_PRECISION)
        z10 = four(h20, h21, h00, h01, w00, w01, w10, w11, z10, INPUT_PRECISION)
        z11 = four(h22, h20, h02, h00, w00, w01, w10, w11, z11, INPUT_PRECISION)
    else:
        h = near(map_ptr + C, offs_m, y, x, H, W, offs_d, 0, 0, C + D, D, BLOCK_D)
        h = to_operand(leaky_relu(h + bias, slope), DT)
        z00, z01 = dot(h, w00, z00, INPUT_PRECISION), dot(h, w01, z01, INPUT_PRECISION)
        z10, z11 = dot(h, w10, z10, INPUT_PRECISION), dot(h, w11, z11, INPUT_PRECISION)
    return z00, z01, z10, z11


@triton.jit
def adapter_bias(
    bias_adapter_ptr, bias_ptr, left, right, above, below, offs_c,
    SHUFFLE: tl.constexpr, BLUR: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Bias of the four output pixels: the adapter's, blurred within the image, plus the layer's."""
    mask_c = offs_c < C
    bias = tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0)[None, :]
    b00 = tl.load(bias_adapter_ptr + offs_c, mask=mask_c, other=0.0)[None, :]
    b01, b10, b11 = b00, b00, b00
    if SHUFFLE:
        b01 = tl.load(bias_adapter_ptr + C + offs_c, mask=mask_c, other=0.0)[None, :]
        b10 = tl.load(bias_adapter_ptr + 2 * C + offs_c, mask=mask_c, other=0.0)[None, :]
        b11 = tl.load(bias_adapter_ptr + 3 * C + offs_c, mask=mask_c, other=0.0)[None, :]
    if BLUR:
        p0, p1, p2 = mixed(1.0, 1.0, 1.0, left, right, 1.0)
        q0, q1, q2 = mixed(1.0, 1.0, 1.0, above, below, 1 / 64)
        if SHUFFLE:
            c0, c1, d0, d1 = p0 * b00 + p1 * b01, p2 * b00 + p0 * b01, p0 * b10 + p1 * b11, p2 * b10 + p0 * b11
            b00, b01, b10, b11 = q0 * c0 + q1 * d0, q0 * c1 + q1 * d1, q2 * c0 + q0 * d0, q2 * c1 + q0 * d1
        else:
            b00, b01 = (q0 + q1) * (p0 + p1) * b00, (q0 + q1) * (p2 + p0) * b01
            b10, b11 = (q2 + q0) * (p0 + p1) * b10, (q2 + q0) * (p2 + p0) * b11
    return b00 + bias, b01 + bias, b10 + bias, b11 + bias


@triton.jit
def combine_tile(
    out_ptr, map_ptr, weight_ptr, bias_hidden_ptr, bias_adapter_ptr, bias_ptr, noise_ptr,
    offs_map, map_y, map_x, map_H, map_W, offs_out, y, x, H, W, offs_c, slope, gain, clamp,
    C: tl.constexpr, D: tl.constexpr, SHUFFLE: tl.constexpr, BLUR: tl.constexpr, NOISE: tl.constexpr,
    CLAMP: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Channels ``offs_c`` of the four output pixels of each of BLOCK_M pixels (y, x).
    The map may cover a part of the image: its pixels are then (map_y, map_x) of map_H x map_W. ``noise_ptr`` is the
    image's, ``offs_out`` counts from ``out_ptr``.
    """
    S: tl.constexpr = C + D if SHUFFLE else C + 2 * D
    PAIRED: tl.constexpr = BLOCK_D < 16
    BLOCK_K: tl.constexpr = BLOCK_D * 2 if PAIRED else BLOCK_D
    left, right = tl.where(x > 0, 1.0, 0.0)[:, None], tl.where(x + 1 < W, 1.0, 0.0)[:, None]
    above, below = tl.where(y > 0, 1 / 64, 0.0)[:, None], tl.where(y + 1 < H, 1 / 64, 0.0)[:, None]
    z00 = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    z01, z10, z11 = z00, z00, z00
    for d in range(0, D, BLOCK_D):
        offs_d = d + tl.arange(0, BLOCK_D)
        offs_k = d + tl.arange(0, BLOCK_K)  # offs_d, except in pairs
        b = tl.load(bias_hidden_ptr + offs_d, mask=offs_d < D, other=0.0)[None, :]
        w00 = load_weight(weight_ptr, offs_k, offs_c, 0, C, D, PAIRED)
        if SHUFFLE:
            w01 = load_weight(weight_ptr + D * C, offs_k, offs_c, 0, C, D, PAIRED)
            w10 = load_weight(weight_ptr + 2 * D * C, offs_k, offs_c, 0, C, D, PAIRED)
            w11 = load_weight(weight_ptr + 3 * D * C, offs_k, offs_c, 0, C, D, PAIRED)
            z00, z01, z10, z11 = shuffled_products(
                z00, z01, z10, z11, map_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope,
                left, right, above, below, w00, w01, w10, w11,
                BLUR, C, D, DT, INPUT_PRECISION, BLOCK_D,
            )  # fmt: skip
        else:
            if BLUR:
                h00, h01, h10, h11 = blurred_hidden(
                    map_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope, left, right, above, below,
                    C, D, BLOCK_D,
                )  # fmt: skip
            else:
                sums_ptr = map_ptr + C
                h00 = hidden(sums_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope, 0, 0, S, D, BLOCK_D)
                h01 = hidden(sums_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope, 0, 1, S, D, BLOCK_D)
                h10 = hidden(sums_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope, 1, 0, S, D, BLOCK_D)
                h11 = hidden(sums_ptr, offs_map, map_y, map_x, map_H, map_W, offs_d, b, slope, 1, 1, S, D, BLOCK_D)
            h00, h01, h10, h11 = to_operand(h00, DT), to_operand(h01, DT), to_operand(h10, DT), to_operand(h11, DT)
            w01 = w00
            if PAIRED:  # fewer than 16 hidden units: two pixels share a product, each with zeros in the other's place
                h00 = tl.reshape(tl.join(h00, h01), [BLOCK_M, BLOCK_K])
                h10 = tl.reshape(tl.join(h10, h11), [BLOCK_M, BLOCK_K])
                h01, h11 = h00, h10
                w01 = load_weight(weight_ptr, offs_k, offs_c, 1, C, D, PAIRED)
            z00, z01 = dot(h00, w00, z00, INPUT_PRECISION), dot(h01, w01, z01, INPUT_PRECISION)
            z10, z11 = dot(h10, w00, z10, INPUT_PRECISION), dot(h11, w01, z11, INPUT_PRECISION)
    x00, x01, x10, x11 = nearest(map_ptr, offs_map, map_y, map_x, map_H, map_W, offs_c, BLUR, S, C, BLOCK_C)
    b00, b01, b10, b11 = adapter_bias(bias_adapter_ptr, bias_ptr, left, right, above, below, offs_c, SHUFFLE, BLUR, C)
    valid = (y < H) & (x < W)
    offs_noise = (y * 2 * W + x) * 2
    z00, z01, z10, z11 = z00 + (x00 + b00), z01 + (x01 + b01), z10 + (x10 + b10), z11 + (x11 + b11)
    finish(out_ptr, noise_ptr, z00, offs_out, offs_noise, valid, offs_c, W, slope, gain, clamp,
           0, 0, NOISE, CLAMP, C, BLOCK_C)  # fmt: skip
    finish(out_ptr, noise_ptr, z01, offs_out, offs_noise, valid, offs_c, W, slope, gain, clamp,
           0, 1, NOISE, CLAMP, C, BLOCK_C)  # fmt: skip
    finish(out_ptr, noise_ptr, z10, offs_out, offs_noise, valid, offs_c, W, slope, gain, clamp,
           1, 0, NOISE, CLAMP, C, BLOCK_C)  # fmt: skip
    finish(out_ptr, noise_ptr, z11, offs_out, offs_noise, valid, offs_c, W, slope, gain, clamp,
           1, 1, NOISE, CLAMP, C, BLOCK_C)  # fmt: skip


@triton.jit
def _combine_kernel(
    out_ptr, map_ptr, weight_ptr, bias_hidden_ptr, bias_adapter_ptr, bias_ptr, noise_ptr,
    stride_noise_n, H, W, tiles_y, tiles_x, slope, gain, clamp,
    C: tl.constexpr, D: tl.constexpr, SHUFFLE: tl.constexpr, BLUR: tl.constexpr, NOISE: tl.constexpr,
    CLAMP: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    S: tl.constexpr = C + D if SHUFFLE else C + 2 * D
    BLOCK_M: tl.constexpr = TILE_H * TILE_W
    chunks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    offs_c = pid % chunks * BLOCK_C + tl.arange(0, BLOCK_C)  # the chunks of a tile are consecutive: its map is in L2
    tile = pid // chunks
    top, x0 = tile // tiles_x % tiles_y * TILE_H, tile % tiles_x * TILE_W
    n = (tile // tiles_x // tiles_y).to(tl.int64)
    offs_m = tl.arange(0, BLOCK_M)
    row, x = offs_m // TILE_W, x0 + offs_m % TILE_W
    y = top + row
    map_ptr += (n * H + top) * W * S  # row offsets in 64 bits, offsets within a tile in 32
    out_ptr += (n * H + top) * 2 * W * 2 * C
    offs_map = (row * W + x) * S
    if NOISE:
        noise_ptr += n * stride_noise_n
    combine_tile(
        out_ptr, map_ptr, weight_ptr, bias_hidden_ptr, bias_adapter_ptr, bias_ptr, noise_ptr,
        offs_map, y, x, H, W, (row * 2 * W + x) * 2 * C, y, x, H, W, offs_c, slope, gain, clamp,
        C, D, SHUFFLE, BLUR, NOISE, CLAMP, DT, INPUT_PRECISION, BLOCK_M, BLOCK_D, BLOCK_C,
    )  # fmt: skip


def rounded(clamp: float | None, dtype: torch.dtype) -> float:
    """The clamp rounded to the output's type; 0 for none."""
    return torch.tensor(clamp or 0.0, dtype=dtype, device="cpu").item()


class Combine(NamedTuple):
    """Options of ``launch_combine``."""

    shuffle: bool  # pixelshuffle, else nn_cat
    blur: bool
    gain: float
    clamp: float | None
    precision: str


class PackedAdapter(NamedTuple):
    """The adapter's second layer and both biases in the kernels' formats; 4 phases for pixelshuffle, else 1."""

    weight: Tensor  # [phases, C, D], operand type, times the hidden activation's gain
    bias_hidden: Tensor  # [D] float32
    bias: Tensor  # [phases, C] float32

    @staticmethod
    def of(weight1: Tensor, bias0: Tensor, bias1: Tensor, how: Combine) -> "PackedAdapter":
        """From the layer's shape, [C, D] or [4C, D]."""
        phases, D = 4 if how.shuffle else 1, weight1.shape[1]
        weight = weight1.reshape(-1, phases, D).transpose(0, 1) * GAIN
        bias = bias1.reshape(-1, phases).t().float().contiguous()
        return PackedAdapter(weight.to(OPERANDS[how.precision].storage).contiguous(), bias0.float(), bias)


class PixelTile(NamedTuple):
    """Pixels of the map, hidden and output channels that a program holds at a time."""

    height: int
    width: int
    block_d: int
    block_c: int
    num_warps: int


def combine_tiling(C: int, D: int, how: Combine, noise: bool) -> PixelTile:
    block_c, block_d = max(triton.next_power_of_2(C), 16), max(triton.next_power_of_2(D), 8)
    if how.precision == "fp32":  # no tensor cores: many registers
        return PixelTile(4, 8, 16, min(block_c, 32), 8 if how.shuffle else 4)
    if how.shuffle:
        return PixelTile(8, 8, 16, 32, 4) if D <= 8 else PixelTile(4, 8, min(block_d, 32), min(block_c, 64), 8)
    if C <= 32 and D <= 8:
        return PixelTile(4 if noise else 8, 8, block_d, block_c, 4)  # with noise, 8 x 8 pixels may spill
    if D <= 16:
        return PixelTile(4, 8, block_d, min(block_c, 64), 4)
    return PixelTile(4, 8, min(block_d, 32), min(block_c, 128), 8)


def launch_combine(map: Tensor, adapter: PackedAdapter, bias: Tensor, noise: Tensor | None, how: Combine) -> Tensor:
    """The block's output [N, 2H, 2W, C], dtype of the map.

    Args:
        map: [N, H, W, C + 2D] or, for pixelshuffle, [N, H, W, C + D], contiguous.
        bias: [C] float32.  noise: [N or 1, 2H, 2W], contiguous, or None.
    """
    N, H, W, _ = map.shape
    _, C, D = adapter.weight.shape
    tile = combine_tiling(C, D, how, noise is not None)
    tiles_y, tiles_x = triton.cdiv(H, tile.height), triton.cdiv(W, tile.width)
    out = torch.empty(N, 2 * H, 2 * W, C, dtype=map.dtype, device=map.device)
    launch(
        _combine_kernel,
        (N * tiles_y * tiles_x * triton.cdiv(C, tile.block_c),),
        out_ptr=out,
        map_ptr=map,
        weight_ptr=adapter.weight,
        bias_hidden_ptr=adapter.bias_hidden,
        bias_adapter_ptr=adapter.bias,
        bias_ptr=bias,
        noise_ptr=noise,
        stride_noise_n=0 if noise is None or noise.shape[0] == 1 else noise.stride(0),
        H=H,
        W=W,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        slope=SLOPE,
        gain=how.gain,
        clamp=how.clamp or 0.0,
        C=C,
        D=D,
        SHUFFLE=how.shuffle,
        BLUR=how.blur,
        NOISE=noise is not None,
        CLAMP=how.clamp is not None,
        DT=OPERANDS[how.precision].triton,
        INPUT_PRECISION=OPERANDS[how.precision].input_precision,
        TILE_H=tile.height,
        TILE_W=tile.width,
        BLOCK_D=tile.block_d,
        BLOCK_C=tile.block_c,
        num_warps=tile.num_warps,
    )
    return out
