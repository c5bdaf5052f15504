"""``modulated_conv2d`` of StyleGAN2's and of StyleGAN3's networks."""

from typing import Any

from torch import Tensor

from ...blocks.modulated_conv import modulate_weights, modulated_conv
from ...filters.conv_resample import conv2d_resample
from .arguments import integers
from .conv2d_gradfix import heed

__all__ = ["modulated_conv2d", "modulated_conv2d_stylegan3"]


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """StyleGAN2's: :func:`kernels.modulated_conv`, ``fused_modconv`` choosing its form; weights also where it shrinks.

    ``no_weight_gradients`` leaves out the gradient of ``weight``, never that of ``styles``.
    """
    weight, styles = heed(weight), styles.to(weight.dtype)
    up, down, padding = int(up), int(down), integers(padding)
    if down == 1:
        return modulated_conv(
            x,
            weight,
            styles,
            demodulate=demodulate,
            noise=noise,
            up=up,
            padding=padding,
            filter=resample_filter,
            flip_weight=flip_weight,
            form="weights" if fused_modconv else "activations",
        )
    N = x.shape[0]
    w = modulate_weights(weight, styles, demodulate=demodulate).flatten(0, 1)
    y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), w, resample_filter, up, down, padding, N, flip_weight)
    y = y.reshape(N, -1, *y.shape[2:])
    return y if noise is None else y + noise.to(y.dtype)


def modulated_conv2d_stylegan3(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    demodulate: bool = True,
    padding: Any = 0,
    input_gain: Tensor | None = None,
) -> Tensor:
    """StyleGAN3's: :func:`kernels.modulated_conv` with weights of unit size per output channel, styles of unit size.

    An ``input_gain`` of more than one number, [I] or [N, I], multiplies x. ``padding`` is torch's: a number or [y, x].
    """
    w, s = heed(w), s.to(w.dtype)
    if demodulate:
        w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
    if input_gain is not None and input_gain.numel() > 1:
        x, input_gain = x * input_gain.expand(s.shape)[:, :, None, None].to(x.dtype), None
    pads = integers(padding)
    pads = pads if isinstance(pads, int) else pads[::-1]
    return modulated_conv(x, w, s, demodulate=demodulate, input_gain=input_gain, padding=pads, form="weights")
