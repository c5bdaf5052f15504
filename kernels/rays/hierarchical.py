"""Both passes of a hierarchical ray in one kernel: coarse, inverse CDF, fine, merge, composite, aggregate.

For at most 16 coarse and 16 fine samples, the released models' sizes. Nothing is sorted. With all samples of a ray in
registers, comparing 32 x 32 pairs gives each sample's interval end (the nearest depth behind), its transmittance (from
the optical depth in front) and its rank (the number of samples in front). The weighted sum of features does not
depend on order, so features are not moved. The coarse features are stored in a scratch tensor while the fine samples
pass the trunk.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import has_warp_group_products, launch
from ..base.operands import OPERANDS
from .field_triton import SPACES, Operand, RowTile, chained, contract, density, trunk
from .single_pass import RayOutputs, aggregate, ray_norm, turned_sums
from .span import RaySpan
from .volume_triton import relu

SLOTS = 16  # samples per pass
WARPS = {"linear": 0, "inverse": 1, "log": 2}
PDF_FLOOR = tl.constexpr(1e-5)  # as in the plain form of importance_sample
CDF_FLOOR = tl.constexpr(1e-5)
OPAQUE_DEPTH = tl.constexpr(25.0)  # cap of a sample's optical depth: exp(-25) behind it is far below the floor
BEYOND = tl.constexpr(3.0e38)  # depth of a slot without a sample
LOST = tl.constexpr(1.0e38)  # stands for depths that are not finite


@triton.jit
def depth_at(fraction, near, far, WARP: tl.constexpr):
    """Depth of a fraction of the span, see ``RaySpan.warp``."""
    if WARP == 1:
        return 1.0 / ((1.0 - fraction) / near + fraction / far)
    if WARP == 2:
        return tl.exp(tl.log(near) * (1.0 - fraction) + tl.log(far) * fraction)
    return near * (1.0 - fraction) + far * fraction


@triton.jit
def resample(fractions, following, weights, u, inside, S, R: tl.constexpr, N: tl.constexpr):
    """Fractions [R, N] where the CDF of the inner samples' weights over the mid-points takes the values u."""
    s = tl.arange(0, N)[None, :]
    inner = (s >= 1) & (s <= S - 2)
    pdf = tl.where(inside & inner, weights + PDF_FLOOR, 0.0)
    total = tl.sum(pdf, axis=1)[:, None]
    cdf = tl.cumsum(pdf, axis=1) / tl.where(total == 0, 1.0, total)  # at edge s, the mid-point after sample s
    edges = 0.5 * (fractions + following)
    last = S - 2
    below = (tl.reshape(cdf, [R, 1, N]) < tl.reshape(u, [R, N, 1])) & (tl.arange(0, N)[None, None, :] <= last)
    right = tl.sum(below.to(tl.int32), axis=2)
    low, high = tl.maximum(right - 1, 0), tl.minimum(right, last)
    cdf_low, cdf_high = tl.gather(cdf, low, 1), tl.gather(cdf, high, 1)
    step = cdf_high - cdf_low
    step = tl.where(step < CDF_FLOOR, 1.0, step)
    edge_low = tl.gather(edges, low, 1)
    return edge_low + (u - cdf_low) / step * (tl.gather(edges, high, 1) - edge_low)


@triton.jit
def _hierarchical_kernel(
    hidden_ptr, weights_ptr, density_ptr, transmittance_ptr, sample_hidden_ptr, merged_ptr, order_ptr, scratch_ptr,
    origins_ptr, directions_ptr, fractions_ptr, fine_u_ptr, coarse_noise_ptr, fine_noise_ptr,
    first_ptr, rest_ptr, bias_ptr, head_ptr, head_bias_ptr,
    stride_first_b, stride_rest_b, stride_bias_b, stride_head_b,
    R, R_image, S, F, L, slope, density_scale, near, far, centre_x, centre_y, centre_z,
    P: tl.constexpr, H: tl.constexpr, SPACE: tl.constexpr, WARP: tl.constexpr,
    COARSE_NOISE: tl.constexpr, FINE_NOISE: tl.constexpr, SAMPLE_RAYS: tl.constexpr, OPAQUE: tl.constexpr,
    TURNED: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BLOCK_R * BLOCK_S
    b = tl.program_id(1).to(tl.int64)  # image offsets in 64 bits, offsets within an image in 32
    ray = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    s = tl.arange(0, BLOCK_S)[None, :]
    offs_m = tl.arange(0, M)
    offs_h = tl.arange(0, H)
    mask_r = ray < R
    # one bound per ray: an additional mask per slot would occupy registers through both passes
    end_c, end_f = tl.where(mask_r, S, 0)[:, None], tl.where(mask_r, F, 0)[:, None]
    coarse_in, fine_in = s < end_c, s < end_f
    row_c, row_f = ray[:, None] * S + s, ray[:, None] * F + s
    first_ptr += b * stride_first_b
    rest_ptr += b * stride_rest_b
    bias_ptr += b * stride_bias_b
    head_ptr += b * stride_head_b
    directions_ptr += b * R * 3
    fractions_ptr += b * R * S
    norm = (ray_norm(directions_ptr, ray, mask_r) * density_scale)[:, None]

    # the coarse pass
    fractions = tl.load(fractions_ptr + row_c, mask=coarse_in, other=0.0)
    following = tl.load(fractions_ptr + row_c + 1, mask=s + 1 < end_c, other=0.0)
    t_coarse = depth_at(fractions, near, far, WARP)
    x0, x1, x2 = _points(
        origins_ptr + b * R * 3, directions_ptr, ray, mask_r, t_coarse, far, centre_x, centre_y, centre_z, SPACE, M
    )
    a = trunk(
        x0, x1, x2, x0, first_ptr, rest_ptr, bias_ptr, None, offs_m, offs_m, 0, L, slope,
        3, P, H, False, DT, INPUT_PRECISION, STAGES,
    )  # fmt: skip
    sigma_coarse = tl.reshape(density(a, head_ptr, head_bias_ptr, H, DT), [BLOCK_R, BLOCK_S])
    a = tl.where(tl.reshape(sigma_coarse == sigma_coarse, [M])[:, None], a, 0.0).to(DT)
    scratch_ptr += (b * tl.num_programs(0) + tl.program_id(0)) * M * H
    offs_scratch = offs_m[:, None] * H + offs_h[None, :]
    tl.store(scratch_ptr + offs_scratch, a)
    if COARSE_NOISE:
        sigma_coarse += tl.load(coarse_noise_ptr + b * R * S + row_c, mask=coarse_in, other=0.0)

    # its weights are the distribution of the fine samples
    step = depth_at(following, near, far, WARP) - t_coarse
    x = tl.where(s + 1 < end_c, relu(sigma_coarse) * step * norm, 0.0)
    x = tl.where(x > OPAQUE_DEPTH, OPAQUE_DEPTH, x)  # so that subtracting it from the sum loses no digits
    weights = tl.exp(x - tl.cumsum(x, axis=1)) * (1.0 - tl.exp(-x))
    u = tl.load(fine_u_ptr + b * R * F + row_f, mask=fine_in, other=0.0)
    finer = resample(fractions, following, weights, u, coarse_in, S, BLOCK_R, BLOCK_S)
    x0, x1, x2 = _points(
        origins_ptr + b * R * 3, directions_ptr, ray, mask_r, depth_at(finer, near, far, WARP),
        far, centre_x, centre_y, centre_z, SPACE, M,
    )  # fmt: skip
    a = trunk(
        x0, x1, x2, x0, first_ptr, rest_ptr, bias_ptr, None, offs_m, offs_m, 0, L, slope,
        3, P, H, False, DT, INPUT_PRECISION, STAGES,
    )  # fmt: skip
    sigma_fine = tl.reshape(density(a, head_ptr, head_bias_ptr, H, DT), [BLOCK_R, BLOCK_S])
    a = tl.where(tl.reshape(sigma_fine == sigma_fine, [M])[:, None], a, 0.0).to(DT)
    if FINE_NOISE:
        sigma_fine += tl.load(fine_noise_ptr + b * R * F + row_f, mask=fine_in, other=0.0)

    # cheap to recompute: not held in registers through the fine pass
    fractions = tl.load(fractions_ptr + row_c, mask=coarse_in, other=0.0)
    t_coarse, t_fine = depth_at(fractions, near, far, WARP), depth_at(finer, near, far, WARP)
    norm = (ray_norm(directions_ptr, ray, mask_r) * density_scale)[:, None]

    # all samples of a ray interleaved: slot 2 s holds coarse sample s, slot 2 s + 1 fine sample s
    BOTH: tl.constexpr = 2 * BLOCK_S
    slot = tl.arange(0, BOTH)
    inside = tl.reshape(tl.join(coarse_in, fine_in), [BLOCK_R, BOTH])
    t = tl.reshape(tl.join(tl.where(coarse_in, t_coarse, BEYOND), tl.where(fine_in, t_fine, BEYOND)), [BLOCK_R, BOTH])
    t = tl.where(inside & ~(t < LOST), LOST, t)  # ranks stay a permutation: every output of the ray is written
    sigma = tl.reshape(tl.join(sigma_coarse, sigma_fine), [BLOCK_R, BOTH])
    t_i, t_j = tl.reshape(t, [BLOCK_R, BOTH, 1]), tl.reshape(t, [BLOCK_R, 1, BOTH])
    slot_i, slot_j = slot[None, :, None], slot[None, None, :]
    front = (t_j < t_i) | ((t_j == t_i) & (slot_j < slot_i))
    rank = tl.sum(front.to(tl.int32), axis=2)
    behind = (t_j > t_i) | ((t_j == t_i) & (slot_j > slot_i))
    end = tl.min(tl.where(behind, t_j, BEYOND), axis=2)
    x = relu(sigma) * tl.where(inside & (end < BEYOND), end - t, 0.0) * norm
    reached = tl.exp(-tl.sum(tl.where(front, tl.reshape(x, [BLOCK_R, 1, BOTH]), 0.0), axis=2))
    weights = reached * (1.0 - tl.exp(-x))
    if OPAQUE:
        weights = tl.where(rank == S + F - 1, reached, weights)
    weights = tl.where(inside, weights, 0.0)
    merged = tl.reshape(tl.join(fractions, finer), [BLOCK_R, BOTH])
    source = tl.reshape(tl.join(F + s + 0 * row_c, s + 0 * row_f), [BLOCK_R, BOTH])  # fine samples before coarse
    row = b * R * (S + F) + (ray[:, None] * (S + F) + rank)
    tl.store(weights_ptr + row, weights, mask=inside)
    tl.store(density_ptr + row, sigma, mask=inside)
    tl.store(merged_ptr + row, merged, mask=inside)
    tl.store(order_ptr + row, source, mask=inside)
    tl.store(transmittance_ptr + b * R + ray, tl.exp(-tl.sum(x, axis=1)), mask=mask_r)

    weights_coarse, weights_fine = tl.split(tl.reshape(weights, [BLOCK_R, BLOCK_S, 2]))
    hidden = aggregate(a, tl.reshape(weights_fine, [M]), M, BLOCK_S, H, TURNED, DT)
    rank_coarse, rank_fine = tl.split(tl.reshape(rank, [BLOCK_R, BLOCK_S, 2]))
    if SAMPLE_RAYS:
        sample_hidden_ptr += b * (R - R_image) * (S + F) * H
        first = (ray[:, None] - R_image) * (S + F)
        emits = (ray >= R_image)[:, None]
        to = tl.reshape(first + rank_fine, [M])[:, None] * H + offs_h[None, :]
        tl.store(sample_hidden_ptr + to, a.to(tl.float32), mask=tl.reshape(emits & fine_in, [M])[:, None])
    tl.debug_barrier()  # the scratch was written by other threads of this program
    a = tl.load(scratch_ptr + offs_scratch)
    hidden += aggregate(a, tl.reshape(weights_coarse, [M]), M, BLOCK_S, H, TURNED, DT)
    if SAMPLE_RAYS:
        to = tl.reshape(first + rank_coarse, [M])[:, None] * H + offs_h[None, :]
        tl.store(sample_hidden_ptr + to, a.to(tl.float32), mask=tl.reshape(emits & coarse_in, [M])[:, None])
    offs_out = ray[:, None] * H + offs_h[None, :]
    tl.store(hidden_ptr + b * R_image * H + offs_out, hidden, mask=(ray < R_image)[:, None])


@triton.jit
def _points(
    origins_ptr, directions_ptr, ray, mask, t, far, centre_x, centre_y, centre_z, SPACE: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Coordinates [M] of depths t [R, N] along rays."""
    o, d = origins_ptr + ray * 3, directions_ptr + ray * 3
    o0, d0 = tl.load(o, mask=mask, other=0.0), tl.load(d, mask=mask, other=0.0)
    o1, d1 = tl.load(o + 1, mask=mask, other=0.0), tl.load(d + 1, mask=mask, other=0.0)
    o2, d2 = tl.load(o + 2, mask=mask, other=0.0), tl.load(d + 2, mask=mask, other=0.0)
    x0 = tl.reshape(o0[:, None] + t * d0[:, None], [M])
    x1 = tl.reshape(o1[:, None] + t * d1[:, None], [M])
    x2 = tl.reshape(o2[:, None] + t * d2[:, None], [M])
    return contract(x0, x1, x2, far, centre_x, centre_y, centre_z, SPACE)


def fits(width: int, coarse: int, fine: int, precision: str) -> bool:
    """Whether one kernel covers both passes."""
    return max(coarse, fine) <= SLOTS and chained(width, precision)


def hierarchical_tile(width: int, precision: str, device: torch.device) -> RowTile:
    older = not has_warp_group_products(device)
    if OPERANDS[precision].storage == torch.float32:
        return RowTile(32 if older or precision == "fp32" else 64, 8, 2)
    if width == 128 and older:
        return RowTile(32, 4, 2)
    return RowTile(128, 8, 2)


def launch_hierarchical(
    out: RayOutputs,
    merged: Tensor,
    order: Tensor,
    rays: tuple[Tensor, Tensor, Tensor],
    draws: tuple[Tensor, Tensor | None, Tensor | None],
    field: Operand,
    *,
    span: RaySpan,
) -> None:
    """Render rays (origins, directions, fractions [B, R, S]) with draws (u [B, R, F], coarse noise, fine noise).

    ``merged`` and ``order`` [B, R, S + F] receive the fractions in depth order and the index of each in (fine, coarse).
    """
    origins, directions, fractions = rays
    fine_u, coarse_noise, fine_noise = draws
    B, R, S = fractions.shape
    tile = hierarchical_tile(field.width, field.precision, fractions.device)
    block = tile.rows // SLOTS
    blocks = triton.cdiv(R, block)
    storage = OPERANDS[field.precision].storage
    launch(
        _hierarchical_kernel,
        (blocks, B),
        hidden_ptr=out.hidden,
        weights_ptr=out.weights,
        density_ptr=out.density,
        transmittance_ptr=out.transmittance,
        sample_hidden_ptr=out.sample_hidden,
        merged_ptr=merged,
        order_ptr=order,
        scratch_ptr=torch.empty(B * blocks * tile.rows, field.width, dtype=storage, device=fractions.device),
        origins_ptr=origins,
        directions_ptr=directions,
        fractions_ptr=fractions,
        fine_u_ptr=fine_u,
        coarse_noise_ptr=coarse_noise,
        fine_noise_ptr=fine_noise,
        R=R,
        R_image=out.hidden.shape[1],
        S=S,
        F=fine_u.shape[2],
        density_scale=span.density_scale,
        near=span.near,
        far=span.far,
        WARP=WARPS[span.warp],
        SPACE=SPACES[span.space],
        **dict(zip(("centre_x", "centre_y", "centre_z"), span.centre)),
        COARSE_NOISE=coarse_noise is not None,
        FINE_NOISE=fine_noise is not None,
        SAMPLE_RAYS=out.sample_hidden.shape[1] > 0,
        OPAQUE=span.opaque,
        TURNED=turned_sums(rays[0].device),
        STAGES=tile.stages,
        BLOCK_R=block,
        BLOCK_S=SLOTS,
        num_warps=tile.num_warps,
        num_stages=tile.stages,
        **field.arguments(),
    )
