"""Inverse-CDF sampling: a program holds the CDFs of a few rays on the chip and searches them for every draw."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.register import register
from .importance_ref import CDF_FLOOR, PDF_FLOOR

MAX_EDGES = 129  # 128 bins on the chip
_PDF_FLOOR, _CDF_FLOOR = tl.constexpr(PDF_FLOOR), tl.constexpr(CDF_FLOOR)


@triton.jit
def _importance_kernel(
    out_ptr, edges_ptr, weights_ptr, u_ptr,
    R, E, N,
    BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    mask_r = ray < R
    bins = tl.arange(0, BLOCK_E)[None, :]
    inside = mask_r & (bins < E - 1)
    pdf = tl.where(inside, tl.load(weights_ptr + ray * (E - 1) + bins, mask=inside, other=0.0) + _PDF_FLOOR, 0.0)
    total = tl.sum(pdf, axis=1)[:, None]
    cdf = tl.cumsum(pdf / tl.where(mask_r, total, 1.0), axis=1)  # at the end of each bin; before the first it is 0
    for start in range(0, N, BLOCK_N):
        draw = start + tl.arange(0, BLOCK_N)[None, :]
        mask = mask_r & (draw < N)
        u = tl.load(u_ptr + ray * N + draw, mask=mask, other=0.0)
        passed = tl.zeros([BLOCK_R, BLOCK_N], tl.int32)  # bins that end below u, by bisection
        for i in tl.static_range(BITS):
            step = BLOCK_E >> i
            probe = passed + (step - 1)
            below = tl.gather(cdf, tl.minimum(probe, BLOCK_E - 1), 1) < u
            passed = tl.where((probe < E - 1) & below, passed + step, passed)
        # right: the first of the E values 0, cdf_1, .. that is not below u
        right = tl.where(u > 0.0, passed + 1, 0)
        low, high = tl.maximum(right - 1, 0), tl.minimum(right, E - 1)
        cdf_low = tl.where(low > 0, tl.gather(cdf, tl.maximum(low - 1, 0), 1), 0.0)
        cdf_high = tl.where(high > 0, tl.gather(cdf, tl.maximum(high - 1, 0), 1), 0.0)
        width = cdf_high - cdf_low
        width = tl.where(width < _CDF_FLOOR, 1.0, width)
        edge_low = tl.load(edges_ptr + ray * E + low, mask=mask, other=0.0)
        edge_high = tl.load(edges_ptr + ray * E + high, mask=mask, other=0.0)
        tl.store(out_ptr + ray * N + draw, edge_low + (u - cdf_low) / width * (edge_high - edge_low), mask=mask)


def launch_importance(edges: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Positions [..., N] of contiguous float32 edges [..., E], weights [..., E - 1] and draws [..., N]."""
    E, N = edges.shape[-1], u.shape[-1]
    rays = u.shape[:-1].numel() if N else 0
    block_e = triton.next_power_of_2(E - 1)
    block_n = min(triton.next_power_of_2(max(N, 1)), block_e)
    block_r = max(512 // block_e, 1)
    out = torch.empty_like(u)
    launch(
        _importance_kernel,
        (triton.cdiv(rays, block_r),),
        out_ptr=out,
        edges_ptr=edges,
        weights_ptr=weights,
        u_ptr=u,
        R=rays,
        E=E,
        N=N,
        BLOCK_R=block_r,
        BLOCK_E=block_e,
        BLOCK_N=block_n,
        BITS=block_e.bit_length(),
    )
    return out


def _importance_sample(edges: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    return launch_importance(edges.contiguous(), weights.contiguous(), u.contiguous())


def _importance_sample_fake(edges: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    return u.new_empty(u.shape)


importance_sample = register(_importance_sample, fake=_importance_sample_fake)
