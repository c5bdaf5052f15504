"""Plain torch form of upsample_features, as defined ("plain") and rearranged ("commuted")."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .upfirdn2d import upfirdn2d_ref

SLOPE, GAIN = 0.2, 2**0.5


def corner_average(x: Tensor) -> Tensor:
    """Twice the size: every new pixel is half the sum of its two neighbours beyond its corner, zero outside."""
    p = F.pad(x, [1, 1, 1, 1])
    left, right, above, below = p[..., 1:-1, :-2], p[..., 1:-1, 2:], p[..., :-2, 1:-1], p[..., 2:, 1:-1]
    four = torch.stack([left + above, right + above, left + below, right + below], dim=2) / 2
    return F.pixel_shuffle(four.flatten(1, 2), 2)


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def upsample_features_plain(x: Tensor, mode: str, adapter: tuple[Tensor, ...] | None, f: Tensor | None) -> Tensor:
    if mode in ("bilinear", "bicubic"):
        return F.interpolate(x, scale_factor=2, mode=mode, align_corners=True)
    if mode == "bilinear_ada":
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return x + _adapt(x, adapter)
    y = nearest(x)
    if mode == "nn_cat":
        y = y + _adapt(torch.cat([y, corner_average(x)], 1), adapter)
    elif mode == "pixelshuffle":
        y = y + F.pixel_shuffle(_adapt(x, adapter), 2)
    return y if f is None else blur(y, f)


def blur(x: Tensor, f: Tensor) -> Tensor:
    kh, kw = f.shape[0], f.shape[-1]
    return upfirdn2d_ref(x, f, (1, 1), (1, 1), (kw // 2, (kw - 1) // 2, kh // 2, (kh - 1) // 2), False, 1)


def _adapt(x: Tensor, adapter: tuple[Tensor, ...]) -> Tensor:
    w0, b0, w1, b1 = (t.to(x.dtype) for t in adapter)
    h = F.leaky_relu(F.conv2d(x, w0[:, :, None, None], b0), SLOPE) * GAIN
    return F.conv2d(h, w1[:, :, None, None], b1)


def upsample_features_commuted(x: Tensor, mode: str, adapter: tuple[Tensor, ...] | None, f: Tensor | None) -> Tensor:
    return upsample_features_plain(x, mode, adapter, f)
