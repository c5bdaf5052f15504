"""The tail of a synthesis block: second modulated layer, colours, and their sum with the enlarged image.

    y = clamp(gain lrelu(w'' x + noise + b)),   out = clamp(v'' y + b') + enlarge(image),   w'' as in ``modulated_conv``

One pass over the pixels: all channels of y are in registers when the colours are computed. Bytes per pixel, for C
channels of s bytes: x is read (C s), y written if it is kept (C s), the image read at a quarter of the size (3) and
written (12).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes, check_shapes
from ..base.choices import choice
from ..base.dispatch import Impl, resolve
from ..filters.upfirdn2d import upsample2d
from .modulated_conv import EPS, check_modulation, check_noise, image_weights
from .modulated_layer import modulated_layer
from .refine_to_rgb_ref import SLOPE, refine_to_rgb_ref, taps_for

ENLARGEMENTS = ("fir", "bilinear", None)


class ModulatedWeights(NamedTuple):
    """A modulated 1x1 layer: weight [O, I, 1, 1], styles [B, I] of its dtype, bias [O], a scalar factor on x.

    B divides the batch N, and image n uses row n // (N // B).
    """

    weight: Tensor
    styles: Tensor
    bias: Tensor | None = None
    input_gain: Tensor | float | None = None


@under_autocast("beside")
def refine_to_rgb(
    x: Tensor,
    layer: ModulatedWeights,
    rgb: ModulatedWeights,
    image: Tensor | None = None,
    *,
    enlarge: Literal["fir", "bilinear"] | None = "fir",
    noise: Tensor | None = None,
    gain: float = math.sqrt(2.0),
    clamp: float | None = None,
    keep: bool = True,
    impl: Impl = "auto",
) -> tuple[Tensor | None, Tensor]:
    """``modulated_layer`` with leaky ReLU (0.2), a second one that computes colours, and a running sum of images.

    Args:
        x:       [N, I, H, W] float64|float32|float16|bfloat16; channels_last is read in place.
        layer:   from I to C channels, demodulated.
        rgb:     from C to O colours, neither demodulated nor activated.
        image:   [N, O, H/2, W/2], enlarged and added, or [N, O, H, W] where ``enlarge`` is None; float32, or float64
                 for x in float64; None = nothing to add.
        enlarge: "fir": ``upsample2d`` with the taps 1, 3, 3, 1; "bilinear": corners of the two images aligned.
        noise:   broadcastable to [N, C, H, W], added before the layer's bias; None = none.
        gain:    positive factor after the activation.
        clamp:   bound on the magnitude of the features, and of the colours before they are added; None = none.
        keep:    False if only the image is needed: the kernel then never writes the features.
    Returns: features [N, C, H, W], dtype of x, channels_last from the kernel, or None unless ``keep``; image
        [N, O, H, W], float32, or float64 for x in float64.
    Differentiable: any order in every tensor. The kernel passes no gradient where a value is at the clamp.
    Raises: ValueError on shapes, enlarge, gain or clamp; TypeError on dtype; RuntimeError where impl="triton" does not
        cover the case: float64.
    Source: StyleGAN2 (arXiv 1912.04958), section 4; StyleNeRF (arXiv 2110.08985), section 3.3. The kernel multiplies
        16-bit x in its own type and float32 x in float32, or in TF32 where ``torch.backends.cuda.matmul.allow_tf32``
        says so. With more channels than fit a program (256 of 16 bit, 64 of 32 bit), more than 4 colours, or noise,
        impl="triton" runs the unfused ops in sequence.
    """
    _check(x, layer, rgb, image, enlarge, noise)
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp must be positive or None, got {clamp}")
    layer, rgb = _scalar_gain(layer), _scalar_gain(rgb)
    reason = "float64" if x.dtype == torch.float64 else None
    if resolve("refine_to_rgb", impl, x, unsupported=reason) == "ref":
        y, out = refine_to_rgb_ref(x, layer, rgb, image, enlarge, noise, gain, clamp, EPS)
        return y if keep else None, out
    if _in_parts(x, layer, rgb, noise):
        y, out = _by_parts(x, layer, rgb, image, enlarge, noise, gain, clamp, impl)
        return y if keep else None, out
    w = image_weights(x, layer.weight, layer.styles, True, layer.input_gain).float()
    v = image_weights(x, rgb.weight, rgb.styles, False, rgb.input_gain).float()
    pixels = x.permute(0, 2, 3, 1).contiguous()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    from . import refine_to_rgb_triton

    features, out = refine_to_rgb_triton.refine_rows(
        pixels, w, _bias(x, layer), v, _bias(x, rgb), image, enlarge, keep, gain, clamp, tf32
    )
    return features.permute(0, 3, 1, 2) if keep else None, out


def _check(
    x: Tensor,
    layer: ModulatedWeights,
    rgb: ModulatedWeights,
    image: Tensor | None,
    enlarge: str | None,
    noise: Tensor | None,
) -> None:
    """Check that the arguments fit each other."""
    sizes = check_shapes(x=(x, "N I H W"), weight=(layer.weight, "C I 1 1"), rgb=(rgb.weight, "O C 1 1"))
    N, C, O, H, W = (sizes[name] for name in "NCOHW")  # noqa: E741
    check_dtypes(FLOATS, x=x)
    rows = [check_modulation(N, m.weight, m.styles, m.bias, m.input_gain) for m in (layer, rgb)]
    if rows[0] != rows[1]:
        raise ValueError(f"layer and rgb must have equally many rows of styles, got {rows[0]} and {rows[1]}")
    check_choice("enlarge", enlarge, ENLARGEMENTS)
    check_noise(noise, [N, C, H, W])
    if image is None:
        return
    check_dtypes((torch.promote_types(x.dtype, torch.float32),), image=image)
    if enlarge is not None and (H % 2 or W % 2):
        raise ValueError(f"x must have even sides where an image is enlarged, got {list(x.shape)}")
    factor = 1 if enlarge is None else 2
    if list(image.shape) != [N, O, H // factor, W // factor]:
        raise ValueError(f"image must be {[N, O, H // factor, W // factor]}, got {list(image.shape)}")


def _in_parts(x: Tensor, layer: ModulatedWeights, rgb: ModulatedWeights, noise: Tensor | None) -> bool:
    """Whether this call needs several kernels."""
    (C, I), O = layer.weight.shape[:2], rgb.weight.shape[0]  # noqa: E741
    empty = 0 in (*x.shape[1:], C)
    from . import refine_to_rgb_forward

    if noise is not None or empty or not refine_to_rgb_forward.covered(x.dtype, I, C, O):
        return True
    return choice("refine_to_rgb launches", x, ("one", "several")) == "several"


def _by_parts(
    x: Tensor,
    layer: ModulatedWeights,
    rgb: ModulatedWeights,
    image: Tensor | None,
    enlarge: str | None,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
    impl: Impl,
) -> tuple[Tensor, Tensor]:
    """The unfused ops: ``modulated_layer`` for features and for colours, torch for the sum."""
    y = modulated_layer(
        x, layer.weight, layer.styles, input_gain=layer.input_gain, bias=layer.bias, noise=noise, slope=SLOPE,
        gain=gain, clamp=clamp, impl=impl,
    )  # fmt: skip
    colours = modulated_layer(
        y, rgb.weight, rgb.styles, demodulate=False, input_gain=rgb.input_gain, bias=rgb.bias, slope=None, gain=1.0,
        clamp=clamp, impl=impl,
    ).float()  # fmt: skip
    if image is None:
        return y, colours
    if enlarge == "bilinear":
        image = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=True)
    elif enlarge == "fir":
        image = upsample2d(image, taps_for(image), impl=impl)
    return y, image + colours


def _scalar_gain(m: ModulatedWeights) -> ModulatedWeights:
    return m._replace(input_gain=m.input_gain.reshape(())) if isinstance(m.input_gain, Tensor) else m


def _bias(x: Tensor, m: ModulatedWeights) -> Tensor:
    return x.new_zeros(m.weight.shape[0], dtype=torch.float32) if m.bias is None else m.bias
