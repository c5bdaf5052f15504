"""A chain of modulated 1x1 layers: h <- gain * act(W_l h + b_l), W_l already modulated and demodulated per image.

The layers of a style-conditioned radiance field (StyleNeRF eq. 3). Reads D and writes H numbers per point. The kernels
take bias and activation into each product and hold hidden activations in the operand type; widths are free. A field
whose activations never leave the chip is :func:`kernels.evaluate_field`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes
from ..base.dispatch import PRECISIONS, Impl, Precision, resolve
from .mlp_ref import modulated_mlp_ref


@under_autocast("others")
def modulated_mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    act: Literal["lrelu", "softplus"] = "lrelu",
    linear_end: bool = False,
    gain: float | None = None,
    negative_slope: float = 0.2,
    precision: Precision | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Run points through a chain of layers, h <- gain * act(W h + b).

    Args:
        x: [B, N, D] points of B images, or [N, D] of one.
        weights: per layer [O, I], shared by the images, or [B, O, I], one per image (see ``modulate_weights``).
        biases: per layer [O] or [B, O].
        act: leaky ReLU, or softplus, log(1 + exp(z)).
        linear_end: neither activation nor gain after the last layer, as in a decoder.
        gain: positive factor after the leaky ReLU, sqrt 2 where None. Softplus has none.
        negative_slope: of the leaky ReLU; 0 is a plain ReLU.
        precision: operand type of the kernels' products, for inputs, weights and hidden activations; sums are float32.
            None: "bf16" for bfloat16 tensors, else "fp16", which rounds like "tf32" at twice the speed but overflows
            beyond 65504. "ref" ignores it and computes in the dtype of ``x``.
    Returns: [B, N, H] or [N, H], dtype of ``x``.
    Differentiable: any order in x, weights and biases; "triton" rounds first gradients like activations, and computes
        higher orders by the plain form.
    Raises: ValueError on shapes, act, precision, gain <= 0 or a gain of softplus, TypeError on mixed dtypes,
        RuntimeError if impl="triton" has no GPU, gets float64 or a slope outside 0..1.
    Source: StyleNeRF, eq. 3; StyleGAN2, section 2.2; EG3D (arXiv 2112.07945), section 4.2, for softplus.
    """
    check_dtypes(FLOATS, x=x)
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [B, N, D] or [N, D], got {list(x.shape)}")
    check_choice("act", act, ("lrelu", "softplus"))
    softplus = act == "softplus"
    if gain is None:
        gain = 1.0 if softplus else math.sqrt(2.0)
    if gain <= 0 or (softplus and gain != 1):
        raise ValueError(f"gain must be {'1 for softplus' if softplus else 'positive'}, got {gain}")
    if len(weights) != len(biases):
        raise ValueError(f"biases must have one entry per layer ({len(weights)}), got {len(biases)}")
    points = x if x.ndim == 3 else x[None]
    check_layers(points.shape[0], points.shape[-1], weights, biases, x)
    check_choice("precision", precision, (None, *PRECISIONS))
    unsupported = _unsupported(x, len(weights), negative_slope)
    if resolve("modulated_mlp", impl, x, unsupported=unsupported) == "triton":
        per_image = [w if w.ndim == 3 else w[None] for w in weights], [b if b.ndim == 2 else b[None] for b in biases]
        precision = precision or ("bf16" if x.dtype == torch.bfloat16 else "fp16")
        from . import mlp_triton

        out = mlp_triton.modulated_mlp(points, *per_image, gain, negative_slope, precision, softplus, linear_end)
    else:
        out = modulated_mlp_ref(points, weights, biases, gain, negative_slope, softplus, linear_end)
    return out if x.ndim == 3 else out[0]


def _unsupported(x: Tensor, depth: int, negative_slope: float) -> str | None:
    """Why the kernels do not cover this call, or None."""
    if x.dtype == torch.float64:
        return "float64"
    if not 0 <= negative_slope <= 1:
        return f"negative_slope {negative_slope} outside 0..1"
    return None if depth else "a chain without layers"


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
