"""Where the pictures of a set come from: a folder, a zip, or the frames of a video."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ...errors import UserError, one_line
from ...extras import need
from ..dataset import open_files
from ..labels import LabelKind, label_table, labels_by_name, says_no_labels
from ..photos import image_names, label_file

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"])


class Labels(NamedTuple):
    """The labels of a ``dataset.json`` by the names of files, and their kind."""

    by_name: dict[str, Any]
    kind: LabelKind


@dataclass(frozen=True)
class Source:
    """Pictures to make a set of.

    Attributes:
        name, kind:  the last part of the path; "folder", "zip" or "video".
        total:       how many pictures, of a video about.
        pictures:    (name, read) of each, in the order of the set; ``read`` may raise UnusableImage.
        names:       their names, of a video none.
        labels:      None without.
        unreadable:  folders that could not be listed -> why.
        facts:       what else the manifest holds about it.
        close:       releases open files.
    """

    name: str
    kind: str
    total: int
    pictures: Callable[[], Iterator[tuple[str, Callable[[], bytes]]]]
    names: tuple[str, ...] = ()
    labels: Labels | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def open_source(path: Path, *, use_labels: bool, every: int | None, report: Callable[[str], None]) -> Source:
    """The pictures in ``path``; of a video each ``every``-th frame (1 if None).

    Raises: UserError if there are none, or the labels cannot be used.
    """
    if not os.path.exists(path):
        raise UserError(f"SOURCE: wanted a folder of images, a zip or a video, got {path}, which is not there")
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return _open_video(path, every or 1)
    if every is not None:
        raise UserError(f"--every: has no meaning for {path}, which is no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
    files = open_files(path)
    names = image_names(files, report)
    return Source(
        name=path.resolve().name,
        kind="folder" if path.is_dir() else "zip",
        total=len(names),
        pictures=lambda: ((name, functools.partial(files.read, name)) for name in names),
        names=tuple(names),
        labels=_labels(label_file(files), names) if use_labels else None,
        unreadable=files.unreadable,
        close=files.close,
    )


def _labels(found: tuple[str, bytes] | None, names: list[str]) -> Labels | None:
    if found is None or says_no_labels(found[1]):
        return None
    by_name = labels_by_name(found[1], found[0])
    labelled = [name for name in names if name in by_name]
    if not labelled:
        raise UserError(f"data: wanted labels of the images in {found[0]}, got none (--no-labels leaves it behind)")
    return Labels(by_name, label_table([by_name[name] for name in labelled], found[0], labelled).kind)


def _open_video(path: Path, every: int) -> Source:
    need("video", f"SOURCE: for the frames of {path}")
    with _reading(path) as reader:
        facts = reader.get_meta_data()
        total = reader.count_frames()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def frames() -> Iterator[tuple[str, Callable[[], bytes]]]:
        with _reading(path) as reader:
            for number, frame in enumerate(reader):
                if number % every == 0:
                    yield f"frame-{number:06d}", functools.partial(_bmp, frame)

    return Source(
        name=path.resolve().name,
        kind="video",
        total=-(-total // every),
        pictures=frames,
        facts={"sha256": digest, "fps": facts.get("fps"), "every": every},
    )


def _bmp(frame: Any) -> bytes:
    """A frame as a file, for it goes the way of all files; BMP packs nothing, which is quick."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "BMP")
    return buffer.getvalue()


def _reading(path: Path) -> Any:
    """imageio's reader of a video, a context manager. Raises: UserError."""
    import imageio.v2 as imageio

    try:
        return imageio.get_reader(path, format="FFMPEG")
    except Exception as error:  # whatever imageio, its plugin and ffmpeg raise about a file
        raise UserError(f"SOURCE: wanted a video that ffmpeg reads, got {path}: {one_line(error)[:200]}") from error
