"""The space of styles as the mapping network fills it: its average, its principal directions, their lengths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from ...model_io import Model
from ...randomness import generator_for
from .conditions import random_conditions
from .label_argument import Label

SAMPLES = 4096
_FLOOR = 0.01  # of the longest direction: one that is hardly filled can still be moved along


class LatentSpace(NamedTuple):
    """w = mean + axes (stds * c), c ~ (0, 1) in every coordinate for styles of random latents; D = w_dim."""

    mean: Tensor  # [D]
    axes: Tensor  # [D, D], columns are orthonormal directions
    stds: Tensor  # [D] standard deviations along them, descending

    @property
    def scales(self) -> Tensor:
        """[D] lengths that a coordinate is counted in: ``stds``, at least a hundredth of the largest."""
        return self.stds.clamp(min=max(float(self.stds[0]) * _FLOOR, 1e-6))

    def colour(self, c: Tensor) -> Tensor:
        """Coordinates [..., D] to styles [..., D]."""
        return self.mean + (c * self.scales) @ self.axes.t()

    def whiten(self, w: Tensor) -> Tensor:
        """Styles [..., D] to coordinates [..., D], the inverse of :meth:`colour`."""
        return ((w - self.mean) @ self.axes) / self.scales


@torch.no_grad()
def latent_space(model: Model, *, samples: int = SAMPLES, label: Label | None = None, seed: int = 0) -> LatentSpace:
    """Principal components of the styles of ``samples`` latents z ~ N(0, 1), untruncated.

    Args:
        samples: at least 2; fewer than w_dim + 1 leave directions of no length.
        label: of a conditional model; None draws a class or a camera of the prior for each sample.
        seed: of the latents.
    Returns: tensors on the model's device, float32; signs are fixed: the largest entry of an axis is positive.
    Raises: UserError naming the argument.
    Source: principal directions of w as in Haerkoenen et al., GANSpace, NeurIPS 2020 (arXiv 2004.02546), sec. 2.
    """
    g = model.generator
    if samples < 2:
        raise UserError(f"samples: wanted at least 2, got {samples}")
    rng = generator_for(seed, "latent space")
    z = torch.randn(samples, g.cfg.z_dim, generator=rng)
    rows = random_conditions(model, label, samples, rng)
    device = next(g.parameters()).device
    w = g.mapping(z.to(device), rows)[:, 0].cpu().double()
    mean = w.mean(dim=0)
    values, vectors = torch.linalg.eigh((w - mean).t() @ (w - mean) / (samples - 1))
    axes = fixed_signs(vectors.flip(-1))
    stds = values.flip(-1).clamp(min=0).sqrt()
    return LatentSpace(*(t.float().to(device) for t in (mean, axes, stds)))


def fixed_signs(axes: Tensor) -> Tensor:
    """Columns [D, N], each turned so that its largest entry is positive: the sign of a direction is nobody's choice."""
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0).to(axes.dtype)
