"""Definition of refine_to_rgb in plain torch: the ops that it fuses, in sequence, and its products alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..filters.upfirdn2d_ref import upfirdn2d_ref
from .modulated_conv_ref import Scale
from .modulated_layer_ref import modulated_layer_ref

SLOPE = 0.2  # of the leaky ReLU
Weights = tuple[Tensor, Tensor, Tensor | None, Scale | None]  # weight, styles, bias, input_gain


def refine_to_rgb_ref(
    x: Tensor,
    layer: Weights,
    rgb: Weights,
    image: Tensor | None,
    enlarge: str | None,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Features and image."""
    weight, styles, bias, input_gain = layer
    y = modulated_layer_ref(x, weight, styles, True, input_gain, bias, noise, SLOPE, gain, clamp, eps)
    weight, styles, bias, input_gain = rgb
    colours = modulated_layer_ref(y, weight, styles, False, input_gain, bias, None, None, 1.0, clamp, eps)
    return y, add_image_ref(colours, image, enlarge)


def add_image_ref(colours: Tensor, image: Tensor | None, enlarge: str | None) -> Tensor:
    """The colours, in float32 at least, plus the enlarged image."""
    colours = colours.to(torch.promote_types(colours.dtype, torch.float32))
    return colours if image is None else enlarge_ref(image, enlarge) + colours


def enlarge_ref(image: Tensor, enlarge: str | None) -> Tensor:
    if enlarge is None:
        return image
    if enlarge == "bilinear":
        return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=True)
    taps = taps_for(image)
    return upfirdn2d_ref(image, torch.outer(taps, taps), (2, 2), (1, 1), (2, 1, 2, 1), False, 4)


def taps_for(image: Tensor) -> Tensor:
    """[1, 3, 3, 1] / 8, built on the device: a copy from the host synchronises, and a CUDA graph cannot capture it."""
    taps = torch.full((4,), 3 / 8, dtype=image.dtype, device=image.device)
    taps[::3] = 1 / 8
    return taps


def refine_rows_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rgb_weight: Tensor,
    rgb_bias: Tensor,
    image: Tensor | None,
    enlarge: str | None,
    gain: float,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    """Features and image from modulated weights per style row, channels last.

    Args:
        x: [N, H, W, I].  weight: [B, C, I] and rgb_weight: [B, O, C] float32, N a multiple of B.
        bias: [C].  rgb_bias: [O].  image: [N, O, H/2, W/2], [N, O, H, W] where ``enlarge`` is None, or None.
    Returns: [N, H, W, C], dtype of x; [N, O, H, W] float32 at least.
    """
    N, B = x.shape[0], weight.shape[0]
    w, v = (t.repeat_interleave(N // max(B, 1), 0).to(x.dtype).transpose(1, 2) for t in (weight, rgb_weight))
    y = F.leaky_relu(x.flatten(1, 2) @ w + bias.to(x.dtype), SLOPE) * gain
    y = y if clamp is None else y.clamp(-clamp, clamp)
    colours = y @ v + rgb_bias.to(x.dtype)
    colours = colours if clamp is None else colours.clamp(-clamp, clamp)
    colours = colours.transpose(1, 2).unflatten(2, x.shape[1:3])
    return y.unflatten(1, x.shape[1:3]), add_image_ref(colours, image, enlarge)
