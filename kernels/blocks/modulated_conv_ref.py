"""Definition of modulated_conv in plain torch: a convolution whose input channels are scaled per image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..filters.conv_resample_ref import conv2d_resample_ref
from ..filters.upfirdn2d_ref import upfirdn2d_ref

Pads = tuple[int, int, int, int]
Scale = Tensor | float


def modulate_weights_ref(weight: Tensor, styles: Tensor, demodulate: bool, eps: float) -> Tensor:
    """[O, I, *k] and [B, I] to [B, O, I, *k]."""
    w = weight * styles.reshape(styles.shape[0], 1, styles.shape[1], *[1] * (weight.ndim - 2))
    if demodulate:
        w = w * (w.square().sum(dim=list(range(2, w.ndim)), keepdim=True) + eps).rsqrt()
    return w


def demodulation_ref(weight: Tensor, styles: Tensor, eps: float) -> Tensor:
    """Factor [B, O] that gives every output channel unit weight norm, without forming the weights of every image."""
    energy = weight.square().flatten(2).sum(2)  # [O, I]
    return (styles.square() @ energy.t() + eps).rsqrt()


def prenormalize_ref(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both to magnitudes that float16 can represent; demodulation cancels the factors."""
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=list(range(1, weight.ndim)), keepdim=True)
    return weight / (peak * fan_in**0.5), styles / styles.abs().amax(dim=1, keepdim=True)


def modulated_conv_ref(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Scale | None,
    bias: Tensor | None,
    noise: Tensor | None,
    up: int,
    padding: Pads,
    filter: Tensor,
    flip_weight: bool,
    form: str,
    eps: float,
    fir: Callable[..., Tensor] = upfirdn2d_ref,
) -> Tensor:
    """``form`` is "weights" or "activations"; ``padding`` includes the filter's; ``fir`` runs the filter."""
    if demodulate and x.dtype == torch.float16:
        weight, styles = prenormalize_ref(weight, styles)
    repeat = x.shape[0] // max(styles.shape[0], 1)
    bias = None if bias is None else bias.to(x.dtype)
    if form == "activations":
        scale = styles if input_gain is None else styles * input_gain
        y = x * _per_image(scale, repeat, x.dtype)
        y = conv2d_resample_ref(y, weight, filter, up, 1, padding, 1, flip_weight, False, fir)
        if demodulate:
            y = y * _per_image(demodulation_ref(weight, styles, eps), repeat, x.dtype)
        y = _add_bias(y, bias)
    else:
        w = modulate_weights_ref(weight, styles, demodulate, eps)
        w = (w if input_gain is None else w * input_gain).to(x.dtype)
        if up == 1 and w.shape[3:] == (1, 1) and padding == (0, 0, 0, 0):
            y = _pointwise(x, w[..., 0, 0], bias, repeat)
        else:
            y = _add_bias(_grouped(x, w, repeat, up, padding, filter, flip_weight, fir), bias)
    return y if noise is None else y + noise.to(y.dtype)


def _per_image(scale: Tensor, repeat: int, dtype: torch.dtype) -> Tensor:
    """[B, C] to [N, C, 1, 1], row n // repeat."""
    return scale.to(dtype).repeat_interleave(repeat, 0)[:, :, None, None]


def _add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias[:, None, None]


def _pointwise(x: Tensor, w: Tensor, bias: Tensor | None, repeat: int) -> Tensor:
    """1x1 convolution with weights [B, O, I], one matrix product per style row, in the memory format of x."""
    N, fan_in, H, W = x.shape
    B, out_channels, _ = w.shape
    if B == 1:
        return F.conv2d(x, w[0, :, :, None, None], bias)
    if not x.is_contiguous(memory_format=torch.channels_last):
        w, rows = w.repeat_interleave(repeat, 0), x.reshape(N, fan_in, H * W)
        y = torch.bmm(w, rows) if bias is None else torch.baddbmm(bias[:, None], w, rows)
        return y.reshape(N, out_channels, H, W)
    w, rows = w.transpose(1, 2), x.permute(0, 2, 3, 1).reshape(B, repeat * H * W, fan_in)
    y = torch.bmm(rows, w) if bias is None else torch.baddbmm(bias, rows, w)
    return y.reshape(N, H, W, out_channels).permute(0, 3, 1, 2)


def _grouped(
    x: Tensor,
    w: Tensor,
    repeat: int,
    up: int,
    padding: Pads,
    filter: Tensor,
    flip_weight: bool,
    fir: Callable[..., Tensor],
) -> Tensor:
    """One group of channels per image."""
    N, B, out_channels = x.shape[0], w.shape[0], w.shape[1]
    if B == 1:
        return conv2d_resample_ref(x, w[0], filter, up, 1, padding, 1, flip_weight, False, fir)
    w = w.repeat_interleave(repeat, 0).flatten(0, 1)
    x = x.reshape(1, N * x.shape[1], *x.shape[2:])
    y = conv2d_resample_ref(x, w, filter, up, 1, padding, N, flip_weight, False, fir)
    return y.reshape(N, out_channels, *y.shape[2:])
