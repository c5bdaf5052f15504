"""Subjects seen by cameras: the fast way through the 2-D upsampler, or strictly, every pixel a ray of its own."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ....models.camera import Camera, pixel_grid
from ....models.generator import RenderOptions
from ....models.layers import Precision
from ....models.march import BakedSubject
from ....models.renderer import Parts
from ...errors import UserError
from ...model_io import MAX_RESOLUTION, Model
from .region import seen_bounds
from .subjects import Subjects

_MOST_CELLS, _KEPT_BAKES = 96, 8
_BAKED_TILES = 4  # so many times the rays of a tile fit where most of their samples are not evaluated


@dataclass(frozen=True)
class ViewOptions:
    """How to look at a subject.

    Attributes:
        strict: render every pixel by a ray of its own, through the field and the 1x1 colour layers alone: consistent
            between views, and as many times slower as there are pixels for each ray of the volume.
        resolution: edge of the picture in pixels; only a strict picture can differ from the model's own (None).
        parts: "all", "foreground" or "background".
        samples: on each ray and pass; None is the model's own number.
        precision: of matrix products where they run as kernels, and of the upsampler's later blocks.
        tile_rays: rays that a strict rendering has in memory at a time.
        bake: let a strict rendering skip what cannot be seen (:class:`BakedSubject`), where that pays.
    """

    strict: bool = False
    resolution: int | None = None
    parts: Parts = "all"
    samples: int | None = None
    precision: Precision = "fp32"
    tile_rays: int = 4096
    bake: bool = True


class View(NamedTuple):
    """B pictures of R pixels a side, and the surface at the resolution r of the rays (R where it was strict)."""

    image: Tensor  # [B, 3, R, R] float32; -1..1 is displayed
    depth: Tensor  # [B, r, r] expected depth along the optical axis, world units; the far end where nothing is
    opacity: Tensor  # [B, r, r] 0..1


class Bakes:
    """Subjects of one model, baked when first asked for; those used last are kept."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._kept: OrderedDict[tuple[object, ...], BakedSubject] = OrderedDict()

    def pays(self, edge: int, options: ViewOptions) -> bool:
        """Whether baking a subject costs little against one strict picture of ``edge`` pixels a side."""
        field, synthesis = self.model.config.field, self.model.generator.synthesis
        samples = options.samples or synthesis.default_samples or field.render_samples or field.samples
        work = edge * edge * samples * (2 if field.hierarchical else 1)
        return options.bake and options.parts != "background" and edge >= 64 and work >= 4 * self.cells(edge) ** 3

    @staticmethod
    def cells(edge: int) -> int:
        """Cells of the grid, along its longest edge, for pictures of ``edge`` pixels a side."""
        return min(edge // 4, _MOST_CELLS)

    def of(
        self, subject: Subjects, edge: int, options: ViewOptions, before_block: Callable[[], None] | None = None
    ) -> BakedSubject:
        """The one ``subject`` for strict pictures of ``edge`` pixels a side."""
        numbers = [t.cpu().numpy().tobytes() for t in (subject.ws, subject.z_bg) if t is not None]
        synthesis = self.model.generator.synthesis
        key = (self.cells(edge), options.precision, float(synthesis.alpha), *numbers)
        baked = self._kept.pop(key, None)
        if baked is None:
            radius, device = self.model.config.field.bound_radius, subject.ws.device
            low, high = seen_bounds(self.model) if radius is None else ((-radius,) * 3, (radius,) * 3)
            corners = (torch.tensor(c, dtype=torch.float32, device=device) for c in (low, high))
            inner = RenderOptions(precision=options.precision)
            baked = BakedSubject(
                synthesis, subject.ws, *corners,
                cells=self.cells(edge), z_bg=subject.z_bg, options=inner, before_block=before_block,
            )  # fmt: skip
        self._kept[key] = baked
        if len(self._kept) > _KEPT_BAKES:
            self._kept.popitem(last=False)
        return baked


@torch.no_grad()
def render_view(
    model: Model,
    subjects: Subjects,
    camera: Camera,
    options: ViewOptions | None = None,
    *,
    before_tile: Callable[[], None] | None = None,
    bakes: Bakes | None = None,
) -> View:
    """See subject i by camera i.

    ``before_tile`` is called before each tile of a strict rendering; what it raises ends the rendering. ``bakes`` keeps
    what strict views of the same subjects can share.
    Raises: UserError naming the option that the model cannot serve.
    """
    options = options or ViewOptions()
    check_options(model, options)
    inner = RenderOptions(parts=options.parts, samples=options.samples, precision=options.precision)
    synthesis, subjects = model.generator.synthesis, subjects.seen_by(model, camera)
    if not options.strict:
        out = synthesis(subjects.ws, camera, z_bg=subjects.z_bg, options=inner)
        return View(out.image.float(), out.depth, out.opacity)
    edge = options.resolution or synthesis.growth().resolution
    pixels = strict_pixels(model, edge, subjects.ws.device)
    bakes = bakes or Bakes(model)
    if bakes.pays(edge, options):
        views = [_baked_view(bakes, subjects[i], camera[i], pixels, options, before_tile) for i in range(len(subjects))]
        return View(*(torch.cat(part) for part in zip(*views)))
    tiles = []
    for tile in pixels.split(max(options.tile_rays // len(subjects), 1)):
        if before_tile is not None:
            before_tile()
        out = synthesis.strict(subjects.ws, camera, tile, z_bg=subjects.z_bg, options=inner)
        tiles.append((out.colours.float(), out.depth, out.opacity))  # its samples go before the next tile comes
        del out
    return View(*(torch.cat(part, dim=-1).unflatten(-1, (edge, edge)) for part in zip(*tiles)))


def _baked_view(
    bakes: Bakes,
    subject: Subjects,
    camera: Camera,
    pixels: Tensor,
    options: ViewOptions,
    before_tile: Callable[[], None] | None,
) -> View:
    """A strict view of one subject."""
    edge = math.isqrt(len(pixels))
    baked = bakes.of(subject, edge, options, before_tile)
    tiles = []
    for tile in pixels.split(options.tile_rays * _BAKED_TILES):
        if before_tile is not None:
            before_tile()
        out = baked.render(camera, tile, parts=options.parts, samples=options.samples)
        tiles.append((out.colours, out.depth, out.opacity))
    return View(*(torch.cat(part, dim=-1).unflatten(-1, (edge, edge)) for part in zip(*tiles)))


def strict_pixels(model: Model, edge: int, device: torch.device) -> Tensor:
    """Pixels [edge^2, 2] of a strict picture, rows from the top: the model's own at its own resolution."""
    own = edge == model.generator.synthesis.growth().resolution  # a step of growth skips pixels of the full grid
    align, full = model.config.field.align_corners, model.config.resolution if own else None
    return pixel_grid(edge, align_corners=align, image_resolution=full, device=device)


def render_views(
    model: Model, subjects: Subjects, camera: Camera, options: ViewOptions | None = None, *, batch: int = 8
) -> Iterator[View]:
    """See subject i by camera i, ``batch`` at a time."""
    check_options(model, options or ViewOptions())
    bakes = Bakes(model)
    for first in range(0, len(subjects), batch):
        pick = slice(first, first + batch)
        yield render_view(model, subjects[pick], camera[pick], options, bakes=bakes)


def check_options(model: Model, options: ViewOptions) -> None:
    """Raises: UserError naming the option that the model cannot serve."""
    cfg, own = model.config, model.generator.synthesis.growth().resolution
    edge = options.resolution
    if edge is not None and not 1 <= edge <= MAX_RESOLUTION:
        raise UserError(f"--resolution: wanted 1 to {MAX_RESOLUTION}, got {edge}")
    if edge not in (None, own) and not options.strict:
        raise UserError(f"--resolution: wanted the model's own {own} px, or --strict for another, got {edge}")
    if options.parts == "background" and cfg.background.kind == "none":
        raise UserError("--parts: wanted 'all' or 'foreground' (the model has no background), got 'background'")
    if options.strict and not model.generator.synthesis.upsampler.pointwise and cfg.block_resolutions:
        raise UserError("--strict: wanted a model whose upsampler has 1x1 layers only, got one with wider layers")
    if options.samples is not None and not (3 if cfg.field.hierarchical else 1) <= options.samples <= 4096:
        raise UserError(f"--samples: wanted {3 if cfg.field.hierarchical else 1} to 4096, got {options.samples}")
    if options.tile_rays < 1:
        raise UserError(f"--tile-rays: wanted at least 1, got {options.tile_rays}")
