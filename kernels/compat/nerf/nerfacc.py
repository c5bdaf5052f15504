"""nerfacc's rendering of samples that hold both ends of their intervals; dense [R, S], or packed [N].

An interval becomes two samples of ours: its start with its density, and its end with none, which also covers the gap to
the next interval.
"""

import torch
from torch import Tensor

from ...base.dispatch import Impl
from ...rays.volume import composite, volume_weights


def render_weight_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
    *,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, transmittance in front and opacity of every sample.

    Args:
        t_starts, t_ends, sigmas: [R, S] or packed [N], float32|float64, densities not negative.
        packed_info: [R, 2] first sample and number of samples of each ray, rays in order; or
        ray_indices: [N] int64, ascending, with
        n_rays: their number; None = the last index + 1, which waits for the device.
        prefix_trans: factor on the transmittance of every sample, [R, S] or [N].
    Returns: weights, transmittance, alphas, shaped like ``sigmas``.
    Differentiable: any order in t_starts, t_ends and sigmas.
    Raises: as :func:`kernels.volume_weights`; RuntimeError if ray_indices do not ascend.
    """
    offsets = _offsets(packed_info, ray_indices, n_rays)
    trans, alphas = _transmittance(t_starts, t_ends, sigmas, offsets)
    density = torch.stack([sigmas, torch.zeros_like(sigmas)], -1).flatten(-2)
    depths = torch.stack([t_starts, t_ends], -1).flatten(-2)
    doubled = None if offsets is None else 2 * offsets
    weights = volume_weights(density, depths, offsets=doubled, impl=impl).weights[..., ::2]
    if prefix_trans is not None:
        weights, trans = weights * prefix_trans, trans * prefix_trans
    return weights, trans, alphas


def render_transmittance_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transmittance in front and opacity of every sample; arguments as in :func:`render_weight_from_density`."""
    trans, alphas = _transmittance(t_starts, t_ends, sigmas, _offsets(packed_info, ray_indices, n_rays))
    return (trans if prefix_trans is None else trans * prefix_trans), alphas


def accumulate_along_rays(
    weights: Tensor,
    values: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Sum of weighted values along each ray, or of the weights: :func:`kernels.composite`.

    Args:
        weights: [R, S], or packed [N].
        values: [R, S, D] or [N, D]; None = ones, D = 1.
        ray_indices: [N] int64, ascending, with
        n_rays: their number; None = the last index + 1, which waits for the device.
    Returns: [R, D].
    Differentiable: any order in weights and values.
    Raises: as :func:`kernels.composite`; RuntimeError if ray_indices do not ascend.
    """
    values = weights.new_ones(*weights.shape, 1) if values is None else values
    return composite(weights, values, offsets=_offsets(None, ray_indices, n_rays), impl=impl)


def _offsets(packed_info: Tensor | None, ray_indices: Tensor | None, n_rays: int | None) -> Tensor | None:
    """The start of each ray and the end of the last [R + 1]; None for dense rays."""
    if packed_info is not None:
        return torch.cat([packed_info[:, 0], packed_info[-1:].sum(-1)])
    if ray_indices is None:
        return None
    torch._assert_async((ray_indices[1:] >= ray_indices[:-1]).all(), "ray_indices must ascend")
    if n_rays is None:
        n_rays = int(ray_indices[-1]) + 1 if ray_indices.numel() else 0
    rays = torch.arange(n_rays + 1, dtype=ray_indices.dtype, device=ray_indices.device)
    return torch.searchsorted(ray_indices.contiguous(), rays)


def _transmittance(t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """exp(-sum of the optical depths in front) and opacity of every sample."""
    depth = sigmas * (t_ends - t_starts)
    alphas = -torch.expm1(-depth)
    # float64: packed rays are differences of one running sum over all rays; behind a depth of 1000 there is no light
    depth = depth.double().clamp(max=1000)
    front = depth.cumsum(-1) - depth
    if offsets is not None:
        lengths = offsets[1:] - offsets[:-1]
        first = offsets[:-1].repeat_interleave(lengths, output_size=depth.shape[0])
        front = front - front[first]
    return torch.exp(-front).to(sigmas.dtype), alphas
