"""One picture of a set: cut, resized, measured, and kept in a folder from which an interrupted job goes on."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...files import write_whole
from ..decode import Square, UnusableImage, centre_square, decode_cut
from .boxes import Boxes

GREY_LEVELS = 8  # a picture is grey if the channels of no pixel differ by more: JPEG stores grey as nearly grey


class LeftOut(UnusableImage):
    """A picture that does not come into the set, the kind of reason and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Facts(NamedTuple):
    """What is known of a picture that can be used.

    Attributes:
        size, square:    upright size of the source in pixels, and the square that was cut out.
        pixels_sha256:   of the result's pixels, whatever file they are in.
        look:            difference hash, 64 bits.
        pixels:          how many.
        sums, squares:   of levels and of squared levels, per channel.
        grey:            whether it has no colour.
    """

    source_sha256: str
    png_sha256: str
    pixels_sha256: str
    size: tuple[int, int]
    square: Square
    look: int
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    grey: bool


@dataclass(frozen=True)
class Recipe:
    """How pictures are cut.

    Attributes:
        resolution: side of the result.
        crop:       "centre", "none" (pictures must be square), or boxes.
        exact:      the middle to a fraction of a pixel, for camera labels; else as training would crop.
        enlarge:    whether pictures smaller than ``resolution`` are enlarged, or left out.
    """

    resolution: int
    crop: str | Boxes
    exact: bool
    enlarge: bool

    def square(self, name: str, width: int, height: int) -> Square:
        """The square of the picture ``name``. Raises: LeftOut."""
        if isinstance(self.crop, Boxes):
            square = self._box(self.crop, name, width, height)
        elif self.crop == "none" and width != height:
            raise LeftOut("not square", f"not square: {width}x{height}")
        elif self.exact:
            side = min(width, height)
            square = Square((width - side) / 2, (height - side) / 2, side)
        else:
            square = centre_square(width, height)
        if square.side < self.resolution and not self.enlarge:
            raise LeftOut("too small", f"{square.side:g} pixels are fewer than {self.resolution}")
        return square

    def _box(self, boxes: Boxes, name: str, width: int, height: int) -> Square:
        square = boxes.squares.get(name)
        if square is None:
            raise LeftOut("without a box", "no box")
        if square.left + square.side > width or square.top + square.side > height:
            raise LeftOut("beyond the edge", f"the box {[*square]} reaches beyond {width}x{height} pixels")
        return square


def cut(name: str, data: bytes, recipe: Recipe) -> tuple[Facts, bytes]:
    """What the file ``name`` with these bytes becomes, as a PNG. Raises: UnusableImage."""
    plain = recipe.crop == "centre" and not recipe.exact
    done = decode_cut(data, recipe.resolution, lambda w, h: recipe.square(name, w, h), reduce=plain)
    buffer = io.BytesIO()
    Image.fromarray(done.pixels).save(buffer, "PNG")
    levels = done.pixels.astype(np.int64)
    facts = Facts(
        source_sha256=_sha256(data),
        png_sha256=_sha256(buffer.getvalue()),
        pixels_sha256=_sha256(done.pixels.tobytes()),
        size=done.size,
        square=done.square,
        look=difference_hash(done.pixels),
        pixels=recipe.resolution**2,
        sums=tuple(levels.sum(axis=(0, 1)).tolist()),
        squares=tuple((levels**2).sum(axis=(0, 1)).tolist()),
        grey=bool(np.ptp(levels, axis=2).max() <= GREY_LEVELS),
    )
    return facts, buffer.getvalue()


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits, a row after the other: where the picture, grey and 9 x 8 pixels small, gets brighter to the right."""
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    levels = np.asarray(small).astype(np.int64)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


class Shelf:
    """Pictures that are done, a file each in ``folder``, found by the bytes of their source and how they are cut.

    A file that was damaged counts as absent.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe

    def take(self, name: str, data: bytes) -> Facts:
        """The facts of a picture, cut now unless it was before. Raises: UnusableImage."""
        path = self._path(name, _sha256(data))
        stored = _read(path)
        if stored is not None:
            return stored[0]
        facts, png = cut(name, data, self.recipe)
        line = json.dumps(facts._asdict()).encode() + b"\n"
        write_whole(path, lambda part: part.write_bytes(line + png))
        return facts

    def png(self, name: str, facts: Facts) -> bytes | None:
        """The PNG of a picture that was taken, None if it is gone."""
        stored = _read(self._path(name, facts.source_sha256))
        return stored[1] if stored is not None and stored[0] == facts else None

    def _path(self, name: str, source_sha256: str) -> Path:
        recipe = self.recipe
        crop = recipe.crop.squares.get(name) if isinstance(recipe.crop, Boxes) else recipe.crop
        key = _sha256(repr((source_sha256, crop, recipe.resolution, recipe.exact, recipe.enlarge)).encode())
        return self.folder / key[:2] / key


def _read(path: Path) -> tuple[Facts, bytes] | None:
    try:
        line, _, png = path.read_bytes().partition(b"\n")
        stored = json.loads(line)
        if _sha256(png) != stored["png_sha256"]:
            return None
        tuples = {"size": tuple(stored["size"]), "square": Square(*stored["square"]), "sums": tuple(stored["sums"])}
        return Facts(**{**stored, **tuples, "squares": tuple(stored["squares"])}), png
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
