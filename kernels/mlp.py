"""A chain of modulated 1x1 layers: h <- gain * lrelu(W_l h + b_l), W_l already modulated and demodulated per image.

The layers of a style-conditioned radiance field (StyleNeRF eq. 3). Reads D and writes H numbers per point; every
hidden activation in between is traffic that the fused form saves.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from .checks import FLOATS, check_dtypes
from .dispatch import Impl, resolve
from .reference.mlp import modulated_mlp_ref


def modulated_mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    gain: float = math.sqrt(2.0),
    negative_slope: float = 0.2,
    impl: Impl = "auto",
) -> Tensor:
    """Run points through a chain of layers, h <- gain * lrelu(W h + b).

    Args:
        x: [B, N, D] points of B images, or [N, D] of one.
        weights: per layer [O, I], shared by the images, or [B, O, I], one per image (see ``modulate_weights``).
        biases: per layer [O] or [B, O].
        gain: positive factor after the activation.
        negative_slope: of the leaky ReLU; 0 is a plain ReLU.
    Returns: [B, N, H] or [N, H], dtype of ``x``.
    Differentiable: any order.
    Raises: ValueError on shapes or gain <= 0, TypeError on mixed dtypes.
    Source: StyleNeRF, eq. 3; StyleGAN2, section 2.2.
    """
    check_dtypes(FLOATS, x=x)
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [B, N, D] or [N, D], got {list(x.shape)}")
    if gain <= 0:
        raise ValueError(f"gain must be positive, got {gain}")
    if len(weights) != len(biases):
        raise ValueError(f"biases must have one entry per layer ({len(weights)}), got {len(biases)}")
    points = x if x.ndim == 3 else x[None]
    check_layers(points.shape[0], points.shape[-1], weights, biases, x)
    resolve("modulated_mlp", impl, x)
    out = modulated_mlp_ref(points, weights, biases, gain, negative_slope)
    return out if x.ndim == 3 else out[0]


def check_layers(batch: int, width: int, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> int:
    """Check that a chain of layers fits inputs of ``width`` and ``batch`` images; return its output width."""
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        check_dtypes((x.dtype,), **{f"weights[{i}]": weight, f"biases[{i}]": bias})
        if weight.ndim not in (2, 3) or weight.shape[-1] != width or weight.shape[:-2] not in ((), (1,), (batch,)):
            raise ValueError(f"weights[{i}] must be [O, {width}] or [{batch}, O, {width}], got {list(weight.shape)}")
        width = weight.shape[-2]
        if bias.ndim not in (1, 2) or bias.shape[-1] != width or bias.shape[:-1] not in ((), (1,), (batch,)):
            raise ValueError(f"biases[{i}] must be [{width}] or [{batch}, {width}], got {list(bias.shape)}")
    return width
