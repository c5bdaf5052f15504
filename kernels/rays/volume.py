"""Volume rendering: alpha_i = 1 - exp(-relu(sigma_i) delta_i), T_i = prod_{j<i} (1 - alpha_j), w_i = alpha_i T_i.

Reads 2 S numbers per ray and writes S + 1; compositing then reads S C and writes C (StyleNeRF eq. 4, NeRF eq. 3). Rays
of different lengths are packed: one list of samples, ray after ray, and ``offsets`` with the start of each ray.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes
from ..base.dispatch import Impl, resolve
from .volume_ref import composite_ref, volume_weights_ref

FarEnd = Literal["open", "opaque"]


class VolumeWeights(NamedTuple):
    weights: Tensor  # [..., S], sum <= 1
    transmittance: Tensor  # [...], the light that reaches the last sample


class VolumeRendering(NamedTuple):
    colours: Tensor  # [..., C], sum_i w_i f_i
    weights: Tensor  # [..., S]
    opacity: Tensor  # [...], sum_i w_i
    depth: Tensor  # [...], sum_i w_i t_i; divide by the opacity for the mean depth of the surface
    transmittance: Tensor  # [...], the light that reaches the last sample


@under_autocast("all")
def volume_weights(
    density: Tensor,
    depths: Tensor,
    *,
    ray_norm: Tensor | None = None,
    far_end: FarEnd = "open",
    offsets: Tensor | None = None,
    impl: Impl = "auto",
) -> VolumeWeights:
    """Weight of every sample of a ray in its pixel.

    delta_i = (t_{i+1} - t_i) |ray|; alpha_i = 1 - exp(-relu(sigma_i) delta_i); T_i = prod_{j<i} (1 - alpha_j + 1e-10);
    w_i = alpha_i T_i. The last sample has no interval: with ``far_end="open"`` its alpha is 0 (something lies behind
    and is scaled by the returned transmittance), with ``"opaque"`` it is 1 (nothing lies behind). The kernel leaves
    the 1e-10 out. A NaN spreads to the weights behind it and the gradients of its ray, but to no other ray.

    Args:
        density: [..., S] float32|float64 raw density, before the ReLU, per world unit; [N] if packed.
        depths: [..., S] same dtype, ascending along each ray; [N] if packed.
        ray_norm: [...] length of the ray's direction vector, if depths do not count world units; [R] if packed.
        offsets: [R + 1] int64|int32 for packed rays: ascending from 0 to N, ray r owns the samples offsets[r] ..
            offsets[r+1] - 1. Their values are not checked. A ray without samples has transmittance 1.
    Returns: weights [..., S] and transmittance T_S [...], dtype of ``density``; [N] and [R] if packed.
    Differentiable: any order in density, depths and ray_norm.
    Raises: ValueError on shapes or an unknown far_end, TypeError on dtypes, RuntimeError if impl="triton" has no GPU or
        gets float64.
    Source: NeRF, eq. 3; StyleNeRF, eq. 4; NeRF++ for the open end.
    """
    check_dtypes(FLOATS[:2], density=density)
    check_dtypes((density.dtype,), depths=depths)
    check_choice("far_end", far_end, ("open", "opaque"))
    if offsets is None:
        rays = density.shape[:-1]
        if density.ndim < 1 or density.shape[-1] < 1 or depths.shape != density.shape:
            raise ValueError(
                f"depths must be [..., S] like density {list(density.shape)} with S >= 1, got {list(depths.shape)}"
            )
    else:
        rays = _packed_rays(offsets, "density", density)
        if depths.shape != density.shape:
            raise ValueError(f"depths must be {list(density.shape)} like density, got {list(depths.shape)}")
    if ray_norm is not None:
        check_dtypes((density.dtype,), ray_norm=ray_norm)
        if ray_norm.shape != rays:
            raise ValueError(f"ray_norm must be {list(rays)}, got {list(ray_norm.shape)}")
    args = (density, depths, ray_norm, far_end == "opaque", offsets)
    unsupported = "float64" if density.dtype == torch.float64 else None
    if resolve("volume_weights", impl, density, unsupported=unsupported) == "triton":
        from . import volume_triton

        return VolumeWeights(*volume_triton.volume_weights(*args))
    return VolumeWeights(*volume_weights_ref(*args))


@under_autocast("all")
def composite(weights: Tensor, features: Tensor, *, offsets: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    """Sum the samples of each ray: out = sum_i w_i f_i.

    Args:
        weights: [..., S] from :func:`volume_weights`; [N] if packed.
        features: [..., S, C] same dtype: colours, hidden features, or depths with C = 1; [N, C] if packed.
        offsets: [R + 1] int64|int32 for packed rays, see :func:`volume_weights`. A ray without samples sums to 0.
    Returns: [..., C], or [R, C] if packed, dtype of ``weights``; the kernel sums in float32.
    Differentiable: any order.
    Raises: ValueError on shapes, TypeError on mixed dtypes, RuntimeError if impl="triton" has no GPU or gets float64.
    Source: NeRF, eq. 3; StyleNeRF, eq. 5 (early aggregation).
    """
    check_dtypes(FLOATS, weights=weights)
    check_dtypes((weights.dtype,), features=features)
    if offsets is not None:
        _packed_rays(offsets, "weights", weights)
    if features.shape[:-1] != weights.shape:
        raise ValueError(f"features must be {[*weights.shape, 'C']}, got {list(features.shape)}")
    unsupported = "float64" if weights.dtype == torch.float64 else None
    if resolve("composite", impl, weights, unsupported=unsupported) == "triton":
        from . import composite_triton

        return composite_triton.composite(weights, features, offsets)
    return composite_ref(weights, features, offsets)


@under_autocast("all")
def render_volume(
    density: Tensor,
    depths: Tensor,
    features: Tensor,
    *,
    ray_norm: Tensor | None = None,
    far_end: FarEnd = "open",
    offsets: Tensor | None = None,
    impl: Impl = "auto",
) -> VolumeRendering:
    """Integrate samples along rays: :func:`volume_weights`, then :func:`composite` of features, ones and depths.

    Args:
        density, depths, ray_norm, far_end, offsets: see :func:`volume_weights`.
        features: [..., S, C] colours or hidden features, dtype of ``density``; [N, C] if packed.
    Returns: per ray: colours [..., C], opacity, depth and transmittance [...]; per sample: weights [..., S].
        Packed: [R, C], [R] and [N].
    Differentiable: any order in density, depths, features and ray_norm.
    Raises: as :func:`volume_weights` and :func:`composite`.
    Source: NeRF, eq. 3; nerfacc for packed rays, though its samples store both ends of their intervals.
    """
    weights, transmittance = volume_weights(
        density, depths, ray_norm=ray_norm, far_end=far_end, offsets=offsets, impl=impl
    )
    colours = composite(weights, features, offsets=offsets, impl=impl)
    moments = composite(weights, torch.stack([torch.ones_like(depths), depths], -1), offsets=offsets, impl=impl)
    return VolumeRendering(colours, weights, moments[..., 0], moments[..., 1], transmittance)


def _packed_rays(offsets: Tensor, arg: str, samples: Tensor) -> torch.Size:
    """[R], after checking that ``offsets`` and the per-sample tensor ``arg`` have the shapes of packed rays."""
    check_dtypes((torch.int64, torch.int32), offsets=offsets)
    if offsets.ndim != 1 or offsets.shape[0] < 1:
        raise ValueError(f"offsets must be [R + 1], got {list(offsets.shape)}")
    if samples.ndim != 1:
        raise ValueError(f"{arg} must be [N] where offsets are given, got {list(samples.shape)}")
    return torch.Size([offsets.shape[0] - 1])
