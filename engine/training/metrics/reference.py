"""Statistics of a data set's features, computed once and kept by the hash of the set and of the detector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset
from ...errors import UserError
from ...files import sha256_of, write_whole
from .detector import Detector
from .frechet import FeatureSums, Gaussian

KEPT = 10_000  # features kept for figures that need them one by one
BATCH = 32


@dataclass(frozen=True)
class Reference:
    """Features of a data set: their normal distribution, and the first ``KEPT`` themselves [M, D] float32."""

    gaussian: Gaussian
    features: Tensor


def cache_folder() -> Path:
    """Where statistics are kept: stylenerf/ in XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "stylenerf" / "statistics"


def data_images(data: Dataset, resolution: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """The first ``count`` items of a set in their order, [n, 3, r, r] uint8, a batch at a time."""
    for first in range(0, count, BATCH):
        items = list(range(first, min(first + BATCH, count)))
        images = np.stack(data.map(lambda item: data.image(item, resolution), items))
        yield torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def reference(
    data: Dataset,
    digest: str,
    detector: Detector,
    resolution: int,
    count: int,
    device: torch.device,
    *,
    cache: Path | None,
    progress: Callable[[int], None] = lambda n: None,
) -> Reference:
    """Features of the first ``count`` items, from ``cache`` if they are there.

    Args:
        digest: the set's hash.  cache: a folder, or None to keep nothing.  progress: called with images done.
    Raises: UserError if the detector fails or the cache cannot be written.
    """
    key = sha256_of([digest, detector.sha256, resolution, count, data.mirror, KEPT])
    file = None if cache is None else cache / f"{key}.npz"
    if file is not None and (kept := _read(file)) is not None:
        progress(count)
        return kept
    sums = FeatureSums()
    parts: list[Tensor] = []
    for images in data_images(data, resolution, count, device):
        features = detector.features(images)
        sums.add(features)
        if sum(map(len, parts)) < KEPT:
            parts.append(features)
        progress(len(images))
    made = Reference(sums.gaussian(), torch.cat(parts)[:KEPT])
    if file is not None:
        _write(made, file)
    return made


def _write(made: Reference, file: Path) -> None:
    g = made.gaussian

    def write(part: Path) -> None:
        with open(part, "wb") as stream:
            np.savez(stream, count=g.count, mean=g.mean.numpy(), covariance=g.covariance.numpy(),
                     features=made.features.numpy())  # fmt: skip

    write_whole(file, write)


def _read(file: Path) -> Reference | None:
    """What lies in the cache; None if there is nothing, or nothing whole."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            count = int(kept["count"])
            mean, covariance, features = (torch.from_numpy(kept[n]) for n in ("mean", "covariance", "features"))
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # zipfile and zlib have errors of their own for a damaged archive
        if type(error).__module__.partition(".")[0] in ("zipfile", "zlib"):
            return None
        raise
    width = len(mean)
    fits = covariance.shape == (width, width) and features.ndim == 2 and features.shape[1] == width
    return Reference(Gaussian(count, mean, covariance), features) if fits and count > 1 else None


def check_count(name: str, wanted: int | None, there: int) -> int:
    """``wanted`` images of a set that has ``there``, all of them if None. Raises: UserError if it has fewer."""
    if wanted is not None and not 2 <= wanted <= there:
        raise UserError(f"{name}: wanted 2 to {there}, as many as there are, got {wanted}")
    if there < 2:
        raise UserError(f"{name}: wanted a set of at least 2 images, got {there}")
    return there if wanted is None else wanted
