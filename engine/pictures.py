"""Pictures: image grids, coloured depth maps, labelled rows, and atomic writing.

Everywhere in this file images are [N, 3, H, W] (or [N, 1, H, W] for grey), uint8 or floating point in -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..kernels.base.checks import check_shapes
from .errors import UserError
from .files import write_whole

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER, _INK = (255, 255, 255), (32, 34, 40)

# Far to near: CIE lightness rises in equal steps from 14 to 94 while the hue goes from blue through rose to yellow, so
# that equal steps of depth look equal, also when printed in grey.
_WARMTH = (
    (10, 33, 79),
    (26, 43, 95),
    (46, 51, 111),
    (71, 58, 125),
    (99, 63, 136),
    (130, 66, 143),
    (161, 69, 144),
    (191, 72, 139),
    (217, 79, 130),
    (236, 93, 118),
    (249, 112, 106),
    (255, 135, 98),
    (255, 159, 98),
    (255, 180, 102),
    (253, 201, 119),
    (253, 220, 144),
    (255, 237, 182),
)


def to_uint8(images: Tensor) -> Tensor:
    """Bytes of ``images`` in -1..1: trunc(clip(127.5 x + 128, 0, 255)), any shape; NaN becomes 0."""
    return (images.float() * 127.5 + 128).nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None, pad: int = 2) -> Image.Image:
    """Arrange ``images`` row by row, ``pad`` white pixels between and around them.

    ``columns`` defaults to the root of the number of images, rounded up. Empty cells stay white.
    Raises: ValueError on shape, no images, ``columns`` < 1 or ``pad`` < 0; TypeError on dtype.
    """
    tiles = _tiles("images", images)
    n, _, height, width = tiles.shape
    columns = min(n, columns) if columns is not None else math.ceil(math.sqrt(n))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if pad < 0:
        raise ValueError(f"pad must be at least 0, got {pad}")
    rows = math.ceil(n / columns)
    sheet = Image.new("RGB", (columns * (width + pad) + pad, rows * (height + pad) + pad), _PAPER)
    for i, tile in enumerate(tiles.permute(0, 2, 3, 1).cpu()):
        row, column = divmod(i, columns)
        sheet.paste(Image.fromarray(tile.numpy()), (pad + column * (width + pad), pad + row * (height + pad)))
    return sheet


def sheet_columns(count: int) -> int:
    """As many columns as make a sheet of ``count`` square images half again as wide as high."""
    return max(1, round((count * 1.5) ** 0.5))


def strip(images: Tensor, pad: int = 2) -> Image.Image:
    """All ``images`` in one row."""
    return grid(images, columns=max(len(images), 1), pad=pad)


def labelled_rows(rows: Sequence[tuple[str, Tensor]], pad: int = 2) -> Image.Image:
    """One strip of images per row with its label on the left; rows may differ in number and size of images.

    Raises: ValueError if there is no row, or as :func:`grid`.
    """
    if not rows:
        raise ValueError("rows must hold at least one (label, images), got none")
    strips = [strip(images, pad) for _, images in rows]
    font = ImageFont.load_default(max(12, min(20, min(s.height for s in strips) // 5)))
    boxes = [_text_size(label, font) for label, _ in rows]
    margin = max(width for width, _ in boxes) + 16
    heights = [max(s.height, height + 4) for s, (_, height) in zip(strips, boxes)]
    sheet = Image.new("RGB", (margin + max(s.width for s in strips), sum(heights)), _PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for (label, _), picture, height in zip(rows, strips, heights):
        draw.text((margin - 8, top + height / 2), label, fill=_INK, font=font, anchor="rm", align="right")
        sheet.paste(picture, (margin, top + (height - picture.height) // 2))
        top += height
    return sheet


def depth_picture(depth: Tensor, near: float, far: float, weights: Tensor | None = None) -> Tensor:
    """Colour ``depth`` [N, H, W]: ``near`` warm and bright, ``far`` dark and blue, beyond either end that end's colour.

    ``weights`` [N, H, W] in 0..1 (how much of a pixel is covered) fades towards black; so does a depth of NaN.
    Returns: [N, 3, H, W] uint8.
    Raises: ValueError on shape, UserError unless near < far, both finite.
    """
    check_shapes(depth=(depth, "N H W"))
    if not (math.isfinite(near) and math.isfinite(far) and near < far):
        raise UserError(f"near, far: wanted finite depths with near < far, got {near}, {far}")
    table = torch.tensor(_WARMTH, dtype=torch.float32, device=depth.device)
    closeness = ((far - depth.float()) / (far - near)).clamp(0, 1)
    place = closeness.nan_to_num(nan=0.0) * (len(table) - 1)
    below = place.floor().long().clamp(max=len(table) - 2)
    colour = torch.lerp(table[below], table[below + 1], (place - below)[..., None])  # [N, H, W, 3]
    cover = (~closeness.isnan()).float()
    if weights is not None:
        check_shapes(depth=(depth, "N H W"), weights=(weights, "N H W"))
        cover = cover * weights.float().nan_to_num(nan=0.0).clamp(0, 1)
    return (colour * cover[..., None]).round().to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def save_png(image: Image.Image, path: str | Path, *, new: bool = False) -> None:
    """Write ``image`` as a PNG, whole or not at all.

    Raises: UserError naming ``path`` if it cannot be written, or with ``new`` if it exists.
    """
    write_whole(path, lambda part: image.save(part, format="PNG"), new=new)


def _text_size(text: str, font: _Font) -> tuple[int, int]:
    """Width and height in pixels of ``text``, which may have several lines."""
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font)
    return math.ceil(right - left), math.ceil(bottom - top)


def _tiles(name: str, images: Tensor) -> Tensor:
    """Bytes [N, 3, H, W] of colour or grey images."""
    check_shapes(**{name: (images, "N C H W")})
    if images.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one image, got {list(images.shape)}")
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name} must be [N, 3, H, W] or [N, 1, H, W], got {list(images.shape)}")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise TypeError(f"{name} must be uint8 or floating point, got {images.dtype}")
    tiles = images.detach() if images.dtype == torch.uint8 else to_uint8(images.detach())
    return tiles.expand(-1, 3, -1, -1)
