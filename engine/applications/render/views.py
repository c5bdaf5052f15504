"""Subjects seen by cameras: the fast way through the 2-D upsampler, or strictly, every pixel a ray of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ....models.camera import Camera, pixel_grid
from ....models.generator import RenderOptions
from ....models.layers import Precision
from ....models.renderer import Parts
from ...errors import UserError
from ...model_io import MAX_RESOLUTION, Model
from .subjects import Subjects


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
    """

    strict: bool = False
    resolution: int | None = None
    parts: Parts = "all"
    samples: int | None = None
    precision: Precision = "fp32"
    tile_rays: int = 4096


class View(NamedTuple):
    """B pictures of R pixels a side, and the surface at the resolution r of the rays (R where it was strict)."""

    image: Tensor  # [B, 3, R, R] float32; -1..1 is displayed
    depth: Tensor  # [B, r, r] expected depth along the optical axis, world units; the far end where nothing is
    opacity: Tensor  # [B, r, r] 0..1


@torch.no_grad()
def render_view(
    model: Model,
    subjects: Subjects,
    camera: Camera,
    options: ViewOptions | None = None,
    *,
    before_tile: Callable[[], None] | None = None,
) -> View:
    """See subject i by camera i.

    ``before_tile`` is called before each tile of a strict rendering; what it raises ends the rendering.
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
    tiles = []
    for tile in pixels.split(max(options.tile_rays // len(subjects), 1)):
        if before_tile is not None:
            before_tile()
        out = synthesis.strict(subjects.ws, camera, tile, z_bg=subjects.z_bg, options=inner)
        tiles.append((out.colours.float(), out.depth, out.opacity))  # its samples go before the next tile comes
        del out
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
    for first in range(0, len(subjects), batch):
        pick = slice(first, first + batch)
        yield render_view(model, subjects[pick], camera[pick], options)


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
