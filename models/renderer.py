"""The volume half: rays through a foreground field and an inverted-sphere background, aggregated to a feature map."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.base.constants import kept
from ..kernels.base.dispatch import Precision
from ..kernels.rays.render import (
    RayDraws,
    RayFeatures,
    RaySpan,
    contract,
    evaluate_density,
    evaluate_field,
    render_points,
    render_rays,
)
from ..kernels.rays.volume import FarEnd
from .camera import Camera, Rays, pixel_grid, roll_pixels
from .config import GeneratorConfig
from .field import CodedField, ColourHead, Field, StyledField
from .sampling import StepDraws, fractions_in_ball, inverted_sphere_points, path_pixels, stratify

Parts = Literal["all", "foreground", "background"]

# A quarter of float32's spacing below 1: a hundred samples of smaller weight change a colour by less than 2e-6.
_LEAST_WEIGHT = 2.0**-26


class PathSamples(NamedTuple):
    """Samples of the rays of the NeRF-path regularisation: the foreground's by depth, then the background's."""

    indices: Tensor  # [B, P] pixels y * resolution + x
    colours: Tensor  # [B, P, S', 3]
    features: Tensor  # [B, P, S', C]
    weights: Tensor  # [B, P, S']


class SeparateSamples(NamedTuple):
    """Rays whose samples are not aggregated; of each image, the K samples with a visible weight.

    S' samples a ray: the foreground's by depth, then the background's.
    """

    colours: Tensor  # [B, K, 3]
    features: Tensor  # [B, K, C]
    places: Tensor  # [B, K] indices r * S' + s, without duplicates
    weights: Tensor  # [B, R, S'] of all samples
    depths: Tensor  # [B, R, S] of the foreground's samples along the optical axis, ascending; S = 0 without it
    depth: Tensor  # [B, R] expected depth; the remaining transmittance counts at the far end
    opacity: Tensor  # [B, R] sum of the foreground's weights


class VolumeOutput(NamedTuple):
    """A rendered volume; R image rays in rows from the top."""

    colours: Tensor  # [B, R, 3]
    features: Tensor  # [B, R, C]
    depth: Tensor  # [B, R] expected depth along the optical axis; the remaining transmittance counts at the far end
    opacity: Tensor  # [B, R] sum of the foreground's weights
    foreground: RayFeatures | None
    background: RayFeatures | None
    path: PathSamples | None


class VolumeRenderer(nn.Module):
    """Both fields, composited: out = foreground + T background, T the foreground's transmittance."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        fg, bg = cfg.field, cfg.background
        self.foreground = StyledField(
            cfg.w_dim,
            hidden=fg.hidden,
            depth=fg.depth,
            features=cfg.features,
            num_freqs=fg.num_freqs,
            skips=fg.skips,
            track_magnitude=fg.track_magnitude,
            density_bias=fg.density_bias,
        )
        self.background: Field | None = None
        if bg.kind == "coded":
            self.background = CodedField(
                bg.z_dim, hidden=bg.hidden, depth=bg.depth, features=cfg.features, num_freqs=bg.num_freqs
            )
        elif bg.kind == "styled":
            self.background = StyledField(
                cfg.w_dim,
                hidden=bg.hidden,
                depth=bg.depth,
                features=cfg.features,
                point_dims=4,
                num_freqs=bg.num_freqs,
                colour_head=False,
            )
        self.num_ws = max(self.foreground.num_ws, self.background.num_ws if self.background is not None else 0)

    def forward(
        self,
        ws: Tensor,
        camera: Camera,
        resolution: int,
        *,
        z_bg: Tensor | None = None,
        parts: Parts = "all",
        samples: int | None = None,
        roll_rad: Tensor | None = None,
        draws: StepDraws | None = None,
        path_resolution: int | None = None,
        precision: Precision = "fp32",
    ) -> VolumeOutput:
        """Render ``resolution`` squared rays per image, and the NeRF path's rays where ``draws.path_offset`` is given.

        Args:
            ws: [B, num_ws, w_dim].  z_bg: [B, z_dim] code of a coded background.
            parts: leave out the background (the last sample turns opaque) or the foreground.
            samples: per pass, instead of the configured number.
            roll_rad: [B] turns of the image about the optical axis.
            draws: random numbers; None renders deterministically.
            path_resolution: edge of the image that indices of path pixels refer to.
            precision: of the matrix operands in the fused ray pass; plain torch ignores it.
        """
        draws = draws or StepDraws()
        pixels = self._pixels(resolution, ws.device)
        pixels = pixels.expand(len(ws), -1, -1)
        indices = None
        if draws.path_offset is not None:
            target = path_resolution or resolution
            indices = path_pixels(draws.path_offset, self.cfg.path_lattice, target)
            pixels = torch.cat([pixels, self._pixels(target, ws.device)[indices]], dim=1)
        if roll_rad is not None:
            pixels = roll_pixels(pixels, roll_rad)
        rays = camera.rays(pixels)
        if draws.coarse_jitter is not None and draws.coarse_jitter.shape[:2] != rays.directions.shape[:2]:
            wanted, got = list(rays.directions.shape[:2]), list(draws.coarse_jitter.shape[:2])
            raise ValueError(f"draws must be for B images of R rays {wanted}, got {got}: drawn with or without path?")
        sample_rays = 0 if indices is None else indices.shape[1]
        fore, back = self._trace(ws, rays, z_bg, parts, samples, draws, sample_rays, precision)
        return self._join(ws, fore, back, indices)

    def separate(
        self,
        ws: Tensor,
        rays: Rays,
        *,
        z_bg: Tensor | None = None,
        parts: Parts = "all",
        samples: int | None = None,
        precision: Precision = "fp32",
    ) -> SeparateSamples:
        """Colours, features and weights of single samples along ``rays`` [B, R, 3], not aggregated.

        Most samples lie in empty space or behind something solid. They are dropped before the heads and the layers
        that follow; their weights are too small to change a colour in float32.
        """
        fore, back = self._trace(ws, rays, z_bg, parts, samples, StepDraws(), rays.origins.shape[1], precision)
        total = sum(r.weights.shape[2] for r in (fore, back) if r is not None)
        colours, features, places, weights = [], [], [], []
        scale: Tensor | float = 1.0
        first = 0
        for field, traced in ((self.foreground, fore), (self.background, back)):
            if traced is None or field is None:
                continue
            assert traced.sample_hidden is not None
            weight = traced.weights * scale
            chosen = _visible(weight.flatten(1))  # [B, K]
            hidden = traced.sample_hidden.flatten(1, 2)
            hidden = hidden.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[-1]))  # [B, K, H]
            colour, feature = self.shade(field, hidden, ws)
            features.append(feature)
            colours.append(colour)
            count = weight.shape[2]
            places.append(chosen // count * total + chosen % count + first)
            weights.append(weight)
            scale, first = traced.transmittance[..., None], first + count
        depth, opacity = self._depth(fore, weights[0])
        depths = weights[0].new_zeros(*weights[0].shape[:2], 0) if fore is None else fore.depths
        colour, feature, place = (torch.cat(part, 1) for part in (colours, features, places))
        return SeparateSamples(colour, feature, place, torch.cat(weights, 2), depths, depth, opacity)

    def shade(self, field: Field, hidden: Tensor, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [B, K, 3] and features [B, K, C] of single samples of ``field`` from ``hidden`` [B, K, H]."""
        one = hidden.new_ones(hidden.shape[:2])
        features = field.features(hidden, one, ws)
        return self.head(field)(features, one), features

    def extinction(self, ws: Tensor, points: Tensor, *, precision: Precision = "fp32") -> Tensor:
        """Extinction per world unit [B, N] in the foreground at ``points`` [B, N, 3]; negative in empty space."""
        density = evaluate_density(self.contract(points), self.foreground.trunk(ws), precision=precision)
        if (radius := self.cfg.field.bound_radius) is not None:
            density = torch.where(points.norm(dim=-1) < radius, density, -density.abs())
        return density * self.cfg.field.density_scale

    def colours_at(self, ws: Tensor, points: Tensor, *, precision: Precision = "fp32") -> tuple[Tensor, Tensor]:
        """Colours [B, N, 3] and features [B, N, C] of the foreground at world ``points`` [B, N, 3]."""
        hidden, _ = evaluate_field(self.contract(points), self.foreground.trunk(ws), precision=precision)
        return self.shade(self.foreground, hidden, ws)

    def contract(self, points: Tensor) -> Tensor:
        """World points contracted as the foreground's ``space`` says."""
        cfg = self.cfg.field
        return contract(points, RaySpan(cfg.near, cfg.far, space=cfg.space, centre=cfg.centre))

    def head(self, field: Field) -> ColourHead:
        """The colour head of ``field``, its own or the foreground's."""
        head = field.colour or self.foreground.colour
        assert head is not None
        return head

    def _trace(
        self,
        ws: Tensor,
        rays: Rays,
        z_bg: Tensor | None,
        parts: Parts,
        samples: int | None,
        draws: StepDraws,
        sample_rays: int,
        precision: Precision,
    ) -> tuple[RayFeatures | None, RayFeatures | None]:
        """Foreground and background along ``rays``; the samples of the last ``sample_rays`` are not aggregated."""
        behind, end = self.far_end(parts)
        fore = back = None
        if parts != "background":
            fore = self._foreground(ws, rays, samples, end, draws, sample_rays, precision)
        if behind is not None:
            back = self._background(behind, ws, z_bg, rays, draws, sample_rays, precision)
        elif fore is None:
            raise ValueError("parts='background' needs a generator with a background, this one has none")
        return fore, back

    def _pixels(self, resolution: int, device: torch.device) -> Tensor:
        return kept(_grid, resolution, self.cfg.field.align_corners, self.cfg.resolution, device=device)

    def far_end(self, parts: Parts) -> tuple[Field | None, FarEnd]:
        """The field behind the foreground, if ``parts`` want one, and what ends the foreground's rays."""
        behind = self.background if parts != "foreground" else None
        return behind, "opaque" if behind is None and self.cfg.field.bound_radius is None else "open"

    def span(self, end: FarEnd) -> RaySpan:
        """The foreground's part of a ray."""
        cfg = self.cfg.field
        return RaySpan(cfg.near, cfg.far, cfg.warp, end, cfg.density_scale, cfg.space, cfg.centre)

    def sampled_part(self, rays: Rays, samples: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Fractions of the span where the samples of ``rays`` [..., 3] begin and end, and S even numbers of 0..1.

        Without draws a ray is sampled at lerp(first, last, even).
        """
        cfg, (origins, directions) = self.cfg.field, rays
        even = torch.linspace(0, 1, samples or cfg.samples, dtype=torch.float32, device=origins.device)
        if cfg.bound_radius is None:
            first = origins.new_zeros(origins.shape[:-1])
            return first, first + 1, even
        return *fractions_in_ball(origins, directions, cfg.bound_radius, self.span("open")), even

    def _foreground(
        self,
        ws: Tensor,
        rays: Rays,
        samples: int | None,
        end: FarEnd,
        draws: StepDraws,
        sample_rays: int,
        precision: Precision,
    ) -> RayFeatures:
        cfg = self.cfg.field
        first, last, even = self.sampled_part(rays, samples)
        uniform = even.expand(*first.shape, -1)
        line = uniform if cfg.bound_radius is None else torch.lerp(first[..., None], last[..., None], uniform)
        fractions = line if draws.coarse_jitter is None else stratify(line, draws.coarse_jitter)
        fine_u = None
        if cfg.hierarchical:
            fine_u = uniform if draws.fine_u is None else draws.fine_u
        return render_rays(
            *rays,
            fractions,
            self.foreground.trunk(ws),
            self.span(end),
            draws=RayDraws(fine_u, draws.coarse_noise, draws.fine_noise if cfg.hierarchical else None),
            sample_rays=sample_rays,
            precision=precision,
        )

    def _background(
        self,
        field: Field,
        ws: Tensor,
        z_bg: Tensor | None,
        rays: Rays,
        draws: StepDraws,
        sample_rays: int,
        precision: Precision,
    ) -> RayFeatures:
        """The background's samples along ``rays``; those of the last ``sample_rays`` are not aggregated."""
        cfg, (origins, directions) = self.cfg.background, rays
        line = torch.linspace(-1, 0, cfg.samples, dtype=torch.float32, device=ws.device) * cfg.start
        depths = line.expand(*origins.shape[:2], cfg.samples)  # minus the inverse radius, ascending outwards
        if draws.background_jitter is not None:
            depths = stratify(depths, draws.background_jitter)
        points = inverted_sphere_points(origins, torch.nn.functional.normalize(directions, dim=-1), -depths)
        trunk = field.trunk(ws, z_bg)
        noise = draws.background_noise
        return render_points(
            points, depths, trunk, far_end="opaque", noise=noise, sample_rays=sample_rays, precision=precision
        )

    def _join(
        self, ws: Tensor, fore: RayFeatures | None, back: RayFeatures | None, indices: Tensor | None
    ) -> VolumeOutput:
        either = fore or back
        assert either is not None
        batch, image = either.hidden.shape[:2]
        colours = features = either.hidden.new_zeros(())
        depth, opacity = self._depth(fore, either.weights[:, :image])
        scale = either.weights.new_ones(batch, image, 1)
        shared = self.foreground.colour
        assert shared is not None
        if fore is not None:
            features = self.foreground.features(fore.hidden, opacity, ws)
            colours = shared(features, opacity)
            scale = fore.transmittance[:, :image, None]
        if back is not None:
            assert self.background is not None
            total = back.opacity[:, :image]
            behind = self.background.features(back.hidden, total, ws)
            colours = colours + scale * (self.background.colour or shared)(behind, total)
            features = features + scale * behind
        path = None if indices is None else PathSamples(indices, *self._samples(ws, fore, back))
        return VolumeOutput(colours, features, depth, opacity, fore, back, path)

    def _depth(self, fore: RayFeatures | None, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Expected depth and opacity [B, R] of the first R rays, R that of ``weights`` [B, R, S]."""
        far, count = self.cfg.field.far, weights.shape[1]
        if fore is None:
            return weights.new_full(weights.shape[:2], far), weights.new_zeros(weights.shape[:2])
        opacity = fore.opacity[:, :count]
        return fore.expected_depth[:, :count] + (1 - opacity) * far, opacity

    def _samples(self, ws: Tensor, fore: RayFeatures | None, back: RayFeatures | None) -> tuple[Tensor, Tensor, Tensor]:
        """Colours [B, P, S', 3], features and weights of the samples that are not aggregated."""
        colours, features, weights = [], [], []
        scale: Tensor | float = 1.0
        for field, rays in ((self.foreground, fore), (self.background, back)):
            if rays is None or field is None:
                continue
            assert rays.sample_hidden is not None and isinstance(field, StyledField | CodedField)
            image = rays.hidden.shape[1]
            one = torch.ones_like(rays.weights[:, image:])
            each = field.features(rays.sample_hidden, one, ws)
            features.append(each)
            colours.append(self.head(field)(each, one))
            weights.append(rays.weights[:, image:] * scale)
            scale = rays.transmittance[:, image:, None]
        return torch.cat(colours, 2), torch.cat(features, 2), torch.cat(weights, 2)


def _grid(resolution: int, align_corners: bool, image_resolution: int) -> Tensor:
    return pixel_grid(resolution, align_corners=align_corners, image_resolution=image_resolution, device="cpu")


def _visible(weights: Tensor) -> Tensor:
    """Indices [B, K] of ``weights`` [B, N] above ``_LEAST_WEIGHT`` or NaN, ascending; short rows take others, too."""
    counts = ~(weights <= _LEAST_WEIGHT)
    most = max(int(counts.sum(1).max()), 1)  # the heads need at least one sample
    return counts.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
