"""Positions of samples: stratified along a ray, on the inverted sphere outside; and a step's random draws."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..kernels.rays.span import RaySpan, fraction_from_depth


def stratify(fractions: Tensor, u: Tensor) -> Tensor:
    """Jitter ascending positions [..., S] inside the bins between their mid-points: lo + (hi - lo) u, u in [0, 1]."""
    middle = (fractions[..., 1:] + fractions[..., :-1]) / 2
    low = torch.cat([fractions[..., :1], middle], dim=-1)
    high = torch.cat([middle, fractions[..., -1:]], dim=-1)
    return low + (high - low) * u


@torch.no_grad()
def fractions_in_ball(origins: Tensor, directions: Tensor, radius: float, span: RaySpan) -> tuple[Tensor, Tensor]:
    """Ends, as fractions of ``span``, of the part of each ray o + t d that lies in a ball around the world's origin.

    A ray that misses the ball has an empty part, at its point nearest to the centre.
    Args: origins, directions: [..., 3]. Returns: two tensors [...] in 0..1, the first at most the second.
    """
    square = (directions * directions).sum(-1)
    middle = -(origins * directions).sum(-1) / square
    nearest = origins + middle[..., None] * directions
    half = ((radius**2 - (nearest * nearest).sum(-1)) / square).clamp_min(0).sqrt()
    first, last = (fraction_from_depth(t.clamp(span.near, span.far), span) for t in (middle - half, middle + half))
    return first, last


def inverted_sphere_points(origins: Tensor, directions: Tensor, inverse_radius: Tensor) -> Tensor:
    """Points of a ray outside the unit sphere as (unit direction, 1/r) (NeRF++).

    With m the ray's point nearest to the centre and d its direction, |d| = 1, the ray leaves the sphere of radius r at
    m + sqrt(r^2 - m^2) d, in the direction m / r + sqrt(1 - (|m| / r)^2) d: what NeRF++ finds by a rotation.

    Args:
        origins, directions: [..., 3], origins inside the unit sphere or on it.
        inverse_radius: [..., S] in [0, 1].
    Returns: [..., S, 4].
    """
    square = (directions * directions).sum(-1, keepdim=True)
    along = -(origins * directions).sum(-1, keepdim=True) / square
    middle = origins + along * directions
    distance = middle.norm(dim=-1, keepdim=True)  # |m|
    sine = (distance * inverse_radius).clamp(max=1)  # [..., S]; 1 where the ray does not come that near
    cosine = (1 - sine * sine).sqrt()
    aside = torch.minimum(inverse_radius, 1 / distance.clamp_min(1e-12))
    forward = (directions / square.sqrt())[..., None, :] * cosine[..., None]
    return torch.cat(
        [torch.addcmul(forward, middle[..., None, :], aside[..., None]), inverse_radius[..., None]], dim=-1
    )


def path_pixels(u: Tensor, count: int, resolution: int) -> Tensor:
    """Indices [B, count^2] (y * resolution + x) of a regular lattice of pixels with a random offset.

    pace = resolution // count; offset = floor(u pace), u [B, 2] in [0, 1) for (x, y).
    """
    pace = resolution // count
    offset = (u * pace).floor().long()
    line = torch.arange(count, device=u.device) * pace
    x, y = line + offset[:, :1], line + offset[:, 1:]  # [B, count]
    return (y[:, :, None] * resolution + x[:, None, :]).flatten(1)


@dataclass(frozen=True)
class StepDraws:
    """All random numbers of one stochastic rendering, in the order of drawing; None means deterministic or absent."""

    path_offset: Tensor | None = None  # [B, 2] uniform
    coarse_jitter: Tensor | None = None  # [B, R, S] uniform
    coarse_noise: Tensor | None = None  # [B, R, S] normal
    fine_u: Tensor | None = None  # [B, R, S] uniform
    fine_noise: Tensor | None = None  # [B, R, S] normal
    background_jitter: Tensor | None = None  # [B, R, S_bg] uniform
    background_noise: Tensor | None = None  # [B, R, S_bg] normal

    @classmethod
    def sample(
        cls,
        generator: torch.Generator,
        batch: int,
        rays: int,
        samples: int,
        *,
        path: bool,
        hierarchical: bool,
        background_samples: int,
    ) -> StepDraws:
        """Draw the numbers for ``rays`` rays per image; ``background_samples`` 0 means no background."""
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float32, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32, device=device)

        inside, outside = (batch, rays, samples), (batch, rays, background_samples)
        return cls(
            path_offset=uniform(batch, 2) if path else None,
            coarse_jitter=uniform(*inside),
            coarse_noise=normal(*inside),
            fine_u=uniform(*inside) if hierarchical else None,
            fine_noise=normal(*inside) if hierarchical else None,
            background_jitter=uniform(*outside) if background_samples else None,
            background_noise=normal(*outside) if background_samples else None,
        )

    def to(self, device: torch.device | str) -> StepDraws:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return StepDraws(**{k: None if v is None else v.to(device) for k, v in values.items()})
