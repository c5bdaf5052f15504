"""From the bytes of any ordinary image file to a square RGB array."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import one_line

MIN_SIDE = 8
MAX_FILE_BYTES = 2**29

# Pillow's remarks about odd files name no file, and what matters is raised. Set once: catch_warnings mixes up threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnusableImage(Exception):
    """A file that cannot serve as a training image; the message says why."""


class Square(NamedTuple):
    """A square of an upright picture: its upper left corner and its side, in pixels."""

    left: float
    top: float
    side: float


class Cut(NamedTuple):
    """A picture cut out of a file: ``pixels`` uint8 [r, r, 3] show a ``square`` of the upright picture of ``size``."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    square: Square


def check_header(stream: IO[bytes]) -> tuple[int, int]:
    """Width and height from the header alone, without decoding. Raises: UnusableImage."""
    return _open(stream).size


def decode_square(data: bytes, resolution: int) -> NDArray[np.uint8]:
    """The upright picture, centre-cropped to a square and resized with LANCZOS: uint8 [resolution, resolution, 3].

    Transparency is laid over white; 16-bit grey is scaled to 8 bits; of an animation the first frame counts.
    Raises: UnusableImage.
    """
    return decode_cut(data, resolution, centre_square, reduce=True).pixels


def decode_cut(data: bytes, resolution: int, choose: Callable[[int, int], Square], *, reduce: bool = False) -> Cut:
    """As :func:`decode_square`, of the square that ``choose(width, height)`` picks, whose edges may lie between pixels.

    With ``reduce`` a JPEG at least 8 times too large is decoded, and shown to ``choose``, at a fraction of its size; 4
    times the target is left, so that LANCZOS still does the visible part of the reduction. ``choose`` may raise
    UnusableImage.
    """
    image = _open(io.BytesIO(data))
    full = image.size
    with _decoding():
        if reduce:
            image.draft(None, (4 * resolution, 4 * resolution))
        image.load()
        stored = image.size
        upright = _upright(image)
        square = choose(*upright.size)
        pixels = _resized_square(upright, square, resolution)
    size = full if upright.size == stored else full[::-1]
    factor = round(full[0] / stored[0])
    return Cut(np.array(pixels), size, Square(*(factor * value for value in square)))


def centre_square(width: int, height: int) -> Square:
    """The largest square in the middle, on whole pixels: up to half a pixel left of the middle, or above it."""
    side = min(width, height)
    return Square((width - side) // 2, (height - side) // 2, side)


def _resized_square(image: Image.Image, square: Square, resolution: int) -> Image.Image:
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    whole = (int(box[0]), int(box[1]), int(box[2]), int(box[3]))
    if whole == box:
        return resize(_to_rgb(image.crop(whole)), resolution)
    return _to_rgb(image).resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Pillow's decoders raise a dozen types on broken data; all mean the same here: UnusableImage."""
    try:
        yield
    except UnusableImage:
        raise
    except Exception as error:
        raise UnusableImage(one_line(error)) from error


def resize(image: Image.Image, resolution: int) -> Image.Image:
    """``image`` at [resolution, resolution], LANCZOS; itself if it has that size."""
    if image.size == (resolution, resolution):
        return image
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def _open(stream: IO[bytes]) -> Image.Image:
    try:
        image = Image.open(stream)
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"decompression bomb: {one_line(error)}") from error
    except Image.UnidentifiedImageError as error:
        raise UnusableImage("not an image that Pillow can read") from error
    except Exception as error:  # as above: any failure of a header parser
        raise UnusableImage(one_line(error)) from error
    if min(image.size) < MIN_SIDE:
        raise UnusableImage(f"smaller than {MIN_SIDE} pixels: {image.width}x{image.height}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the pixels
        ImageOps.exif_transpose(image, in_place=True)  # turned before its EXIF is rewritten, which may fail
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnusableImage("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey levels, 0..65535, to 0..255."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnusableImage(f"wanted grey levels in 0..65535, got {levels.min()}..{levels.max()}")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
