"""Strict views of one subject at interactive speed: its density is baked, and only what can be seen is evaluated.

The samples are those of :meth:`Synthesis.strict`, coarse and fine, at the same depths. With a :class:`Bake`

    a sample in an empty cell has density 0 and needs no field;
    a sample behind so much that, by lower bounds, less than ``DARK`` of the light reaches it is left out;
    a ray whose samples all lie in empty cells is background alone;
    the background is evaluated where light reaches it;
    colours are evaluated for samples with a visible weight.

Samples come first in the layout, [M, A] of A rays, so that operations run over many rays at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels.rays.importance import importance_sample
from ..kernels.rays.render import evaluate_field
from ..kernels.rays.span import RaySpan, depth_from_fraction
from ..kernels.rays.volume_ref import EPSILON
from .bake import Bake, bake_density
from .camera import Camera, Rays
from .field import Field
from .generator import RenderOptions, StrictPixels, Synthesis
from .renderer import Parts
from .samples import ColourSamples, FieldSamples

# Light that may be left out, of colours within about 2 of each other: together below 1e-3.
DARK = 1e-4
DARK_COARSE = 1e-6  # coarse weights place the fine samples, and a colour depends on their places more than on light
LEAST_WEIGHT = 1e-5  # of a sample whose colour is evaluated; a ray has some dozens of samples
_STEP = 3  # samples of a ray that are evaluated before it is asked again whether light reaches the next
_BLOCK = 2**13  # samples that pass the layers together: what they leave stays in the cache of a CPU


class BakedSubject:
    """One subject, prepared for any number of strict views.

    Its pictures differ from those of :meth:`Synthesis.strict` by less than 1e-3 of a colour in -1..1.
    """

    @torch.no_grad()
    def __init__(
        self,
        synthesis: Synthesis,
        ws: Tensor,
        low: Tensor,
        high: Tensor,
        *,
        cells: int,
        z_bg: Tensor | None = None,
        options: RenderOptions | None = None,
        before_block: Callable[[], None] | None = None,
    ) -> None:
        """Bake the density in a box of the world.

        Args:
            synthesis: with an upsampler of 1x1 layers.
            ws: [1, num_ws, w_dim].  z_bg: [1, z_dim] code of a coded background.
            low, high: [3] opposite corners of the box, which need not hold all that cameras see.
            cells: of the grid along the longest edge of the box.
            options: ``alpha`` and ``precision`` of all views.
            before_block: called before each block of points; what it raises ends the bake.
        """
        options = options or RenderOptions()
        if len(ws) != 1:
            raise ValueError(f"ws must hold one subject, got {len(ws)}")
        self.volume, self.synthesis, self.precision = synthesis.volume, synthesis, options.precision
        own, rows = ws[:, : self.volume.num_ws], ws[:, self.volume.num_ws :]
        growth = synthesis.growth(options.alpha)
        blocks = sum(r <= growth.resolution for r in synthesis.cfg.block_resolutions)
        self.trunk = self.volume.foreground.trunk(own)
        self.behind = self.volume.background
        fields: dict[str, Field] = {"fore": self.volume.foreground}
        if self.behind is not None:
            self.back = FieldSamples(self.behind.trunk(own, z_bg))
            fields["back"] = self.behind
        self.colours = {
            name: ColourSamples(field, self.volume.head(field), synthesis.upsampler, own, rows, growth, blocks)
            for name, field in fields.items()
        }
        self.bake = bake_density(
            lambda points: self._at(points)[1], low, high,
            cells=cells, radius=synthesis.cfg.field.bound_radius, before_block=before_block,
        )  # fmt: skip

    @torch.no_grad()
    def render(
        self, camera: Camera, pixels: Tensor, *, parts: Parts = "all", samples: int | None = None, keep: bool = False
    ) -> StrictPixels:
        """Strict pixels by one camera, as of :meth:`Synthesis.strict`.

        Args:
            pixels: [R, 2] in -1..1.
            parts: "all" or "foreground".
            samples: per pass; None is the model's own number.
            keep: also return weights and depths, 0 along a ray that meets nothing; else they have no samples.
        """
        rays = Rays(*(r[0].t().contiguous() for r in camera.rays(pixels)))  # [3, R]
        behind, end = self.volume.far_end(parts)
        samples = samples or self.synthesis.default_samples or self.volume.cfg.field.render_samples
        at, fore, hidden = self._trace(rays, self.volume.span(end), samples)
        number = len(pixels)
        new = hidden.new_zeros
        image, opacity, depth = new(3, number), new(number), new(number)
        weights, light = fore.weights(end == "opaque")
        seen = ((weights > LEAST_WEIGHT) & (fore.rows >= 0)).flatten().nonzero()[:, 0]
        shown = new(3, weights.numel())
        for some, rows in zip(seen.split(_BLOCK), fore.rows.flatten()[seen].split(_BLOCK)):
            shown[:, some] = self.colours["fore"](hidden.index_select(1, rows))
        image[:, at] = (shown.view(3, *weights.shape) * weights).sum(1)
        opacity[at] = weights.sum(0)
        depth[at] = (weights * fore.depths).sum(0)
        depth += (1 - opacity) * self.volume.cfg.field.far
        kept = [(at, weights)]
        if behind is not None:
            left = new(number) + 1
            left[at] = light
            lit = (left > DARK).nonzero()[:, 0]
            kept += self._add_background(image, rays, left, lit)
        if not keep:
            return StrictPixels(image[None], depth[None], opacity[None], new(1, number, 0), new(1, number, 0))
        dense = [new(number, len(w)) for w in (*(w for _, w in kept[:1]), fore.depths)]
        dense[0][at], dense[1][at] = weights.t(), fore.depths.t()
        behind_weights = new(number, sum(len(w) for _, w in kept[1:2]))
        for some, w in kept[1:]:
            behind_weights[some] = w.t()
        all_weights = torch.cat([dense[0], behind_weights], 1)
        return StrictPixels(image[None], depth[None], opacity[None], all_weights[None], dense[1][None])

    def _at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden features [H, N] and raw density [N] of the foreground at world points [N, 3].

        By the ray pass's own op: fine samples follow coarse densities so closely that other rounding would show.
        """
        points = self.volume.contract(points)
        hidden, density = evaluate_field(points[None], self.trunk, precision=self.precision)
        return hidden[0].t(), density[0]

    def _trace(self, rays: Rays, span: RaySpan, samples: int | None) -> tuple[Tensor, _Samples, Tensor]:
        """Numbers [A] of the rays that may meet something, their samples, and hidden features [H, N]."""
        bake, hierarchical = self.bake, self.volume.cfg.field.hierarchical
        at = torch.arange(rays.origins.shape[1], device=rays.origins.device)
        if not span.opaque:  # else the last sample of every ray is visible
            at = _may_meet(rays, bake, span, self.volume.cfg.field.bound_radius).nonzero()[:, 0]
            rays = _pick(rays, at)
        first, last, even = self.volume.sampled_part(Rays(*(r.t() for r in rays)), samples)  # [A], [A], [S]
        if not span.opaque:
            # where no coarse sample meets anything, the fine ones lie at the same parts of every ray
            line = even[:, None]
            every = torch.cat([line, _fine(line, 0 * line, even).t()]).sort(0).values if hierarchical else line
            met = (bake.along(rays, depth_from_fraction(torch.lerp(first, last, every), span)) >= 0).any(0)
            met = met.nonzero()[:, 0]
            at, first, last, rays = at[met], first[met], last[met], _pick(rays, met)
        fractions = torch.lerp(first, last, even[:, None])
        scale = rays.directions.norm(dim=0) * span.density_scale  # optical depth per density and t
        found = _Samples(rays, scale, bake, depth_from_fraction(fractions, span))
        hidden: list[Tensor] = []
        if hierarchical:
            last_filled = found.filled[-1].clone()
            found.filled[-1] = False  # its weight places nothing
            self._fill(found, hidden, DARK_COARSE)
            found.filled[-1] = last_filled
            found = found.refined(_fine(fractions, found.weights(span.opaque)[0], even), fractions, span)
        if span.opaque:
            found.filled[-1] = True
        self._fill(found, hidden, DARK)
        return at, found, torch.cat(hidden, 1) if hidden else rays.origins.new_zeros(self.trunk.width, 0)

    def _fill(self, samples: _Samples, hidden: list[Tensor], dark: float) -> None:
        """Evaluate, a few of each ray at a time, the samples that more than ``dark`` of the light reaches."""
        count = sum(h.shape[1] for h in hidden)
        while True:
            ask = samples.lit(dark)
            where = (ask & (ask.cumsum(0, dtype=torch.int32) <= _STEP)).flatten().nonzero()[:, 0]
            if not len(where):
                return
            for block in where.split(_BLOCK):
                features, density = self._at(samples.points(block))
                samples.sigma.view(-1)[block] = density
                hidden.append(features)
            rows = torch.arange(count, count + len(where), dtype=torch.int32, device=where.device)
            samples.rows.view(-1)[where] = rows
            count += len(where)

    def _add_background(self, image: Tensor, rays: Rays, light: Tensor, lit: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Add what lies behind to pixels ``lit`` [L] of ``image`` [3, R]: rays and weights [S, L] of each part."""
        cfg = self.volume.cfg.background
        kept = []
        inverse = torch.linspace(-1, 0, cfg.samples, device=image.device).neg_() * cfg.start  # outwards
        for some in lit.split(max(_BLOCK // cfg.samples, 1)):
            points = _sphere_points(_pick(rays, some), inverse[:, None])  # [4, S, L]
            hidden, density = self.back(points.flatten(1))
            optical = density.view(cfg.samples, -1).relu_()[:-1] * (inverse[:-1] - inverse[1:])[:, None]
            weights = _weights(optical, opaque=True)[0] * light[some]
            colours = self.colours["back"](hidden).view(3, *weights.shape)
            image[:, some] += (colours * weights).sum(1)
            kept.append((some, weights))
        return kept


class _Samples:
    """M samples of each of A rays, ascending: depths, densities as far as they are known, rows of hidden features."""

    def __init__(self, rays: Rays, scale: Tensor, bake: Bake, depths: Tensor) -> None:
        self.rays, self.scale, self.bake, self.depths = rays, scale, bake, depths
        floor = bake.along(rays, depths)
        self.filled = floor >= 0
        self.sigma = floor.clamp_min_(0)  # a lower bound where the sample is not evaluated
        self.rows = torch.full_like(depths, -1, dtype=torch.int32)

    def optical(self) -> Tensor:
        """Optical depth [M - 1, A] of the intervals."""
        return self.sigma[:-1].relu() * (self.depths[1:] - self.depths[:-1]) * self.scale

    def lit(self, dark: float) -> Tensor:
        """Samples [M, A] not evaluated yet that may absorb more than ``dark`` of the light."""
        before = self.optical().cumsum(0) < -math.log(dark)
        unknown = self.filled & (self.rows < 0)
        unknown[1:] &= before
        return unknown

    def points(self, where: Tensor) -> Tensor:
        """World points [N, 3] of the samples with the flat numbers ``where`` [N]."""
        ray = where % self.depths.shape[1]
        origins, directions = _pick(self.rays, ray)
        return (origins + self.depths.view(-1)[where] * directions).t()

    def refined(self, fine: Tensor, fractions: Tensor, span: RaySpan) -> _Samples:
        """These samples, at ``fractions`` [S, A], and others at ``fine`` [A, S'], all ascending."""
        both, order = torch.cat([fractions.t(), fine], 1).sort(1)
        merged = _Samples(self.rays, self.scale, self.bake, depth_from_fraction(both.t().contiguous(), span))
        place = order.t().contiguous()
        known, place = place < len(fractions), place.clamp_max(len(fractions) - 1)
        merged.rows = torch.where(known, self.rows.gather(0, place), -1)
        merged.sigma = torch.where(merged.rows >= 0, self.sigma.gather(0, place), merged.sigma)
        return merged

    def weights(self, opaque: bool) -> tuple[Tensor, Tensor]:
        """Weights [M, A] of the samples and the light [A] that reaches the last one."""
        return _weights(self.optical(), opaque=opaque)


def _weights(optical: Tensor, *, opaque: bool) -> tuple[Tensor, Tensor]:
    """Weights [M, A] of samples with intervals of optical depth [M - 1, A], and the light [A] at the last one."""
    alpha = 1 - torch.exp(-optical)  # as in volume_weights: fine samples depend on its rounding
    light = torch.cat([optical.new_ones(1, optical.shape[1]), (1 - alpha + EPSILON).cumprod(0)])
    end = optical.new_full((1, optical.shape[1]), float(opaque))
    return torch.cat([alpha, end]) * light, light[-1]


def _pick(rays: Rays, at: Tensor) -> Rays:
    """The rays [3, A] numbered ``at`` among rays [3, R]."""
    return Rays(*(r.index_select(1, at) for r in rays))


def _may_meet(rays: Rays, bake: Bake, span: RaySpan, radius: float | None) -> Tensor:
    """Whether rays [3, R] may meet a filled cell; always, where a part of a ray lies outside the grid."""
    a, b = ((corner[:, None] - rays.origins) / rays.directions for corner in bake.box)  # [3, R]
    enter, leave = torch.minimum(a, b).amax(0), torch.maximum(a, b).amin(0)
    apart = (enter > leave) | (enter > span.far) | (leave < span.near)  # False where 0 / 0 leaves it open
    if radius is not None and bool(bake.inside(bake.low.new_tensor([[-radius] * 3, [radius] * 3])).all()):
        return ~apart  # samples lie in the ball, the ball in the grid
    known = [bake.inside((rays.origins + t * rays.directions).t()) for t in (span.near, span.far)]
    return ~(apart & known[0] & known[1])


def _fine(fractions: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Positions [A, S] by importance from the weights [S, A] of coarse samples at ``fractions`` [S, A]."""
    edges = ((fractions[1:] + fractions[:-1]) / 2).t().contiguous()
    return importance_sample(edges, weights[1:-1].t().contiguous(), u.expand(len(edges), -1).contiguous())


def _sphere_points(rays: Rays, inverse: Tensor) -> Tensor:
    """Points [4, S, L] of rays [3, L] on spheres of inverse radius [S, 1], as :func:`inverted_sphere_points`."""
    origins, directions = rays
    square = (directions * directions).sum(0)
    middle = origins - (origins * directions).sum(0) / square * directions
    distance = middle.norm(dim=0)
    sine = (distance * inverse).clamp_(max=1)  # [S, L]
    aside, ahead = sine / distance.clamp_min(1e-12), (1 - sine * sine).sqrt_() / square.sqrt()
    directed = [m * aside + d * ahead for m, d in zip(middle, directions)]
    return torch.stack([*directed, inverse.expand_as(sine)])
