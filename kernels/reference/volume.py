"""Executable specification of kernels.volume_weights and kernels.composite. Imports torch and nothing else."""

import torch
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
        sample, _ = _slots(offsets, weights.shape[0])
        weights, features = _spread(weights, sample), _spread(features, sample)
    return (weights[..., None, :] @ features).squeeze(-2)


def _absorb(density: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha of each interval [..., S-1] and the light in front of each sample [..., S]."""
    alpha = 1 - torch.exp(-torch.relu(density) * delta)
    one = density.new_ones(*density.shape[:-1], 1)
    return alpha, torch.cumprod(torch.cat([one, 1 - alpha + EPSILON], dim=-1), dim=-1)


def _slots(offsets: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Packed rays side by side, as long as the longest, L: the sample in each slot [R, L], or N; lengths [R, 1]."""
    lengths = (offsets[1:] - offsets[:-1])[:, None]
    longest = max(int(lengths.max()), 1) if lengths.numel() else 1
    slot = torch.arange(longest, device=offsets.device)
    return torch.where(slot < lengths, offsets[:-1, None] + slot, samples), lengths


def _spread(x: Tensor, sample: Tensor) -> Tensor:
    """Rows of ``x`` in their slots, zeros in the others."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[sample]


def _packed_weights(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque_end: bool, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    sample, lengths = _slots(offsets, density.shape[0])
    slot = torch.arange(sample.shape[1], device=sample.device)
    spread = _spread(depths, sample)
    delta = spread[:, 1:] - spread[:, :-1]
    if ray_norm is not None:
        delta = delta * ray_norm[:, None]
    more = slot[1:] < lengths  # the interval ends at a sample of the same ray
    zero = torch.zeros_like(delta)
    alpha, trans = _absorb(torch.where(more, _spread(density, sample)[:, :-1], zero), torch.where(more, delta, zero))
    end = (slot == lengths - 1).to(density.dtype) * float(opaque_end)
    weights = (torch.cat([alpha, torch.zeros_like(end[:, :1])], dim=-1) + end) * trans
    inside = slot < lengths
    return weights[inside], trans.gather(1, (lengths - 1).clamp_min(0)).squeeze(1)
