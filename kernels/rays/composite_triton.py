"""Weighted sum over a ray's samples, out = sum_i w_i f_i, for rays of equal lengths or packed rays.
Memory-bound: features are read once, in their own dtype, and summed in float32. The backward reads them once more and
writes their gradient w_i g; that of a weight is <g, f_i>.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.operands import to_operand
from ..base.register import Grads, register
from .volume_ref import composite_ref
from .volume_triton import PACKED_CHUNK, contiguous, extent

FEATURE_TILE = 2048  # rays x samples x channels per program at a time


@triton.jit
def _composite_kernel(
    out_ptr, weights_ptr, features_ptr, offsets_ptr,
    R, S, C,
    PACKED: tl.constexpr, ACCUMULATE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = ray < R
    first, length = extent(offsets_ptr, ray, mask_r, S, PACKED)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = c[None, None, :] < C
    acc = tl.zeros([BLOCK_R, BLOCK_S, BLOCK_C], tl.float32)
    for start in range(0, tl.max(length), BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)[None, :]
        row, inside = first[:, None] + s, s < length[:, None]
        weights = tl.load(weights_ptr + row, mask=inside, other=0.0).to(tl.float32)
        offs = row[:, :, None] * C + c[None, None, :]
        features = tl.load(features_ptr + offs, mask=inside[:, :, None] & mask_c, other=0.0).to(tl.float32)
        acc += weights[:, :, None] * features
    out = tl.sum(acc, axis=1)
    offs_out = ray[:, None] * C + c[None, :]
    mask_out = mask_r[:, None] & (c[None, :] < C)
    if ACCUMULATE:
        out += tl.load(out_ptr + offs_out, mask=mask_out, other=0.0).to(tl.float32)
    tl.store(out_ptr + offs_out, to_operand(out, out_ptr.dtype.element_ty), mask=mask_out)


@triton.jit
def _grad_composite_kernel(
    grad_weights_ptr, grad_features_ptr, grad_out_ptr, weights_ptr, features_ptr, offsets_ptr,
    R, S, C,
    PACKED: tl.constexpr, OF_WEIGHTS: tl.constexpr, OF_FEATURES: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = ray < R
    first, length = extent(offsets_ptr, ray, mask_r, S, PACKED)
    for start in range(0, tl.max(length), BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)[None, :]
        row, inside = first[:, None] + s, s < length[:, None]
        if OF_FEATURES:
            weights = tl.load(weights_ptr + row, mask=inside, other=0.0).to(tl.float32)
        acc = tl.zeros([BLOCK_R, BLOCK_S], tl.float32)
        for start_c in range(0, C, BLOCK_C):
            c = start_c + tl.arange(0, BLOCK_C)
            mask_out = mask_r[:, None] & (c[None, :] < C)
            grad = tl.load(grad_out_ptr + ray[:, None] * C + c[None, :], mask=mask_out, other=0.0).to(tl.float32)
            offs = row[:, :, None] * C + c[None, None, :]
            mask = inside[:, :, None] & (c[None, None, :] < C)
            if OF_WEIGHTS:
                features = tl.load(features_ptr + offs, mask=mask, other=0.0).to(tl.float32)
                acc += tl.sum(grad[:, None, :] * features, axis=2)
            if OF_FEATURES:
                grad_features = weights[:, :, None] * grad[:, None, :]
                tl.store(
                    grad_features_ptr + offs, to_operand(grad_features, grad_features_ptr.dtype.element_ty), mask=mask
                )
        if OF_WEIGHTS:
            tl.store(grad_weights_ptr + row, to_operand(acc, grad_weights_ptr.dtype.element_ty), mask=inside)


def _feature_sizes(weights: Tensor, C: int, offsets: Tensor | None) -> tuple[torch.Size, dict[str, int | bool]]:
    """Shape of a per-ray result; sizes and tiles for C channels."""
    shape = weights.shape[:-1] if offsets is None else torch.Size([offsets.numel() - 1])
    block_c = min(triton.next_power_of_2(max(C, 1)), 128)
    longest = PACKED_CHUNK if offsets is not None else triton.next_power_of_2(max(weights.shape[-1], 1))
    block_s = min(longest, FEATURE_TILE // block_c)
    return shape, {
        "R": shape.numel(),
        "S": weights.shape[-1] if offsets is None else 0,
        "C": C,
        "PACKED": offsets is not None,
        "BLOCK_R": min(FEATURE_TILE // (block_c * block_s), 16 if offsets is None else 4),
        "BLOCK_S": block_s,
        "BLOCK_C": block_c,
    }


def launch_composite(
    weights: Tensor,
    features: Tensor,
    out: Tensor | None = None,
    accumulate: bool = False,
    offsets: Tensor | None = None,
) -> Tensor:
    """out [..., C] (+)= sum_i w_i f_i; weights [..., S] and features [..., S, C], contiguous, any 16 or 32 bit floats.

    Packed rays: weights [N], features [N, C], ``offsets`` [R + 1]. Without ``out``, a new tensor of the weights' dtype.
    """
    shape, sizes = _feature_sizes(weights, features.shape[-1], offsets)
    if out is None:
        out = torch.empty(*shape, features.shape[-1], dtype=weights.dtype, device=weights.device)
    launch(
        _composite_kernel,
        (triton.cdiv(sizes["R"], sizes["BLOCK_R"]), triton.cdiv(sizes["C"], sizes["BLOCK_C"])),
        out_ptr=out,
        weights_ptr=weights,
        features_ptr=features,
        offsets_ptr=offsets,
        ACCUMULATE=accumulate,
        **sizes,
    )
    return out


def launch_composite_backward(
    grad_out: Tensor,
    weights: Tensor,
    features: Tensor,
    offsets: Tensor | None = None,
    *,
    need_weights: bool = True,
    need_features: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weights and features, each in its own dtype; contiguous, shapes as :func:`launch_composite`."""
    _, sizes = _feature_sizes(weights, features.shape[-1], offsets)
    grad_weights = torch.empty_like(weights) if need_weights else None
    grad_features = torch.empty_like(features) if need_features else None
    launch(
        _grad_composite_kernel,
        (triton.cdiv(sizes["R"], sizes["BLOCK_R"]),),
        grad_weights_ptr=grad_weights,
        grad_features_ptr=grad_features,
        grad_out_ptr=grad_out,
        weights_ptr=weights,
        features_ptr=features,
        offsets_ptr=offsets,
        OF_WEIGHTS=need_weights,
        OF_FEATURES=need_features,
        **sizes,
    )
    return grad_weights, grad_features


def _composite(weights: Tensor, features: Tensor, offsets: Tensor | None) -> Tensor:
    return launch_composite(weights.contiguous(), features.contiguous(), offsets=contiguous(offsets))


def _composite_fake(weights: Tensor, features: Tensor, offsets: Tensor | None) -> Tensor:
    rays = weights.shape[:-1] if offsets is None else (offsets.shape[0] - 1,)
    return weights.new_empty(*rays, features.shape[-1])


def _composite_backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, needs: Sequence[bool]) -> Grads:
    tensors = map(contiguous, inputs)
    return launch_composite_backward(*grads, *tensors, need_weights=needs[0], need_features=needs[1])


composite = register(
    _composite, fake=_composite_fake, backward=_composite_backward, plain=lambda inputs, _: composite_ref(*inputs)
)
