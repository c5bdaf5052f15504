"""Pictures laid out to be compared: tiles of a size for the eye, and tables with labels along two edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST, LARGEST = 128, 256  # px, edge of a picture on a sheet
_PAPER, _INK, _GAP = (255, 255, 255), (32, 34, 40), 2


def tile(picture: Image.Image) -> Image.Image:
    """A picture as it goes on a sheet: a small one with its pixels repeated, a large one shrunk."""
    edge = picture.width
    if edge < SMALLEST:
        larger = edge * (SMALLEST // edge)
        return picture.resize((larger, larger), Image.Resampling.NEAREST)
    return picture.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS) if edge > LARGEST else picture


def to_images(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as [N, 3, H, W] uint8."""
    return torch.stack([torch.from_numpy(np.array(p.convert("RGB"))).permute(2, 0, 1) for p in pictures])


def table(
    cells: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    sources: bool = False,
) -> Image.Image:
    """A table of pictures of one size, labels on the left and above; ``None`` leaves a place white.

    With ``sources`` the first row and the first column are what the others were made of, and stand a little apart.
    Raises: ValueError if rows, columns and labels do not fit together.
    """
    shape = (len(row_labels), len(column_labels))
    if not all(shape) or len(cells) != shape[0] or any(len(row) != shape[1] for row in cells):
        raise ValueError(f"cells must be {shape[0]} rows of {shape[1]}, got {[len(row) for row in cells]}")
    width, height = next(p.size for row in cells for p in row if p is not None)
    size = max(11, min(20, height // 9))
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [draw.textbbox((0, 0), text, font=font) for text in row_labels]
    left = math.ceil(max(box[2] for box in boxes)) + 16 if any(row_labels) else _GAP
    above = max(text.count("\n") + 1 for text in column_labels) * math.ceil(size * 1.3) + 10
    apart = height // 12 if sources else 0
    at_x = [left + i * (width + _GAP) + (apart if i else 0) for i in range(shape[1])]
    at_y = [above + i * (height + _GAP) + (apart if i else 0) for i in range(shape[0])]
    sheet = Image.new("RGB", (at_x[-1] + width + _GAP, at_y[-1] + height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, text in zip(at_x, column_labels):
        draw.text((x + width / 2, above - 8), text, fill=_INK, font=font, anchor="md", align="center")
    for y, text in zip(at_y, row_labels):
        draw.text((left - 8, y + height / 2), text, fill=_INK, font=font, anchor="rm", align="right")
    for y, row in zip(at_y, cells):
        for x, picture in zip(at_x, row):
            if picture is not None:
                sheet.paste(picture, (x, y))
    return sheet
