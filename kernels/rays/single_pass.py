"""The single pass: a tile of whole rays passes the trunk, is composited and aggregated without leaving the chip.

    x_i = relu(sigma_i) (t_{i+1} - t_i) |d|,  T_i = exp(-sum_{j<i} x_j),  w_i = T_i (1 - exp(-x_i)),  sum_i w_i a_i

A ray reads 24 bytes and S depths and writes H features and 2 S + 1 numbers. The sum over samples is a product with the
block-diagonal matrix of the weights; further columns hold its rounding error.
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import compute_capability, has_warp_group_products, launch
from ..base.operands import OPERANDS, dot, to_operand
from .field_triton import Operand, RowTile, Samples, along_rays, contract, coordinates, density, trunk
from .volume_triton import relu

MAX_SAMPLES = 128  # per ray, all passes together


class RayOutputs(NamedTuple):
    """Outputs of a pass along rays; samples of the last E rays are not aggregated."""

    hidden: Tensor  # [B, R - E, H]
    weights: Tensor  # [B, R, S]
    density: Tensor  # [B, R, S] raw, noise included
    transmittance: Tensor  # [B, R]
    sample_hidden: Tensor  # [B, E, S, H]

    @classmethod
    def empty(cls, samples: Samples, width: int, rays: tuple[int, int], sample_rays: int) -> "RayOutputs":
        R, S = rays
        B, new = samples.batch, partial(torch.empty, dtype=torch.float32, device=samples.device)
        return cls(new(B, R - sample_rays, width), new(B, R, S), new(B, R, S), new(B, R), new(B, sample_rays, S, width))


@triton.jit
def ray_norm(directions_ptr, ray, mask):
    """Length of each ray's direction vector."""
    d = directions_ptr + ray * 3
    d0, d1 = tl.load(d, mask=mask, other=0.0), tl.load(d + 1, mask=mask, other=0.0)
    d2 = tl.load(d + 2, mask=mask, other=0.0)
    return tl.sqrt(d0 * d0 + d1 * d1 + d2 * d2)


@triton.jit
def sum_in_front(x, R: tl.constexpr, S: tl.constexpr):
    """Exclusive cumulative sum of each row, [R, S]; not cumsum(x) - x, which cancels where x is large."""
    s = tl.arange(0, S)[None, :] + tl.zeros([R, 1], tl.int32)
    return tl.cumsum(tl.where(s > 0, tl.gather(x, tl.maximum(s - 1, 0), 1), 0.0), axis=1)


@triton.jit
def aggregate(a, weights, M: tl.constexpr, S: tl.constexpr, H: tl.constexpr, TURNED: tl.constexpr, DT: tl.constexpr):
    """sum_i w_i a_i of every ray's S rows, [M // S, H] float32; a [M, H], weights [M] float32; see ``turned_sums``."""
    RAYS: tl.constexpr = M // S
    if tl.float32 == DT:
        return tl.sum(tl.reshape(a * weights[:, None], [RAYS, S, H]), axis=1)
    SIDE: tl.constexpr = RAYS if RAYS > 16 else 16
    own = (tl.arange(0, M) // S)[:, None] == (tl.arange(0, SIDE) % RAYS)[None, :]
    block = tl.where(own, weights[:, None], 0.0)
    high = to_operand(block, DT)
    low = to_operand(block - high.to(tl.float32), DT)
    if 2 * RAYS <= SIDE:  # one product finds the sums and, in further columns, their rounding errors
        column = tl.arange(0, SIDE)[None, :]
        low = tl.where(column < RAYS, high, tl.where(column < 2 * RAYS, low, 0.0)).to(DT)
    if TURNED:
        out = dot(tl.trans(a), low, tl.zeros([H, SIDE], tl.float32), "ieee")
        if 2 * RAYS <= SIDE:
            out = tl.sum(tl.reshape(out, [H, SIDE // RAYS, RAYS]), axis=1)
        else:
            out = dot(tl.trans(a), high, out, "ieee")
        out = tl.trans(out)
    else:
        out = dot(tl.trans(low), a, tl.zeros([SIDE, H], tl.float32), "ieee")
        if 2 * RAYS <= SIDE:
            out = tl.sum(tl.reshape(out, [SIDE // RAYS, RAYS, H]), axis=0)
        else:
            out = dot(tl.trans(high), a, out, "ieee")
    return out


@triton.jit
def _ray_kernel(
    hidden_ptr, weights_ptr, density_ptr, transmittance_ptr, sample_hidden_ptr,
    points_ptr, origins_ptr, directions_ptr, depths_ptr, noise_ptr,
    first_ptr, rest_ptr, bias_ptr, head_ptr, head_bias_ptr,
    stride_first_b, stride_rest_b, stride_bias_b, stride_head_b,
    R, R_image, S, L, slope, density_scale, far, centre_x, centre_y, centre_z,
    D: tl.constexpr, P: tl.constexpr, H: tl.constexpr, SPACE: tl.constexpr, FROM_RAYS: tl.constexpr,
    NOISE: tl.constexpr, SAMPLE_RAYS: tl.constexpr, OPAQUE: tl.constexpr, TURNED: tl.constexpr,
    DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BLOCK_R * BLOCK_S
    b = tl.program_id(1).to(tl.int64)  # image offsets in 64 bits, offsets within an image in 32
    first_ray = tl.program_id(0) * BLOCK_R
    offs_m = tl.arange(0, M)
    offs_h = tl.arange(0, H)
    ray_m, sample_m = first_ray + offs_m // BLOCK_S, offs_m % BLOCK_S
    row_m = ray_m * S + sample_m
    mask_m = (ray_m < R) & (sample_m < S)
    depths_ptr += b * R * S
    if FROM_RAYS:
        directions_ptr += b * R * 3
        x0, x1, x2, x3 = along_rays(origins_ptr + b * R * 3, directions_ptr, depths_ptr, ray_m, row_m, mask_m)
        x0, x1, x2 = contract(x0, x1, x2, far, centre_x, centre_y, centre_z, SPACE)
    else:
        x0, x1, x2, x3 = coordinates(points_ptr + b * R * S * D, row_m, mask_m, D)
    a = trunk(
        x0, x1, x2, x3,
        first_ptr + b * stride_first_b, rest_ptr + b * stride_rest_b, bias_ptr + b * stride_bias_b, None,
        row_m, mask_m, 0, L, slope,
        D, P, H, False, DT, INPUT_PRECISION, STAGES,
    )  # fmt: skip
    sigma_m = density(a, head_ptr + b * stride_head_b, head_bias_ptr, H, DT)
    if SAMPLE_RAYS:
        of_sample_ray = mask_m & (ray_m >= R_image)
        offs_kept = (row_m - R_image * S)[:, None] * H + offs_h[None, :]
        tl.store(
            sample_hidden_ptr + b * (R - R_image) * S * H + offs_kept, a.to(tl.float32), mask=of_sample_ray[:, None]
        )

    ray = first_ray + tl.arange(0, BLOCK_R)
    s = tl.arange(0, BLOCK_S)[None, :]
    row = ray[:, None] * S + s
    mask = (ray < R)[:, None] & (s < S)
    more = mask & (s + 1 < S)
    sigma = tl.reshape(sigma_m, [BLOCK_R, BLOCK_S])
    if NOISE:
        sigma += tl.load(noise_ptr + b * R * S + row, mask=mask, other=0.0)
    step = tl.load(depths_ptr + row + 1, mask=more, other=0.0) - tl.load(depths_ptr + row, mask=more, other=0.0)
    if FROM_RAYS:
        step *= (ray_norm(directions_ptr, ray, ray < R) * density_scale)[:, None]
    x = tl.where(more, relu(sigma) * step, 0.0)
    before = tl.exp(-sum_in_front(x, BLOCK_R, BLOCK_S))
    weights = before * (1.0 - tl.exp(-x))
    if OPAQUE:
        weights = tl.where(s == S - 1, before, weights)
    weights = tl.where(mask, weights, 0.0)
    tl.store(weights_ptr + b * R * S + row, weights, mask=mask)
    tl.store(density_ptr + b * R * S + row, sigma, mask=mask)
    tl.store(transmittance_ptr + b * R + ray, tl.exp(-tl.sum(x, axis=1)), mask=ray < R)

    # a NaN row would reach the tile's other rays as NaN times zero; its own ray gets the NaN through its weights
    a = tl.where((sigma_m == sigma_m)[:, None], a, 0.0).to(DT)
    hidden = aggregate(a, tl.reshape(weights, [M]), M, BLOCK_S, H, TURNED, DT)
    offs_out = ray[:, None] * H + offs_h[None, :]
    tl.store(hidden_ptr + b * R_image * H + offs_out, hidden, mask=(ray < R_image)[:, None])


def turned_sums(device: torch.device) -> bool:
    """Whether ``aggregate`` takes its product turned, with the features as the left operand.

    Products per warp and those of sm_100 spill without. The warp-group products of sm_90 do not, and must do without:
    turned, they would be the ``turned_product`` of ``base/faults.py``.
    """
    return compute_capability(device) // 10 != 9


def ray_tile(width: int, samples: int, precision: str, device: torch.device) -> RowTile:
    """Rows per program, a power of two that holds whole rays."""
    slots = max(4, triton.next_power_of_2(samples))
    if OPERANDS[precision].storage == torch.float32:
        return RowTile(max(64 if precision == "tf32" else 32, slots), 8, 2)
    rows = max(128 if slots > 4 else 64, slots)
    if width < 128:
        return RowTile(rows, 4, 2)
    return RowTile(rows, 4 if has_warp_group_products(device) and slots < 64 else 8, 2)


def launch_rays(
    out: RayOutputs,
    samples: Samples,
    depths: Tensor,
    field: Operand,
    *,
    noise: Tensor | None,
) -> None:
    """Render samples of a ``chained`` field; depths [B, R, S] give the intervals, noise is added to the density."""
    B, R, S = depths.shape
    tile = ray_tile(field.width, S, field.precision, samples.device)
    slots = max(4, triton.next_power_of_2(S))
    launch(
        _ray_kernel,
        (triton.cdiv(R, tile.rows // slots), B),
        hidden_ptr=out.hidden,
        weights_ptr=out.weights,
        density_ptr=out.density,
        transmittance_ptr=out.transmittance,
        sample_hidden_ptr=out.sample_hidden,
        noise_ptr=noise,
        R=R,
        R_image=out.hidden.shape[1],
        S=S,
        density_scale=samples.span.density_scale,
        NOISE=noise is not None,
        SAMPLE_RAYS=out.sample_hidden.shape[1] > 0,
        OPAQUE=samples.span.opaque,
        TURNED=turned_sums(samples.device),
        STAGES=tile.stages,
        BLOCK_R=tile.rows // slots,
        BLOCK_S=slots,
        num_warps=tile.num_warps,
        num_stages=tile.stages,
        **{**samples.arguments(), "depths_ptr": depths},
        **field.arguments(),
    )
