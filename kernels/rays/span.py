"""The sampled segment of a ray: depths of fractions, and contraction of space."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..base.constants import constant

DepthWarp = Literal["linear", "inverse", "log"]
Space = Literal["plain", "contracted", "radial"]


@dataclass(frozen=True)
class RaySpan:
    """The sampled segment of a ray. Fractions 0..1 map to depths near..far: linearly, in 1/t or in log t.
    ``far_end``: "open" if something lies behind (the last interval is 0), "opaque" if nothing does.
    ``density_scale``: unit of the density, alpha = 1 - exp(-relu(sigma) density_scale delta).
    ``space``: map of a point x before the encoding; intervals are those of the ray itself. "plain": x. "contracted":
    outside the unit sphere x / |x| (2 - 1 / |x|), so that all space fits into a ball of radius 2 (mip-NeRF 360,
    eq. 10). "radial": (x - centre) / sqrt(far |x - centre|), denser with distance (DONeRF, section 4).
    """

    near: float
    far: float
    warp: DepthWarp = "linear"
    far_end: Literal["open", "opaque"] = "open"
    density_scale: float = 1.0
    space: Space = "plain"
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def opaque(self) -> bool:
        """Whether the last sample absorbs all light that reaches it."""
        return self.far_end == "opaque"


def depth_from_fraction(fractions: Tensor, span: RaySpan) -> Tensor:
    """Depths of fractions 0..1 of the span, see ``RaySpan.warp``."""
    if span.warp == "inverse":
        return 1 / ((1 - fractions) / span.near + fractions / span.far)
    if span.warp == "log":
        low, high = torch.log(torch.tensor([span.near, span.far], dtype=torch.float64)).tolist()
        return torch.exp(low * (1 - fractions) + high * fractions)
    return span.near * (1 - fractions) + span.far * fractions


def fraction_from_depth(depths: Tensor, span: RaySpan) -> Tensor:
    """Fractions of depths: 0 at near, 1 at far; the inverse of :func:`depth_from_fraction`."""
    if span.warp == "inverse":
        return (1 / span.near - 1 / depths) / (1 / span.near - 1 / span.far)
    if span.warp == "log":
        return (depths / span.near).log() / math.log(span.far / span.near)
    return (depths - span.near) / (span.far - span.near)


def contract_ref(points: Tensor, span: RaySpan) -> Tensor:
    """Contract points [..., 3] as ``span.space`` says."""
    if span.space == "contracted":
        norm = points.norm(dim=-1, keepdim=True).clamp_min(1)
        return points * ((2 - 1 / norm) / norm)
    if span.space == "radial":
        points = points - constant(span.centre, like=points)
        return points / (span.far * points.norm(dim=-1, keepdim=True).clamp_min(1e-12)).sqrt()
    return points
