"""Small image files for the tests of the data sets."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from stylenerf.engine.data import Dataset, open_dataset

SIDE = 16


def picture(number: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Noise that differs with ``number`` and is symmetric in no way."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def some_pngs(count: int) -> dict[str, bytes]:
    return {f"img{i}.png": encoded(picture(i)) for i in range(count)}


def open_quietly(path: Path, resolution: int = SIDE, **options: object) -> tuple[Dataset, list[str]]:
    lines: list[str] = []
    return open_dataset(str(path), resolution=resolution, report=lines.append, **options), lines


def grey16() -> Image.Image:
    return Image.fromarray(np.full((SIDE, SIDE), 100 * 257, dtype=np.uint16))


def palette_with_hole() -> Image.Image:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.info["transparency"] = 0
    return image


# What one colour in each mode must become. Half-transparent red over white: 255, then 255 * (1 - 128/255) = 127.
MODES: dict[str, tuple[Image.Image, str, tuple[int, int, int]]] = {
    "grey": (Image.new("L", (SIDE, SIDE), 77), "png", (77, 77, 77)),
    "black and white": (Image.new("1", (SIDE, SIDE), 1), "png", (255, 255, 255)),
    "grey with alpha": (Image.new("LA", (SIDE, SIDE), (0, 0)), "png", (255, 255, 255)),
    "rgba": (Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 128)), "png", (255, 127, 127)),
    "palette": (Image.new("RGB", (SIDE, SIDE), (10, 20, 30)).quantize(4), "png", (10, 20, 30)),
    "palette with hole": (palette_with_hole(), "png", (255, 255, 255)),
    "16 bits png": (grey16(), "png", (100, 100, 100)),
    "16 bits tiff": (grey16(), "tiff", (100, 100, 100)),
    "cmyk": (Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "tiff", (255, 0, 0)),
    "bmp": (Image.new("RGB", (SIDE, SIDE), (1, 2, 3)), "bmp", (1, 2, 3)),
}


def bomb() -> bytes:
    """A PNG header that promises 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def float_tiff() -> bytes:
    return encoded(Image.fromarray(np.full((SIDE, SIDE), 0.5, dtype=np.float32)), "tiff")


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "text.jpg": (b"this is no picture", "not an image"),
    "zero.png": (b"", "zero bytes"),
    "cut.png": (encoded(picture(0, 64, 64))[:3000], "truncated"),
    "cut.jpg": (encoded(picture(0, 64, 64), "jpeg")[:1500], "truncated"),
    "tiny.png": (encoded(picture(0, 7, 20)), "smaller than 8 pixels: 7x20"),
    "bomb.png": (bomb(), "decompression bomb"),
    "float.tiff": (float_tiff(), "floating-point"),
}
