"""Convolution whose input channels are scaled by a style, per image, with optional demodulation.

    w'[b,o,i,k] = w[o,i,k] s[b,i],  w'' = w' / sqrt(sum_{i,k} w'^2 + eps),  y[n] = w''[n // (N // B)] * x[n] (+ noise)

"weights" forms w'' per image; "activations" scales the input by s and the output by the demodulation factor. Both are
the same sum in another order.
"""

from typing import Literal

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes, check_shapes
from ..base.dispatch import Impl, resolve
from ..filters.conv_resample import centre_filters, check_factors, filter_by, output_size
from ..filters.upfirdn2d import Ints, check_filter, parse_padding
from .modulated_conv_ref import modulate_weights_ref, modulated_conv_ref, prenormalize_ref

FORMS = ("auto", "weights", "activations")
EPS = 1e-8


@under_autocast("others")
def modulate_weights(weight: Tensor, styles: Tensor, *, demodulate: bool = True, eps: float = EPS) -> Tensor:
    """Weights of every style row: w[o,i,k] s[b,i], divided by their norm over (i, k) if ``demodulate``.

    Args:
        weight:     [O, I, *k] with any number of kernel dims, also none; float64|float32|float16|bfloat16.
        styles:     [B, I] same dtype, scale of each input channel, no unit.
        demodulate: give every output channel unit norm.
        eps:        added under the root.
    Returns: [B, O, I, *k], dtype of weight.
    Differentiable: any order in weight and styles.
    Raises: ValueError on shape, TypeError on dtype.
    Source: StyleGAN2 (arXiv 1912.04958), eq. 1 and 3.
    """
    _check_weights(weight, styles)
    return modulate_weights_ref(weight, styles, demodulate, eps)


@under_autocast("beside")
def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    noise: Tensor | None = None,
    up: int = 1,
    padding: Ints = 0,
    filter: Tensor | None = None,
    flip_weight: bool = True,
    form: Literal["auto", "weights", "activations"] = "auto",
    impl: Impl = "auto",
) -> Tensor:
    """Modulated convolution, optionally enlarging by ``up``.

    Args:
        x:           [N, I, H, W] float64|float32|float16|bfloat16; channels_last stays channels_last.
        weight:      [O, I, kh, kw].
        styles:      [B, I], dtype of weight; N is a multiple of B and image n uses row n // (N // B).
        demodulate:  give every output channel unit weight norm (eps 1e-8). A float16 x then has weight divided by
                     sqrt(I kh kw) max|weight| per output channel and styles by their largest magnitude per row, which
                     demodulation cancels, so that nothing overflows.
        input_gain:  factor on x, a number or a tensor of one; demodulation ignores it, and it costs no pass over x.
        bias:        [O], added to the result; on a CPU at no cost for 1x1 kernels and one style row.
        noise:       broadcastable to the output, added to it; None = none.
        up, padding, filter, flip_weight: as in ``conv2d_resample``.
        form:        "weights" (1x1 without up: a matrix product per image), "activations", or "auto": weights where all
                     images share a style or the kernel is 1x1, else activations. The kernel has one form.
        impl:        "triton": a 1x1 kernel without up or padding is one product over the pixels, in the type of x
                     (float32: TF32 where ``torch.backends.cuda.matmul.allow_tf32``), the result channels_last; others
                     are torch's own convolution (cuDNN), with the filter as a kernel.
    Returns: [N, O, H*up + y0 + y1 - kh + 1, likewise in x], dtype of x.
    Differentiable: any order in x, weight, styles, input_gain, bias and noise.
    Raises: ValueError on shapes, factors and form; TypeError on dtype; RuntimeError for impl="triton" with float64.
    Source: StyleGAN2 (arXiv 1912.04958), eq. 1 to 3.
    """
    N = check_shapes(x=(x, "N I H W"), weight=(weight, "O I KH KW"))["N"]
    check_dtypes(FLOATS, x=x)
    B = check_modulation(N, weight, styles, bias, input_gain)
    check_factors(up=up)
    check_choice("form", form, FORMS)
    check_filter(filter)
    pads = parse_padding(padding)
    shape = [N, weight.shape[0], *output_size(x, weight, up, 1, pads)]
    check_noise(noise, shape)
    gain = input_gain.reshape(()) if isinstance(input_gain, Tensor) else input_gain
    reason = "float64" if x.dtype == torch.float64 else None
    chosen = resolve("modulated_conv", impl, x, unsupported=reason)
    if chosen == "triton" and weight.shape[2:] == (1, 1) and up == 1 and pads == (0, 0, 0, 0):
        y = pointwise(x, weight, styles, demodulate, gain, bias, None, 1.0, None)
        return y if noise is None else y + noise.to(y.dtype)
    if form == "auto":
        form = "weights" if B == 1 or (up == 1 and weight.shape[2:] == (1, 1)) else "activations"
    if N == 0:
        form = "activations"  # a grouped convolution needs at least one group
    taps = x.new_ones(1, 1) if filter is None else filter
    pads = centre_filters(filter, up, 1, pads)
    fir = filter_by(impl)
    return modulated_conv_ref(
        x, weight, styles, demodulate, gain, bias, noise, up, pads, taps, flip_weight, form, EPS, fir
    )


def pointwise(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Tensor | float | None,
    bias: Tensor | None,
    slope: float | None,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """clamp(gain lrelu(w'' x + b)) by the kernel, channels_last; ``weight`` [O, I, 1, 1], no activation for None."""
    w = image_weights(x, weight, styles, demodulate, input_gain)
    (N, I, H, W), B = x.shape, styles.shape[0]  # noqa: E741
    rows = x.permute(0, 2, 3, 1).reshape(B, N // max(B, 1) * H * W, I).contiguous()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    from . import modulated_layer_triton

    y: Tensor = modulated_layer_triton.pointwise_layer(rows, w.float(), bias, slope, gain, clamp, tf32)
    return y.view(N, H, W, w.shape[1]).permute(0, 3, 1, 2)


def image_weights(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, input_gain: Tensor | float | None
) -> Tensor:
    """w'' of every style row [B, O, I] for x, times ``input_gain``; ``weight`` [O, I, 1, 1]."""
    flat = weight[:, :, 0, 0]
    if demodulate and x.dtype == torch.float16:
        flat, styles = prenormalize_ref(flat, styles)
    w = modulate_weights_ref(flat, styles, demodulate, EPS)
    return w if input_gain is None else w * input_gain


def check_modulation(
    N: int, weight: Tensor, styles: Tensor, bias: Tensor | None, input_gain: Tensor | float | None
) -> int:
    """Check the operands of a modulated layer of N images; return the number of style rows."""
    B = _check_weights(weight, styles)
    if (N % B if B else N) != 0:
        raise ValueError(f"styles must be [B, I] with B dividing the batch N={N}, got {list(styles.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [O] with O={weight.shape[0]}, got {list(bias.shape)}")
    if isinstance(input_gain, Tensor) and input_gain.numel() != 1:
        raise ValueError(f"input_gain must be one number, got {list(input_gain.shape)}")
    return B


def check_noise(noise: Tensor | None, shape: list[int]) -> None:
    """Refuse noise that cannot be added to an output of ``shape``."""
    if noise is None:
        return
    fits = noise.ndim <= len(shape) and all(a in (1, b) for a, b in zip(reversed(noise.shape), reversed(shape)))
    if not fits:
        raise ValueError(f"noise must broadcast to the output {shape}, got {list(noise.shape)}")


def _check_weights(weight: Tensor, styles: Tensor) -> int:
    if weight.ndim < 2:
        raise ValueError(f"weight must be [O, I, *kernel], got {list(weight.shape)}")
    if styles.ndim != 2 or styles.shape[1] != weight.shape[1]:
        raise ValueError(f"styles must be [B, I] with I={weight.shape[1]}, got {list(styles.shape)}")
    check_dtypes(FLOATS, weight=weight)
    check_dtypes((weight.dtype,), styles=styles)
    return styles.shape[0]
