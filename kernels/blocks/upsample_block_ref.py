"""Definition of upsample_block in plain torch: the ops that it fuses, in sequence, and its second half alone."""

import torch.nn.functional as F
from torch import Tensor

from ..base.constants import constant
from ..filters.bias_act_ref import bias_act_ref
from ..filters.upfirdn2d_ref import upfirdn2d_ref
from .modulated_conv_ref import Scale, modulated_conv_ref
from .upsample_features_ref import GAIN, SLOPE, Weights, corner_average, upsample_features_commuted

TAPS = (1, 3, 3, 1)


def upsample_block_ref(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    input_gain: Scale | None,
    mode: str,
    adapter: Weights | None,
    f: Tensor | None,
    bias: Tensor | None,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
    eps: float,
) -> Tensor:
    """``weight`` is [O, I, k, k] with odd k, ``f`` as ``upfirdn2d`` takes it."""
    taps, up, p = x.new_ones(1, 1), 1, weight.shape[2] // 2
    pads = (p, p, p, p)
    if mode == "transposed":
        taps, up = taps if f is None else f, 2
        kh, kw = taps.shape[0], taps.shape[-1]
        pads = (p + (kw + 1) // 2, p + (kw - 2) // 2, p + (kh + 1) // 2, p + (kh - 2) // 2)
    small = len(styles) == 1 or (up == 1 and p == 0)  # weights per image are cheap, or all images share a style
    form = "weights" if x.shape[0] and small else "activations"  # a grouped convolution needs at least one group
    y = modulated_conv_ref(x, weight, styles, True, input_gain, None, None, up, pads, taps, False, form, eps)
    if mode != "transposed":
        y = upsample_features_commuted(y, mode, adapter, f)
    if noise is not None:
        y = y + noise.to(y.dtype)
    return bias_act_ref(y, bias, 1, "lrelu", SLOPE, gain, clamp, True)


def upsample_combine_ref(
    map: Tensor,
    weight1: Tensor,
    bias0: Tensor,
    bias1: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    mode: str,
    blur: bool,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Second half of ``nn_cat`` and ``pixelshuffle``: their output from x and the first layer's products.

    Args:
        map: [N, H, W, C + 2D] holds x, W0a x and half of W0b x; for pixelshuffle [N, H, W, C + D] holds x and W0 x.
        noise: [N or 1, 2H, 2W] or None.
    Returns: [N, 2H, 2W, C].
    """
    w1, b0, b1 = (t.to(map.dtype) for t in (weight1, bias0, bias1))
    D = w1.shape[1]
    C = b1.shape[0] // (4 if mode == "pixelshuffle" else 1)
    image = map.permute(0, 3, 1, 2)
    x, own = image[:, :C], image[:, C : C + D] + b0[:, None, None]
    if mode == "nn_cat":
        own = _nearest(own) + corner_average(2 * image[:, C + D :])
    hidden = F.leaky_relu(own, SLOPE) * GAIN
    added = F.conv2d(hidden, w1[:, :, None, None], b1)
    y = _nearest(x) + (F.pixel_shuffle(added, 2) if mode == "pixelshuffle" else added)
    if blur:
        taps = constant(TAPS, like=y) / sum(TAPS)
        y = upfirdn2d_ref(y, taps, (1, 1), (1, 1), (2, 1, 2, 1), False, 1)
    if noise is not None:
        y = y + noise[:, None].to(y.dtype)
    return bias_act_ref(y, bias, 1, "lrelu", SLOPE, gain, clamp, False).permute(0, 2, 3, 1)


def _nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
