"""A modulated 1x1 layer with noise, bias, activation and clamp, in one pass over the pixels.

    y[n] = clamp(gain lrelu(w''[n // (N // B)] x[n] + noise + b), -c, c),  w'' as in ``modulated_conv``

A product over pixels with one small matrix per style row: each pixel's I inputs are read once, its O outputs written
once. Bias, activation, gain and clamp are the product's epilogue.
"""

import math

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes, check_shapes
from ..base.dispatch import Impl, resolve
from ..filters.bias_act import bias_act
from .modulated_conv import EPS, check_modulation, check_noise, pointwise
from .modulated_layer_ref import modulated_layer_ref


@under_autocast("beside")
def modulated_layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    noise: Tensor | None = None,
    slope: float | None = 0.2,
    gain: float = math.sqrt(2.0),
    clamp: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Modulated 1x1 convolution, noise, bias, leaky ReLU, gain, clamp.

    Args:
        x:          [N, I, H, W] float64|float32|float16|bfloat16; channels_last is read in place.
        weight:     [O, I, 1, 1].
        styles:     [B, I], dtype of weight; N is a multiple of B and image n uses row n // (N // B).
        demodulate: give every output channel unit weight norm, see ``modulated_conv``.
        input_gain: factor on x, a number or a tensor of one; costs no pass over x.
        bias:       [O], cast to the dtype of x in the plain form.
        noise:      broadcastable to the output, added before the bias; None = none.
        slope:      of the leaky ReLU below zero, 0..1; None = no activation.
        gain:       positive factor after the activation; clamp: bound on the magnitude after it, None = none.
    Returns: [N, O, H, W], dtype of x; channels_last where x is, and from the kernel.
    Differentiable: any order in x, weight, styles, input_gain, bias and noise.
    Raises: ValueError on shapes, slope, gain or clamp; TypeError on dtype; RuntimeError where impl="triton" does not
        cover the case: float64.
    Source: StyleGAN2 (arXiv 1912.04958), eq. 1 to 3. The kernel multiplies 16-bit x in its own type and float32 x in
        float32, or in TF32 where ``torch.backends.cuda.matmul.allow_tf32`` says so.
    """
    sizes = check_shapes(x=(x, "N I H W"), weight=(weight, "O I 1 1"))
    N, H, W = sizes["N"], sizes["H"], sizes["W"]
    check_dtypes(FLOATS, x=x)
    check_modulation(N, weight, styles, bias, input_gain)
    check_noise(noise, [N, weight.shape[0], H, W])
    if slope is not None and not 0 <= slope <= 1:
        raise ValueError(f"slope must be within 0..1 or None, got {slope}")
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp must be positive or None, got {clamp}")
    input_gain = input_gain.reshape(()) if isinstance(input_gain, Tensor) else input_gain
    reason = "float64" if x.dtype == torch.float64 else None
    if resolve("modulated_layer", impl, x, unsupported=reason) == "ref":
        return modulated_layer_ref(x, weight, styles, demodulate, input_gain, bias, noise, slope, gain, clamp, EPS)
    if noise is None:
        return pointwise(x, weight, styles, demodulate, input_gain, bias, slope, gain, clamp)
    y = pointwise(x, weight, styles, demodulate, input_gain, None, None, 1.0, None) + noise.to(x.dtype)
    act = "linear" if slope is None else "lrelu"
    return bias_act(y, bias, act=act, alpha=slope, gain=gain, clamp=clamp, inplace=True, impl=impl)
