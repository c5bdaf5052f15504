"""Executable specification of kernels.volume_weights and kernels.composite. Imports torch and nothing else."""

import torch
from torch import Tensor

EPSILON = 1e-10  # keeps the running product away from zero, as released checkpoints expect


def volume_weights_ref(
    density: Tensor, depths: Tensor, ray_norm: Tensor | None, opaque_end: bool
) -> tuple[Tensor, Tensor]:
    delta = depths[..., 1:] - depths[..., :-1]
    if ray_norm is not None:
        delta = delta * ray_norm[..., None]
    alpha = 1 - torch.exp(-torch.relu(density[..., :-1]) * delta)
    one = torch.ones_like(density[..., :1])
    end = one if opaque_end else torch.zeros_like(one)
    trans = torch.cumprod(torch.cat([one, 1 - alpha + EPSILON], dim=-1), dim=-1)  # [..., S]
    return torch.cat([alpha, end], dim=-1) * trans, trans[..., -1]


def composite_ref(weights: Tensor, features: Tensor) -> Tensor:
    return (weights[..., None, :] @ features).squeeze(-2)
