"""Definition of conv2d_resample in plain torch: a convolution with an up- or downsampling filter before or after it."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ..base.checks import fixed
from .upfirdn2d_ref import upfirdn2d_ref

Pads = tuple[int, int, int, int]
NO_PADS = (0, 0, 0, 0)


def conv2d_resample_ref(
    x: Tensor,
    w: Tensor,
    f: Tensor,
    up: int,
    down: int,
    padding: Pads,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
    fir: Callable[..., Tensor] = upfirdn2d_ref,
) -> Tensor:
    """``padding`` is (x0, x1, y0, y1) in pixels of the upsampled image and includes that of the filters.

    ``fir`` runs the filters, with the arguments of ``upfirdn2d_ref``.
    """
    w = w.to(x.dtype)
    kh, kw = fixed(w.shape[2]), fixed(w.shape[3])
    if not flip_weight and (kh > 1 or kw > 1):
        w = w.flip([2, 3])
    if up == down == 1:
        return _conv(x, w, padding, groups)
    if up == 1 and kh == kw == 1:  # a 1x1 convolution commutes with per-channel ops: run it at the small size
        return F.conv2d(fir(x, f, (1, 1), (down, down), padding, flip_filter, 1), w, groups=groups)
    if up == 1:  # every convolution commutes with the filter, so stride computes only the pixels that are kept
        x = fir(x, f, (1, 1), (1, 1), padding, flip_filter, 1)
        return F.conv2d(x, w, stride=down, groups=groups)
    if kh == kw == 1:
        y = fir(F.conv2d(x, w, groups=groups), f, (up, up), (1, 1), padding, flip_filter, up**2)
    else:
        x0, x1, y0, y1 = padding
        rest = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)  # the transposed convolution pads K - 1 itself
        y = fir(_conv_up(x, w, up, groups), f, (1, 1), (1, 1), rest, flip_filter, up**2)
    return y if down == 1 else fir(y, f, (1, 1), (down, down), NO_PADS, flip_filter, 1)


def _conv(x: Tensor, w: Tensor, padding: Pads, groups: int) -> Tensor:
    x0, x1, y0, y1 = padding
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return F.conv2d(x, w, padding=(y0, x0), groups=groups)
    return F.conv2d(F.pad(x, list(padding)), w, groups=groups)


def _conv_up(x: Tensor, w: Tensor, up: int, groups: int) -> Tensor:
    """Correlate ``w`` with x after zero insertion, at all overlaps, without storing the zeros."""
    out_channels, fan_in, kh, kw = map(fixed, w.shape)
    w = w.flip([2, 3]).reshape(groups, out_channels // groups, fan_in, kh, kw).transpose(1, 2)
    w = w.reshape(groups * fan_in, out_channels // groups, kh, kw)
    return F.conv_transpose2d(x, w, stride=up, groups=groups)
