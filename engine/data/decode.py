"""From the bytes of any ordinary image file to a square RGB array."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import IO

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


def check_header(stream: IO[bytes]) -> tuple[int, int]:
    """Width and height from the header alone, without decoding. Raises: UnusableImage."""
    return _open(stream).size


def decode_square(data: bytes, resolution: int) -> NDArray[np.uint8]:
    """The upright picture, centre-cropped to a square and resized with LANCZOS: uint8 [resolution, resolution, 3].

    Transparency is laid over white; 16-bit grey is scaled to 8 bits; of an animation the first frame counts.
    Raises: UnusableImage.
    """
    image = _open(io.BytesIO(data))
    try:
        # A JPEG at least 8 times too large is decoded at a fraction of its size; 4 times the target is left, so that
        # LANCZOS still does the visible part of the reduction.
        image.draft(None, (4 * resolution, 4 * resolution))
        image.load()
        square = _to_rgb(_crop_square(_upright(image)))
    except UnusableImage:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on broken data; all mean the same here
        raise UnusableImage(one_line(error)) from error
    return np.array(resize(square, resolution))


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


def _crop_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


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
