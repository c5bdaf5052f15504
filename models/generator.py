"""The generator: mapping network, volume renderer, upsampler."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .camera import Camera, roll_pixels
from .config import GeneratorConfig
from .growth import Growth, growth_at
from .layers import DTYPES, Precision
from .mapping import MappingNetwork
from .precision import in_float32
from .renderer import Parts, VolumeOutput, VolumeRenderer
from .resize import enlarge_bilinear
from .sampling import StepDraws
from .upsampler import BlockOptions, NoiseMode, Upsampler


@dataclass(frozen=True)
class RenderOptions:
    """Options of rendering.

    Attributes:
        alpha: progress of growth in [0, 1]; None takes the generator's buffer.
        parts: "all", "foreground" (without a background) or "background".
        samples: ray samples per pass; None takes the configured number, with or without draws.
        roll_rad: turn about the optical axis, one number for the batch or [B].
        precision: of the upsampler's blocks after the first, and of matrix operands in the ray pass's kernels; the rest
            of the volume rendering is float32.
        noise: source of the upsampler's noise, if it has any.
        path: also render the samples that the NeRF-path regularisation compares.
        blend_path: blend the path's colours during growth like the image's.
    """

    alpha: float | None = None
    parts: Parts = "all"
    samples: int | None = None
    roll_rad: float | Tensor | None = None
    precision: Precision = "fp32"
    noise: NoiseMode = "const"
    path: bool = False
    blend_path: bool = True


class PathColours(NamedTuple):
    """NeRF path of a few rays: each sample passes the upsampler's 1x1 layers alone, then the colours are composited."""

    indices: Tensor  # [B, P] pixels y * resolution + x
    samples: Tensor  # [B, 3, S', P] colour of each sample
    weights: Tensor  # [B, P, S']

    @property
    def colours(self) -> Tensor:
        """[B, 3, P] composited."""
        return torch.einsum("bcsp,bps->bcp", self.samples, self.weights)


class StrictPixels(NamedTuple):
    """Pixels rendered independently of each other."""

    colours: Tensor  # [B, 3, R]
    depth: Tensor  # [B, R] expected depth along the optical axis
    opacity: Tensor  # [B, R]
    weights: Tensor  # [B, R, S'] of the foreground's samples, then the background's
    depths: Tensor  # [B, R, S] of the foreground's samples, ascending; S = 0 without it


class Rendered(NamedTuple):
    """A batch of images with their features and depth; images are NCHW, row 0 at the top, [-1, 1] is displayed."""

    image: Tensor  # [B, 3, R, R]
    image_raw: Tensor  # [B, 3, r, r] the volume's own colours
    features: Tensor  # [B, C, r, r] input of the upsampler
    depth: Tensor  # [B, r, r] expected depth along the optical axis
    opacity: Tensor  # [B, r, r]
    levels: list[Tensor]  # image before and after every block, unblended
    growth: Growth
    volume: VolumeOutput
    path: PathColours | None


class Synthesis(nn.Module):
    """Styles and a camera to an image."""

    alpha: Tensor

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.volume = VolumeRenderer(cfg)
        self.upsampler = Upsampler(cfg.features, cfg.w_dim, cfg.block_resolutions, cfg.upsampler)
        self.num_ws = self.volume.num_ws + self.upsampler.num_ws
        self.default_samples: int | None = None
        self.register_buffer("alpha", torch.ones([], dtype=torch.float32))
        self._known_alpha: tuple[Tensor, int, float] | None = None  # the buffer, its version, its value on the host

    def set_alpha(self, value: float) -> None:
        """Write the buffer, and keep its value on the host."""
        self.alpha.fill_(value)
        self._know_alpha(float(np.float32(value)))

    def know_alpha_of(self, other: "Synthesis") -> None:
        """Take from the host of ``other``, whose buffers were copied, what the buffer holds."""
        self._know_alpha(other._stored_alpha())

    def _know_alpha(self, value: float) -> None:
        self._known_alpha = None if self.alpha.is_inference() else (self.alpha, self.alpha._version, value)

    def _stored_alpha(self) -> float:
        """The buffer's value. It is read when somebody else has written it, since on a device the host waits for it."""
        if torch.compiler.is_compiling():
            return float(self.alpha)
        known = self._known_alpha
        if known is None or known[0] is not self.alpha or known[1] != self.alpha._version:
            value = float(self.alpha)
            self._know_alpha(value)
            return value
        return known[2]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Synthesis":
        """What moves the module to a device keeps the value that the CPU knows."""
        value = self._stored_alpha() if self.alpha.device.type == "cpu" else None
        super()._apply(fn, recurse)
        if value is not None:
            self._know_alpha(value)
        return self

    def growth(self, alpha: float | None = None) -> Growth:
        """Growth at ``alpha``, or at the buffer's value."""
        value = self._stored_alpha() if alpha is None else alpha
        return growth_at(value, self.cfg.start_resolution, self.cfg.volume_resolution, self.cfg.resolution)

    @in_float32
    def forward(
        self,
        ws: Tensor,
        camera: Camera,
        *,
        z_bg: Tensor | None = None,
        options: RenderOptions | None = None,
        draws: StepDraws | None = None,
        generator: torch.Generator | None = None,
    ) -> Rendered:
        """Render.

        Args:
            ws: [B, num_ws, w_dim] float32 from the mapping network.
            camera: B cameras.
            z_bg: [B, background.z_dim] code of a coded background; drawn from ``generator`` when absent.
            options: see :class:`RenderOptions`.
            draws: the random numbers of a stochastic rendering (see ``draw``); None is deterministic.
            generator: source of the background code and of random noise; None uses torch's own.
        Raises: ValueError naming the argument.
        """
        options = options or RenderOptions()
        growth = self.growth(options.alpha)
        self._check(ws, camera, options)
        if self.cfg.background.kind == "coded" and z_bg is None:
            z_bg = self.draw_background(len(ws), generator, ws.device)
        if draws is not None and not (options.path and self.path_possible(growth)):
            draws = replace(draws, path_offset=None)
        edge = min(growth.resolution, self.cfg.volume_resolution)
        roll = options.roll_rad
        if roll is not None:
            roll = torch.as_tensor(roll, dtype=ws.dtype, device=ws.device).expand(len(ws))
        volume = self.volume(
            ws[:, : self.volume.num_ws],
            camera,
            edge,
            z_bg=z_bg,
            parts=options.parts,
            samples=self._samples(options, draws),
            roll_rad=roll,
            draws=draws,
            path_resolution=growth.resolution,
            precision=options.precision,
        )
        features = _to_map(volume.features, edge)
        raw = _to_map(volume.colours, edge)
        blocks = sum(r <= growth.resolution for r in self.cfg.block_resolutions)
        block_options = BlockOptions(noise=options.noise, generator=generator)
        fine = DTYPES[options.precision]
        rows = ws[:, self.volume.num_ws :]
        levels = self.upsampler(features, raw, rows, blocks=blocks, options=block_options, fine_dtype=fine)
        image = _blend(levels, growth, enlarge=True)
        path = None
        if volume.path is not None:
            p = volume.path
            path = PathColours(p.indices, self._pointwise(p.features, p.colours, rows, growth, options), p.weights)
        size = (len(ws), edge, edge)
        depth, opacity = volume.depth.reshape(size), volume.opacity.reshape(size)
        return Rendered(image, raw, features, depth, opacity, levels, growth, volume, path)

    @in_float32
    def strict(
        self,
        ws: Tensor,
        camera: Camera,
        pixels: Tensor,
        *,
        z_bg: Tensor | None = None,
        options: RenderOptions | None = None,
    ) -> StrictPixels:
        """Render single pixels by one ray each, independently of their neighbours, so that views agree.

        Each sample of a ray passes the upsampler's 1x1 layers alone, without upsampling, blur or noise; the colours are
        composited. The NeRF-path regularisation pulls the fast image towards this one.

        Args:
            ws, camera, z_bg: as for ``forward``; a coded background needs z_bg.
            pixels: [R, 2] or [B, R, 2] positions (x, y) in [-1, 1]^2, y up, of any image (``camera.pixel_grid``).
            options: ``noise``, ``path`` and ``blend_path`` have no meaning here.
        Raises: ValueError naming the argument; also for an upsampler that is not made of 1x1 layers.
        """
        options = options or RenderOptions()
        self._check(ws, camera, options)
        if not self.upsampler.pointwise and self.cfg.block_resolutions:
            raise ValueError(
                "strict rendering needs an upsampler of 1x1 layers (kernel_size 1, any mode but 'default')"
            )
        if self.cfg.background.kind == "coded" and z_bg is None and options.parts != "foreground":
            raise ValueError("z_bg must be given for a coded background, got None")
        if options.roll_rad is not None:
            roll = torch.as_tensor(options.roll_rad, dtype=ws.dtype, device=ws.device)
            pixels = roll_pixels(pixels, roll.expand(len(ws)))
        rays = camera.rays(pixels)
        samples = self._samples(options)
        each = self.volume.separate(
            ws[:, : self.volume.num_ws],
            rays,
            z_bg=z_bg,
            parts=options.parts,
            samples=samples,
            precision=options.precision,
        )
        growth = self.growth(options.alpha)
        rows = ws[:, self.volume.num_ws :]
        visible = self._pointwise(each.features[:, None], each.colours[:, None], rows, growth, options)
        visible = visible[..., 0]  # [B, 3, K]
        size = each.weights.shape  # [B, R, S']
        colours = visible.new_zeros(size[0], 3, size[1] * size[2])
        colours = colours.scatter(2, each.places[:, None].expand_as(visible), visible).unflatten(2, size[1:])
        image = torch.einsum("bcrs,brs->bcr", colours, each.weights)
        return StrictPixels(image, each.depth, each.opacity, each.weights, each.depths)

    @in_float32
    def colours_at(self, ws: Tensor, points: Tensor, *, options: RenderOptions | None = None) -> Tensor:
        """Colours [B, 3, N] of the foreground at world ``points`` [B, N, 3], computed as in strict rendering.

        Where the upsampler is not made of 1x1 layers, these are the volume's colours, before the upsampler.
        """
        options = options or RenderOptions()
        if ws.ndim != 3 or points.ndim != 3 or points.shape[::2] != (len(ws), 3):
            raise ValueError(f"points must be [B, N, 3] with B={len(ws)}, got {list(points.shape)}")
        colours, features = self.volume.colours_at(ws[:, : self.volume.num_ws], points, precision=options.precision)
        if not self.upsampler.pointwise:
            return colours.transpose(1, 2)
        rows, growth = ws[:, self.volume.num_ws :], self.growth(options.alpha)
        return self._pointwise(features[:, None], colours[:, None], rows, growth, options)[..., 0]

    def _samples(self, options: RenderOptions, draws: StepDraws | None = None) -> int | None:
        """Samples per pass that differ from the field's own number: asked for, or of a rendering without draws."""
        asked = options.samples or self.default_samples
        return asked if asked or draws is not None else self.cfg.field.render_samples

    def path_possible(self, growth: Growth) -> bool:
        """Whether the NeRF path is defined: the upsampler is active, its layers are 1x1, and the lattice fits."""
        lattice = self.cfg.path_lattice
        upsampled = growth.level > 0 and growth.resolution > self.cfg.volume_resolution
        return upsampled and self.upsampler.pointwise and 0 < lattice <= growth.resolution

    def draw(
        self, batch: int, generator: torch.Generator, *, alpha: float | None = None, path: bool = False
    ) -> StepDraws:
        """The random numbers of one stochastic rendering of ``batch`` images, in a fixed order."""
        growth = self.growth(alpha)
        path = path and self.path_possible(growth)
        rays = min(growth.resolution, self.cfg.volume_resolution) ** 2 + (self.cfg.path_lattice**2 if path else 0)
        field, background = self.cfg.field, self.cfg.background
        return StepDraws.sample(
            generator,
            batch,
            rays,
            field.samples,
            path=path,
            hierarchical=field.hierarchical,
            background_samples=0 if background.kind == "none" else background.samples,
        )

    def draw_background(
        self, batch: int, generator: torch.Generator | None, device: torch.device | str | None = None
    ) -> Tensor | None:
        """N(0, 1) codes [batch, z_dim] for a coded background; None where the background takes no code."""
        cfg = self.cfg.background
        if cfg.kind != "coded":
            return None
        where = device if generator is None else generator.device
        return torch.randn(batch, cfg.z_dim, generator=generator, dtype=torch.float32, device=where).to(device or where)

    def _check(self, ws: Tensor, camera: Camera, options: RenderOptions) -> None:
        wanted = (self.num_ws, self.cfg.w_dim)
        if ws.ndim != 3 or ws.shape[1:] != wanted:
            raise ValueError(f"ws must be [B, {wanted[0]}, {wanted[1]}], got {list(ws.shape)}")
        if len(camera) != len(ws):
            raise ValueError(f"camera must hold B={len(ws)} cameras, got {len(camera)}")
        if options.path and not self.upsampler.pointwise and self.cfg.block_resolutions:
            raise ValueError("options.path needs an upsampler of 1x1 layers (kernel_size 1, any mode but 'default')")

    def _pointwise(
        self, features: Tensor, colours: Tensor, rows: Tensor, growth: Growth, options: RenderOptions
    ) -> Tensor:
        """Colours [B, 3, S, P] of single samples, from features [B, P, S, C] and colours [B, P, S, 3]."""
        blocks = sum(r <= growth.resolution for r in self.cfg.block_resolutions)
        levels = self.upsampler(
            features.permute(0, 3, 2, 1),  # [B, C, S, P]: samples are the rows of an image
            colours.permute(0, 3, 2, 1),
            rows,
            blocks=blocks,
            options=BlockOptions(enlarge=False),
            fine_dtype=DTYPES[options.precision],
        )
        return _blend(levels, growth, enlarge=False) if options.blend_path else levels[-1]


def _to_map(rays: Tensor, edge: int) -> Tensor:
    """[B, R, C] to [B, C, r, r], a channels_last view."""
    return rays.unflatten(1, (edge, edge)).permute(0, 3, 1, 2)


def _blend(levels: list[Tensor], growth: Growth, *, enlarge: bool) -> Tensor:
    """(1 - f) up(previous level) + f newest level, while growth fades in a level; else the newest level."""
    if growth.blend is None or len(levels) < 2:
        return levels[-1]
    previous = levels[-2]
    if enlarge:
        previous = enlarge_bilinear(previous, levels[-1].shape[-1])
    return torch.lerp(previous, levels[-1], growth.blend)


class Generator(nn.Module):
    """StyleNeRF: ``mapping(z) -> ws``, ``synthesis(ws, camera) -> Rendered``.

    Source: Gu et al., StyleNeRF, ICLR 2022 (arXiv 2110.08985).
    """

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.synthesis = Synthesis(cfg)
        self.mapping = MappingNetwork(
            cfg.z_dim, cfg.label_dim, cfg.w_dim, self.synthesis.num_ws, num_layers=cfg.mapping_layers
        )

    @in_float32
    def forward(
        self,
        z: Tensor,
        camera: Camera,
        *,
        label: Tensor | None = None,
        truncation_psi: float = 1.0,
        z_bg: Tensor | None = None,
        options: RenderOptions | None = None,
        generator: torch.Generator | None = None,
    ) -> Rendered:
        """Latents [B, z_dim] and B cameras to images; deterministic, except that a missing z_bg is drawn."""
        ws = self.mapping(z, label, truncation_psi=truncation_psi)
        return self.synthesis(ws, camera, z_bg=z_bg, options=options, generator=generator)
