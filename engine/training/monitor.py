"""Monitoring: sample sheets, turning strips, depth pictures and the built-in quality metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...models.camera import Camera, pixel_grid
from ...models.generator import Generator, Rendered, RenderOptions
from ..data import Dataset, ProceduralScenes, label_from_camera
from ..pictures import depth_picture, grid, save_png, sheet_columns, to_uint8
from ..randomness import generator_for
from .config import Config
from .metrics.consistency import Reprojection, reproject
from .metrics.depth import mean_depth_correlation, mean_depth_error
from .metrics.detector import Detector
from .metrics.feature_figures import feature_figures
from .metrics.protocol import RESIZING, Protocol, Result
from .metrics.reference import cache_folder, reference
from .metrics.swd import SlicedWassersteinMetric

PICTURE_ROWS = 4  # latents in the turning strip and the depth picture
DEPTH_CAMERAS = 4
VIEWS_APART_RAD = 0.3  # between the two cameras of the view consistency
MIN_SWD_RESOLUTION = 16
STRICT_PICTURES = 4  # that are compared with strict rendering, in so many pixels each
STRICT_PIXELS = 1024
DIFFERENCE_GAIN = 5.0  # of what is left of one view carried into another, in its picture
EVALUATIONS = "evaluations"  # folder of figures with their protocol


class Monitor:
    """Pictures and metrics of a generator, always from the same latents and cameras, so that snapshots compare."""

    def __init__(
        self, cfg: Config, data: Dataset, folder: Path, device: torch.device, detector: Detector | None = None
    ) -> None:
        self.cfg, self.data, self.folder, self.device, self.detector = cfg, data, folder, device, detector
        self._digest: str | None = None
        self.truth = data if isinstance(data, ProceduralScenes) else None
        self.before_batch: Callable[[str], None] = lambda progress: None
        self.picture_s: float | None = None  # seconds per picture in the last batch; on a GPU, of the launches only
        self._swd: dict[int, SlicedWassersteinMetric] = {}
        self._true_depth: tuple[int, Tensor] | None = None
        self._true_views: dict[tuple[int, int], dict[str, float]] = {}

    def reals(self) -> Path:
        """Write a sheet of training images once."""
        count = self.cfg.monitor.grid_images
        batch = self.data.batch(self.cfg.train.seed, 0, count, self.cfg.generator.resolution)
        return self._save(batch.images, "reals.png", columns=sheet_columns(count))

    def pictures(self, g: Generator, images_shown: int) -> list[Path]:
        """Write sample sheet, turning strip and depth picture; returns their paths."""
        name = f"{images_shown:08d}.png"
        count = self.cfg.monitor.grid_images
        samples = self._render(g, "grid", count, self._prior(g, "grid", count))
        paths = [self._save(to_uint8(samples.image), f"samples-{name}", columns=sheet_columns(count))]
        turns = self.turning(g)
        rows = min(PICTURE_ROWS, count)
        paths.append(self._save(to_uint8(turns.image), f"turn-{name}", columns=len(turns.image) // rows))
        field = self.cfg.generator.field
        depth = depth_picture(turns.depth, field.near, field.far)
        paths.append(self._save(depth, f"depth-{name}", columns=len(depth) // rows, enlarge=True))
        paths.append(self._save(self._left_of_views(g, rows), f"views-{name}", columns=4))
        return paths

    def _left_of_views(self, g: Generator, rows: int) -> Tensor:
        """For each of a few latents two views, the first carried into the second by its depth, and 5 |difference|."""
        cameras = [_repeated(camera, rows) for camera in self._two_cameras()]
        views = [self._render(g, "grid", rows, camera) for camera in cameras]
        images = [view.image.clamp(-1, 1) for view in views]
        result = self._reproject(images, [(view.depth, view.opacity) for view in views], cameras)
        valid = result.valid[:, None]
        carried = torch.where(valid, result.warped, -1.0)
        left = torch.where(valid, (result.warped - images[1]).abs() * DIFFERENCE_GAIN, 0.0) - 1
        return to_uint8(torch.stack([*images, carried, left], dim=1).flatten(0, 1))

    def turning(self, g: Generator) -> Rendered:
        """A few latents, each seen by cameras that sweep the prior's yaw range; [rows * frames] images."""
        frames, rows = self.cfg.monitor.turn_frames, min(PICTURE_ROWS, self.cfg.monitor.grid_images)
        camera = self._sweep(frames)
        repeated = Camera(camera.cam2world.repeat(rows, 1, 1), camera.tan_half_fov.repeat(rows, 1))
        return self._render(g, "grid", rows, repeated, repeat=frames)

    def figures(self, g: Generator) -> dict[str, float]:
        """``Metric/...`` of a generator: distance from the data, agreement of views, depth; docs/train.md explains."""
        result: dict[str, float] = {}
        if self.cfg.monitor.swd_images:
            result["Metric/swd"] = self._sliced_wasserstein(g)
        result |= self._consistency(g)
        if self.truth is not None and self.cfg.monitor.depth_scenes:
            result |= self._depth(g, self.truth)
        return result

    @torch.no_grad()
    def evaluation(self, g: Generator, images_shown: int) -> dict[str, float]:
        """FID, KID, precision and recall by the detector, written with their protocol too; {} without one."""
        if self.detector is None:
            return {}
        if self._digest is None:
            self.before_batch("hash of the data")
            self._digest = self.data.sha256()
        edge, count, cfg = g.synthesis.growth().resolution, self.cfg.monitor.evaluate_images, self.cfg
        real = reference(
            self.data, self._digest, self.detector, edge, len(self.data), self.device, cache=cache_folder(),
            progress=lambda n: self.before_batch("features of the data"),
        )  # fmt: skip
        batches = self._batches(g, "evaluate", count, self._prior(g, "evaluate", count))
        features = torch.cat([self.detector.features(to_uint8(out.image)) for out in batches])
        found = feature_figures(features, real, resamples=0, seed=cfg.train.seed)
        protocol = Protocol(
            detector=self.detector.sha256, resolution=edge, resizing=RESIZING, images=count,
            reference_images=len(self.data), truncation=1.0, rendering="fast", seed=cfg.train.seed, data=self._digest,
            mirror=self.data.mirror,
        )  # fmt: skip
        result = Result(f"{self.folder.parent.name}, {images_shown} images", protocol, found)
        result.write(self.folder.parent / EVALUATIONS / f"{images_shown:08d}.json")
        return {f"Metric/{name}": figure.value for name, figure in found.items()}

    def _sliced_wasserstein(self, g: Generator) -> float:
        edge = g.synthesis.growth().resolution
        count = self.cfg.monitor.swd_images
        if edge not in self._swd:
            images = self.data.batch(self.cfg.train.seed, 0, count, edge).images
            self._swd[edge] = SlicedWassersteinMetric(
                images.to(self.device), seed=0, min_resolution=min(MIN_SWD_RESOLUTION, edge)
            )
        fake = self._render(g, "swd", count, self._prior(g, "swd", count)).image
        return self._swd[edge].distance(fake.float()).mean

    def _consistency(self, g: Generator) -> dict[str, float]:
        """Views from two nearby cameras: how they differ, before and after reprojection, and from strict pixels."""
        count = self.cfg.monitor.batch
        cameras = [_repeated(camera, count) for camera in self._two_cameras()]
        views = [self._render(g, "views", count, camera) for camera in cameras]
        images = [view.image.clamp(-1, 1) for view in views]
        result = self._reproject(images, [(view.depth, view.opacity) for view in views], cameras)
        figures = {
            "Metric/view_difference": result.baseline,
            "Metric/view_residual": result.residual,
            "Metric/view_residual_ratio": _ratio(result.residual, result.baseline),
            "Metric/view_overlap": result.valid.float().mean().item(),
            "Metric/pose_sensitivity": _pose_sensitivity(*images),
        }
        if self.truth is not None and self.cfg.monitor.depth_scenes:
            figures |= self._consistency_of_truth(self.truth, images[0].shape[-1], views[0].depth.shape[-1])
        if self.cfg.generator.upsampler.pointwise or not self.cfg.generator.block_resolutions:
            figures["Metric/strict_psnr_db"] = self._agreement_with_strict(g)
        return figures

    def _consistency_of_truth(self, scenes: ProceduralScenes, edge: int, rays_edge: int) -> dict[str, float]:
        """The figures of the scenes themselves, with true depth at the resolution of the volume: what is within reach.

        Computed once for each pair of resolutions.
        """
        if (edge, rays_edge) not in self._true_views:
            cameras, known = self._two_cameras(), range(min(self.cfg.monitor.depth_scenes, scenes.num_images))
            images, surfaces = [], []
            for camera in cameras:
                camera = camera.to("cpu")
                pixels = torch.stack([torch.as_tensor(scenes.view(k, edge, camera).image) for k in known])
                depth = torch.stack([torch.as_tensor(scenes.view(k, rays_edge, camera).depth) for k in known]).float()
                solid = depth.isfinite()
                images.append(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
                surfaces.append((torch.where(solid, depth, self.cfg.generator.field.far), solid.float()))
            many = [_repeated(camera, len(known)).to("cpu") for camera in cameras]
            result = self._reproject(images, surfaces, many)
            self._true_views[edge, rays_edge] = {
                "Metric/view_residual_ratio_true": _ratio(result.residual, result.baseline),
                "Metric/pose_sensitivity_true": _pose_sensitivity(*images),
            }
        return self._true_views[edge, rays_edge]

    @torch.no_grad()
    def _agreement_with_strict(self, g: Generator) -> float:
        """PSNR in dB (peak 2) between pictures and strict rendering by the same cameras, over pixels drawn once."""
        camera = self._prior(g, "strict", STRICT_PICTURES)
        images = self._render(g, "strict", STRICT_PICTURES, camera).image.clamp(-1, 1)
        ws, z_bg = self._codes(g, "strict", STRICT_PICTURES, camera)
        edge, align = images.shape[-1], self.cfg.generator.field.align_corners
        full = self.cfg.generator.resolution
        drawn = torch.randperm(edge**2, generator=generator_for(self.cfg.train.seed, "monitor pixels"))[:STRICT_PIXELS]
        pixels = pixel_grid(edge, align_corners=align, image_resolution=full)[drawn].to(self.device)
        fast = images.flatten(2)[..., drawn.to(self.device)]
        squares = 0.0
        for i in range(STRICT_PICTURES):
            self.before_batch(f"strict {i} of {STRICT_PICTURES}")
            one, options = slice(i, i + 1), RenderOptions(precision=self.cfg.train.precision)
            code = None if z_bg is None else z_bg[one]
            strict = g.synthesis.strict(ws[one], camera[one], pixels, z_bg=code, options=options).colours
            squares += (strict.float().clamp(-1, 1) - fast[one]).square().mean().item() / STRICT_PICTURES
        return 10 * math.log10(4 / squares) if squares else math.inf

    def _two_cameras(self) -> list[Camera]:
        """``VIEWS_APART_RAD`` of yaw between them, around the middle of the prior."""
        low, high = self.cfg.camera.yaw
        turn = VIEWS_APART_RAD / (2 * math.pi if not self.cfg.camera.angular else 1)
        step = min(turn / max(high - low, 1e-6), 1.0) / 2
        sweep = self.cfg.camera.at(torch.tensor([0.5 - step, 0.5 + step]), torch.tensor([0.5, 0.5])).to(self.device)
        return [sweep[:1], sweep[1:]]

    def _reproject(
        self, images: list[Tensor], surfaces: list[tuple[Tensor, Tensor]], cameras: list[Camera]
    ) -> Reprojection:
        """The first view warped into the second; ``surfaces`` are depth and opacity at the resolution of the rays."""
        field, size = self.cfg.generator.field, images[0].shape[-1]
        depths = [self._surface(*surface, size) for surface in surfaces]
        tolerance = (field.far - field.near) / 10
        return reproject(
            images[0], depths[0], cameras[0], images[1], depths[1], cameras[1], occlusion_tolerance=tolerance
        )

    def _surface(self, depth: Tensor, opacity: Tensor, size: int) -> Tensor:
        """Surface depth at the image's resolution [B, size, size]; infinite where a ray is mostly transparent."""
        maps = torch.stack([depth - (1 - opacity) * self.cfg.generator.field.far, opacity], dim=1)
        weighted, opacity = torch.nn.functional.interpolate(maps, size=(size, size), mode="bilinear").unbind(1)
        return torch.where(opacity > 0.5, weighted / opacity, torch.inf)

    def _depth(self, g: Generator, scenes: ProceduralScenes) -> dict[str, float]:
        """Mean depth against the mean true depth, as correlation and in world units."""
        count = self.cfg.monitor.depth_scenes
        fractions = torch.linspace(0.15, 0.85, DEPTH_CAMERAS)
        cameras = self.cfg.camera.at(fractions, torch.full_like(fractions, 0.5))
        far = self.cfg.generator.field.far
        fake = []
        for i in range(DEPTH_CAMERAS):
            matrix = cameras.cam2world[i].repeat(count, 1, 1).to(self.device)
            camera = Camera(matrix, cameras.tan_half_fov[i].repeat(count, 1).to(self.device))
            fake.append(self._render(g, "depth", count, camera).depth.cpu())
        edge = fake[0].shape[-1]
        if self._true_depth is None or self._true_depth[0] != edge:
            known = range(min(count, scenes.num_images))
            maps = [[scenes.view(k, edge, cameras[i]).depth for k in known] for i in range(DEPTH_CAMERAS)]
            self._true_depth = edge, torch.stack([torch.stack([torch.as_tensor(d) for d in row]) for row in maps])
        true = self._true_depth[1]
        errors = [mean_depth_error(made, seen, far=far) for made, seen in zip(fake, true)]
        return {
            "Metric/depth_correlation": mean_depth_correlation(torch.stack(fake), true, far=far),
            "Metric/depth_error": sum(errors) / len(errors),
        }

    def _prior(self, g: Generator, purpose: str, count: int) -> Camera:
        rng = generator_for(self.cfg.train.seed, "monitor cameras", purpose)
        return self.cfg.camera.sample(count, rng).to(self.device)

    def _sweep(self, frames: int) -> Camera:
        low, high = self.cfg.camera.yaw
        whole_turn = high - low >= (2 * math.pi if self.cfg.camera.angular else 1) - 1e-6
        # the two ends of a whole turn are one camera; a single frame shows the middle
        fractions = torch.arange(frames) / frames if whole_turn else torch.linspace(0, 1, frames)
        if frames == 1:
            fractions = torch.tensor([0.5])
        return self.cfg.camera.at(fractions, torch.full_like(fractions, 0.5)).to(self.device)

    def _codes(
        self, g: Generator, purpose: str, count: int, camera: Camera, *, repeat: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """Styles and background codes of ``count`` latents of one purpose, each repeated for ``repeat`` cameras."""
        rng = generator_for(self.cfg.train.seed, "monitor latents", purpose)
        z = torch.randn(count, self.cfg.generator.z_dim, generator=rng)
        z_bg = g.synthesis.draw_background(count, rng)
        label = None
        if self.data.label_kind == "camera":
            z, label = z.repeat_interleave(repeat, 0), label_from_camera(camera).to(self.device)
        elif self.data.label_dim:
            picks = torch.randint(len(self.data), (count,), generator=rng).tolist()
            label = torch.stack([torch.as_tensor(self.data.label(i)) for i in picks]).to(self.device)
        ws = g.mapping(z.to(self.device), label)
        ws = ws.repeat_interleave(len(camera) // len(ws), 0)
        return ws, None if z_bg is None else z_bg.to(self.device).repeat_interleave(repeat, 0)

    @torch.no_grad()
    def _render(self, g: Generator, purpose: str, count: int, camera: Camera, *, repeat: int = 1) -> Rendered:
        """All pictures of :meth:`_batches` together."""
        outs = list(self._batches(g, purpose, count, camera, repeat=repeat))
        parts = [(out.image, out.image_raw, out.depth, out.opacity) for out in outs]
        image, raw, depth, opacity = (torch.cat(p) for p in zip(*parts))
        return outs[-1]._replace(image=image, image_raw=raw, depth=depth, opacity=opacity)

    @torch.no_grad()
    def _batches(
        self, g: Generator, purpose: str, count: int, camera: Camera, *, repeat: int = 1
    ) -> Iterator[Rendered]:
        """``count`` latents of one purpose, each repeated for ``repeat`` cameras, in batches.

        A camera label describes the rendering camera; labels of other kinds are drawn from the data.
        """
        ws, z_bg = self._codes(g, purpose, count, camera, repeat=repeat)
        options = RenderOptions(precision=self.cfg.train.precision)
        for first in range(0, len(ws), self.cfg.monitor.batch):
            self.before_batch(f"{purpose} {first} of {len(ws)}")
            pick = slice(first, first + self.cfg.monitor.batch)
            codes = None if z_bg is None else z_bg[pick]
            start_s = time.monotonic()
            out = g.synthesis(ws[pick], camera[pick], z_bg=codes, options=options)
            self.picture_s = (time.monotonic() - start_s) / len(out.image)
            yield out

    def _save(self, images: Tensor, name: str, *, columns: int, enlarge: bool = False) -> Path:
        if enlarge:  # depth has the volume's resolution; show it as large as the images
            factor = max(self.cfg.generator.resolution // images.shape[-1], 1)
            images = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        path = self.folder / name
        save_png(grid(images.cpu(), columns=columns), path)
        return path


def _repeated(camera: Camera, count: int) -> Camera:
    return camera[torch.zeros(count, dtype=torch.long)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _pose_sensitivity(a: Tensor, b: Tensor) -> float:
    """Mean difference between two views of each subject, over that between subjects in one view; NaN for one alone."""
    return _ratio((a - b).abs().mean().item(), (a - a.roll(1, 0)).abs().mean().item())
