"""Definition of encode_positions in plain torch."""

import math

import torch
from torch import Tensor


def encode_positions_ref(points: Tensor, num_freqs: int, include_input: bool) -> Tensor:
    freqs = math.pi * 2.0 ** torch.arange(num_freqs, device=points.device, dtype=torch.float64)
    angles = points[..., None, :] * freqs.to(points.dtype)[:, None]  # [..., F, D]
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)  # [..., 2 * F * D]
    return torch.cat([waves, points], dim=-1) if include_input else waves
