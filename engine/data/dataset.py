"""One door to every kind of data: a folder of images, a zip of images, or scenes that the project renders itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...models.camera import CameraPrior
from ..errors import UserError, to_stderr
from .base import DEFAULT_CACHE_BYTES, Batch, Dataset
from .folder import FolderFiles
from .photos import ImageFiles
from .procedural import ProceduralScenes
from .zipped import ZipFiles

__all__ = ["PROCEDURAL", "Batch", "Dataset", "open_dataset"]

PROCEDURAL = "procedural"


def open_dataset(
    path: str,
    *,
    resolution: int,
    mirror: bool = False,
    use_labels: bool = False,
    camera_prior: CameraPrior | None = None,
    num_scenes: int = 4096,
    seed: int = 0,
    report: Callable[[str], None] = to_stderr,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    workers: int | None = None,
) -> Dataset:
    """Open the data that ``path`` names: the word "procedural", a folder (with all folders in it), or a zip.

    Args:
        resolution:   side of the images in pixels.
        mirror:       take every image a second time, flipped left to right.
        use_labels:   read ``dataset.json`` (StyleGAN's and EG3D's format); "procedural": the camera as 25 numbers.
        camera_prior: where the cameras of "procedural" stand; the project's default prior if None.
        num_scenes:   how many scenes "procedural" has.
        seed:         which scenes "procedural" has.
        report:       takes one line per remark: files left out, progress of a long check.
        cache_bytes:  room for decoded images.
        workers:      threads that decode; 1 decodes in the calling thread. Up to 8 if None.
    Raises: UserError, one line, if there is nothing to train on or labels are wanted and not complete.
    """
    if resolution < 1:
        raise UserError(f"resolution: wanted at least 1, got {resolution}")
    if path == PROCEDURAL:
        if num_scenes < 1:
            raise UserError(f"num_scenes: wanted at least 1, got {num_scenes}")
        return ProceduralScenes(
            resolution=resolution,
            mirror=mirror,
            use_labels=use_labels,
            camera_prior=camera_prior,
            num_scenes=num_scenes,
            seed=seed,
            cache_bytes=cache_bytes,
            workers=workers,
        )
    place = Path(os.path.expanduser(path))
    if not path or not os.path.exists(place):  # unlike Path.exists, false for a path that may not be looked at
        raise UserError(f"data: wanted 'procedural', a folder of images or a zip, got {path!r}, which is not there")
    return ImageFiles(
        open_files(place),
        resolution=resolution,
        mirror=mirror,
        use_labels=use_labels,
        report=report,
        cache_bytes=cache_bytes,
        workers=workers,
    )


def open_files(place: Path) -> FolderFiles | ZipFiles:
    """The files of a folder or of a zip. Raises: UserError unless it is one."""
    return FolderFiles(place) if place.is_dir() else ZipFiles(place)
