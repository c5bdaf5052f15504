"""Definition of render_rays and render_points in plain torch."""

import torch
from torch import Tensor

from .encode_ref import encode_positions_ref
from .importance_ref import importance_sample_ref
from .mlp_ref import linear_ref
from .span import RaySpan, contract_ref, depth_from_fraction
from .types import FieldWeights, RayDraws, RayFeatures
from .volume_ref import composite_ref, volume_weights_ref


def evaluate_field_ref(points: Tensor, field: FieldWeights) -> tuple[Tensor, Tensor]:
    """Hidden features [B, N, H] and raw density [B, N] at points [B, N, D]."""
    encoded = encode_positions_ref(points, field.num_freqs, include_input=False)
    hidden = encoded
    for i, (weight, bias) in enumerate(zip(field.weights, field.biases)):
        x = torch.cat([hidden, encoded], dim=-1) if i in field.skips else hidden
        hidden = linear_ref(x, weight * field.gain, bias * field.gain)
        hidden = torch.nn.functional.leaky_relu(hidden, field.negative_slope, inplace=True)
    density_weight = field.density_weight.expand(points.shape[0], -1)
    return hidden, (hidden @ density_weight[..., None]).squeeze(-1) + field.density_bias


def render_points_ref(
    points: Tensor, depths: Tensor, field: FieldWeights, opaque: bool, noise: Tensor | None, sample_rays: int
) -> RayFeatures:
    B, R, S, D = points.shape
    hidden, density = evaluate_field_ref(points.reshape(B, R * S, D), field)
    hidden, density = hidden.view(B, R, S, hidden.shape[-1]), density.view(B, R, S)
    if noise is not None:
        density = density + noise
    weights, trans = volume_weights_ref(density, depths, None, opaque)
    image = R - sample_rays
    out = composite_ref(weights[:, :image], hidden[:, :image])
    return RayFeatures(out, weights, depths, depths, density, trans, hidden[:, image:] if sample_rays else None)


def render_rays_ref(
    origins: Tensor,
    directions: Tensor,
    fractions: Tensor,
    field: FieldWeights,
    span: RaySpan,
    draws: RayDraws,
    sample_rays: int,
) -> RayFeatures:
    norm = directions.norm(dim=-1) * span.density_scale  # [B, R]
    image = origins.shape[1] - sample_rays

    def evaluate(t: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        points = contract_ref(origins[:, :, None] + t[..., None] * directions[:, :, None], span)
        hidden, density = evaluate_field_ref(points.flatten(1, 2), field)
        density = density.view_as(t)
        return hidden.view(*t.shape, hidden.shape[-1]), density if noise is None else density + noise

    def integrate(density: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return volume_weights_ref(density, t, norm, span.opaque)

    depths = depth_from_fraction(fractions, span)
    hidden, density = evaluate(depths, draws.coarse_noise)
    weights, trans = integrate(density, depths)
    if draws.fine_u is None:
        out = composite_ref(weights[:, :image], hidden[:, :image])
        return RayFeatures(out, weights, depths, fractions, density, trans, hidden[:, image:] if sample_rays else None)

    edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
    with torch.no_grad():
        fine = importance_sample_ref(edges, weights[..., 1:-1], draws.fine_u)
    fine_hidden, fine_density = evaluate(depth_from_fraction(fine, span), draws.fine_noise)
    fractions, order = torch.sort(torch.cat([fine, fractions], dim=-1), dim=-1)
    depths = depth_from_fraction(fractions, span)
    density = torch.cat([fine_density, density], dim=-1).gather(-1, order)
    weights, trans = integrate(density, depths)

    # the weighted sum does not depend on order: reorder the few weights, not the many features
    scattered = torch.zeros_like(weights).scatter(-1, order, weights)[:, :image]
    fine_weights, coarse_weights = scattered.split([fine.shape[-1], scattered.shape[-1] - fine.shape[-1]], dim=-1)
    out = composite_ref(fine_weights, fine_hidden[:, :image]) + composite_ref(coarse_weights, hidden[:, :image])
    sample_hidden = None
    if sample_rays:
        both = torch.cat([fine_hidden[:, image:], hidden[:, image:]], dim=2)
        sample_hidden = both.gather(2, order[:, image:, :, None].expand(-1, -1, -1, both.shape[-1]))
    return RayFeatures(out, weights, depths, fractions, density, trans, sample_hidden)
