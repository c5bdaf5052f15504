"""Plain torch form of modulated_conv: a convolution whose input channels are scaled per image."""

import torch
from torch import Tensor

from .conv_resample import conv2d_resample_ref

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
    """Bring both to magnitudes that float16 holds; demodulation cancels the factors."""
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=list(range(1, weight.ndim)), keepdim=True)
    return weight / (peak * fan_in**0.5), styles / styles.abs().amax(dim=1, keepdim=True)


def modulated_conv_ref(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Scale | None,
    noise: Tensor | None,
    up: int,
    padding: Pads,
    filter: Tensor,
    flip_weight: bool,
    form: str,
    eps: float,
) -> Tensor:
    """``form`` is "weights" or "activations"; ``padding`` holds the pads of the filter already."""
    if demodulate and x.dtype == torch.float16:
        weight, styles = prenormalize_ref(weight, styles)
    repeat = x.shape[0] // max(styles.shape[0], 1)
    if form == "activations":
        scale = styles if input_gain is None else styles * input_gain
        y = x * _per_image(scale, repeat, x.dtype)
        y = conv2d_resample_ref(y, weight, filter, up, 1, padding, 1, flip_weight, False)
        if demodulate:
            y = y * _per_image(demodulation_ref(weight, styles, eps), repeat, x.dtype)
    else:
        w = modulate_weights_ref(weight, styles, demodulate, eps)
        w = (w if input_gain is None else w * input_gain).to(x.dtype)
        if up == 1 and w.shape[3:] == (1, 1) and padding == (0, 0, 0, 0):
            y = _matmul(x, w[..., 0, 0], repeat)
        else:
            y = _grouped(x, w, repeat, up, padding, filter, flip_weight)
    return y if noise is None else y + noise.to(y.dtype)


def _per_image(scale: Tensor, repeat: int, dtype: torch.dtype) -> Tensor:
    """[B, C] to [N, C, 1, 1], row n // repeat."""
    return scale.to(dtype).repeat_interleave(repeat, 0)[:, :, None, None]


def _matmul(x: Tensor, w: Tensor, repeat: int) -> Tensor:
    """1x1 convolution with weights [B, O, I] as one matrix product per style row, in the memory format of x."""
    N, fan_in, H, W = x.shape
    B, out_channels, _ = w.shape
    if not x.is_contiguous(memory_format=torch.channels_last):
        flat = x.reshape(N, fan_in, H * W)
        return torch.bmm(w.repeat_interleave(repeat, 0), flat).reshape(N, out_channels, H, W)
    rows = x.permute(0, 2, 3, 1).reshape(B, repeat * H * W, fan_in)
    if B == 1:  # one large product is shared among threads by rows, a batch of one is not
        y = torch.mm(rows[0], w[0].t())
    else:
        y = torch.bmm(rows, w.transpose(1, 2))
    return y.reshape(N, H, W, out_channels).permute(0, 3, 1, 2)


def _grouped(x: Tensor, w: Tensor, repeat: int, up: int, padding: Pads, filter: Tensor, flip_weight: bool) -> Tensor:
    """One group of channels per image."""
    N, B, out_channels = x.shape[0], w.shape[0], w.shape[1]
    if B == 1:
        return conv2d_resample_ref(x, w[0], filter, up, 1, padding, 1, flip_weight, False)
    w = w.repeat_interleave(repeat, 0).flatten(0, 1)
    x = x.reshape(1, N * x.shape[1], *x.shape[2:])
    y = conv2d_resample_ref(x, w, filter, up, 1, padding, N, flip_weight, False)
    return y.reshape(N, out_channels, *y.shape[2:])
