"""Do views of a subject agree? One is carried into another through the field's own surface: fast, and strictly.

A released field is fog rather than a solid, and fog seen from two sides differs though nothing is wrong with it: no
depth is right for a pixel that sees half a world unit of it. So there are two figures, of the field as it is and of
the same field made solid: its density is multiplied until light ends where the density begins. There the depth is
true, and what is left in a strict view is the look-up's own blur, which a higher resolution makes smaller.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ....models.camera import Camera, pixel_grid
from ....models.generator import Generator, RenderOptions
from ...errors import UserError
from ...model_io import Model
from ...training.metrics.consistency import reproject
from .subjects import Subjects
from .views import Bakes, ViewOptions, check_options, render_view

LEAST_SAMPLES = 96  # a surface is known no better than the distance between samples
LEAST_OPACITY = 0.9  # pixels that see the subject, and not what lies behind
SOLID = 50.0
DIFFERENCE_GAIN = 5.0


class Agreement(NamedTuple):
    """How well view B is told by view A, over all subjects' pixels that both see."""

    field: str  # "as it is" or "solid"
    mode: str  # "fast" or "strict"
    residual: float  # mean |A carried into B - B|, colours in -1..1; NaN where no pixel is seen by both
    baseline: float  # mean |A - B|, same pixels: the residual of doing nothing
    psnr_db: float  # of A carried into B, peak 2
    overlap: float  # fraction of B's pixels that count
    spread: float  # standard deviation of the depth along a ray, world units: 0 is a surface, more is fog


class Consistency(NamedTuple):
    """Four rows of figures, and of each for the first subject [4, 3, R, R]: A, B, A carried into B, 5 |difference|."""

    rows: list[Agreement]
    pictures: list[tuple[str, Tensor]]


class _Side(NamedTuple):
    """One subject from one camera, [1, ...]."""

    fast: Tensor  # [1, 3, R, R]
    strict: Tensor  # [1, 3, R, R]
    surface: Tensor  # [1, R, R] depth, infinite where it is not opaque
    spread: Tensor  # [1, R, R]


@torch.no_grad()
def check_consistency(
    model: Model,
    subjects: Subjects,
    *,
    apart_rad: float = 0.2,
    resolution: int | None = None,
    samples: int | None = None,
    tile_rays: int = 4096,
    progress: Callable[[], None] | None = None,
) -> Consistency:
    """Compare two views of each subject, ``apart_rad`` of yaw between them, around the middle of the model's cameras.

    Args:
        resolution: of the strict views and of the comparison (None: the model's own); fast views are enlarged to it.
        samples: per ray and pass, of fast and strict views alike (None: at least 96).
        tile_rays: rays in memory at a time.
        progress: called after each of the 2 N comparisons.
    Raises: UserError naming the argument.
    """
    options, subjects = comparison(model, apart_rad, resolution, samples, tile_rays), subjects.fixed()
    cameras = [turned(model, sign * apart_rad / 2) for sign in (-1, 1)]
    rows: list[Agreement] = []
    pictures: list[tuple[str, Tensor]] = []
    for field, seen in (("as it is", model), ("solid", made_solid(model))):
        agreements, bakes = [], Bakes(seen)
        for i in range(len(subjects)):
            sides = [_look(seen, subjects[i], camera, options, bakes) for camera in cameras]
            agreements.append([_compare(model, sides, cameras, mode) for mode in ("fast", "strict")])
            if progress is not None:
                progress()
        for k, mode in enumerate(("fast", "strict")):
            rows.append(_summary(field, mode, [pair[k][0] for pair in agreements]))
            pictures.append((mode if field == "as it is" else f"{mode}, solid", agreements[0][k][1]))
    return Consistency(rows, pictures)


def comparison(
    model: Model, apart_rad: float, resolution: int | None, samples: int | None, tile_rays: int
) -> ViewOptions:
    """How :func:`check_consistency` looks, its arguments checked."""
    if not 0 < apart_rad < math.pi:
        raise UserError(f"--apart: wanted an angle between 0 and {math.pi:.4f} rad, got {apart_rad}")
    samples = max(LEAST_SAMPLES, model.config.field.samples) if samples is None else samples
    options = ViewOptions(strict=True, resolution=resolution, samples=samples, tile_rays=tile_rays)
    check_options(model, options)
    return options


def made_solid(model: Model, factor: float = SOLID) -> Model:
    """The same weights in a field ``factor`` times as dense: its surface lies where the density becomes positive."""
    cfg = model.config
    dense = dataclasses.replace(cfg.field, density_scale=cfg.field.density_scale * factor)
    with torch.random.fork_rng(devices=[]):  # what it draws is overwritten at once
        generator = Generator(dataclasses.replace(cfg, field=dense))
    generator.load_state_dict(model.generator.state_dict())
    generator.synthesis.default_samples = model.generator.synthesis.default_samples
    device = next(model.generator.parameters()).device
    return dataclasses.replace(model, generator=generator.eval().requires_grad_(False).to(device))


def turned(model: Model, yaw_rad: float) -> Camera:
    """The camera in the middle of the prior, turned around the world's vertical."""
    middle = model.prior.at(0.5, 0.5)
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    turn = torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    pose = (turn @ middle.cam2world.double()).float()
    return Camera(pose, middle.tan_half_fov).to(next(model.generator.parameters()).device)


def _look(model: Model, subject: Subjects, camera: Camera, options: ViewOptions, bakes: Bakes) -> _Side:
    synthesis = model.generator.synthesis
    edge = options.resolution or synthesis.growth().resolution
    centres = pixel_grid(edge, device=subject.ws.device)
    fast = _at(centres, model, render_view(model, subject, camera, ViewOptions(samples=options.samples)).image)
    tiles = []
    for pixels in centres.split(options.tile_rays):
        if bakes.pays(edge, options):
            out = bakes.of(subject, edge, options).render(camera, pixels, samples=options.samples, keep=True)
        else:
            inner = RenderOptions(samples=options.samples)
            out = synthesis.strict(subject.ws, camera, pixels, z_bg=subject.z_bg, options=inner)
        weights = out.weights[..., : out.depths.shape[-1]]
        tiles.append((out.colours.float(), *median_depth(weights, out.depths)))
        del out, weights
    strict, surface, spread = (torch.cat(part, dim=-1).unflatten(-1, (edge, edge)) for part in zip(*tiles))
    return _Side(fast.clamp(-1, 1), strict.clamp(-1, 1), surface, spread)


def _at(centres: Tensor, model: Model, image: Tensor) -> Tensor:
    """A fast image [1, 3, r, r] at the pixel centres [R^2, 2] of a picture, bilinearly."""
    edge, size = math.isqrt(len(centres)), image.shape[-1]
    if not model.config.field.align_corners:
        if size == edge:
            return image
        return functional.interpolate(image, size=(edge, edge), mode="bilinear", align_corners=False)
    full = model.config.resolution  # pixels lie on the corners of its grid; a step of growth skips some
    numbers = (centres * centres.new_tensor([1.0, -1.0]) + 1) / 2 * (full - 1) / (full // size)
    look_up = (2 * numbers / max(size - 1, 1) - 1).view(1, edge, edge, 2)
    return functional.grid_sample(image, look_up, padding_mode="border", align_corners=True)


def median_depth(weights: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Median depth of a ray and the standard deviation of its depth.

    Args:
        weights: [..., S] of the samples.  depths: [..., S] ascending.
    Returns: the median depth [...], infinite where the weights add up to less than 0.9, and the standard deviation of
        the depth [...].
    """
    total = weights.sum(-1)
    middle = (weights.cumsum(-1) >= total[..., None] / 2).to(torch.uint8).argmax(-1, keepdim=True)
    median = depths.gather(-1, middle).squeeze(-1)
    share = weights / total.clamp_min(1e-12)[..., None]
    mean = (share * depths).sum(-1, keepdim=True)
    spread = (share * (depths - mean).square()).sum(-1).sqrt()
    return torch.where(total >= LEAST_OPACITY, median, torch.inf), spread


def _compare(
    model: Model, sides: list[_Side], cameras: list[Camera], mode: str
) -> tuple[tuple[float, float, float, int, int, float], Tensor]:
    """Sums over the pixels that count (residual, baseline, squares, pixels, all pixels, spread), and four pictures."""
    field = model.config.field
    a, b = sides
    images = [side.fast if mode == "fast" else side.strict for side in sides]
    out = reproject(
        images[0], a.surface, cameras[0], images[1], b.surface, cameras[1],
        occlusion_tolerance=(field.far - field.near) / 20,
    )  # fmt: skip
    difference = (out.warped - images[1]).abs() * out.valid[:, None]
    count = int(out.valid.sum())
    nothing = (images[0] - images[1]).abs() * out.valid[:, None]
    sums = (
        float(difference.sum()) / 3,
        float(nothing.sum()) / 3,
        float(difference.square().sum()) / 3,
        count,
        out.valid.numel(),
        float((b.spread * out.valid).sum()),
    )
    carried = torch.where(out.valid[:, None], out.warped, -1.0)
    return sums, torch.cat([*images, carried, difference * DIFFERENCE_GAIN - 1]).cpu()


def _summary(field: str, mode: str, sums: list[tuple[float, float, float, int, int, float]]) -> Agreement:
    residual, baseline, square, count, every, spread = (sum(column) for column in zip(*sums))
    if not count:
        return Agreement(field, mode, math.nan, math.nan, math.nan, 0.0, math.nan)
    psnr = 10 * math.log10(4 * count / square) if square else math.inf
    return Agreement(field, mode, residual / count, baseline / count, psnr, count / every, spread / count)


def table(rows: list[Agreement]) -> str:
    """Rows as lines of text."""
    lines = ["field      view     residual  doing nothing  PSNR dB  overlap  spread of depth"]
    for r in rows:
        lines.append(
            f"{r.field:9s}  {r.mode:6s}  {r.residual:9.4f}  {r.baseline:13.4f}  {r.psnr_db:7.1f}  {r.overlap:7.3f}  "
            f"{r.spread:15.4f}"
        )
    return "\n".join(lines)
