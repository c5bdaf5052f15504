"""Definition of modulated_layer in plain torch: a modulated 1x1 layer, noise, bias, activation, gain and clamp."""

from torch import Tensor

from ..filters.bias_act_ref import bias_act_ref
from .modulated_conv_ref import Scale, modulated_conv_ref


def modulated_layer_ref(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Scale | None,
    bias: Tensor | None,
    noise: Tensor | None,
    slope: float | None,
    gain: float,
    clamp: float | None,
    eps: float,
) -> Tensor:
    """``weight`` is [O, I, 1, 1]; ``slope`` is None where there is no activation."""
    early = None
    if slope is None and gain == 1 and noise is None:
        early, bias = bias, None  # the bias costs nothing within the product
    form = "weights" if x.shape[0] else "activations"  # a grouped convolution needs at least one group
    taps, pads = x.new_ones(1, 1), (0, 0, 0, 0)
    y = modulated_conv_ref(x, weight, styles, demodulate, input_gain, early, noise, 1, pads, taps, True, form, eps)
    act, alpha = ("linear", 0.0) if slope is None else ("lrelu", slope)
    return bias_act_ref(y, bias, 1, act, alpha, gain, clamp, True)
