"""Pictures for people: image grids, coloured depth maps, labelled rows, line charts, and writing them safely.

Everywhere in this file images are [N, 3, H, W] (or [N, 1, H, W] for grey), uint8 or floating point in -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..kernels.base.checks import check_shapes
from .errors import UserError
from .files import write_whole

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Points = list[tuple[float, float]]

_PAPER, _INK, _QUIET, _RULE = (255, 255, 255), (32, 34, 40), (104, 108, 118), (226, 228, 233)

# Far to near: CIE lightness rises in equal steps from 14 to 94 while the hue turns from blue over rose to yellow, so
# that equal steps of depth look equal and the picture survives printing in grey.
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

# Neighbours differ in hue and in lightness, for eyes that confuse red and green.
_LINES = ((42, 98, 201), (236, 126, 32), (24, 148, 122), (188, 56, 118), (126, 92, 214), (120, 128, 140))


def to_uint8(images: Tensor) -> Tensor:
    """Bytes of ``images`` in -1..1: trunc(clip(127.5 x + 128, 0, 255)), any shape; NaN becomes 0."""
    return (images.float() * 127.5 + 128).nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None, pad: int = 2) -> Image.Image:
    """Lay ``images`` out row by row, ``pad`` white pixels between and around them.

    ``columns`` defaults to the root of the number of images, rounded up. Unfilled places stay white.
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


class _Axis(NamedTuple):
    """A range of values laid over a range of pixels."""

    low: float
    high: float
    first: float  # pixel of ``low``
    last: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        low, high, v = (
            (math.log10(u) for u in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.first + (v - low) / (high - low) * (self.last - self.first)


def line_chart(
    series: dict[str, _Points],
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    *,
    size: tuple[int, int] = (960, 540),
) -> Image.Image:
    """Lines through the points (x, y) of each named series, sorted by x, with axes and, for several, a legend.

    Points that have no place are left out: not finite, or with ``log_y`` not positive.
    Raises: ValueError if nothing is left to draw, or for more series than there are colours to tell them apart.
    """
    if len(series) > len(_LINES):
        raise ValueError(f"series must be at most {len(_LINES)}, got {len(series)}")
    lines = {name: _drawable(points, log_y) for name, points in series.items()}
    xs, ys = ([p[i] for points in lines.values() for p in points] for i in (0, 1))
    if not xs:
        raise ValueError(f"series must hold at least one point that can be drawn, got none in {list(series)}")
    width, height = size
    small, large = ImageFont.load_default(15), ImageFont.load_default(22)
    y_ticks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(ys), max(ys), count=6, snap=True)
    left = 28 + max(_text_size(text, small)[0] for _, text in y_ticks)
    top, bottom = 96 if len(lines) > 1 else 82, height - 58
    y_axis = _Axis(y_ticks[0][0], y_ticks[-1][0], bottom, top, y_ticks, log_y)
    x_low, x_high = _widened(min(xs), max(xs))
    x_axis = _Axis(x_low, x_high, left, width - 36, _ticks(x_low, x_high, count=8, snap=False))

    sheet = _draw_lines(list(lines.values()), x_axis, y_axis, size)
    draw = ImageDraw.Draw(sheet)
    draw.text((20, 16), title, fill=_INK, font=large)
    draw.text((20, top - 30), y_label, fill=_QUIET, font=small)
    for value, text in y_axis.ticks:
        draw.text((left - 10, y_axis.at(value)), text, fill=_QUIET, font=small, anchor="rm")
    for value, text in x_axis.ticks:
        draw.text((x_axis.at(value), bottom + 10), text, fill=_QUIET, font=small, anchor="mt")
    draw.text(((left + x_axis.last) / 2, height - 12), x_label, fill=_QUIET, font=small, anchor="mb")
    if len(lines) > 1:
        _draw_legend(draw, list(lines), x_axis.last, 64, small)
    return sheet


def _draw_lines(lines: list[_Points], x_axis: _Axis, y_axis: _Axis, size: tuple[int, int]) -> Image.Image:
    """Rules and lines, drawn four times too large and shrunk, because PIL draws lines with jagged edges."""
    fine = 4
    sheet = Image.new("RGB", (size[0] * fine, size[1] * fine), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for value, _ in y_axis.ticks:
        y = y_axis.at(value) * fine
        colour = _QUIET if value == y_axis.low else _RULE
        draw.line([(x_axis.first * fine, y), (x_axis.last * fine, y)], fill=colour, width=fine)
    for value, _ in x_axis.ticks:
        x = x_axis.at(value) * fine
        draw.line([(x, y_axis.first * fine), (x, (y_axis.first + 5) * fine)], fill=_QUIET, width=fine)
    for points, colour in zip(lines, _LINES):
        places = [(x_axis.at(x) * fine, y_axis.at(y) * fine) for x, y in points]
        if len(places) > 1:
            draw.line(places, fill=colour, width=round(2.5 * fine), joint="curve")
        if len(places) <= 40:  # more would be a caterpillar
            for x, y in places:
                draw.circle((x, y), 4 * fine, fill=colour, outline=_PAPER, width=fine)
    return sheet.resize(size, Image.Resampling.BOX)


def _draw_legend(draw: ImageDraw.ImageDraw, names: list[str], right: float, middle: float, font: _Font) -> None:
    """Names with a dash of their colour, in one row that ends at ``right``."""
    widths = [_text_size(name, font)[0] + 30 for name in names]
    x = right - sum(widths) - 18 * (len(names) - 1)
    for name, colour, width in zip(names, _LINES, widths):
        draw.rounded_rectangle([(x, middle - 2), (x + 20, middle + 2)], radius=2, fill=colour)
        draw.text((x + 28, middle), name, fill=_INK, font=font, anchor="lm")
        x += width + 18


def _drawable(points: _Points, log_y: bool) -> _Points:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y))


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range of some length: a single value gets room on both sides."""
    if low < high:
        return low, high
    room = 0.1 * abs(low) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, *, count: int, snap: bool) -> list[tuple[float, str]]:
    """About ``count`` multiples of 1, 2 or 5 times a power of ten; with ``snap`` the ends enclose the range."""
    low, high = _widened(low, high)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    slack = 1e-9  # a value that is a tick but for rounding is a tick
    if snap:
        first, last = math.floor(low / step + slack), math.ceil(high / step - slack)
    else:
        first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    return [(i * step, _number(i * step, step)) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """At most ten powers of ten that enclose the range; over less than two decades also their doubles, fivefolds."""
    bottom, top = math.log10(low), math.log10(high)
    factors, stride = ((1, 2, 5), 1) if top - bottom < 2 else ((1,), math.ceil((top - bottom) / 8))
    powers = range(math.floor(bottom / stride) * stride - stride, math.ceil(top) + stride + 1, stride)
    values = [m * 10.0**p for p in powers for m in factors]
    first = max(i for i, v in enumerate(values) if v <= low * (1 + 1e-9))
    last = min(i for i, v in enumerate(values) if v >= high * (1 - 1e-9))
    last = max(last, first + 1)  # a single value on a tick still needs an axis of some length
    return [(v, _number(v, v)) for v in values[first : last + 1]]


def _number(value: float, step: float) -> str:
    """``value`` with as many digits as tell it from its neighbours ``step`` away."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return f"{value:.{max(6, math.floor(math.log10(abs(value) / step)) + 2)}g}"


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
