"""Checking a set: a zip or folder of square pictures of one size, perhaps with labels and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...errors import UserError, one_line, short
from ..dataset import open_files
from ..decode import Square, UnusableImage, decode_cut
from ..folder import FolderFiles
from ..labels import labels_by_name, read_labels, says_no_labels
from ..photos import MANIFEST_FILE, image_names, label_file
from ..zipped import ZipFiles


class _Seen(NamedTuple):
    """What a file turned out to be: SHA-256 of its bytes, size of the picture in it or why there is none."""

    sha256: str | None
    size: tuple[int, int] | None
    reason: str


@dataclass
class Report:
    """Result of a check.

    Attributes:
        images, size: how many pictures, and the side of most of them in pixels.
        labels:       kind of labels.
        hashes:       how many SHA-256 of a manifest were compared, None without a manifest.
        faults:       one line each, beginning with the file's name.
    """

    images: int = 0
    size: int = 0
    labels: str = "none"
    hashes: int | None = None
    faults: list[str] = field(default_factory=list)


def check_set(
    path: Path,
    *,
    workers: int,
    report: Callable[[str], None],
    start: Callable[[int], Callable[[int], None]],
) -> Report:
    """Read everything in a set.

    Args:
        start: takes the number of pictures and returns what counts those done.
    Raises: UserError if there is no folder or zip with pictures in it.
    """
    if not os.path.exists(path):  # unlike Path.exists, false for any name that leads nowhere
        raise UserError(f"--check: wanted a folder of images or a zip, got {path}, which is not there")
    files = open_files(path)
    names = image_names(files, report)
    result = Report(faults=[f"{folder}: {reason}" for folder, reason in files.unreadable.items()])
    progress, seen = start(len(names)), {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            for name, found in zip(names, pool.map(lambda name: _look(files, name), names)):
                seen[name] = found
                progress(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    _check_pictures(seen, result)
    _check_labels(files, names, result)
    _check_manifest(files, seen, result)
    files.close()
    return result


def _look(files: FolderFiles | ZipFiles, name: str) -> _Seen:
    data = None
    try:
        data = files.read(name)
        done = decode_cut(data, 1, lambda width, height: Square(0, 0, min(width, height)))
        return _Seen(_sha256(data), done.size, "")
    except UnusableImage as error:
        return _Seen(None if data is None else _sha256(data), None, str(error))


def _check_pictures(seen: dict[str, _Seen], result: Report) -> None:
    """All readable, square, of the size of most, a power of two."""
    sizes = Counter(found.size for found in seen.values() if found.size is not None)
    result.images = len(seen)
    result.size = max(sizes, key=lambda size: (sizes[size], size))[0] if sizes else 0
    if result.size & (result.size - 1):
        result.faults.append(f"all: wanted a side that is a power of two, got {result.size} pixels")
    for name, found in seen.items():
        if found.size is None:
            result.faults.append(f"{name}: {found.reason}")
        elif found.size[0] != found.size[1]:
            result.faults.append(f"{name}: not square: {found.size[0]}x{found.size[1]}")
        elif found.size[0] != result.size:
            result.faults.append(f"{name}: {found.size[0]} pixels, most have {result.size}")


def _check_labels(files: FolderFiles | ZipFiles, names: list[str], result: Report) -> None:
    """A label that training takes for each picture, and a picture for each label."""
    try:
        found = label_file(files)
        if found is None or says_no_labels(found[1]):
            return
        result.labels = read_labels(found[1], found[0], names).kind
        unknown = sorted(labels_by_name(found[1], found[0]).keys() - set(names))
        result.faults += [f"{name}: a label in {found[0]} without a picture" for name in unknown]
    except UserError as error:
        result.faults.append(str(error).removeprefix("data: "))


def _check_manifest(files: FolderFiles | ZipFiles, seen: dict[str, _Seen], result: Report) -> None:
    """The files are those of the manifest, bit for bit."""
    if MANIFEST_FILE not in files.names:
        return
    try:
        manifest = json.loads(files.read(MANIFEST_FILE))
        listed = {entry["file"]: entry["sha256"] for entry in manifest["images"]}
        labels = manifest["labels"]
    except (UnusableImage, ValueError, RecursionError, KeyError, TypeError) as error:
        result.faults.append(f"{MANIFEST_FILE}: wanted the manifest of a set, got {short(one_line(error))}")
        return
    result.hashes = len(listed)
    for name, sha256 in listed.items():
        if name not in seen:
            result.faults.append(f"{name}: in {MANIFEST_FILE}, but not in the set")
        elif seen[name].sha256 != sha256:
            result.faults.append(f"{name}: other bytes than {MANIFEST_FILE} notes")
    result.faults += [f"{name}: not in {MANIFEST_FILE}" for name in seen if name not in listed]
    _check_label_hash(files, labels, result)


def _check_label_hash(files: FolderFiles | ZipFiles, labels: Any, result: Report) -> None:
    found = label_file(files)
    there = None if found is None else _sha256(found[1])
    noted = labels.get("sha256") if isinstance(labels, dict) else None
    if there != noted:
        name = PurePosixPath(found[0]).name if found else "labels"
        result.faults.append(f"{name}: {'other bytes than' if there and noted else 'not as'} {MANIFEST_FILE} notes")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
