"""The sampled segment of a ray: depths of fractions, and contraction of space."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..base.constants import constant

DepthWarp = Literal["linear", "inverse", "log"]
Space = Literal["plain", "contracted", "radial"]
LEAST_NORM = 1e-12


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
        low, high = _logarithms(span.near, span.far)
        return torch.exp(low * (1 - fractions) + high * fractions)
    return span.near * (1 - fractions) + span.far * fractions


def fraction_from_depth(depths: Tensor, span: RaySpan) -> Tensor:
    """Fractions of depths: 0 at near, 1 at far; the inverse of :func:`depth_from_fraction`."""
    if span.warp == "inverse":
        return (1 / span.near - 1 / depths) / (1 / span.near - 1 / span.far)
    if span.warp == "log":
        return (depths / span.near).log() / math.log(span.far / span.near)
    return (depths - span.near) / (span.far - span.near)


@torch.compiler.assume_constant_result
def _logarithms(*numbers: float) -> list[float]:
    return torch.log(torch.tensor(numbers, dtype=torch.float64)).tolist()


def slope_of_depth(depths: Tensor, span: RaySpan) -> Tensor | float:
    """Derivative of ``depth_from_fraction``, where it returned ``depths``."""
    if span.warp == "inverse":
        return depths.square() * (1 / span.near - 1 / span.far)
    return depths * math.log(span.far / span.near) if span.warp == "log" else span.far - span.near


def contract_ref(points: Tensor, span: RaySpan) -> Tensor:
    """Contract points [..., 3] as ``span.space`` says."""
    if span.space == "contracted":
        norm = points.norm(dim=-1, keepdim=True).clamp_min(1)
        return points * ((2 - 1 / norm) / norm)
    if span.space == "radial":
        points = points - constant(span.centre, like=points)
        return points / (span.far * points.norm(dim=-1, keepdim=True).clamp_min(LEAST_NORM)).sqrt()
    return points


def contract_backward(points: Tensor, grad: Tensor, span: RaySpan) -> Tensor:
    """Gradient of the points from that of ``contract_ref``, which is s(|x|) x: s g + s' <x, g> x / |x|."""
    if span.space == "plain":
        return grad
    if span.space == "contracted":
        norm = points.norm(dim=-1, keepdim=True)
        outside = norm.clamp_min(1)
        scale, slope = (2 - 1 / outside) / outside, 2 * (1 / outside - 1) / outside.square()
    else:
        points = points - constant(span.centre, like=points)
        norm = points.norm(dim=-1, keepdim=True).clamp_min(LEAST_NORM)
        scale = (span.far * norm).rsqrt()
        slope = -0.5 * scale / norm
    return scale * grad + slope * (points * grad).sum(-1, keepdim=True) / norm.clamp_min(LEAST_NORM) * points
