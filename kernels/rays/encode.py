"""Positional encoding: gamma(p) = (sin(2^i pi p), cos(2^i pi p)) for i = 0 .. F-1 (StyleNeRF eq. 2).

Moves D numbers in and 2 F D numbers out per point; the ray pass fuses it away.
"""

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes
from ..base.dispatch import Impl, resolve
from .encode_ref import encode_positions_ref


@under_autocast("all")
def encode_positions(
    points: Tensor, num_freqs: int = 10, *, include_input: bool = False, impl: Impl = "auto"
) -> Tensor:
    """Encode positions as sines and cosines of octave frequencies.

    out = (sin(2^0 pi p), cos(2^0 pi p), sin(2^1 pi p), ...): for each octave all coordinates' sines, then all cosines.

    Args:
        points: [..., D], any float dtype, in the field's units (period 2 at the lowest octave).
        num_freqs: number of octaves F, at least 1.
        include_input: append ``points`` itself at the end.
    Returns: [..., 2 F D (+ D)], dtype of ``points``. The kernel computes in float32, without rounding 2^i pi p.
    Differentiable: any order.
    Raises: ValueError for num_freqs < 1, TypeError for a dtype that is not floating, RuntimeError if impl="triton" has
        no GPU or gets float64 or more than 128 octaves.
    Source: NeRF, eq. 4; StyleNeRF, eq. 2; no raw input unless asked for.
    """
    check_dtypes(FLOATS, points=points)
    if num_freqs < 1:
        raise ValueError(f"num_freqs must be at least 1, got {num_freqs}")
    unsupported = None
    if points.dtype == torch.float64:
        unsupported = "float64"
    elif num_freqs > 128:
        unsupported = f"{num_freqs} octaves, at most 128"
    if resolve("encode_positions", impl, points, unsupported=unsupported) == "triton":
        from . import encode_triton

        return encode_triton.encode_positions(points, num_freqs, include_input)
    return encode_positions_ref(points, num_freqs, include_input)
