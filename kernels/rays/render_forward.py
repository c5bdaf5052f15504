"""The ray pass forward: choice of kernels, from a single fused one to one per layer.
Where no single kernel holds the trunk (see ``chained``) or a ray has too many samples, the field is evaluated into
memory and composited from there, with the same result.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.dispatch import Precision
from ..base.operands import OPERANDS
from . import hierarchical
from .composite_triton import launch_composite
from .field_triton import Operand, Samples, chained, launch_field
from .importance_ref import importance_sample_ref
from .importance_triton import MAX_EDGES, launch_importance
from .layered import evaluate_layered
from .single_pass import MAX_SAMPLES, RayOutputs, launch_rays
from .span import RaySpan, depth_from_fraction
from .volume_triton import launch_volume_forward


class Setting(NamedTuple):
    """Options of the ray ops that are not tensors."""

    num_freqs: int
    slope: float
    precision: Precision
    sample_rays: int = 0
    span: RaySpan = RaySpan(0.0, 1.0)

    def flat(self) -> tuple[Any, ...]:
        """In types of an op's schema: the last arguments of ``single_pass`` and ``hierarchical_pass``."""
        s = self.span
        return (*self[:4], s.near, s.far, s.warp, s.far_end, s.density_scale, s.space, list(s.centre))

    @classmethod
    def of(cls, *flat: Any) -> "Setting":
        """Inverse of ``flat``."""
        num_freqs, slope, precision, sample_rays, near, far, warp, far_end, density_scale, space, centre = flat
        span = RaySpan(near, far, warp, far_end, density_scale, space, tuple(centre))
        return cls(num_freqs, slope, precision, sample_rays, span)


def locate(
    points: Tensor | None, origins: Tensor | None, directions: Tensor | None, depths: Tensor, span: RaySpan
) -> Samples:
    """Samples along rays, or at ``points`` [B, R, S, D] where given."""
    flat = None if points is None else points.flatten(1, -2)
    return Samples(flat, origins, directions, depths, span)


def evaluate(samples: Samples, field: Operand, hidden: bool = True) -> tuple[Tensor | None, Tensor]:
    """Hidden features [B, N, H] in the operand type, if needed, and density [B, N]."""
    if not chained(field.width, field.precision):
        activations, density = evaluate_layered(samples, field)
        return activations[-1] if hidden else None, density
    B, N, device = samples.batch, samples.total, samples.device
    density = torch.empty(B, N, device=device)
    a = torch.empty(B, N, field.width, dtype=OPERANDS[field.precision].storage, device=device) if hidden else None
    launch_field(samples, field, hidden=a, density=density)
    return a, density


def norms(directions: Tensor | None, depths: Tensor, scale: float) -> Tensor:
    """World units per unit of depth, times the density's unit, [B, R]."""
    if directions is None:
        return torch.ones_like(depths[..., 0])
    return directions.norm(dim=-1) * scale


def weigh(density: Tensor, depths: Tensor, norm: Tensor, opaque: bool) -> tuple[Tensor, Tensor]:
    B, R, S = depths.shape
    rows = density.reshape(B * R, S), depths.reshape(B * R, S), norm.reshape(B * R)
    weights, trans = launch_volume_forward(*rows, opaque)
    return weights.view(B, R, S), trans.view(B, R)


def render_single(
    samples: Samples, depths: Tensor, noise: Tensor | None, field: Operand, setting: Setting
) -> RayOutputs:
    """A single pass at given depths [B, R, S]."""
    B, R, S = depths.shape
    if chained(field.width, field.precision) and S <= MAX_SAMPLES:
        out = RayOutputs.empty(samples, field.width, (R, S), setting.sample_rays)
        launch_rays(out, samples, depths, field, noise=noise)
        return out
    hidden, density = evaluate(samples, field)
    assert hidden is not None
    density = density.view(B, R, S) if noise is None else density.view(B, R, S) + noise
    norm = norms(samples.directions, depths, samples.span.density_scale)
    weights, trans = weigh(density, depths, norm, samples.span.opaque)
    hidden, image = hidden.view(B, R, S, field.width), R - setting.sample_rays
    aggregated = launch_composite(weights[:, :image].contiguous(), hidden[:, :image].contiguous())
    return RayOutputs(aggregated, weights, density, trans, hidden[:, image:].float().contiguous())


class Draws(NamedTuple):
    """Random numbers of a hierarchical pass; F fine positions per ray."""

    fine_u: Tensor  # [B, R, F]
    coarse_noise: Tensor | None  # [B, R, S]
    fine_noise: Tensor | None  # [B, R, F]


def render_hierarchical(
    rays: tuple[Tensor, Tensor, Tensor], draws: Draws, field: Operand, setting: Setting
) -> tuple[RayOutputs, Tensor, Tensor]:
    """Both passes of rays (origins, directions, fractions).

    Returns: the rendered outputs, the fractions [B, R, S + F] in depth order, the index of each in (fine, coarse).
    """
    origins, directions, fractions = rays
    span = setting.span
    B, R, S = fractions.shape
    F = draws.fine_u.shape[2]
    if hierarchical.fits(field.width, S, F, field.precision):
        out = RayOutputs.empty(Samples(None, *rays), field.width, (R, S + F), setting.sample_rays)
        merged = torch.empty(B, R, S + F, device=origins.device)
        order = torch.empty(B, R, S + F, dtype=torch.int16, device=origins.device)
        hierarchical.launch_hierarchical(out, merged, order, rays, draws, field, span=span)
        return out, merged, order
    norm = norms(directions, fractions, span.density_scale)
    depths = depth_from_fraction(fractions, span)
    coarse, coarse_density = _noisy(Samples(None, origins, directions, depths, span), field, draws.coarse_noise)
    weights, _ = weigh(coarse_density, depths, norm, span.opaque)
    edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
    draw = launch_importance if edges.shape[2] <= MAX_EDGES else importance_sample_ref
    finer = draw(edges, weights[..., 1:-1].contiguous(), draws.fine_u)
    depths = depth_from_fraction(finer, span)
    fine, fine_density = _noisy(Samples(None, origins, directions, depths, span), field, draws.fine_noise)
    merged, order = torch.sort(torch.cat([finer, fractions], dim=-1), dim=-1)
    density = torch.cat([fine_density, coarse_density], dim=-1).gather(-1, order)
    weights, trans = weigh(density, depth_from_fraction(merged, span), norm, span.opaque)
    # the weighted sum does not depend on order: reorder the few weights, not the many features
    image = R - setting.sample_rays
    scattered = torch.empty_like(weights).scatter_(-1, order, weights)[:, :image]
    hidden = launch_composite(scattered[..., :F].contiguous(), fine[:, :image].contiguous())
    launch_composite(scattered[..., F:].contiguous(), coarse[:, :image].contiguous(), out=hidden, accumulate=True)
    both = torch.cat([fine[:, image:], coarse[:, image:]], dim=2)
    sample_hidden = both.gather(2, order[:, image:, :, None].expand(-1, -1, -1, field.width)).float()
    return RayOutputs(hidden, weights, density, trans, sample_hidden), merged, order.to(torch.int16)


def _noisy(samples: Samples, field: Operand, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden features [B, R, S, H] and density [B, R, S], noise included."""
    assert samples.depths is not None
    hidden, density = evaluate(samples, field)
    assert hidden is not None
    density = density.view(samples.depths.shape)
    return hidden.view(*samples.depths.shape, field.width), density if noise is None else density + noise
