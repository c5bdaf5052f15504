"""Small image files for the tests of the data sets."""

from __future__ import annotations

import io
import zipfile
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
