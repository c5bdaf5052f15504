"""An upsampling block in one launch. Kept for the backward: x and the output, not the map.
A program computes the map of a tile of low-resolution pixels with its halo, which neighbouring programs recompute, into
a scratch slot, and from the slot the output, as ``upsample_block_forward`` does. Programs are persistent: as many as
run at a time, each with one tile after the other. Their slots together take at most half of the L2 cache, so that they
should be overwritten before L2 writes them back, and memory traffic is x and the output only.

Elements per output pixel and channel, with I = 2 C: x 0.5, the output 1, of a minimum of 1.5. With the halo of 2 (1 for
pixelshuffle) x counts 1.6 times for a tile of 16 x 16, 1.9 times for one of 8 x 16: 1.19 or 1.29 times the minimum.
The two launches count 1.5 times before halos. The product, too, is computed 1.6 or 1.9 times.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.choices import choice
from ..base.launch import compute_capability, launch
from ..base.operands import OPERANDS, dot, to_operand
from .upsample_block_forward import SLOPE, Combine, PackedAdapter, combine_tile, combine_tiling

# by compute capability: processors, MiB of L2 cache; of A100, A40, L40S, H100, others are taken for an H100
MACHINES = {80: (108, 40), 86: (84, 6), 89: (142, 96), 90: (132, 50)}
WIDEST = 128  # channels


class Plan(NamedTuple):
    """Tile of the map's pixels, halo on each side, number of programs."""

    height: int
    width: int
    halo: int
    programs: int

    @property
    def positions(self) -> int:
        """Pixels of a slot."""
        return (self.height + 2 * self.halo) * (self.width + 2 * self.halo)


def plan_whole(x: Tensor, C: int, D: int, how: Combine) -> Plan | None:
    """Plan of one launch for a block of x [N, H, W, I], or None where two launches are better: wide layers, whose halo
    costs more than the map, operands of 32 bit, and a GPU whose L2 does not hold the slots.
    """
    N, H, W, I = x.shape  # noqa: E741
    if OPERANDS[how.precision].storage == torch.float32 or C > WIDEST or 4 * D > WIDEST or I > 3 * C:
        return None
    halo = int(how.blur) if how.shuffle else 1 + how.blur
    processors, cache = MACHINES.get(compute_capability(x.device), MACHINES[90])
    plan = Plan(16 if C <= 64 else 8, 16, halo, processors)
    slot = plan.positions * (C + D if how.shuffle else C + 2 * D) * x.element_size()
    fitting = (cache << 19) // (slot * processors)  # in half of the cache, per processor
    tiles = N * triton.cdiv(H, plan.height) * triton.cdiv(W, plan.width)
    each = min(fitting, 2 if C <= 64 else 1)
    if each and choice("upsample_block launches", x, (1, 2)) == 2:
        return None
    return plan._replace(programs=min(tiles, each * processors)) if each else None


@triton.jit
def _map_tile(
    slot_ptr, x_ptr, weight_ptr, top, x0, H, W,
    I: tl.constexpr, S: tl.constexpr, HALO: tl.constexpr, SLOT_W: tl.constexpr, POSITIONS: tl.constexpr,  # noqa: E741
    DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """The map [POSITIONS, S] of a tile with its halo, zero outside the image; ``x_ptr`` points to its row ``top``."""
    offs_s, offs_i = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_I)
    for p in range(0, POSITIONS, BLOCK_P):
        offs_p = p + tl.arange(0, BLOCK_P)
        row, x = offs_p // SLOT_W - HALO, x0 + offs_p % SLOT_W - HALO
        y = top + row
        inside = (offs_p < POSITIONS) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        offs_x = (row * W + x) * I
        for s in range(0, S, BLOCK_S):
            mask_s = s + offs_s < S
            acc = tl.zeros([BLOCK_P, BLOCK_S], tl.float32)
            for i in tl.range(0, I, BLOCK_I, num_stages=STAGES):
                mask_i = i + offs_i < I
                pixels = tl.load(
                    x_ptr + offs_x[:, None] + (i + offs_i)[None, :], mask=inside[:, None] & mask_i[None, :], other=0.0
                )
                offs_w = (s + offs_s)[:, None] * I + (i + offs_i)[None, :]
                weight = tl.load(weight_ptr + offs_w, mask=mask_s[:, None] & mask_i[None, :], other=0.0)
                acc = dot(pixels, tl.trans(weight), acc, INPUT_PRECISION)
            offs = offs_p[:, None] * S + (s + offs_s)[None, :]
            tl.store(slot_ptr + offs, to_operand(acc, DT), mask=(offs_p < POSITIONS)[:, None] & mask_s[None, :])


@triton.jit
def _whole_kernel(
    out_ptr, slots_ptr, x_ptr, weight_ptr, weight1_ptr, bias_hidden_ptr, bias_adapter_ptr, bias_ptr, noise_ptr,
    stride_noise_n, H, W, tiles, tiles_y, tiles_x, images, slope, gain, clamp,
    I: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SHUFFLE: tl.constexpr, BLUR: tl.constexpr,  # noqa: E741
    NOISE: tl.constexpr, CLAMP: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, HALO: tl.constexpr, PART_H: tl.constexpr, PART_W: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``images`` of the batch share one weight [S, I]; a part of a tile is held in registers at a time."""
    S: tl.constexpr = C + D if SHUFFLE else C + 2 * D
    SLOT_H: tl.constexpr = TILE_H + 2 * HALO
    SLOT_W: tl.constexpr = TILE_W + 2 * HALO
    BLOCK_M: tl.constexpr = PART_H * PART_W
    chunks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    PARTS: tl.constexpr = TILE_H // PART_H * (TILE_W // PART_W) * chunks
    slots_ptr += tl.program_id(0).to(tl.int64) * (SLOT_H * SLOT_W * S)
    offs_m = tl.arange(0, BLOCK_M)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        top, x0 = tile // tiles_x % tiles_y * TILE_H, tile % tiles_x * TILE_W
        n = (tile // tiles_x // tiles_y).to(tl.int64)
        above = n * H + top  # row offsets in 64 bits, offsets within a tile in 32
        _map_tile(
            slots_ptr, x_ptr + above * W * I, weight_ptr + n // images * (S * I), top, x0, H, W,
            I, S, HALO, SLOT_W, SLOT_H * SLOT_W, DT, INPUT_PRECISION, STAGES, BLOCK_P, BLOCK_S, BLOCK_I,
        )  # fmt: skip
        tl.debug_barrier()  # the slot was written by other threads of this program
        for part in range(0, PARTS):
            offs_c = part % chunks * BLOCK_C + tl.arange(0, BLOCK_C)
            row = part // chunks // (TILE_W // PART_W) * PART_H + offs_m // PART_W
            column = part // chunks % (TILE_W // PART_W) * PART_W + offs_m % PART_W
            x = x0 + column
            combine_tile(
                out_ptr + above * 2 * W * 2 * C, slots_ptr, weight1_ptr, bias_hidden_ptr, bias_adapter_ptr, bias_ptr,
                noise_ptr + n * stride_noise_n if NOISE else noise_ptr,
                ((row + HALO) * SLOT_W + column + HALO) * S, row + HALO, column + HALO, SLOT_H, SLOT_W,
                (row * 2 * W + x) * 2 * C, top + row, x, H, W, offs_c, slope, gain, clamp,
                C, D, SHUFFLE, BLUR, NOISE, CLAMP, DT, INPUT_PRECISION, BLOCK_M, BLOCK_D, BLOCK_C,
            )  # fmt: skip
        tl.debug_barrier()  # other threads may still read the slot that the next tile overwrites


def launch_whole(
    x: Tensor, weight: Tensor, adapter: PackedAdapter, bias: Tensor, noise: Tensor | None, how: Combine, plan: Plan
) -> Tensor:
    """The block's output [N, 2H, 2W, C], dtype of x.

    Args:
        x: [N, H, W, I], contiguous, of the operand type.  weight: [B, C + 2D or C + D, I] likewise, N a multiple of B.
        bias: [C] float32.  noise: [N or 1, 2H, 2W], contiguous, or None.
    """
    N, H, W, I = x.shape  # noqa: E741
    _, C, D = adapter.weight.shape
    B, S, _ = weight.shape
    part = combine_tiling(C, D, how, noise is not None)
    part = part._replace(height=4)  # inside these loops, 8 x 8 pixels would spill
    tiles_y, tiles_x = triton.cdiv(H, plan.height), triton.cdiv(W, plan.width)
    out = torch.empty(N, 2 * H, 2 * W, C, dtype=x.dtype, device=x.device)
    launch(
        _whole_kernel,
        (plan.programs,),
        out_ptr=out,
        slots_ptr=torch.empty(plan.programs, plan.positions, S, dtype=x.dtype, device=x.device),
        x_ptr=x,
        weight_ptr=weight,
        weight1_ptr=adapter.weight,
        bias_hidden_ptr=adapter.bias_hidden,
        bias_adapter_ptr=adapter.bias,
        bias_ptr=bias,
        noise_ptr=noise,
        stride_noise_n=0 if noise is None or noise.shape[0] == 1 else noise.stride(0),
        H=H,
        W=W,
        tiles=N * tiles_y * tiles_x,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        images=N // max(B, 1),
        slope=SLOPE,
        gain=how.gain,
        clamp=how.clamp or 0.0,
        I=I,
        C=C,
        D=D,
        SHUFFLE=how.shuffle,
        BLUR=how.blur,
        NOISE=noise is not None,
        CLAMP=how.clamp is not None,
        DT=OPERANDS[how.precision].triton,
        INPUT_PRECISION=OPERANDS[how.precision].input_precision,
        STAGES=2 if I > 64 else 1,
        TILE_H=plan.height,
        TILE_W=plan.width,
        HALO=plan.halo,
        PART_H=part.height,
        PART_W=part.width,
        BLOCK_P=128,
        BLOCK_S=min(max(triton.next_power_of_2(C) // 2, 16), 64),
        BLOCK_I=min(max(triton.next_power_of_2(I), 16), 64),
        BLOCK_D=part.block_d,
        BLOCK_C=part.block_c,
        num_warps=part.num_warps,
    )
    return out
