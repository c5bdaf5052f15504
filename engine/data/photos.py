"""A data set of image files: ordinary pictures of mixed sizes and kinds, from a folder or a zip."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .base import DEFAULT_CACHE_BYTES, Dataset, Pixels
from .decode import UnusableImage, check_header, decode_square, resize
from .folder import FolderFiles
from .labels import LABELS_FILE, LabelTable, read_labels
from .zipped import ZipFiles

IMAGE_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
MANIFEST_FILE = "manifest.json"  # what `stylenerf dataset` notes about a set that it makes
FULL_CHECK_UP_TO = 2000  # images; a larger set is checked by its headers, and decoding failures show up later
_PROGRESS_SECONDS = 5.0


class ImageFiles(Dataset):
    """Image files, upright, cropped to their central square, at one resolution.

    Each file is checked at the start: up to ``full_check_up_to`` files by decoding them, more by their headers. A file
    that cannot be used is named once through ``report`` and listed in ``unusable``. Where a defect shows only later,
    the next usable file in the order of names stands in, always the same one.

    Raises: UserError if no usable image remains, or labels are wanted and not complete.
    """

    def __init__(
        self,
        files: FolderFiles | ZipFiles,
        *,
        resolution: int,
        mirror: bool = False,
        use_labels: bool = False,
        report: Callable[[str], None],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        workers: int | None = None,
        full_check_up_to: int = FULL_CHECK_UP_TO,
    ) -> None:
        name = Path(files.path).resolve().stem
        super().__init__(name, resolution=resolution, mirror=mirror, cache_bytes=cache_bytes, workers=workers)
        self._files = files
        self._report = report
        self._lock = threading.Lock()
        self._small = 0
        for folder, reason in files.unreadable.items():
            self._reject(folder, reason)
        candidates = image_names(files, report)
        decoded = len(candidates) <= full_check_up_to
        self._names = self._check(candidates, self._try_decode if decoded else self._try_header)
        self._known_good = np.full(len(self._names), decoded)
        if not self._names:
            raise UserError(f"data: wanted at least one usable image, got none of {len(candidates)} in {files.path}")
        if self._small:
            report(f"data: {self._small} images are smaller than {resolution} pixels and are enlarged")
        none = LabelTable(np.zeros((self.num_images, 0), dtype=np.float32), 0, "none")
        self._labels = self._read_labels() if use_labels else none
        self.label_dim, self.label_kind = self._labels.dim, self._labels.kind

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def num_images(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        return f"{self.num_images} images from {self._files.path}, {self._facts()}"

    def sha256(self) -> str:
        """Hash of the usable files' bytes in the order of names, whatever their names are."""
        digest = hashlib.sha256()
        for name in self._names:
            if name not in self.unusable:
                digest.update(hashlib.sha256(self._files.read(name)).digest())
        return digest.hexdigest()

    def close(self) -> None:
        super().close()
        self._files.close()

    def file_name(self, index: int) -> str:
        """The file that item ``index`` comes from."""
        return self._names[self._usable(self._locate(index)[0])]

    def _pixels(self, number: int, resolution: int) -> Pixels:
        for candidate in self._from(number):
            pixels = self.cache.get((self._names[candidate], resolution))
            if pixels is None:
                pixels = self._load(candidate, resolution)
            if pixels is not None:
                return pixels
        raise self._none_left()

    def _plain_label(self, number: int) -> NDArray[np.float32]:
        return self._labels.at(self._usable(number))

    def _from(self, number: int) -> Iterator[int]:
        """The images that may stand for ``number``: itself and those after it, without the ones known to be broken.

        Which of them is the first that decodes depends on the files alone, not on what was asked before.
        """
        for step in range(self.num_images):
            candidate = (number + step) % self.num_images
            if self._names[candidate] not in self.unusable:
                yield candidate

    def _usable(self, number: int) -> int:
        """``number``, or the image that stands for it."""
        for candidate in self._from(number):
            if self._known_good[candidate] or self._load(candidate, self.resolution) is not None:
                return candidate
        raise self._none_left()

    def _load(self, number: int, resolution: int) -> Pixels | None:
        """Image ``number`` from the full-size image in the cache or from its file; None if it cannot be decoded."""
        name = self._names[number]
        full = self.cache.get((name, self.resolution))
        if full is None:
            try:
                full = decode_square(self._files.read(name), self.resolution)
            except UnusableImage as error:
                self._reject(name, str(error))
                return None
            self._known_good[number] = True
        pixels = full if resolution == self.resolution else np.array(resize(Image.fromarray(full), resolution))
        self._keep((name, resolution), pixels)
        return pixels

    def _none_left(self) -> UserError:
        return UserError(f"data: wanted at least one usable image, got none that can be decoded in {self._files.path}")

    def _keep(self, key: tuple[str, int], pixels: Pixels) -> None:
        pixels.flags.writeable = False  # shared with everyone who asks for it
        self.cache.put(key, pixels)

    def _check(self, names: list[str], check: Callable[[str], str | None]) -> list[str]:
        """The usable ones of ``names``, with progress reported on a long check."""
        usable: list[str] = []
        last = time.monotonic()
        for start in range(0, len(names), 64):
            part = names[start : start + 64]
            for name, reason in zip(part, self.map(check, part)):
                if reason is None:
                    usable.append(name)
                else:
                    self._reject(name, reason)
            if time.monotonic() - last > _PROGRESS_SECONDS:
                last = time.monotonic()
                self._report(f"data: checked {start + len(part)} of {len(names)} images")
        return usable

    def _try_header(self, name: str) -> str | None:
        """Why the file is unusable as far as its header tells, or None."""
        try:
            with self._files.open(name) as stream:
                size = check_header(stream)
        except UnusableImage as error:
            return str(error)
        self._count_size(size)
        return None

    def _try_decode(self, name: str) -> str | None:
        """Why the file is unusable, or None; the decoded image stays in the cache if there is room."""
        reason = self._try_header(name)
        if reason is not None:
            return reason
        try:
            self._keep((name, self.resolution), decode_square(self._files.read(name), self.resolution))
        except UnusableImage as error:
            return str(error)
        return None

    def _count_size(self, size: tuple[int, int]) -> None:
        if min(size) < self.resolution:
            with self._lock:
                self._small += 1

    def _reject(self, name: str, reason: str) -> None:
        with self._lock:
            if name in self.unusable:
                return
            self.unusable[name] = reason
        self._report(f"data: {printable(name)} is left out: {reason}")

    def _read_labels(self) -> LabelTable:
        found = label_file(self._files)
        if found is None:
            raise UserError(f"data: wanted labels in a {LABELS_FILE}, got no such file in {self._files.path}")
        return read_labels(found[1], found[0], self._names)


def image_names(files: FolderFiles | ZipFiles, report: Callable[[str], None]) -> list[str]:
    """The names with the suffix of an image; other files are counted and reported in one line."""
    names, others = [], Counter[str]()
    for name in files.names:
        path = PurePosixPath(name)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(name)
        elif path.name not in (LABELS_FILE, MANIFEST_FILE):
            others[path.suffix.lower() or "no suffix"] += 1
    if not names:
        raise UserError(
            f"data: wanted images ({' '.join(sorted(IMAGE_SUFFIXES))}), got none among the "
            f"{len(files.names)} files in {files.path}"
        )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        report(f"data: {sum(others.values())} files are not images by their names and are ignored ({kinds})")
    return names


def label_file(files: FolderFiles | ZipFiles) -> tuple[str, bytes] | None:
    """Name and text of the ``dataset.json`` nearest to the top, None without one. Raises: UserError, unreadable."""
    names = [name for name in files.names if PurePosixPath(name).name == LABELS_FILE]
    if not names:
        return None
    file = min(names, key=lambda name: (name.count("/"), name))
    try:
        return file, files.read(file)
    except UnusableImage as error:
        raise UserError(f"data: wanted a readable {file} in {files.path}, got {error}") from error


def printable(name: str) -> str:
    """A file's name for one line of text: control characters and bytes that are no UTF-8 are escaped."""
    return name if name.isprintable() else repr(name)[1:-1]
