"""The tail of a synthesis block in one launch: second layer, colours, and their sum with the enlarged image.

    y = clamp(gain lrelu(w x + b)),   image' = clamp(v y + b') + enlarge(image)

A program holds consecutive pixels with all channels of y, so that the colours are a second product with y still in
registers. Every pixel reads two rows and two columns of the small image. The last block never writes y. Bytes per
pixel, for C channels of s bytes: C s for x, as much for y if it is kept, and 15 for the image.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import has_warp_group_products, launch
from ..base.operands import OPERANDS, dot, leaky_relu, to_operand
from .refine_to_rgb_ref import SLOPE

NARROW = 64  # channels up to which one pass over the pixels computes all gradients
COLOURS = 4  # the most that the kernels support
SIDE = 16  # of the colours' product: the least for tensor cores


@triton.jit
def features(
    x_ptr, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
    I: tl.constexpr, C: tl.constexpr, CLAMPED: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """All channels of y for consecutive pixels, operand type [BLOCK_M, BLOCK_C]; zero beyond C."""
    offs_k, offs_c = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for k in tl.range(0, I, BLOCK_K, num_stages=STAGES):
        mask_x, mask_w = mask_m[:, None], mask_c[None, :]
        if I % BLOCK_K != 0:
            mask_k = k + offs_k < I
            mask_x, mask_w = mask_x & mask_k[None, :], mask_w & mask_k[:, None]
        x = tl.load(x_ptr + offs_m[:, None] * I + (k + offs_k)[None, :], mask=mask_x, other=0.0)
        w = tl.load(weight_ptr + offs_c[None, :] * I + (k + offs_k)[:, None], mask=mask_w, other=0.0)
        acc = dot(x, w, acc, INPUT_PRECISION)
    acc += tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0)[None, :]
    return activated(acc, slope, clamp, CLAMPED, DT)


@triton.jit
def activated(z, slope, clamp, CLAMPED: tl.constexpr, DT: tl.constexpr):
    """lrelu and clamp in float32, the result as an operand."""
    z = leaky_relu(z, slope)
    if CLAMPED:
        z = clamped(z, clamp)
    return to_operand(z, DT)


@triton.jit
def clamped(z, clamp):
    return tl.where(z > clamp, clamp, tl.where(z < -clamp, -clamp, z))  # lets NaN through


@triton.jit
def colours(
    y, weight_ptr, bias_ptr, C: tl.constexpr, O: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    BLOCK_C: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """v y + b' [BLOCK_M, SIDE] float32, zero beyond O."""
    offs_c, offs_o = tl.arange(0, BLOCK_C), tl.arange(0, SIDE)
    mask = (offs_o < O)[None, :] & (offs_c < C)[:, None]
    weight = tl.load(weight_ptr + offs_o[None, :] * C + offs_c[:, None], mask=mask, other=0.0)
    z = dot(y, weight, tl.zeros([y.shape[0], SIDE], tl.float32), INPUT_PRECISION)
    return z + tl.load(bias_ptr + offs_o, mask=offs_o < O, other=0.0)[None, :]


@triton.jit
def _between(r, size, BILINEAR: tl.constexpr):
    """Row r of the large image blends rows y and y + 1 of the small one: y, and the weight of row y + 1.
    Either row may lie outside, where the image is zero.
    """
    if BILINEAR:  # corners aligned; computed in integers, so that the weight is rounded only once
        y = r * (size - 1) // (2 * size - 1)
        weight = (r * (size - 1) - y * (2 * size - 1)).to(tl.float32) / (2 * size - 1)
    else:  # the taps 1, 3, 3, 1 over 4, at every second pixel
        y = (r + 1) // 2 - 1
        weight = tl.where(r % 2 == 0, 0.75, 0.25)
    return y, weight


@triton.jit
def _enlarged(image_ptr, y, x, wy, wx, H, W, mask):
    """One colour of the small image between (y, x) and (y + 1, x + 1)."""
    up, down, left, right = mask & (y >= 0), mask & (y + 1 < H), x >= 0, x + 1 < W
    image_ptr += y * W + x
    top = (1.0 - wx) * tl.load(image_ptr, mask=up & left, other=0.0)
    top += wx * tl.load(image_ptr + 1, mask=up & right, other=0.0)
    bottom = (1.0 - wx) * tl.load(image_ptr + W, mask=down & left, other=0.0)
    bottom += wx * tl.load(image_ptr + W + 1, mask=down & right, other=0.0)
    return (1.0 - wy) * top + wy * bottom


@triton.jit
def _forward_kernel(
    y_ptr, out_ptr, x_ptr, weight_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr, image_ptr,
    repeat, P, H, W, tiles, slope, clamp,
    KEEP: tl.constexpr, IMAGE: tl.constexpr, TWICE: tl.constexpr, BILINEAR: tl.constexpr, CLAMPED: tl.constexpr,
    I: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * BLOCK_M  # image offsets in 64 bits, offsets within an image in 32
    offs_m, offs_c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    mask_m = first + offs_m < P
    weight_ptr += n // repeat * C * I
    rgb_weight_ptr += n // repeat * O * C
    y = features(
        x_ptr + (n * P + first) * I, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
        I, C, CLAMPED, DT, INPUT_PRECISION, STAGES, BLOCK_M, BLOCK_K, BLOCK_C,
    )  # fmt: skip
    if KEEP:
        y_ptr += (n * P + first) * C
        tl.store(y_ptr + offs_m[:, None] * C + offs_c[None, :], y, mask=mask_m[:, None] & (offs_c < C)[None, :])
    rgb = colours(y, rgb_weight_ptr, rgb_bias_ptr, C, O, INPUT_PRECISION, BLOCK_C, SIDE)
    if CLAMPED:
        rgb = clamped(rgb, clamp)
    offs_p = first + offs_m
    offs_o = tl.arange(0, SIDE)[None, :]
    if TWICE:
        row, wy = _between(offs_p // W, H // 2, BILINEAR)
        column, wx = _between(offs_p % W, W // 2, BILINEAR)
    for o in tl.static_range(O):  # one colour at a time: an element per thread, coalesced
        z = tl.sum(tl.where(offs_o == o, rgb, 0.0), axis=1)
        plane = n * O + o
        if TWICE:
            z += _enlarged(image_ptr + plane * (P // 4), row, column, wy, wx, H // 2, W // 2, mask_m)
        elif IMAGE:
            z += tl.load(image_ptr + plane * P + offs_p, mask=mask_m, other=0.0)
        tl.store(out_ptr + plane * P + offs_p, z, mask=mask_m)


class _Tile(NamedTuple):
    """Pixels and input channels that a program holds at a time."""

    pixels: int
    terms: int
    num_warps: int
    num_stages: int


def covered(x: torch.dtype, I: int, C: int, O: int) -> bool:  # noqa: E741
    """Whether all channels of y and their gradients fit the registers of one program."""
    return max(I, C) <= (256 if x.itemsize == 2 else 64) and 1 <= O <= COLOURS


def _tile(C: int, I: int, precision: str, backward: bool, groups: bool) -> _Tile:  # noqa: E741
    width, terms = triton.next_power_of_2(C), max(triton.next_power_of_2(I), 16)
    if precision == "fp32":  # no tensor cores: many registers
        return _Tile(32 if width > 32 else 64, 16, 4, 2)
    if backward and max(width, terms) <= NARROW and precision != "tf32":
        return _Tile(64 if groups or width <= 32 else 32, terms, 8 if groups and width > 32 else 4, 2)
    if backward:
        return _Tile(32 if width > 128 else 64, min(terms, 32), 4 if width <= 64 else 8, 2)
    if width > 128:
        return _Tile(64, min(terms, 32), 8, 3)
    if precision == "tf32":
        return _Tile(128 if width <= 32 else 64, min(terms, 32), 4, 3)
    return _Tile(128, min(terms, 64), 4 if width <= 32 else 8, 3)


class Packed(NamedTuple):
    """Both layers in the kernels' formats: weights in the operand type, biases in float32."""

    weight: Tensor  # [B, C, I], times the gain
    bias: Tensor  # [C], times the gain
    rgb_weight: Tensor  # [B, O, C]
    rgb_bias: Tensor  # [O]

    def pointers(self) -> dict[str, Any]:
        return {f"{name}_ptr": t for name, t in self._asdict().items()}


class Tail(NamedTuple):
    """Options of a launch that are not tensors."""

    gain: float
    clamp: float | None
    precision: str

    def pack(self, weight: Tensor, bias: Tensor, rgb_weight: Tensor, rgb_bias: Tensor) -> Packed:
        """The gain multiplies weight and bias, since lrelu is homogeneous."""
        storage = OPERANDS[self.precision].storage
        return Packed(
            (weight * self.gain).to(storage).contiguous(),
            (bias.float() * self.gain).contiguous(),
            rgb_weight.to(storage).contiguous(),
            rgb_bias.float().contiguous(),
        )


def constants_of(x: Tensor, C: int, O: int, how: Tail, backward: bool) -> dict[str, Any]:  # noqa: E741
    I = x.shape[3]  # noqa: E741
    tile = _tile(C, I, how.precision, backward, has_warp_group_products(x.device))
    return {
        "slope": SLOPE,
        "clamp": how.clamp or 0.0,
        "CLAMPED": how.clamp is not None,
        "I": I,
        "C": C,
        "O": O,
        "DT": OPERANDS[how.precision].triton,
        "INPUT_PRECISION": OPERANDS[how.precision].input_precision,
        "STAGES": tile.num_stages,
        "SIDE": SIDE,
        "BLOCK_M": tile.pixels,
        "BLOCK_K": tile.terms,
        "BLOCK_C": max(triton.next_power_of_2(C), SIDE),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def launch_forward(
    x: Tensor, packed: Packed, image: Tensor | None, enlarge: str | None, keep: bool, how: Tail
) -> tuple[Tensor, Tensor]:
    """y [N, H, W, C], or [0] if it is not kept, and the image [N, O, H, W]; x and image are contiguous."""
    (N, H, W, _), (B, O, C) = x.shape, packed.rgb_weight.shape  # noqa: E741
    y = torch.empty((N, H, W, C) if keep else (0,), dtype=x.dtype, device=x.device)
    out = torch.empty(N, O, H, W, dtype=torch.float32, device=x.device)
    constants = constants_of(x, C, O, how, backward=False)
    tiles = triton.cdiv(H * W, constants["BLOCK_M"])
    launch(
        _forward_kernel,
        (N * tiles,),
        y_ptr=y if keep else None,
        out_ptr=out,
        x_ptr=x,
        image_ptr=image,
        repeat=N // max(B, 1),
        P=H * W,
        H=H,
        W=W,
        tiles=tiles,
        KEEP=keep,
        IMAGE=image is not None,
        TWICE=image is not None and enlarge is not None,
        BILINEAR=enlarge == "bilinear",
        **packed.pointers(),
        **constants,
    )
    return y, out
