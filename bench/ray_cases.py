"""Inputs of the ray benches: fields and rays of the released models' sizes, and the cost of a pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gate import Args, Pin
from bench.shapes import FAR, NEAR, Draw
from stylenerf.kernels import FieldWeights, RayDraws, RayFeatures, RaySpan, render_points, render_rays
from stylenerf.kernels.rays.render_ref import render_points_ref, render_rays_ref

SPAN = RaySpan(NEAR, FAR)
EMPTY_SPACE = 30.0  # scale of the density: rays cross empty space and end in something solid


@dataclass(frozen=True)
class RayCase:
    """One pass.

    Attributes:
        batch, rays, samples: images, rays per image, samples of the (coarse) pass.
        fine: samples drawn from the coarse weights; 0 is a single pass.
        sample_rays: the last rays of each image, which return every sample's features instead of their sum.
        noise: density noise, as in training.
        points: sample points are given, [B, R, S, dims], the last one opaque (a background).
        width, depth, dims, octaves: of the field. A background's weights are shared by the images.
    """

    batch: int
    rays: int = 32 * 32
    samples: int = 14
    fine: int = 0
    sample_rays: int = 0
    noise: bool = False
    points: bool = False
    width: int = 128
    depth: int = 8
    dims: int = 3
    octaves: int = 10

    @property
    def op(self) -> str:
        return "render_points" if self.points else "render_rays"

    @property
    def pin(self) -> Pin | None:
        return Pin(3, placed) if self.fine else None

    def flops(self) -> tuple[float, float]:
        """Operations of a forward, and of a backward alone."""
        points = self.batch * self.rays * (self.samples + self.fine)
        aggregated = self.batch * (self.rays - self.sample_rays) * (self.samples + self.fine)
        first = 2 * self.dims * self.octaves * self.width
        field = first + (self.depth - 1) * self.width**2 + self.width  # weights per point: trunk and density head
        # A product and a sum per weight and, for the aggregation, per hidden feature; sines, activations, weights
        # along the ray and sorting (3 %) left out.
        forward = 2 * points * field + 2 * aggregated * self.width
        # Twice that for both gradients of every product, less the unused gradient of the encoding. Recomputation does
        # not count: it is avoidable.
        return forward, 2 * forward - 2 * points * first


def make_field(draw: Draw, case: RayCase) -> FieldWeights:
    encoded = 2 * case.dims * case.octaves
    widths = [encoded] + [case.width] * (case.depth - 1)
    lead = () if case.points else (case.batch,)
    biases = [draw.normal(case.width, scale=0.1, leaf=True) for _ in widths]
    if case.points:  # the latent code of a background is its first layer's bias
        biases[0] = draw.normal(case.batch, case.width, scale=0.1, leaf=True)
    return FieldWeights(
        weights=tuple(draw.normal(*lead, case.width, width, scale=width**-0.5, leaf=True) for width in widths),
        biases=tuple(biases),
        density_weight=draw.normal(*lead, case.width, scale=EMPTY_SPACE * case.width**-0.5, leaf=True),
        density_bias=draw.normal(1, leaf=True),
        num_freqs=case.octaves,
        negative_slope=0.0 if case.points else 0.2,
    )


def make(device: torch.device, seed: int, *, case: RayCase) -> Args:
    """Origins near (0, 0, 1), directions down -z, fractions, field, draws; or points, depths, field, draws."""
    draw = Draw(device, seed)
    field = make_field(draw, case)
    B, R, S = case.batch, case.rays, case.samples
    draws = RayDraws(
        fine_u=draw.uniform(B, R, case.fine) if case.fine else None,
        coarse_noise=draw.normal(B, R, S) if case.noise else None,
        fine_noise=draw.normal(B, R, case.fine) if case.noise and case.fine else None,
    )
    if case.points:
        return draw.normal(B, R, S, case.dims, scale=0.5), draw.ascending(B, R, S), field, draws
    ahead = torch.tensor([0.0, 0.0, 1.0], device=device)
    origins = (ahead + draw.normal(B, 1, 3, scale=0.01)).expand(B, R, 3).contiguous()
    return origins, draw.normal(B, R, 3, scale=0.1) - ahead, draw.ascending(B, R, S), field, draws


def render(args: Args, *, impl: Any, case: RayCase, precision: Any = "fp16") -> tuple[Tensor, ...]:
    """Outputs with gradients in training: features, weights, transmittance, sample features; then sample positions."""
    field, draws = args[-2:]
    how: dict[str, Any] = {"sample_rays": case.sample_rays, "precision": precision, "impl": impl}
    if case.points:
        points, depths = args[:2]
        return _taken(render_points(points, depths, field, far_end="opaque", noise=draws.coarse_noise, **how))
    origins, directions, fractions = args[:3]
    return _taken(render_rays(origins, directions, fractions, field, SPAN, draws=draws, **how))


def render_plain(args: Args, *, impl: Any, case: RayCase) -> tuple[Tensor, ...]:
    """The same by the plain form directly, so that torch.compile traces it without graph breaks."""
    field, draws = args[-2:]
    if case.points:
        return _taken(render_points_ref(args[0], args[1], field, True, draws.coarse_noise, case.sample_rays))
    return _taken(render_rays_ref(args[0], args[1], args[2], field, SPAN, draws, case.sample_rays))


def _taken(out: RayFeatures) -> tuple[Tensor, ...]:
    sample_hidden = () if out.sample_hidden is None else (out.sample_hidden,)
    return out.hidden, out.weights, out.transmittance, out.fractions.detach(), *sample_hidden


def placed(args: Args, merged: Tensor) -> Args:
    """A hierarchical pass as the single one at its ``merged`` fractions [B, R, S + F]; each sample keeps its noise."""
    origins, directions, fractions, field, draws = args
    noise = None
    if draws.coarse_noise is not None:
        at = torch.searchsorted(merged, fractions)  # merged fractions contain the coarse ones unchanged
        coarse = torch.zeros_like(merged, dtype=torch.bool).scatter(-1, at, True)
        noise = torch.empty_like(merged)
        noise[coarse] = draws.coarse_noise.flatten()
        noise[~coarse] = draws.fine_noise.gather(-1, draws.fine_u.argsort(-1)).flatten()  # u -> position is monotone
    return origins, directions, merged, field, RayDraws(coarse_noise=noise)
