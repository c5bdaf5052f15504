"""Volume rendering: alpha_i = 1 - exp(-relu(sigma_i) delta_i), T_i = prod_{j<i} (1 - alpha_j), w_i = alpha_i T_i.

Reads 2 S numbers per ray and writes S + 1; compositing then reads S C and writes C (StyleNeRF eq. 4, NeRF eq. 3).
"""

from typing import Literal, NamedTuple

from torch import Tensor

from .checks import FLOATS, check_choice, check_dtypes
from .dispatch import Impl, resolve
from .reference.volume import composite_ref, volume_weights_ref

FarEnd = Literal["open", "opaque"]


class VolumeWeights(NamedTuple):
    weights: Tensor  # [..., S], sum <= 1
    transmittance: Tensor  # [...], the light that reaches the last sample


def volume_weights(
    density: Tensor, depths: Tensor, *, ray_norm: Tensor | None = None, far_end: FarEnd = "open", impl: Impl = "auto"
) -> VolumeWeights:
    """How much every sample of a ray adds to its pixel.

    delta_i = (t_{i+1} - t_i) |ray|; alpha_i = 1 - exp(-relu(sigma_i) delta_i); T_i = prod_{j<i} (1 - alpha_j + 1e-10);
    w_i = alpha_i T_i. The last sample has no interval: with ``far_end="open"`` its alpha is 0 (something lies behind
    and is scaled by the returned transmittance), with ``"opaque"`` it is 1 (nothing lies behind).

    Args:
        density: [..., S] float32|float64 raw density, before the ReLU, per world unit.
        depths: [..., S] same dtype, ascending.
        ray_norm: [...] length of the ray's direction vector, if depths do not count world units.
    Returns: weights [..., S] and transmittance T_S [...], dtype of ``density``.
    Differentiable: any order in density, depths and ray_norm.
    Raises: ValueError on shapes or an unknown far_end, TypeError on dtypes.
    Source: NeRF, eq. 3; StyleNeRF, eq. 4; NeRF++ for the open end.
    """
    check_dtypes(FLOATS[:2], density=density)
    check_dtypes((density.dtype,), depths=depths)
    check_choice("far_end", far_end, ("open", "opaque"))
    if density.ndim < 1 or density.shape[-1] < 1 or depths.shape != density.shape:
        raise ValueError(
            f"depths must be [..., S] like density {list(density.shape)} with S >= 1, got {list(depths.shape)}"
        )
    if ray_norm is not None and ray_norm.shape != density.shape[:-1]:
        raise ValueError(f"ray_norm must be {list(density.shape[:-1])}, got {list(ray_norm.shape)}")
    resolve("volume_weights", impl, density)
    return VolumeWeights(*volume_weights_ref(density, depths, ray_norm, far_end == "opaque"))


def composite(weights: Tensor, features: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Sum the samples of each ray: out = sum_i w_i f_i.

    Args:
        weights: [..., S] from :func:`volume_weights`.
        features: [..., S, C] same dtype: colours, hidden features, or depths with C = 1.
    Returns: [..., C].
    Differentiable: any order.
    Raises: ValueError on shapes, TypeError on mixed dtypes.
    Source: NeRF, eq. 3; StyleNeRF, eq. 5 (early aggregation).
    """
    check_dtypes(FLOATS, weights=weights)
    check_dtypes((weights.dtype,), features=features)
    if features.shape[:-1] != weights.shape:
        raise ValueError(f"features must be {[*weights.shape, 'C']}, got {list(features.shape)}")
    resolve("composite", impl, weights)
    return composite_ref(weights, features)
