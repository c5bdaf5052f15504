"""Definition of upsample_features in plain torch, as defined ("plain") and in a cheaper order ("commuted").

The commuted form uses three identities. Nearest, corner average and blur act per channel, so they commute with 1x1
layers. Each is a zero insertion followed by a small filter, and so is blur(nearest(x)). A constant added after
upsampling and before a blur can be added to the small image instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.constants import constant
from ..filters.upfirdn2d_ref import upfirdn2d_ref

SLOPE, GAIN = 0.2, 2**0.5
CORNER = ((0.0, 0.5, 0.5, 0.0), (0.5, 0.0, 0.0, 0.5), (0.5, 0.0, 0.0, 0.5), (0.0, 0.5, 0.5, 0.0))

Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # weight0, bias0, weight1, bias1


def upsample_features_plain(x: Tensor, mode: str, adapter: Weights | None, f: Tensor | None) -> Tensor:
    """The definition, one operation after the other."""
    if mode in ("bilinear", "bicubic", "bilinear_ada"):
        y = _aligned(x, mode.removesuffix("_ada"))
        return y if adapter is None else y + _adapt(y, adapter)
    y = F.interpolate(x, scale_factor=2, mode="nearest")
    if adapter is not None and mode == "nn_cat":
        y = y + _adapt(torch.cat([y, corner_average(x)], dim=1), adapter)
    elif adapter is not None and mode == "pixelshuffle":
        y = y + F.pixel_shuffle(_adapt(x, adapter), 2)
    return y if f is None else _blur(y, f)


def corner_average(x: Tensor) -> Tensor:
    """Twice the size: half the sum of the two pixels beside each corner of a pixel, zero outside the image."""
    p = F.pad(x, [1, 1, 1, 1])
    left, right, above, below = p[..., 1:-1, :-2], p[..., 1:-1, 2:], p[..., :-2, 1:-1], p[..., 2:, 1:-1]
    corners = torch.stack([left + above, right + above, left + below, right + below], dim=2) / 2
    return F.pixel_shuffle(corners.flatten(1, 2), 2)


def _adapt(x: Tensor, adapter: Weights) -> Tensor:
    w0, b0, w1, b1 = (t.to(x.dtype) for t in adapter)
    hidden = F.leaky_relu(F.conv2d(x, w0[:, :, None, None], b0), SLOPE) * GAIN
    return F.conv2d(hidden, w1[:, :, None, None], b1)


def _aligned(x: Tensor, mode: str) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode=mode, align_corners=True)


def _blur(x: Tensor, f: Tensor) -> Tensor:
    kh, kw = f.shape[0], f.shape[-1]
    return upfirdn2d_ref(x, f, (1, 1), (1, 1), (kw // 2, (kw - 1) // 2, kh // 2, (kh - 1) // 2), False, 1)


def upsample_features_commuted(x: Tensor, mode: str, adapter: Weights | None, f: Tensor | None) -> Tensor:
    """The cheaper order; the result is channels_last where there is an adapter."""
    if adapter is None:
        return _nearest(x, f) if mode == "nearest" else _aligned(x, mode)
    w0, b0, w1, b1 = (t.to(x.dtype) for t in adapter)
    w1 = w1 * GAIN  # leaky ReLU is homogeneous, so its gain can multiply the next weights
    x = x.contiguous(memory_format=torch.channels_last)
    if mode == "pixelshuffle":
        return _pixelshuffle(x, (w0, b0, w1, b1), f)
    shifted = x + b1[:, None, None]
    if mode == "nn_cat":
        hidden = _nearest(_pointwise(x, w0[:, : x.shape[1]], b0), None)
        hidden = _add(hidden, _corner(_pointwise(x, w0[:, x.shape[1] :])))
        hidden = _activate(hidden)
        return _add_product(_nearest(shifted, f), hidden if f is None else _blur(hidden, f), w1)
    hidden = _activate(_aligned(_pointwise(x, w0, b0), "bilinear"))
    return _add_product(_aligned(shifted, "bilinear"), hidden, w1)


def _nearest(x: Tensor, f: Tensor | None) -> Tensor:
    """Repeat every pixel twice along both axes, then blur."""
    taps = x.new_ones(2, 2) if f is None else _widen(f)
    kh, kw = taps.shape[0], taps.shape[-1]
    pads = ((kw - 1) // 2 + 1, kw // 2 - 1, (kh - 1) // 2 + 1, kh // 2 - 1)
    return upfirdn2d_ref(x, taps, (2, 2), (1, 1), pads, False, 1)


def _widen(f: Tensor) -> Tensor:
    """Taps of f after a box of two, along both axes."""
    f = F.pad(f, [0, 1]) + F.pad(f, [1, 0])
    return f if f.ndim == 1 else F.pad(f, [0, 0, 0, 1]) + F.pad(f, [0, 0, 1, 0])


def _corner(x: Tensor) -> Tensor:
    """``corner_average`` as zero insertion and a filter."""
    return upfirdn2d_ref(x, constant(CORNER, like=x), (2, 2), (1, 1), (2, 1, 2, 1), False, 1)


def _pixelshuffle(x: Tensor, adapter: Weights, f: Tensor | None) -> Tensor:
    w0, b0, w1, b1 = adapter
    N, C, H, W = x.shape
    hidden = _activate(_pointwise(x, w0, b0))
    w1 = w1.reshape(C, 4, -1).transpose(0, 1).flatten(0, 1)  # the four subpixels first: channels stay contiguous
    y = _pointwise(hidden, w1, b1.reshape(C, 4).t().flatten()).permute(0, 2, 3, 1).reshape(N, H, W, 4, C)
    y = _add(y, x.permute(0, 2, 3, 1)[..., None, :])
    y = y.reshape(N, H, W, 2, 2, C).transpose(2, 3).reshape(N, 2 * H, 2 * W, C).permute(0, 3, 1, 2)
    return y if f is None else _blur(y, f)


def _pointwise(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """1x1 layer on a channels_last image."""
    return F.linear(x.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2)


def _activate(x: Tensor) -> Tensor:
    """Leaky ReLU, in place where autograd does not record."""
    return F.leaky_relu(x, SLOPE, inplace=not _recording(x))


def _add(y: Tensor, other: Tensor) -> Tensor:
    """y + other, in place where autograd does not record."""
    return y + other if _recording(y, other) else y.add_(other)


def _add_product(y: Tensor, hidden: Tensor, w: Tensor) -> Tensor:
    """y + w hidden per pixel, in place where autograd does not record."""
    N, C, H, W = y.shape
    rows = y.permute(0, 2, 3, 1).reshape(-1, C)
    factor = hidden.permute(0, 2, 3, 1).reshape(-1, hidden.shape[1])
    out = torch.addmm(rows, factor, w.t()) if _recording(y, hidden, w) else rows.addmm_(factor, w.t())
    return out.reshape(N, H, W, C).permute(0, 3, 1, 2)


def _recording(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
