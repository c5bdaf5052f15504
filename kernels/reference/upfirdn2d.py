"""Plain torch form of upfirdn2d: insert zeros, pad or crop, filter, keep every down-th pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upfirdn2d_ref(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """``f`` is [kh, kw], or [k] for the same taps along both axes; pairs are (x, y), padding is (x0, x1, y0, y1)."""
    N, C, H, W = x.shape
    if up != (1, 1):
        x = x.reshape(N, C, H, 1, W, 1)
        x = F.pad(x, [0, up[0] - 1, 0, 0, 0, up[1] - 1])
        x = x.reshape(N, C, H * up[1], W * up[0])
    x = F.pad(x, list(padding))
    taps = f.to(x.dtype) * gain ** (f.ndim / 2)
    if not flip_filter:
        taps = taps.flip(list(range(f.ndim)))
    if f.ndim == 2:
        return _depthwise(x, taps, (down[1], down[0]))
    return _depthwise(_depthwise(x, taps[None, :], (1, down[0])), taps[:, None], (down[1], 1))


def _depthwise(x: Tensor, taps: Tensor, stride: tuple[int, int]) -> Tensor:
    C = x.shape[1]
    return F.conv2d(x, taps.expand(C, 1, *taps.shape), stride=stride, groups=C)
