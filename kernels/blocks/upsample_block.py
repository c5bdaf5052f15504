"""First half of an upsampling block: modulated layer, StyleNeRF's upsampler or StyleGAN2's, blur, activation.

    y = clamp(gain lrelu(blur(upsample(w'' * x)) + noise + b), -c, c),   w'' as in ``modulated_conv``

A 1x1 layer before one of StyleNeRF's upsamplers takes two launches: one product at low resolution for the layer and for
the adapter's first layer, which commutes with upsampling; then one kernel that computes the output from this map. Bytes
moved: x and y once; the map, 1.5 elements per channel and pixel of x, is written and read. A narrow layer of 16 bit is
one launch, which keeps the map in the cache and recomputes a part of it in the backward. Larger layers are torch's own
convolution, and so is StyleGAN2's upsampler, with a kernel for the filter and one for the rest.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes, check_shapes
from ..base.constants import kept
from ..base.dispatch import Impl, resolve
from ..filters.bias_act import bias_act
from ..filters.upfirdn2d import setup_filter
from .modulated_conv import EPS, check_modulation, check_noise, image_weights, modulated_conv
from .upsample_block_ref import TAPS, upsample_block_ref
from .upsample_features import UPSAMPLE_MODES, Adapter, check_adapter, upsample_features

BLOCK_MODES = (*UPSAMPLE_MODES, "transposed")
JOINED_MODES = ("nn_cat", "pixelshuffle", "bilinear")  # modes with a kernel for upsampling, bias and activation


@under_autocast("beside")
def upsample_block(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    mode: str,
    adapter: Adapter | None = None,
    taps: Sequence[float] | None = TAPS,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    noise: Tensor | None = None,
    gain: float = math.sqrt(2.0),
    clamp: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Modulated convolution with demodulation, twofold upsampling, noise, bias, leaky ReLU (0.2), gain, clamp.

    Args:
        x:             [N, I, H, W] float64|float32|float16|bfloat16; channels_last is read in place.
        weight:        [C, I, K, K] with odd K, laid out for a true convolution as StyleGAN2's enlarging layers are; the
                       image is padded with K // 2 zeros.
        styles:        [B, I], dtype of weight; N is a multiple of B and image n uses row n // (N // B).
        mode, adapter: as in ``upsample_features``, for C channels; or "transposed" without an adapter, StyleGAN2's own:
                       zero insertion, convolution, blur with gain 4.
        taps:          of the blur along both axes, scaled to sum 1; None = no blur. numbers, since kernels compile
                       them in. The bilinear and bicubic modes are never blurred.
        input_gain:    factor on x, a number or a tensor of one; costs no pass over x.
        bias:          [C] or None.
        noise:         broadcastable to the output, added before the bias; None = none.
        gain:          positive factor after the activation; clamp: bound on the magnitude after it, None = none.
    Returns: [N, C, 2H, 2W], dtype of x; channels_last with an adapter, and from the kernels that enlarge.
    Differentiable: any order in x, weight, styles, adapter, input_gain, bias and noise. The kernels pass no gradient
        where the output is at the clamp.
    Raises: ValueError on mode, shapes, adapter, taps, gain or clamp; TypeError on dtype; RuntimeError where
        impl="triton" does not cover the case: float64; modes nearest, bicubic and bilinear_ada; in the others except
        transposed, other taps than 1, 3, 3, 1, noise that differs between channels, or noise with bilinear. "auto" then
        runs kernels for the layer and the activation.
    Source: StyleNeRF (arXiv 2110.08985), section 3.3; StyleGAN2 (arXiv 1912.04958), appendix B. The kernels multiply
        16-bit x in its own type and float32 x in float32, or in TF32 where ``torch.backends.cuda.matmul.allow_tf32``
        says so.
    """
    sizes = check_shapes(x=(x, "N I H W"), weight=(weight, "C I K K"))
    N, C, H, W, K = (sizes[name] for name in "NCHWK")
    check_dtypes(FLOATS, x=x)
    if 0 in (C, H, W):
        raise ValueError(f"x must have pixels and weight channels, got {list(x.shape)} and {list(weight.shape)}")
    if K % 2 == 0:
        raise ValueError(f"weight must be [C, I, K, K] with odd K, got {list(weight.shape)}")
    check_modulation(N, weight, styles, bias, input_gain)
    check_choice("mode", mode, BLOCK_MODES)
    check_adapter(mode, adapter, C)
    check_noise(noise, [N, C, 2 * H, 2 * W])
    if taps is not None and (not taps or sum(taps) == 0):
        raise ValueError(f"taps must have a sum to scale by, got {list(taps)}")
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp must be positive or None, got {clamp}")
    factor = input_gain.reshape(()) if isinstance(input_gain, Tensor) else input_gain
    reason = _unsupported(x, mode, taps, noise)
    chosen = resolve("upsample_block", impl, x, unsupported=reason)
    if chosen == "ref" and (impl == "ref" or reason is None):
        f = _filter(taps, x.device)
        return upsample_block_ref(x, weight, styles, factor, mode, adapter, f, bias, noise, gain, clamp, EPS)
    if chosen == "ref" or mode == "transposed":
        y = _enlarge(x, weight, styles, mode, adapter, taps, factor, impl)
        y = y if noise is None else y + noise.to(y.dtype)
        return bias_act(y, bias, act="lrelu", gain=gain, clamp=clamp, inplace=True, impl=impl)
    w = None
    if K == 1:
        w = image_weights(x, weight, styles, True, factor).float()
    else:
        x = modulated_conv(x, weight, styles, input_gain=factor, padding=K // 2, flip_weight=False, impl=impl)
    b = x.new_zeros(C) if bias is None else bias
    return _by_kernels(x, w, mode, adapter, taps is not None, b, noise, gain, clamp)


def _enlarge(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    mode: str,
    adapter: Adapter | None,
    taps: Sequence[float] | None,
    input_gain: Tensor | float | None,
    impl: Impl,
) -> Tensor:
    """blur(upsample(w'' * x)), by one op for the layer and one for the upsampler, or by one op for both."""
    f, transposed = _filter(taps, x.device), mode == "transposed"
    y = modulated_conv(
        x,
        weight,
        styles,
        input_gain=input_gain,
        up=2 if transposed else 1,
        padding=weight.shape[2] // 2,
        filter=f if transposed else None,
        flip_weight=False,
        impl=impl,
    )
    return y if transposed else upsample_features(y, mode=mode, adapter=adapter, filter=f)


def _filter(taps: Sequence[float] | None, device: torch.device) -> Tensor | None:
    return None if taps is None else kept(setup_filter, tuple(taps), device=device)


def _by_kernels(
    x: Tensor,
    weight: Tensor | None,
    mode: str,
    adapter: Adapter | None,
    blur: bool,
    bias: Tensor,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """``weight`` [B, C, I] float32, None if x is the layer's output already; the rest as in ``upsample_block``."""
    pixels = x.permute(0, 2, 3, 1).contiguous()
    if noise is not None:  # [N or 1, 2H, 2W]: the same for all channels
        planes = noise.reshape((1,) * (4 - noise.ndim) + noise.shape)[:, 0]
        noise = planes.expand(planes.shape[0], 2 * x.shape[2], 2 * x.shape[3])
    tf32 = torch.backends.cuda.matmul.allow_tf32
    from . import upsample_block_triton

    y: Tensor = upsample_block_triton.upsample_block(
        pixels, weight, mode, adapter, blur, bias, noise, gain, clamp, tf32
    )
    return y.permute(0, 3, 1, 2)


def _unsupported(x: Tensor, mode: str, taps: Sequence[float] | None, noise: Tensor | None) -> str | None:
    """Why the kernels do not cover this call, or None."""
    if x.dtype == torch.float64:
        return "float64"
    if mode == "transposed":
        return None
    if mode not in JOINED_MODES:
        return f"mode '{mode}'"
    if mode != "bilinear" and taps is not None and not _proportional(taps):
        return f"taps {list(taps)}"
    if noise is not None and mode == "bilinear":
        return "noise with mode 'bilinear'"
    if noise is not None and noise.ndim >= 3 and noise.shape[-3] != 1:
        return "noise that differs between channels"
    return None


def _proportional(taps: Sequence[float]) -> bool:
    total = sum(taps)
    return len(taps) == len(TAPS) and all(math.isclose(t / total, k / sum(TAPS)) for t, k in zip(taps, TAPS))
