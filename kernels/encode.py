"""Positional encoding: gamma(p) = (sin(2^i pi p), cos(2^i pi p)) for i = 0 .. F-1 (StyleNeRF eq. 2).

Moves D numbers in and 2 F D numbers out per point; the ray pass fuses it away.
"""

from torch import Tensor

from .checks import FLOATS, check_dtypes
from .dispatch import Impl, resolve
from .reference.encode import encode_positions_ref


def encode_positions(
    points: Tensor, num_freqs: int = 10, *, include_input: bool = False, impl: Impl = "auto"
) -> Tensor:
    """Encode positions as sines and cosines of octave frequencies.

    out = (sin(2^0 pi p), cos(2^0 pi p), sin(2^1 pi p), ...): for each octave all coordinates' sines, then all cosines.

    Args:
        points: [..., D], any float dtype, in the field's units (period 2 at the lowest octave).
        num_freqs: number of octaves F, at least 1.
        include_input: append ``points`` itself at the end.
    Returns: [..., 2 F D (+ D)], dtype of ``points``.
    Differentiable: any order.
    Raises: ValueError for num_freqs < 1, TypeError for a dtype that is not floating.
    Source: NeRF, eq. 4; StyleNeRF, eq. 2; no raw input unless asked for.
    """
    check_dtypes(FLOATS, points=points)
    if num_freqs < 1:
        raise ValueError(f"num_freqs must be at least 1, got {num_freqs}")
    resolve("encode_positions", impl, points)
    return encode_positions_ref(points, num_freqs, include_input)
