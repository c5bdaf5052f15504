"""EG3D's volume rendering (arXiv 2112.07945): tri-planes, decoder, ray marcher, importance sampling.

The marcher integrates between samples: S samples make S - 1 intervals, each with the means of density and colour of its
ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...base.checks import check_choice
from ...base.dispatch import Impl, Precision
from ...rays.importance_ref import PDF_FLOOR
from ...rays.mlp import modulated_mlp
from ...rays.volume import composite, volume_weights
from ..stylegan.grid_sample_gradfix import grid_sample
from .nerf_pytorch import sample_pdf

RGB_PADDING = 0.001  # colours may lie this far outside 0..1


def march_rays(
    colors: Tensor,
    densities: Tensor,
    depths: Tensor,
    *,
    white_back: bool = False,
    clamp_mode: str = "softplus",
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrate colours from 0..1 along rays to -1..1.

    Args:
        colors: [..., S, C] float32|float64.  densities: [..., S, 1] same dtype, raw: softplus(density - 1) absorbs.
        depths: [..., S, 1] same dtype, ascending.
        white_back: add white where rays are not absorbed.
        clamp_mode: "softplus".
    Returns: colours [..., C], depth [..., 1] between the least and the greatest of all depths (for an empty ray the
        greatest), weights [..., S - 1, 1].
    Differentiable: any order in colors, densities and depths.
    Raises: ValueError on clamp_mode; as :func:`kernels.volume_weights`.
    """
    check_choice("clamp_mode", clamp_mode, ("softplus",))
    density = F.softplus(_middle(densities[..., 0], -1) - 1)
    # the sample that ends the last interval has none of its own
    weights = volume_weights(F.pad(density, (0, 1)), depths[..., 0], impl=impl).weights[..., :-1]
    sums = composite(weights, torch.cat([_middle(colors, -2), _middle(depths, -2)], -1), impl=impl)
    colours, total = sums[..., :-1], weights.sum(-1, keepdim=True)
    depth = (sums[..., -1:] / total).nan_to_num(torch.inf).clamp(depths.min(), depths.max())
    if white_back:
        colours = colours + 1 - total
    return colours * 2 - 1, depth, weights[..., None]


class MipRayMarcher2(nn.Module):
    """:func:`march_rays` as EG3D calls it, ``rendering_options`` with ``clamp_mode`` and perhaps ``white_back``."""

    def forward(
        self, colors: Tensor, densities: Tensor, depths: Tensor, rendering_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return run_forward_method(self, colors, densities, depths, rendering_options)


def run_forward_method(
    self: Any, colors: Tensor, densities: Tensor, depths: Tensor, rendering_options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """The ray marcher's method."""
    options = {name: rendering_options[name] for name in ("clamp_mode", "white_back") if name in rendering_options}
    return march_rays(colors, densities, depths, **options)


def generate_planes() -> Tensor:
    """Axes of the planes [3, 3, 3]: xy, xz and zx."""
    x, y, z = torch.eye(3).tolist()
    return torch.tensor([[x, y, z], [x, z, y], [z, x, y]])


def project_onto_planes(planes: Tensor, coordinates: Tensor) -> Tensor:
    """Points [N, M, 3] along the first two axes of each plane [P, 3, 3]: [N P, M, 2]."""
    return (coordinates[:, None] @ torch.linalg.inv(planes)[..., :2]).flatten(0, 1)


def sample_from_planes(
    plane_axes: Tensor,
    plane_features: Tensor,
    coordinates: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    box_warp: float | None = None,
) -> Tensor:
    """Features of the planes at points.

    Args:
        plane_axes: [P, 3, 3], see :func:`generate_planes`.  plane_features: [N, P, C, H, W].
        coordinates: [N, M, 3] in a cube of side ``box_warp``, 2 where None, around the origin.
    Returns: [N, P, M, C], zero outside.
    Differentiable: any order in plane_features and coordinates.
    Raises: ValueError on shapes, and on another mode than bilinear with zeros.
    """
    check_choice("mode", mode, ("bilinear",))
    check_choice("padding_mode", padding_mode, ("zeros",))
    (N, P), M = plane_features.shape[:2], coordinates.shape[1]
    scaled = coordinates if box_warp is None else coordinates * (2 / box_warp)
    grid = project_onto_planes(plane_axes.to(scaled), scaled)
    grid = grid.to(torch.promote_types(plane_features.dtype, torch.float32))
    sampled = grid_sample(plane_features.flatten(0, 1).to(grid.dtype), grid[:, None])  # [N P, C, 1, M]
    return sampled.permute(0, 3, 2, 1).reshape(N, P, M, -1)


def decode_planes(
    sampled_features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    precision: Precision | None = None,
    impl: Impl = "auto",
) -> dict[str, Tensor]:
    """EG3D's decoder: mean over planes, layers with softplus between them, sigmoid colours.

    Args:
        sampled_features: [N, P, M, C] from :func:`sample_from_planes`.
        weights: per layer [O, I], times their learning-rate gains.  biases: per layer [O], likewise.
        precision: as in :func:`kernels.modulated_mlp`; None: as exact as torch's own products.
    Returns: "rgb" [N, M, O - 1], from -0.001 to 1.001, and "sigma" [N, M, 1], raw.
    Differentiable: any order.
    """
    x = sampled_features.mean(1)
    if precision is None and x.dtype == torch.float32:
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"
    out = modulated_mlp(x, weights, biases, act="softplus", linear_end=True, precision=precision, impl=impl)
    rgb = out[..., 1:].sigmoid() * (1 + 2 * RGB_PADDING) - RGB_PADDING
    return {"rgb": rgb, "sigma": out[..., :1]}


@torch.no_grad()
def sample_importance(z_vals: Tensor, weights: Tensor, N_importance: int, *, impl: Impl = "auto") -> Tensor:
    """Fine depths where the marcher found something.

    The weights are smoothed, the first and the last left out. The S - 1 midpoints that serve as edges are one more than
    the S - 3 weights need: the last is unused.

    Args:
        z_vals: [N, R, S, 1] float32|float64.  weights: [N, R, S - 1, 1] same dtype, of :func:`march_rays`.
    Returns: [N, R, N_importance, 1] in random order, without a gradient.
    """
    (N, R, S, _), K = z_vals.shape, weights.shape[2]
    smooth = F.max_pool1d(weights.reshape(N * R, 1, K), 2, stride=1, padding=1)
    smooth = F.avg_pool1d(smooth, 2, stride=1)[:, 0] + 0.01
    edges = _middle(z_vals.reshape(N * R, S), -1)
    return sample_pdf(edges, smooth[:, 1:-1], N_importance, impl=impl).reshape(N, R, N_importance, 1)


def sample_pdf_method(
    self: Any, bins: Tensor, weights: Tensor, N_importance: int, det: bool = False, eps: float = PDF_FLOOR
) -> Tensor:
    """The renderer's method."""
    if eps != PDF_FLOOR:
        raise ValueError(f"eps must be {PDF_FLOOR}, got {eps}")
    return sample_pdf(bins, weights, N_importance, det)


def sample_importance_method(self: Any, z_vals: Tensor, weights: Tensor, N_importance: int) -> Tensor:
    """The renderer's method."""
    return sample_importance(z_vals, weights, N_importance)


def _middle(x: Tensor, dim: int) -> Tensor:
    """Means of neighbours along ``dim``."""
    count = x.shape[dim] - 1
    return (x.narrow(dim, 0, count) + x.narrow(dim, 1, count)) / 2
