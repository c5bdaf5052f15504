"""Definition of volume_weights and composite in plain torch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-10  # keeps the running product away from zero, as released checkpoints expect


def volume_weights_ref(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque_end: bool, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if offsets is not None:
        return _packed_weights(density, depths, ray_norm, opaque_end, offsets)
    delta = depths[..., 1:] - depths[..., :-1]
    if ray_norm is not None:
        delta = delta * ray_norm[..., None]
    alpha, trans = _absorb(density[..., :-1], delta)
    end = torch.full_like(density[..., :1], float(opaque_end))
    return torch.cat([alpha, end], dim=-1) * trans, trans[..., -1]


def composite_ref(weights: Tensor, features: Tensor, offsets: Tensor | None = None) -> Tensor:
    if offsets is not None:
        inside = _slots(offsets)
        weights, features = _spread(weights, inside), _spread(features, inside)
    return (weights[..., None, :] @ features).squeeze(-2)


def _absorb(density: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha of each interval [..., S-1] and the light in front of each sample [..., S]."""
    alpha = 1 - torch.exp(-torch.relu(density) * delta)
    one = density.new_ones(*density.shape[:-1], 1)
    factors = torch.cat([one, 1 - alpha + EPSILON], dim=-1)
    if factors.dtype == torch.float16:  # where EPSILON is 0, and so may be a factor
        return alpha, torch.cumprod(factors, dim=-1)
    return alpha, _RunningProduct.apply(factors)


class _RunningProduct(torch.autograd.Function):
    """cumprod along the last dim of factors other than 0; torch's own backward waits for the device to look for one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(factors: Tensor) -> Tensor:
        return torch.cumprod(factors, dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        factors, product = ctx.saved_tensors
        return (product * grad).flip(-1).cumsum(-1).flip(-1) / factors


def _slots(offsets: Tensor) -> Tensor:
    """Packed rays padded to the longest, L: mask [R, L] of slots that hold a sample."""
    lengths = (offsets[1:] - offsets[:-1])[:, None]
    longest = max(int(lengths.max()), 1) if lengths.numel() else 1
    return torch.arange(longest, device=offsets.device) < lengths


def _spread(x: Tensor, inside: Tensor) -> Tensor:
    """Samples [N, ...] in their slots [R, L, ...], zeros elsewhere."""
    place = inside.flatten().nonzero().squeeze(1)
    return x.new_zeros(inside.numel(), *x.shape[1:]).index_copy(0, place, x).view(*inside.shape, *x.shape[1:])


def _packed_weights(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque_end: bool, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    inside = _slots(offsets)
    t = _spread(depths, inside)
    delta = t[:, 1:] - t[:, :-1]
    if ray_norm is not None:
        delta = delta * ray_norm[:, None]
    more = inside[:, 1:]  # the interval ends at a sample of the same ray
    zero = torch.zeros_like(delta)
    sigma = torch.where(more, _spread(density, inside)[:, :-1], zero)
    alpha, trans = _absorb(sigma, torch.where(more, delta, zero))
    last = inside & ~F.pad(more, (0, 1))
    alpha = F.pad(alpha, (0, 1)) + last.to(alpha.dtype) * float(opaque_end)
    length = inside.sum(-1, keepdim=True)
    return (alpha * trans)[inside], trans.gather(1, (length - 1).clamp_min(0)).squeeze(1)
