"""Gradients of a field's trunk from the activations of every layer, last layer first.

    dz_{L-1} = (w g + dsigma v + e) lrelu'(a_{L-1}),   dW_l = dz_l^T a_{l-1},   dz_{l-1} = (dz_l W_l) lrelu'(a_{l-1})

with g the gradient of the ray's aggregated features, e that of a sample that is not aggregated. One kernel per layer
reads every activation once, for the gate and for dW, overwrites dz in place, and keeps dW in registers over its share
of the samples; the shares are summed in a fixed order, so the result is deterministic. The encoding is recomputed
rather than stored.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.gate import scale_of
from ..base.launch import launch
from ..base.linear import shares
from ..base.operands import OPERANDS, PI, dot, sin_cos_pi, to_operand
from .field_triton import Operand, PackedField, Samples, along_rays, contract, coordinates, octave_phase


class HeadGradients(NamedTuple):
    """Gradients that reach the trunk: R rays of S samples; samples of the last E rays are not aggregated."""

    hidden: Tensor | None  # [B, R - E, H] of the aggregated features
    weights: Tensor | None  # [B, R, S] weights of the aggregation
    density: Tensor | None  # [B, R, S]
    sample_hidden: Tensor | None  # [B, E, S, H]

    def rays(self, images: slice, rays: slice, image_rays: int) -> "HeadGradients":
        """Gradients of some images and rays, contiguous."""
        aggregated = slice(min(rays.start, image_rays), min(rays.stop, image_rays))
        kept = slice(max(rays.start - image_rays, 0), max(rays.stop - image_rays, 0))
        parts = (self.hidden, aggregated), (self.weights, rays), (self.density, rays), (self.sample_hidden, kept)
        return HeadGradients(*(None if t is None else t[images, part].contiguous() for t, part in parts))


@triton.jit
def _head_kernel(
    grad_z_ptr, grad_head_ptr, grad_head_bias_ptr,
    hidden_ptr, weights_ptr, grad_hidden_ptr, grad_density_ptr, grad_sample_hidden_ptr, head_ptr, scale_ptr,
    stride_head_b, N, S, R_image, R_kept, slope, tiles,
    H: tl.constexpr, AGGREGATED: tl.constexpr, DENSITY: tl.constexpr, SAMPLE_RAYS: tl.constexpr,
    DT: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    share, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_h = tl.arange(0, H)
    head = tl.load(head_ptr + b * stride_head_b + offs_h)
    scale = tl.load(scale_ptr)
    acc = tl.zeros([H], tl.float32)
    acc_bias = 0.0
    for tile in range(0, tiles):
        offs_m = (share * tiles + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask_m = offs_m < N
        ray, sample = offs_m // S, offs_m % S
        offs = offs_m[:, None] * H + offs_h[None, :]
        a = tl.load(hidden_ptr + b * N * H + offs, mask=mask_m[:, None], other=0.0).to(tl.float32)
        grad = tl.zeros([BLOCK_M, H], tl.float32)
        if AGGREGATED:
            aggregated = mask_m & (ray < R_image)
            weight = tl.load(weights_ptr + b * N + offs_m, mask=aggregated, other=0.0)
            offs_g = ray[:, None] * H + offs_h[None, :]
            grad += weight[:, None] * tl.load(
                grad_hidden_ptr + b * R_image * H + offs_g, mask=aggregated[:, None], other=0.0
            )
        if SAMPLE_RAYS:
            kept = mask_m & (ray >= R_image)
            offs_kept = ((ray - R_image) * S + sample)[:, None] * H + offs_h[None, :]
            grad += tl.load(grad_sample_hidden_ptr + b * R_kept * S * H + offs_kept, mask=kept[:, None], other=0.0)
        if DENSITY:
            sigma = tl.load(grad_density_ptr + b * N + offs_m, mask=mask_m, other=0.0)
            grad += sigma[:, None] * head[None, :]
            acc += tl.sum(sigma[:, None] * a, axis=0)
            acc_bias += tl.sum(sigma, axis=0)
        grad = grad * tl.where(a > 0, 1.0, slope) * scale
        tl.store(grad_z_ptr + b * N * H + offs, to_operand(grad, DT), mask=mask_m[:, None])
    program = share * tl.num_programs(1) + b
    tl.store(grad_head_ptr + program * H + offs_h, acc)
    tl.store(grad_head_bias_ptr + program, acc_bias)


@triton.jit
def _layer_kernel(
    grad_z_ptr, grad_weight_ptr, grad_bias_ptr, input_ptr, weight_ptr,
    stride_weight_b, N, slope, tiles,
    H: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    share, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_h = tl.arange(0, H)
    offs_w = offs_h[:, None] * H + offs_h[None, :]
    weight = tl.load(weight_ptr + b * stride_weight_b + offs_w)  # (out, in)
    grad_z_ptr += b * N * H
    input_ptr += b * N * H
    acc = tl.zeros([H, H], tl.float32)
    acc_bias = tl.zeros([H], tl.float32)
    for tile in tl.range(0, tiles, num_stages=STAGES):
        offs_m = (share * tiles + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = (offs_m < N)[:, None]
        offs = offs_m[:, None] * H + offs_h[None, :]
        grad_z = tl.load(grad_z_ptr + offs, mask=mask, other=0.0)
        a = tl.load(input_ptr + offs, mask=mask, other=0.0)
        acc = dot(tl.trans(grad_z), a, acc, INPUT_PRECISION)
        acc_bias += tl.sum(grad_z.to(tl.float32), axis=0)
        grad = dot(grad_z, weight, tl.zeros([BLOCK_M, H], tl.float32), INPUT_PRECISION)
        grad = grad * tl.where(a.to(tl.float32) > 0, 1.0, slope)
        tl.store(grad_z_ptr + offs, to_operand(grad, DT), mask=mask)
    program = share * tl.num_programs(1) + b
    tl.store(grad_weight_ptr + program * H * H + offs_w, acc)
    tl.store(grad_bias_ptr + program * H + offs_h, acc_bias)


@triton.jit
def _first_kernel(
    grad_first_ptr, grad_bias_ptr, grad_points_ptr,
    grad_z_ptr, points_ptr, origins_ptr, directions_ptr, depths_ptr, first_ptr, scale_ptr,
    stride_first_b, N, R, S, tiles, far, centre_x, centre_y, centre_z,
    D: tl.constexpr, P: tl.constexpr, H: tl.constexpr, SPACE: tl.constexpr, FROM_RAYS: tl.constexpr,
    POINTS: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    share, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_h, offs_p = tl.arange(0, H), tl.arange(0, P)
    offs_w = offs_h[:, None] * P + offs_p[None, :]
    coordinate = (offs_p % D)[None, :]
    acc_sin = tl.zeros([H, P], tl.float32)
    acc_cos = tl.zeros([H, P], tl.float32)
    acc_bias = tl.zeros([H], tl.float32)
    for tile in range(0, tiles):
        offs_m = (share * tiles + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask_m = offs_m < N
        if FROM_RAYS:
            x0, x1, x2, x3 = along_rays(
                origins_ptr + b * R * 3, directions_ptr + b * R * 3, depths_ptr + b * N, offs_m // S, offs_m, mask_m
            )
            x0, x1, x2 = contract(x0, x1, x2, far, centre_x, centre_y, centre_z, SPACE)
        else:
            x0, x1, x2, x3 = coordinates(points_ptr + b * N * D, offs_m, mask_m, D)
        sin, cos = sin_cos_pi(octave_phase(x0, x1, x2, x3, D, P))
        offs = offs_m[:, None] * H + offs_h[None, :]
        grad_z = tl.load(grad_z_ptr + b * N * H + offs, mask=mask_m[:, None], other=0.0)
        turned = tl.trans(grad_z)
        acc_sin = dot(turned, to_operand(sin, DT), acc_sin, INPUT_PRECISION)
        acc_cos = dot(turned, to_operand(cos, DT), acc_cos, INPUT_PRECISION)
        acc_bias += tl.sum(grad_z.to(tl.float32), axis=0)
        if POINTS:
            zero = tl.zeros([BLOCK_M, P], tl.float32)
            first = first_ptr + b * stride_first_b + offs_w
            grad_sin = dot(grad_z, tl.load(first), zero, INPUT_PRECISION)
            grad_cos = dot(grad_z, tl.load(first + H * P), zero, INPUT_PRECISION)
            octave = tl.exp2((offs_p // D).to(tl.float32))[None, :]
            grad = (grad_sin * cos - grad_cos * sin) * octave * PI / tl.load(scale_ptr)
            for d in tl.static_range(D):
                part = tl.sum(tl.where(coordinate == d, grad, 0.0), axis=1)
                tl.store(grad_points_ptr + (b * N + offs_m) * D + d, part, mask=mask_m)
    program = (share * tl.num_programs(1) + b) * 2
    tl.store(grad_first_ptr + program * H * P + offs_w, acc_sin)
    tl.store(grad_first_ptr + (program + 1) * H * P + offs_w, acc_cos)
    tl.store(grad_bias_ptr + program // 2 * H + offs_h, acc_bias)


def gradient_scale(grads: HeadGradients, field: Operand) -> Tensor:
    """A power of two that brings float16 gradients into range; 1 for other operands. No device sync."""
    largest = field.head.new_zeros(())
    if field.precision != "fp16":
        return torch.ones_like(largest)
    for grad, factor in ((grads.hidden, None), (grads.sample_hidden, None), (grads.density, field.head)):
        if grad is not None and grad.numel():
            peak = grad.abs().amax()
            largest = torch.maximum(largest, peak if factor is None else peak * factor.abs().amax())
    return scale_of(largest)


def launch_trunk_backward(
    samples: Samples, activations: Tensor, field: Operand, grads: HeadGradients, *, need_points: bool
) -> tuple[PackedField, Tensor | None]:
    """Gradients of a ``chained`` field and of its points.

    Args:
        activations: [L, B, N, H] in the operand type, as stored by ``launch_field``.
        grads: of all R S = N samples, contiguous.
    Returns: float32 gradients per image, leading dim B; those of the (contracted) points [B, N, D] if asked for.
    """
    L, B, N, H = activations.shape
    device = activations.device
    scale = gradient_scale(grads, field)
    grad_z = torch.empty_like(activations[0])
    head, head_bias = backward_head(grad_z, activations[L - 1], field, grads, scale)
    rest = torch.empty(B, L - 1, H, H, device=device)
    bias = torch.empty(B, L, H, device=device)
    block = 16 if field.precision == "fp32" else 64  # products without tensor cores take many registers
    programs, tiles = shares(B, N, 1, block)
    part_weight = torch.empty(programs, B, H, H, device=device)
    part_bias = torch.empty(programs, B, H, device=device)
    for layer in range(L - 1, 0, -1):
        launch(
            _layer_kernel,
            (programs, B),
            grad_z_ptr=grad_z,
            grad_weight_ptr=part_weight,
            grad_bias_ptr=part_bias,
            input_ptr=activations[layer - 1],
            weight_ptr=field.rest[:, layer - 1],
            stride_weight_b=0 if field.rest.shape[0] == 1 else field.rest.stride(0),
            N=N,
            slope=field.slope,
            tiles=tiles,
            H=H,
            DT=OPERANDS[field.precision].triton,
            INPUT_PRECISION=OPERANDS[field.precision].input_precision,
            STAGES=2,
            BLOCK_M=block,
            num_warps=8 if H == 128 else 4,
            num_stages=2,
        )
        torch.sum(part_weight, 0, out=rest[:, layer - 1])
        torch.sum(part_bias, 0, out=bias[:, layer])
    first, first_bias, points = _backward_first(samples, grad_z, field, scale, need_points)
    bias[:, 0] = first_bias
    return PackedField(first / scale, rest.div_(scale), bias.div_(scale), head, head_bias), points


def backward_head(
    grad_z: Tensor, hidden: Tensor, field: Operand, grads: HeadGradients, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill grad_z of the last layer, times ``scale``; return the gradients of the density head, unscaled."""
    B, N, H = hidden.shape
    block = 32
    programs, tiles = shares(B, N, 1, block)
    part = torch.empty(programs, B, H, device=hidden.device)
    part_bias = torch.empty(programs, B, device=hidden.device)
    rays = 0 if grads.hidden is None else grads.hidden.shape[1]
    sample_rays = 0 if grads.sample_hidden is None else grads.sample_hidden.shape[1]
    shape = next((t.shape for t in (grads.density, grads.weights) if t is not None), None)
    launch(
        _head_kernel,
        (programs, B),
        grad_z_ptr=grad_z,
        grad_head_ptr=part,
        grad_head_bias_ptr=part_bias,
        hidden_ptr=hidden,
        weights_ptr=grads.weights,
        grad_hidden_ptr=grads.hidden,
        grad_density_ptr=grads.density,
        grad_sample_hidden_ptr=grads.sample_hidden,
        head_ptr=field.head,
        scale_ptr=scale,
        stride_head_b=0 if field.head.shape[0] == 1 else field.head.stride(0),
        N=N,
        S=shape[2] if shape is not None else 1,
        R_image=rays if grads.hidden is not None else (shape[1] if shape is not None else N) - sample_rays,
        R_kept=sample_rays,
        slope=field.slope,
        tiles=tiles,
        H=H,
        AGGREGATED=rays > 0,
        DENSITY=grads.density is not None,
        SAMPLE_RAYS=sample_rays > 0,
        DT=OPERANDS[field.precision].triton,
        BLOCK_M=block,
        num_warps=4 if H <= 128 else 8,
    )
    return part.sum(0), part_bias.sum().reshape(1)


def _backward_first(
    samples: Samples, grad_z: Tensor, field: Operand, scale: Tensor, need_points: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scaled gradients of the first layer's weights and bias, unscaled ones of the points."""
    B, N, H = grad_z.shape
    P = field.first.shape[3]
    block = 16 if grad_z.dtype == torch.float32 else 32
    programs, tiles = shares(B, N, 1, block)
    part = torch.empty(programs, B, 2, H, P, device=grad_z.device)
    part_bias = torch.empty(programs, B, H, device=grad_z.device)
    points = torch.empty(B, N, samples.dims, device=grad_z.device) if need_points else None
    depths = samples.depths
    launch(
        _first_kernel,
        (programs, B),
        grad_first_ptr=part,
        grad_bias_ptr=part_bias,
        grad_points_ptr=points,
        grad_z_ptr=grad_z,
        first_ptr=field.first,
        scale_ptr=scale,
        stride_first_b=0 if field.first.shape[0] == 1 else field.first.stride(0),
        N=N,
        R=1 if depths is None else depths.shape[1],
        S=1 if depths is None else depths.shape[2],
        tiles=tiles,
        P=P,
        H=H,
        POINTS=need_points,
        DT=OPERANDS[field.precision].triton,
        INPUT_PRECISION=OPERANDS[field.precision].input_precision,
        BLOCK_M=block,
        num_warps=8 if H == 128 else 4,
        **samples.arguments(),
    )
    return part.sum(0), part_bias.sum(0), points
