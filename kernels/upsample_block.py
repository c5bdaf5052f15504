"""What an upsampling block of StyleNeRF does to enlarge: modulated 1x1 layer, learned upsampler, blur, activation.

    y = clamp(gain lrelu(blur(upsample(w'' x)) + noise + b), -c, c),   w'' as in ``modulated_conv``

Two launches: one product at low resolution for the layer and for the adapter's first layer, which commutes with the
enlargement; then one kernel that makes the output of it. Read: x, and 1.5 numbers per channel and pixel of it between
the launches (written too); written: y.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import FLOATS, check_choice, check_dtypes, check_shapes
from .dispatch import Impl, fused, resolve
from .modulated_conv import EPS, check_modulation, check_noise, image_weights
from .reference.upsample_block import TAPS, upsample_block_ref
from .upfirdn2d import setup_filter
from .upsample import UPSAMPLE_MODES, Adapter, check_adapter


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
    """Modulated 1x1 convolution with demodulation, twofold upsampling, noise, bias, leaky ReLU (0.2), gain, clamp.

    Args:
        x:             [N, I, H, W] float64|float32|float16|bfloat16; channels_last is read as it lies.
        weight:        [C, I, 1, 1].
        styles:        [B, I], dtype of weight; N is a multiple of B and image n uses row n // (N // B).
        mode, adapter: as in ``upsample_features``, for C channels.
        taps:          of the blur along both axes, scaled to sum 1; None = no blur. As numbers, since a kernel has them
                       in its code. The bilinear and bicubic modes are never blurred.
        input_gain:    one number, or a tensor of one, that x is multiplied with; costs no pass over x.
        bias:          [C] or None.
        noise:         broadcastable to the output, added before the bias; None = none.
        gain:          positive factor after the activation; clamp: bound on the magnitude after it, None = none.
    Returns: [N, C, 2H, 2W], dtype of x; channels_last with an adapter, and from the kernels.
    Differentiable: any order in x, weight, styles, adapter, input_gain, bias and noise. Where the output has reached
        its bound the kernels pass no gradient.
    Raises: ValueError on mode, shapes, adapter, taps, gain or clamp; TypeError on dtype; RuntimeError where
        impl="triton" does not cover the case: float64, other modes than nn_cat, pixelshuffle and bilinear, other taps
        than 1, 3, 3, 1, noise that differs between channels, or noise with bilinear.
    Source: StyleNeRF (arXiv 2110.08985), section 3.3. The kernels multiply 16-bit x in its own type and float32 x in
        float32, or in TF32 where ``torch.backends.cuda.matmul.allow_tf32`` says so.
    """
    sizes = check_shapes(x=(x, "N I H W"), weight=(weight, "C I 1 1"))
    N, C, H, W = (sizes[name] for name in "NCHW")
    check_dtypes(FLOATS, x=x)
    if 0 in (C, H, W):
        raise ValueError(f"x must have pixels and weight channels, got {list(x.shape)} and {list(weight.shape)}")
    check_modulation(N, weight, styles, bias, input_gain)
    check_choice("mode", mode, UPSAMPLE_MODES)
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
    if resolve("upsample_block", impl, x, unsupported=reason) == "ref":
        f = None if taps is None else setup_filter(taps, device=x.device)
        return upsample_block_ref(x, weight, styles, factor, mode, adapter, f, bias, noise, gain, clamp, EPS)
    w = image_weights(x, weight, styles, True, factor).float()
    b = x.new_zeros(C) if bias is None else bias
    return _by_kernels(x, w, mode, adapter, taps is not None, b, noise, gain, clamp)


def _by_kernels(
    x: Tensor,
    weight: Tensor,
    mode: str,
    adapter: Adapter | None,
    blur: bool,
    bias: Tensor,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """``weight`` [B, C, I] float32; everything else as ``upsample_block`` takes it."""
    pixels = x.permute(0, 2, 3, 1).contiguous()
    if noise is not None:  # [N or 1, 2H, 2W]: the same for all channels
        planes = noise.reshape((1,) * (4 - noise.ndim) + noise.shape)[:, 0]
        noise = planes.expand(planes.shape[0], 2 * x.shape[2], 2 * x.shape[3])
    tf32 = torch.backends.cuda.matmul.allow_tf32
    y: Tensor = fused("upsample_block").upsample_block(
        pixels, weight, mode, adapter, blur, bias, noise, gain, clamp, tf32
    )
    return y.permute(0, 3, 1, 2)


def _unsupported(x: Tensor, mode: str, taps: Sequence[float] | None, noise: Tensor | None) -> str | None:
    """Why the kernels do not cover this call, or None."""
    if x.dtype == torch.float64:
        return "float64"
    if mode not in ("nn_cat", "pixelshuffle", "bilinear"):
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
