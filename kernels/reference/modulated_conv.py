"""Plain torch form of modulated_conv: a convolution whose input channels are scaled per image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv_resample import conv2d_resample_ref

Pads = tuple[int, int, int, int]


def modulate_weights_ref(weight: Tensor, styles: Tensor, demodulate: bool, eps: float) -> Tensor:
    """[O, I, *k] and [B, I] to [B, O, I, *k]."""
    w = weight * styles.reshape(styles.shape[0], 1, -1, *[1] * (weight.ndim - 2))
    if demodulate:
        w = w * (w.square().sum(dim=list(range(2, w.ndim)), keepdim=True) + eps).rsqrt()
    return w


def demodulation_ref(weight: Tensor, styles: Tensor, eps: float) -> Tensor:
    """Factor [B, O] that gives every output channel unit weight norm, without forming the weights of every image."""
    energy = weight.square().flatten(2).sum(2) if weight.ndim > 2 else weight.square()  # [O, I]
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
    if form == "activations":
        y = _scaled_activations(x, weight, styles, demodulate, up, padding, filter, flip_weight, eps)
    else:
        w = modulate_weights_ref(weight, styles, demodulate, eps).to(x.dtype)
        if up == 1 and w.shape[3:] == (1, 1) and padding == (0, 0, 0, 0):
            y = _batched_matmul(x, w[..., 0, 0])
        else:
            y = _grouped(x, w, up, padding, filter, flip_weight)
    return y if noise is None else y + noise.to(y.dtype)


def _scaled_activations(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    up: int,
    padding: Pads,
    filter: Tensor,
    flip_weight: bool,
    eps: float,
) -> Tensor:
    repeat = x.shape[0] // styles.shape[0]
    x = x * styles.to(x.dtype).repeat_interleave(repeat, 0)[:, :, None, None]
    y = conv2d_resample_ref(x, weight, filter, up, 1, padding, 1, flip_weight, False)
    if demodulate:
        y = y * demodulation_ref(weight, styles, eps).to(x.dtype).repeat_interleave(repeat, 0)[:, :, None, None]
    return y


def _batched_matmul(x: Tensor, w: Tensor) -> Tensor:
    """1x1 convolution with weights [B, O, I] as one product per style row, in the memory layout of x."""
    N, I, H, W = x.shape
    B, O, _ = w.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1).reshape(B, N // B * H * W, I)
        return torch.bmm(rows, w.transpose(1, 2)).reshape(N, H, W, O).permute(0, 3, 1, 2)
    return torch.bmm(w.repeat_interleave(N // B, 0), x.reshape(N, I, H * W)).reshape(N, O, H, W)


def _grouped(x: Tensor, w: Tensor, up: int, padding: Pads, filter: Tensor, flip_weight: bool) -> Tensor:
    N, I = x.shape[:2]
    B, O = w.shape[:2]
    if B == 1:  # one weight for all images
        return conv2d_resample_ref(x, w[0], filter, up, 1, padding, 1, flip_weight, False)
    w = w.repeat_interleave(N // B, 0).reshape(N * O, I, *w.shape[3:])
    y = conv2d_resample_ref(x.reshape(1, N * I, *x.shape[2:]), w, filter, up, 1, padding, N, flip_weight, False)
    return y.reshape(N, O, *y.shape[2:])
