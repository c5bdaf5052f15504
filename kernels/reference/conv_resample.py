"""Plain torch form of conv2d_resample: a convolution with an up- or downsampling filter before or after it."""

import torch.nn.functional as F
from torch import Tensor

from .upfirdn2d import upfirdn2d_ref

Pads = tuple[int, int, int, int]


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
) -> Tensor:
    """``padding`` is (x0, x1, y0, y1) in pixels of the upsampled image and holds the pads of the filters already."""
    w = w.to(x.dtype)
    if not flip_weight and (w.shape[2] > 1 or w.shape[3] > 1):
        w = w.flip([2, 3])
    kh, kw = w.shape[2], w.shape[3]
    if kh == kw == 1 and up > 1:  # a 1x1 convolution commutes with what acts per channel: run it at the small size
        x = F.conv2d(x, w, groups=groups)
        x = upfirdn2d_ref(x, f, (up, up), (1, 1), padding, flip_filter, up**2)
    elif up > 1:
        x = _conv_up(x, w, up, groups)
        x0, x1, y0, y1 = padding
        rest = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)  # the transposed convolution pads K - 1 itself
        x = upfirdn2d_ref(x, f, (1, 1), (1, 1), rest, flip_filter, up**2)
    elif down > 1:  # filtering commutes with the convolution, so the latter need only visit the pixels that are kept
        x = upfirdn2d_ref(x, f, (1, 1), (1, 1), padding, flip_filter, 1)
        return F.conv2d(x, w, stride=down, groups=groups)
    else:
        x0, x1, y0, y1 = padding
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return F.conv2d(x, w, padding=(y0, x0), groups=groups)
        return F.conv2d(F.pad(x, list(padding)), w, groups=groups)
    if down > 1:
        x = upfirdn2d_ref(x, f, (1, 1), (down, down), (0, 0, 0, 0), flip_filter, 1)
    return x


def _conv_up(x: Tensor, w: Tensor, up: int, groups: int) -> Tensor:
    """Correlate ``w`` with x after zero insertion, all overlaps kept, without forming the zeros."""
    O, I, kh, kw = w.shape
    w = w.flip([2, 3]).reshape(groups, O // groups, I, kh, kw).transpose(1, 2)
    return F.conv_transpose2d(x, w.reshape(groups * I, O // groups, kh, kw), stride=up, groups=groups)
