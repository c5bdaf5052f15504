"""One evaluation: samples against a data set, and views against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...data import Dataset, ProceduralScenes
from ...errors import UserError
from ...model_io import Model
from ...training.metrics.detector import Detector
from ...training.metrics.feature_figures import feature_figures
from ...training.metrics.intervals import Figure
from ...training.metrics.protocol import RESIZING, Protocol, Result
from ...training.metrics.reference import data_images, reference
from ...training.metrics.swd import SlicedWassersteinMetric
from ..render.subjects import subjects_from_seeds
from ..render.views import ViewOptions
from .samples import model_images
from .views import has_strict_form, view_figures

MOST_SWD = 1024  # images of each set for the sliced Wasserstein distance, which keeps them all in memory
_LEAST_LEVEL = 16  # pixels of the lowest level of its pyramid


@dataclass(frozen=True)
class EvaluateOptions:
    """What is computed.

    Attributes:
        images:     samples.  reference_images: training images, mirrored copies included.
        truncation: psi of a model's styles.  seed: of everything random.  strict: every pixel a ray of its own.
        resamples:  of the bootstrap of FID; 0 for no interval.
        subjects:   for the figures on views; 0 for none.
        batch:      pictures at a time.  cache: of the data's statistics; None for none.
    """

    images: int
    reference_images: int
    truncation: float = 1.0
    seed: int = 0
    strict: bool = False
    resamples: int = 50
    subjects: int = 8
    batch: int = 16
    cache: Path | None = None


@dataclass
class Evaluation:
    """An evaluation of ``source``, a model or a set of pictures, against ``data``; ``step`` is told (stage, n done)."""

    source: Model | Dataset
    name: str
    data: Dataset
    detector: Detector | None
    options: EvaluateOptions
    device: torch.device
    step: Callable[[str, int], None] = lambda stage, n: None

    def steps(self) -> int:
        """How many steps :meth:`run` tells in all."""
        o, views = self.options, self._with_views
        detecting = o.reference_images + o.resamples if self.detector is not None else 0
        return o.images + detecting + self._swd_images + 2 * o.subjects * views

    def run(self) -> tuple[Result, list[tuple[str, Tensor]]]:
        """The figures, and pictures of what is left of one view carried into another (of a model only).

        Raises: UserError.
        """
        figures: dict[str, Figure] = {}
        digest = self.data.sha256()
        real = None
        if self.detector is not None:
            o, done = self.options, lambda n: self.step("data", n)
            real = reference(self.data, digest, self.detector, self._edge, o.reference_images, self.device,
                             cache=o.cache, progress=done)  # fmt: skip
        features, kept = self._look()
        figures["swd"] = Figure(self._swd(kept))
        if real is not None:
            figures |= feature_figures(
                torch.cat(features), real, resamples=self.options.resamples, seed=self.options.seed,
                progress=lambda: self.step("interval", 1),
            )  # fmt: skip
        pictures: list[tuple[str, Tensor]] = []
        if self._with_views:
            found, pictures = self._views()
            figures |= found
        return Result(self.name, self._protocol(digest), figures), pictures

    @property
    def _edge(self) -> int:
        return self.data.resolution

    @property
    def _swd_images(self) -> int:
        return min(self.options.images, self.options.reference_images, MOST_SWD)

    @property
    def _with_views(self) -> bool:
        return isinstance(self.source, Model) and self.options.subjects > 0 and has_strict_form(self.source)

    def _look(self) -> tuple[list[Tensor], Tensor]:
        """Features of all samples, and the first samples themselves."""
        features: list[Tensor] = []
        kept: list[Tensor] = []
        for images in self._samples():
            if self.detector is not None:
                features.append(self.detector.features(images))
            if sum(map(len, kept)) < self._swd_images:
                kept.append(images.cpu())
            self.step("samples", len(images))
        return features, torch.cat(kept)[: self._swd_images]

    def _samples(self) -> Iterator[Tensor]:
        o = self.options
        if isinstance(self.source, Model):
            return model_images(self.source, o.images, seed=o.seed, truncation_psi=o.truncation,
                                options=ViewOptions(strict=o.strict), batch=o.batch, data=self.data)  # fmt: skip
        return data_images(self.source, self._edge, o.images, self.device)

    def _swd(self, samples: Tensor) -> float:
        parts = []
        for images in data_images(self.data, self._edge, self._swd_images, torch.device("cpu")):
            parts.append(images)
            self.step("sliced Wasserstein", len(images))
        lowest = min(_LEAST_LEVEL, self._edge)
        metric = SlicedWassersteinMetric(torch.cat(parts), seed=self.options.seed, min_resolution=lowest)
        return metric.distance(samples).mean

    def _views(self) -> tuple[dict[str, Figure], list[tuple[str, Tensor]]]:
        assert isinstance(self.source, Model)
        if self.source.label_kind not in ("none", "camera"):
            return {}, []
        seeds = range(self.options.seed, self.options.seed + self.options.subjects)
        subjects = subjects_from_seeds(self.source, seeds, truncation_psi=self.options.truncation).fixed()
        truth = self.data if isinstance(self.data, ProceduralScenes) else None
        return view_figures(self.source, subjects, truth, lambda: self.step("views", 1))

    def _protocol(self, digest: str) -> Protocol:
        o, model = self.options, isinstance(self.source, Model)
        rendering = ("strict" if o.strict else "fast") if model else None
        return Protocol(
            detector=None if self.detector is None else self.detector.sha256, resolution=self._edge, resizing=RESIZING,
            images=o.images, reference_images=o.reference_images, truncation=o.truncation if model else None,
            rendering=rendering, seed=o.seed, data=digest, mirror=self.data.mirror,
        )  # fmt: skip


def check_sizes(source: Model | Dataset, data: Dataset) -> None:
    """Raises: UserError unless both are of one resolution."""
    edge = source.generator.synthesis.growth().resolution if isinstance(source, Model) else source.resolution
    if edge != data.resolution:
        raise UserError(f"--data: wanted images of {edge} px, as the samples have, got {data.resolution}")
