"""Executable specification of kernels.render_rays and kernels.render_points. Imports torch and its neighbours only."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .encode_ref import encode_positions_ref
from .importance_ref import importance_sample_ref
from .mlp_ref import linear_ref
from .volume_ref import composite_ref, volume_weights_ref

DepthWarp = Literal["linear", "inverse", "log"]
Space = Literal["plain", "contracted", "radial"]


@dataclass(frozen=True)
class FieldWeights:
    """The trunk and the density head of a radiance field, modulation already in the weights.

    h_0 = gamma(p); h_l = gain * lrelu(W_l h_{l-1} + b_l); sigma = <v, h_L> + c. A layer named in ``skips`` reads
    (h_{l-1}, gamma(p)) instead of h_{l-1} alone.

    Attributes:
        weights: L tensors [O, I] or [B, O, I]; the first has I = 2 F D.
        biases: L tensors [O] or [B, O]; a per-image code enters as part of the first bias.
        density_weight: [H] or [B, H].  density_bias: [1].
        num_freqs: octaves F of the positional encoding.
        gain, negative_slope: of the activation.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    density_weight: Tensor
    density_bias: Tensor
    num_freqs: int = 10
    gain: float = 2.0**0.5
    negative_slope: float = 0.2
    skips: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Of the hidden features."""
        return self.weights[-1].shape[-2]


@dataclass(frozen=True)
class RaySpan:
    """Which stretch of a ray is sampled. Fractions 0..1 map to depths near..far: linearly, in 1/t or in log t.

    ``far_end``: "open" if something lies behind (the last interval is 0), "opaque" if nothing does.
    ``density_scale``: unit of the density, alpha = 1 - exp(-relu(sigma) density_scale delta).
    ``space``: where the field sees a point x; intervals are those of the ray itself. "plain": at x. "contracted":
    outside the unit sphere at x / |x| (2 - 1 / |x|), so that all space fits into a ball of radius 2 (mip-NeRF 360,
    eq. 10). "radial": at (x - centre) / sqrt(far |x - centre|), denser with distance (DONeRF, section 4).
    """

    near: float
    far: float
    warp: DepthWarp = "linear"
    far_end: Literal["open", "opaque"] = "open"
    density_scale: float = 1.0
    space: Space = "plain"
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RayDraws:
    """Random numbers of one pass, all optional: fine positions u [B, R, S_f] in [0, 1] and density noise [B, R, S]."""

    fine_u: Tensor | None = None
    coarse_noise: Tensor | None = None
    fine_noise: Tensor | None = None


class RayFeatures(NamedTuple):
    """What a pass along rays yields; S' samples per ray in ascending depth (coarse and fine merged)."""

    hidden: Tensor  # [B, R - E, H] sum_i w_i h_i
    weights: Tensor  # [B, R, S']
    depths: Tensor  # [B, R, S']
    fractions: Tensor  # [B, R, S']
    density: Tensor  # [B, R, S'] raw, noise included
    transmittance: Tensor  # [B, R]
    emitted: Tensor | None  # [B, E, S', H] hidden features of each sample of the last E rays

    @property
    def opacity(self) -> Tensor:
        """[B, R] sum_i w_i."""
        return self.weights.sum(-1)

    @property
    def expected_depth(self) -> Tensor:
        """[B, R] sum_i w_i t_i; what passes the last sample counts nothing."""
        return (self.weights * self.depths).sum(-1)


def depth_from_fraction(fractions: Tensor, span: RaySpan) -> Tensor:
    if span.warp == "inverse":
        return 1 / ((1 - fractions) / span.near + fractions / span.far)
    if span.warp == "log":
        low, high = torch.log(torch.tensor([span.near, span.far], dtype=torch.float64)).tolist()
        return torch.exp(low * (1 - fractions) + high * fractions)
    return span.near * (1 - fractions) + span.far * fractions


def bend_ref(points: Tensor, span: RaySpan) -> Tensor:
    """Where the field sees the points [..., 3]."""
    if span.space == "contracted":
        norm = points.norm(dim=-1, keepdim=True).clamp_min(1)
        return points * ((2 - 1 / norm) / norm)
    if span.space == "radial":
        points = points - points.new_tensor(span.centre)
        return points / (span.far * points.norm(dim=-1, keepdim=True).clamp_min(1e-12)).sqrt()
    return points


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
    points: Tensor, depths: Tensor, field: FieldWeights, opaque_end: bool, noise: Tensor | None, emit: int
) -> RayFeatures:
    B, R, S, D = points.shape
    hidden, density = evaluate_field_ref(points.reshape(B, R * S, D), field)
    hidden, density = hidden.view(B, R, S, hidden.shape[-1]), density.view(B, R, S)
    if noise is not None:
        density = density + noise
    weights, trans = volume_weights_ref(density, depths, None, opaque_end)
    image = R - emit
    out = composite_ref(weights[:, :image], hidden[:, :image])
    return RayFeatures(out, weights, depths, depths, density, trans, hidden[:, image:] if emit else None)


def render_rays_ref(
    origins: Tensor,
    directions: Tensor,
    fractions: Tensor,
    field: FieldWeights,
    span: RaySpan,
    draws: RayDraws,
    emit: int,
) -> RayFeatures:
    norm = directions.norm(dim=-1) * span.density_scale  # [B, R]
    image = origins.shape[1] - emit

    def evaluate(t: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        points = bend_ref(origins[:, :, None] + t[..., None] * directions[:, :, None], span)
        hidden, density = evaluate_field_ref(points.flatten(1, 2), field)
        density = density.view_as(t)
        return hidden.view(*t.shape, hidden.shape[-1]), density if noise is None else density + noise

    def integrate(density: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return volume_weights_ref(density, t, norm, span.far_end == "opaque")

    depths = depth_from_fraction(fractions, span)
    hidden, density = evaluate(depths, draws.coarse_noise)
    weights, trans = integrate(density, depths)
    if draws.fine_u is None:
        out = composite_ref(weights[:, :image], hidden[:, :image])
        return RayFeatures(out, weights, depths, fractions, density, trans, hidden[:, image:] if emit else None)

    edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
    with torch.no_grad():
        fine = importance_sample_ref(edges, weights[..., 1:-1], draws.fine_u)
    fine_hidden, fine_density = evaluate(depth_from_fraction(fine, span), draws.fine_noise)
    fractions, order = torch.sort(torch.cat([fine, fractions], dim=-1), dim=-1)
    depths = depth_from_fraction(fractions, span)
    density = torch.cat([fine_density, density], dim=-1).gather(-1, order)
    weights, trans = integrate(density, depths)

    # the weighted sum does not care for order: bring the few weights back to the samples, not the many features to them
    scattered = torch.zeros_like(weights).scatter(-1, order, weights)[:, :image]
    fine_weights, coarse_weights = scattered.split([fine.shape[-1], scattered.shape[-1] - fine.shape[-1]], dim=-1)
    out = composite_ref(fine_weights, fine_hidden[:, :image]) + composite_ref(coarse_weights, hidden[:, :image])
    emitted = None
    if emit:
        both = torch.cat([fine_hidden[:, image:], hidden[:, image:]], dim=2)
        emitted = both.gather(2, order[:, image:, :, None].expand(-1, -1, -1, both.shape[-1]))
    return RayFeatures(out, weights, depths, fractions, density, trans, emitted)
