"""Weights along rays, of equal lengths or packed.

    x_i = relu(sigma_i) (t_{i+1} - t_i) |d|,  T_i = exp(-sum_{j<i} x_j),  w_i = T_i (1 - exp(-x_i))

A program takes a few rays and iterates along them in chunks. Neighbouring samples are loaded again, not shifted in
registers: every sum that decays along the ray then adds its own terms and is never a difference of two large sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.register import Grads, register
from .volume_ref import volume_weights_ref

MAX_CHUNK = 128  # samples per program, for a ray that fits
LONG_CHUNK = 64  # samples per chunk of a longer ray
PACKED_CHUNK = 32  # rays differ in length, and a short one should not waste a long chunk


@triton.jit
def relu(sigma):
    """max(sigma, 0) that propagates NaN."""
    return tl.where(sigma < 0, 0.0, sigma)


@triton.jit
def extent(offsets_ptr, ray, mask, S, PACKED: tl.constexpr):
    """First sample and number of samples of each ray; int64 and int32."""
    if PACKED:
        first = tl.load(offsets_ptr + ray, mask=mask, other=0).to(tl.int64)
        length = (tl.load(offsets_ptr + ray + 1, mask=mask, other=0).to(tl.int64) - first).to(tl.int32)
        return first, length
    return ray * S, tl.where(mask, S, 0)


@triton.jit
def interval(density_ptr, depths_ptr, row, inside):
    """Rectified density of sample ``row`` and the depth from it to the next; zeros where not ``inside``."""
    sigma = relu(tl.load(density_ptr + row, mask=inside, other=0.0))
    step = tl.load(depths_ptr + row + 1, mask=inside, other=0.0) - tl.load(depths_ptr + row, mask=inside, other=0.0)
    return sigma, step


@triton.jit
def _weights_kernel(
    weights_ptr, transmittance_ptr,
    density_ptr, depths_ptr, ray_norm_ptr, offsets_ptr,
    R, S,
    HAS_NORM: tl.constexpr, PACKED: tl.constexpr, CHUNKED: tl.constexpr, OPAQUE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = ray < R
    first, length = extent(offsets_ptr, ray, mask_r, S, PACKED)
    first, length = first[:, None], length[:, None]
    norm = tl.full([BLOCK_R, 1], 1.0, tl.float32)
    if HAS_NORM:
        norm = tl.load(ray_norm_ptr + ray, mask=mask_r, other=1.0)[:, None]
    chunks = 1
    if CHUNKED:
        chunks = tl.cdiv(tl.max(length), BLOCK_S)
    passed = tl.zeros([BLOCK_R], tl.float32)  # optical depth in front of the chunk
    for chunk in range(chunks):
        s = chunk * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
        row = first + s
        sigma, step = interval(density_ptr, depths_ptr, row - 1, (s > 0) & (s < length))
        x_before = sigma * (step * norm)
        trans = tl.exp(-(passed[:, None] + tl.cumsum(x_before, axis=1)))
        sigma, step = interval(density_ptr, depths_ptr, row, s + 1 < length)
        weights = trans * (1.0 - tl.exp(-(sigma * (step * norm))))
        if OPAQUE:
            weights = tl.where(s + 1 == length, trans, weights)
        tl.store(weights_ptr + row, weights, mask=s < length)
        passed += tl.sum(x_before, axis=1)
    tl.store(transmittance_ptr + ray, tl.exp(-passed), mask=mask_r)


@triton.jit
def _grad_weights_kernel(
    grad_density_ptr, grad_depths_ptr, grad_ray_norm_ptr,
    density_ptr, depths_ptr, ray_norm_ptr, offsets_ptr, grad_weights_ptr, grad_transmittance_ptr,
    R, S,
    HAS_NORM: tl.constexpr, PACKED: tl.constexpr, CHUNKED: tl.constexpr, OPAQUE: tl.constexpr,
    OF_WEIGHTS: tl.constexpr, OF_TRANSMITTANCE: tl.constexpr, POSITIONS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_r = ray < R
    first, length = extent(offsets_ptr, ray, mask_r, S, PACKED)
    first, length = first[:, None], length[:, None]
    norm = tl.full([BLOCK_R, 1], 1.0, tl.float32)
    if HAS_NORM:
        norm = tl.load(ray_norm_ptr + ray, mask=mask_r, other=1.0)[:, None]
    grad_trans = tl.zeros([BLOCK_R, 1], tl.float32)
    if OF_TRANSMITTANCE:
        grad_trans = tl.load(grad_transmittance_ptr + ray, mask=mask_r, other=0.0)[:, None]
    chunks = 1
    if CHUNKED:  # the gradient's memory holds the optical depth in front of each sample until then
        chunks = tl.cdiv(tl.max(length), BLOCK_S)
        passed = tl.zeros([BLOCK_R], tl.float32)
        for chunk in range(chunks):
            s = chunk * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
            sigma, step = interval(density_ptr, depths_ptr, first + s - 1, (s > 0) & (s < length))
            x_before = sigma * (step * norm)
            tl.store(grad_density_ptr + first + s, passed[:, None] + tl.cumsum(x_before, axis=1), mask=s < length)
            passed += tl.sum(x_before, axis=1)
        tl.debug_barrier()

    # with q_j = w_j dL/dw_j, and T dL/dT joining at the last sample: dL/dx_i = T_{i+1} dL/dw_i - sum_{j>i} q_j
    behind = tl.zeros([BLOCK_R], tl.float32)  # sum of q_{i+1} over the chunks behind
    grad_norm = tl.zeros([BLOCK_R], tl.float32)
    for chunk in range(chunks):
        s = (chunks - 1 - chunk) * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
        row = first + s
        inside, more, last = s < length, s + 1 < length, s + 1 == length
        sigma_before, step_before = interval(density_ptr, depths_ptr, row - 1, (s > 0) & inside)
        sigma, step = interval(density_ptr, depths_ptr, row, more)
        sigma_next, step_next = interval(density_ptr, depths_ptr, row + 1, s + 2 < length)
        if CHUNKED:
            depth_before = tl.load(grad_density_ptr + row, mask=inside, other=0.0)
        else:
            depth_before = tl.cumsum(sigma_before * (step_before * norm), axis=1)
        x = sigma * (step * norm)
        trans, trans_next = tl.exp(-depth_before), tl.exp(-(depth_before + x))
        alpha, alpha_next = 1.0 - tl.exp(-x), 1.0 - tl.exp(-(sigma_next * (step_next * norm)))
        if OPAQUE:
            alpha, alpha_next = tl.where(last, 1.0, alpha), tl.where(s + 2 == length, 1.0, alpha_next)
        grad_before, grad, grad_next = 0.0 * sigma, 0.0 * sigma, 0.0 * sigma
        if OF_WEIGHTS:
            grad_before = tl.load(grad_weights_ptr + row - 1, mask=(s > 0) & inside, other=0.0)
            grad = tl.load(grad_weights_ptr + row, mask=inside, other=0.0)
            grad_next = tl.load(grad_weights_ptr + row + 1, mask=more, other=0.0)
        q = trans * (grad * alpha + tl.where(last, grad_trans, 0.0))
        q_next = tl.where(more, trans_next * (grad_next * alpha_next + tl.where(s + 2 == length, grad_trans, 0.0)), 0.0)
        after = behind[:, None] + tl.cumsum(q_next, axis=1, reverse=True)
        grad_x = tl.where(more, grad * trans_next - after, 0.0)
        grad_sigma = tl.where(sigma == 0.0, 0.0, grad_x * (step * norm))
        tl.store(grad_density_ptr + row, grad_sigma, mask=inside)
        if POSITIONS:
            grad_x_before = grad_before * trans - (after + q)
            grad_depth = norm * (sigma_before * grad_x_before - sigma * grad_x)
            tl.store(grad_depths_ptr + row, grad_depth, mask=inside)
            grad_norm += tl.sum(grad_x * sigma * step, axis=1)
        behind += tl.sum(q_next, axis=1)
    if POSITIONS and HAS_NORM:
        tl.store(grad_ray_norm_ptr + ray, grad_norm, mask=mask_r)


def contiguous(x: Any) -> Any:
    """A contiguous tensor, or None."""
    return None if x is None else x.contiguous()


def _along(rays: int, samples: int | None) -> dict[str, int | bool]:
    """Sizes and tiles for rays of ``samples`` each, or for packed rays (None)."""
    if samples is None:
        block_r, block_s = 4, PACKED_CHUNK
    elif samples > MAX_CHUNK:
        block_r, block_s = 4, LONG_CHUNK
    else:
        block_s = triton.next_power_of_2(samples)
        block_r = 512 // block_s
    return {
        "R": rays,
        "S": samples or 0,
        "PACKED": samples is None,
        "CHUNKED": samples is None or samples > block_s,
        "BLOCK_R": block_r,
        "BLOCK_S": block_s,
    }


def _rays(density: Tensor, offsets: Tensor | None) -> tuple[torch.Size, dict[str, int | bool]]:
    """Shape of a per-ray result, sizes and tiles."""
    shape = density.shape[:-1] if offsets is None else torch.Size([offsets.numel() - 1])
    return shape, _along(shape.numel(), density.shape[-1] if offsets is None else None)


def launch_volume_forward(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque: bool, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights [..., S] and transmittance [...] of contiguous float32 rays; packed rays [N] with ``offsets`` [R + 1]."""
    shape, sizes = _rays(density, offsets)
    weights = torch.empty_like(density)
    transmittance = torch.empty(shape, dtype=density.dtype, device=density.device)
    launch(
        _weights_kernel,
        (triton.cdiv(sizes["R"], sizes["BLOCK_R"]),),
        weights_ptr=weights,
        transmittance_ptr=transmittance,
        density_ptr=density,
        depths_ptr=depths,
        ray_norm_ptr=ray_norm,
        offsets_ptr=offsets,
        HAS_NORM=ray_norm is not None,
        OPAQUE=opaque,
        **sizes,
    )
    return weights, transmittance


def launch_volume_backward(
    density: Tensor,
    depths: Tensor,
    ray_norm: Tensor | None,
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    opaque: bool,
    need_positions: bool,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of density, and of depths and ray_norm if ``need_positions``; contiguous float32, shapes as forward."""
    _, sizes = _rays(density, offsets)
    grad_density = torch.empty_like(density)
    grad_depths = torch.empty_like(density) if need_positions else None
    grad_ray_norm = torch.empty_like(ray_norm) if need_positions and ray_norm is not None else None
    launch(
        _grad_weights_kernel,
        (triton.cdiv(sizes["R"], sizes["BLOCK_R"]),),
        grad_density_ptr=grad_density,
        grad_depths_ptr=grad_depths,
        grad_ray_norm_ptr=grad_ray_norm,
        density_ptr=density,
        depths_ptr=depths,
        ray_norm_ptr=ray_norm,
        offsets_ptr=offsets,
        grad_weights_ptr=grad_weights,
        grad_transmittance_ptr=grad_transmittance,
        HAS_NORM=ray_norm is not None,
        OPAQUE=opaque,
        OF_WEIGHTS=grad_weights is not None,
        OF_TRANSMITTANCE=grad_transmittance is not None,
        POSITIONS=need_positions,
        **sizes,
    )
    return grad_density, grad_depths, grad_ray_norm


def _volume_weights(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque: bool, offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    density, depths, ray_norm, offsets = map(contiguous, (density, depths, ray_norm, offsets))
    return launch_volume_forward(density, depths, ray_norm, opaque, offsets)


def _volume_weights_fake(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque: bool, offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    rays = density.shape[:-1] if offsets is None else (offsets.shape[0] - 1,)
    return density.new_empty(density.shape), density.new_empty(rays)


def _volume_weights_backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, needs: Sequence[bool]) -> Grads:
    density, depths, ray_norm, opaque, offsets = inputs
    density, depths, ray_norm, offsets = map(contiguous, (density, depths, ray_norm, offsets))
    return launch_volume_backward(density, depths, ray_norm, grads[0], grads[1], opaque, needs[1] or needs[2], offsets)


volume_weights = register(
    _volume_weights,
    fake=_volume_weights_fake,
    backward=_volume_weights_backward,
    plain=lambda inputs, _: volume_weights_ref(*inputs),
)
