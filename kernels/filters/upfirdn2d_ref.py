"""Definition of upfirdn2d in plain torch: insert zeros, pad or crop, filter, keep every down-th pixel.

One depthwise convolution does all of it, strided to downsample and transposed to upsample, so that the inserted zeros
are never stored. Uneven padding becomes zero taps of the filter, which is cheaper than a padded copy of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.checks import fixed

FEW_CHANNELS = 4  # up to here a CPU is faster in channels_last, including both format conversions

Pair = tuple[int, int]


def upfirdn2d_ref(
    x: Tensor,
    f: Tensor,
    up: Pair,
    down: Pair,
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """``f`` is [kh, kw], or [k] for the same taps along both axes; pairs are (x, y), padding is (x0, x1, y0, y1)."""
    few = x.device.type == "cpu" and fixed(x.shape[1]) <= FEW_CHANNELS
    if few and not x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # vmap knows no memory format but this
        return _upfirdn2d(x, f, up, down, padding, flip_filter, gain).contiguous()
    return _upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def _upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: Pair,
    down: Pair,
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    taps = f.flip(list(range(f.ndim))) if flip_filter else f
    if f.ndim == 2:
        return _pass(x, (taps * gain).to(x.dtype), up, down, padding)
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    x = _pass(x, (taps * gain).to(x.dtype)[None, :], (ux, 1), (dx, 1), (x0, x1, 0, 0))
    return _pass(x, taps.to(x.dtype)[:, None], (1, uy), (1, dy), (0, 0, y0, y1))


def _pass(x: Tensor, taps: Tensor, up: Pair, down: Pair, padding: tuple[int, int, int, int]) -> Tensor:
    """Convolve (taps reversed against the image), in one go."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    kh, kw = map(fixed, taps.shape)
    if up == (1, 1):
        return _filter(x, taps.flip([0, 1]), (dy, dx), (x0, x1, y0, y1))
    # a transposed convolution returns every overlap, as if padded by K - 1 zeros; the excess is cropped
    y = _spread(x, taps, (uy, ux), (kw - 1 - x0, kw - ux - x1, kh - 1 - y0, kh - uy - y1))
    return y if down == (1, 1) else y[:, :, ::dy, ::dx]


def _filter(x: Tensor, taps: Tensor, stride: Pair, pads: tuple[int, int, int, int]) -> Tensor:
    """Correlate with x between ``pads`` zeros (left, right, top, bottom)."""
    taps, padding = _even_out(taps, pads)
    if padding is None:
        x, padding = _pad(x, pads), (0, 0)
    channels = fixed(x.shape[1])
    return F.conv2d(x, _each(taps, channels), stride=stride, padding=padding, groups=channels)


def _spread(x: Tensor, taps: Tensor, stride: Pair, crops: tuple[int, int, int, int]) -> Tensor:
    """Transposed convolution: add the taps times every pixel of x, then crop (left, right, top, bottom)."""
    taps, padding = _even_out(taps, crops)
    channels = fixed(x.shape[1])
    weight = _each(taps, channels)
    if padding is not None:
        return F.conv_transpose2d(x, weight, stride=stride, padding=padding, groups=channels)
    y = F.conv_transpose2d(x, weight, stride=stride, groups=channels)
    return _pad(y, (-crops[0], -crops[1], -crops[2], -crops[3]))


def _each(taps: Tensor, channels: int) -> Tensor:
    """The same taps [channels, 1, kh, kw] for each channel."""
    return taps.expand(channels, 1, *map(fixed, taps.shape))


def _pad(x: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
    """Pad x with zeros, or crop where negative, possibly beyond x into the opposite side's padding."""
    if min(pads) < 0 < max(pads):
        x = F.pad(x, [max(pad, 0) for pad in pads])
    return F.pad(x, [min(pad, 0) for pad in pads] if min(pads) < 0 else list(pads))


def _even_out(taps: Tensor, sides: tuple[int, int, int, int]) -> tuple[Tensor, Pair | None]:
    """Zero taps that make left = right and top = bottom, with the resulting pads; None where that costs more."""
    kh, kw = map(fixed, taps.shape)
    x0, x1, y0, y1 = sides
    if max(x0, x1) < 0 or max(y0, y1) < 0 or abs(x0 - x1) > kw or abs(y0 - y1) > kh:
        return taps, None
    zeros = [max(x1 - x0, 0), max(x0 - x1, 0), max(y1 - y0, 0), max(y0 - y1, 0)]
    return (F.pad(taps, zeros) if any(zeros) else taps), (max(y0, y1), max(x0, x1))
