"""``raw2outputs`` and ``sample_pdf`` of the original NeRF's PyTorch port."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...base.dispatch import Impl
from ...rays.importance import importance_sample
from ...rays.volume import composite, volume_weights

FAR = 1e10  # length of the last interval


def raw2outputs(
    raw: Tensor,
    z_vals: Tensor,
    rays_d: Tensor,
    raw_noise_std: float = 0,
    white_bkgd: bool = False,
    pytest: bool = False,
    *,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Render raw values of a network: sigmoid colours, ReLU density, a last interval of 1e10.

    Args:
        raw: [R, S, 4+] float32|float64, three colours and density.
        z_vals: [R, S] same dtype, depths along ``rays_d`` [R, 3], which need not be of unit length.
        raw_noise_std: of normal noise on the density.
        white_bkgd: add white where rays are not absorbed.
        pytest: fixed noise from numpy; refused.
    Returns: colours [R, 3], disparity, opacity [R], weights [R, S], depth [R]. As in the port the disparity of an empty
        ray is NaN.
    Differentiable: any order in raw, z_vals and rays_d.
    Raises: as :func:`kernels.volume_weights`; ValueError on ``pytest``.
    """
    _refuse(pytest)
    density = raw[..., 3]
    if raw_noise_std > 0:
        density = density + torch.randn_like(density) * raw_noise_std
    # one more sample ends the last interval; its own density does not count
    weights, _ = volume_weights(
        F.pad(density, (0, 1)),
        torch.cat([z_vals, z_vals[..., -1:] + FAR], -1),
        ray_norm=rays_d.norm(dim=-1),
        impl=impl,
    )
    weights = weights[..., :-1]
    one = torch.ones_like(z_vals)
    sums = composite(weights, torch.cat([raw[..., :3].sigmoid(), torch.stack([z_vals, one], -1)], -1), impl=impl)
    colours, depth, opacity = sums[..., :3], sums[..., 3], sums[..., 4]
    disparity = 1 / torch.max(torch.full_like(depth, 1e-10), depth / opacity)
    if white_bkgd:
        colours = colours + (1 - opacity[..., None])
    return colours, disparity, opacity, weights, depth


def sample_pdf(
    bins: Tensor,
    weights: Tensor,
    N_samples: int,
    det: bool = False,
    pytest: bool = False,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """:func:`kernels.importance_sample` at ``N_samples`` random positions of each ray, or even ones with ``det``.

    Args:
        bins: [..., E] float32|float64 edges, of which the first K + 1 are used.
        weights: [..., K] same dtype.
    Returns: [..., N_samples] without a gradient, in the order of the draws.
    Raises: as :func:`kernels.importance_sample`; ValueError if E <= K, and on ``pytest``.
    """
    _refuse(pytest)
    K = weights.shape[-1]
    if bins.shape[-1] <= K:
        raise ValueError(f"bins must have more edges than the {K} weights, got {list(bins.shape)}")
    shape = (*weights.shape[:-1], N_samples)
    if det:
        u = torch.linspace(0, 1, N_samples, dtype=weights.dtype, device=weights.device).expand(shape)
    else:
        u = torch.rand(shape, dtype=weights.dtype, device=weights.device)
    # both search for the first cdf above u; ours for the first not below
    u = torch.nextafter(u, torch.full_like(u, torch.inf))
    return importance_sample(bins[..., : K + 1], weights, u, impl=impl)


def _refuse(pytest: bool) -> None:
    if pytest:
        raise ValueError("pytest must be False: set a seed of torch instead, got True")
