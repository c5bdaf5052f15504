"""From a source to a set: cut every picture, choose, write the archive and its contact sheet."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import UserError
from ...files import write_whole
from ..decode import UnusableImage
from ..labels import LabelKind, cut_camera, label_fault
from .archive import contact_sheet, write_set
from .boxes import Boxes
from .duplicates import Duplicates
from .picture import Facts, LeftOut, Recipe, Shelf
from .source import Source

IN_FLIGHT = 4  # pictures per worker that are read before the first of them is waited for


class Kept(NamedTuple):
    """A picture of the set: the file it comes from, its facts and its label."""

    source: str
    facts: Facts
    label: Any


class Missing(NamedTuple):
    """A file that did not come into the set."""

    source: str
    kind: str
    reason: str


@dataclass
class Made:
    """What became of a source: pictures ``kept`` in their order, files ``left_out`` in theirs."""

    resolution: int
    kind: LabelKind
    kept: list[Kept] = field(default_factory=list)
    left_out: list[Missing] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many files were left out for each kind of reason, the most frequent first."""
        return dict(Counter(missing.kind for missing in self.left_out).most_common())

    def statistics(self) -> dict[str, Any]:
        """Mean and standard deviation of each channel in levels 0..255, and the share of pictures without colour."""
        n = sum(kept.facts.pixels for kept in self.kept)
        mean = [sum(kept.facts.sums[c] for kept in self.kept) / n for c in range(3)]
        square = [sum(kept.facts.squares[c] for kept in self.kept) / n for c in range(3)]
        return {
            "mean": [round(m, 3) for m in mean],
            "deviation": [round(max(s - m * m, 0) ** 0.5, 3) for s, m in zip(square, mean)],
            "grey": round(sum(kept.facts.grey for kept in self.kept) / len(self.kept), 4),
        }


def make_set(
    source: Source,
    recipe: Recipe,
    out: Path,
    work: Path,
    *,
    near: int | None,
    workers: int,
    progress: Callable[[int], None],
) -> Made:
    """Write ``out`` and :func:`sheet_path` of it; ``work`` holds pictures that are done and goes at the end.

    Raises: UserError if no picture is left or a file cannot be written; both files are new.
    """
    shelf = Shelf(work, recipe)
    made = Made(recipe.resolution, "none" if source.labels is None else source.labels.kind)
    made.left_out += [Missing(folder, "unusable", reason) for folder, reason in source.unreadable.items()]
    duplicates = Duplicates(near)
    with contextlib.closing(_cut_all(source, shelf, workers)) as pictures:
        for name, facts in pictures:
            try:
                if isinstance(facts, UnusableImage):
                    raise facts
                label = _label(source, name, facts)
                duplicates.admit(name, facts)
                made.kept.append(Kept(name, facts, label))
            except UnusableImage as error:
                kind = error.kind if isinstance(error, LeftOut) else "unusable"
                made.left_out.append(Missing(name, kind, str(error)))
            progress(1)
    if not made.kept:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError(f"SOURCE: wanted at least one picture for the set, got none: {describe_left_out(made)}")
    settings = {**_settings(recipe), "near_duplicates": near}
    sheet = contact_sheet([_png(shelf, made.kept[i]) for i in _spread(len(made.kept))])
    _write_same(sheet_path(out), sheet)
    write_whole(out, partial(write_set, source, settings, made, partial(_png, shelf)), new=True)
    shutil.rmtree(work, ignore_errors=True)
    return made


def sheet_path(out: Path) -> Path:
    """Where the contact sheet of a set lies: beside it."""
    return out.with_suffix(".png")


def describe_left_out(made: Made) -> str:
    """'3 unusable, 2 too small'."""
    return ", ".join(f"{count} {kind}" for kind, count in made.counts().items()) or "none"


def _cut_all(source: Source, shelf: Shelf, workers: int) -> Generator[tuple[str, Facts | UnusableImage]]:
    """All pictures in their order, cut by ``workers`` threads: decoding, resizing and hashing leave Python's lock."""
    waiting: deque[tuple[str, Future[Facts | UnusableImage]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        try:
            for name, read in source.pictures():
                waiting.append((name, pool.submit(_take, shelf, name, read)))
                if len(waiting) >= IN_FLIGHT * workers:
                    name, done = waiting.popleft()
                    yield name, done.result()
            while waiting:
                name, done = waiting.popleft()
                yield name, done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _take(shelf: Shelf, name: str, read: Callable[[], bytes]) -> Facts | UnusableImage:
    try:
        return shelf.take(name, read())
    except UnusableImage as error:
        return error


def _label(source: Source, name: str, facts: Facts) -> Any:
    """The label of a picture as it is cut. Raises: LeftOut."""
    if source.labels is None:
        return None
    if name not in source.labels.by_name:
        raise LeftOut("without a label", "no label")
    label = source.labels.by_name[name]
    if source.labels.kind != "camera":
        return label
    label = cut_camera(label, facts.size, facts.square)
    fault = label_fault(torch.tensor([label], dtype=torch.float64))
    if fault is not None:
        raise LeftOut("without a possible camera", f"the camera label of the square: {fault[1]}")
    return label


def _settings(recipe: Recipe) -> dict[str, Any]:
    boxes = isinstance(recipe.crop, Boxes)
    return {
        "resolution": recipe.resolution,
        "crop": "boxes" if boxes else recipe.crop,
        "boxes_sha256": recipe.crop.sha256 if isinstance(recipe.crop, Boxes) else None,
        "enlarge": recipe.enlarge,
    }


def _png(shelf: Shelf, kept: Kept) -> bytes:
    png = shelf.png(kept.source, kept.facts)
    if png is None:
        raise UserError(f"{shelf.folder}: wanted the pictures made before, got one that was lost (run it again)")
    return png


def _spread(count: int) -> list[int]:
    """Up to 64 of ``count`` numbers at equal distances."""
    n = min(count, 64)
    return [i * count // n for i in range(n)]


def _write_same(path: Path, data: bytes) -> None:
    """Write a new file; one that an interrupted job wrote may be there already.

    Raises: UserError if there is another.
    """
    if os.path.lexists(path):
        if path.read_bytes() == data:
            return
        raise UserError(f"{path}: wanted no file or the contact sheet of this set, got another file")
    write_whole(path, lambda part: part.write_bytes(data), new=True)
