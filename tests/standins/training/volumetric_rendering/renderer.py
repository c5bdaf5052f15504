from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...torch_utils.ops.grid_sample_gradfix import grid_sample
from .ray_marcher import MipRayMarcher2


def generate_planes() -> Tensor:
    x, y, z = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    return torch.tensor([[x, y, z], [x, z, y], [z, x, y]], dtype=torch.float32)


def project_onto_planes(planes: Tensor, coordinates: Tensor) -> Tensor:
    """Solved for the coefficients of each plane's axes, which are its rows."""
    N, P = coordinates.shape[0], planes.shape[0]
    solved = torch.linalg.solve(
        planes[None].expand(N, -1, -1, -1), coordinates[:, None].expand(-1, P, -1, -1), left=False
    )
    return solved.reshape(N * P, -1, 3)[..., :2]


def sample_from_planes(
    plane_axes: Tensor,
    plane_features: Tensor,
    coordinates: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    box_warp: float | None = None,
) -> Tensor:
    assert mode == "bilinear" and padding_mode == "zeros" and box_warp is not None
    N, P, C = plane_features.shape[:3]
    grid = project_onto_planes(plane_axes, coordinates * 2 / box_warp)[:, None]
    return grid_sample(plane_features.flatten(0, 1), grid).permute(0, 3, 2, 1).reshape(N, P, -1, C)


class ImportanceRenderer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ray_marcher, self.plane_axes = MipRayMarcher2(), generate_planes()

    def forward(
        self,
        planes: Tensor,
        decoder: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
        ray_origins: Tensor,
        ray_directions: Tensor,
        rendering_options: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        N, R, _ = ray_origins.shape
        count = rendering_options["depth_resolution"]
        start, end = rendering_options["ray_start"], rendering_options["ray_end"]
        coarse = torch.linspace(start, end, count).to(planes)[:, None].expand(N, R, -1, -1)

        def evaluate(depths: Tensor) -> tuple[Tensor, Tensor]:
            points = (ray_origins[:, :, None] + depths * ray_directions[:, :, None]).reshape(N, -1, 3)
            axes = self.plane_axes.to(planes)
            features = sample_from_planes(axes, planes, points, padding_mode="zeros", box_warp=2.0)
            out = decoder(features, ray_directions)
            return out["rgb"].reshape(N, R, -1, out["rgb"].shape[-1]), out["sigma"].reshape(N, R, -1, 1)

        colors, densities = evaluate(coarse)
        _, _, weights = self.ray_marcher(colors, densities, coarse, rendering_options)
        fine = self.sample_importance(coarse, weights, rendering_options["depth_resolution_importance"])
        more = evaluate(fine)
        depths, order = torch.sort(torch.cat([coarse, fine], 2), dim=2)
        colors = torch.cat([colors, more[0]], 2).take_along_dim(order, 2)
        densities = torch.cat([densities, more[1]], 2).take_along_dim(order, 2)
        rgb, depth, weights = self.ray_marcher(colors, densities, depths, rendering_options)
        return rgb, depth, weights.sum(2)

    def sample_importance(self, z_vals: Tensor, weights: Tensor, N_importance: int) -> Tensor:
        with torch.no_grad():
            N, R, S, _ = z_vals.shape
            z, w = z_vals.reshape(N * R, S), weights.reshape(N * R, S - 1)
            near = F.pad(w, (1, 1))  # weights are not negative
            largest = torch.maximum(near[:, 1:], near[:, :-1])
            smooth = (largest[:, 1:] + largest[:, :-1]) / 2 + 0.01
            middle = (z[:, 1:] + z[:, :-1]) / 2
            return self.sample_pdf(middle, smooth[:, 1:-1], N_importance).detach().reshape(N, R, N_importance, 1)

    def sample_pdf(
        self, bins: Tensor, weights: Tensor, N_importance: int, det: bool = False, eps: float = 1e-5
    ) -> Tensor:
        """Draw by draw: the last bin that begins at or below u; the cdf ends one edge before the bins do."""
        rays, K = weights.shape
        pdf = (weights + eps) / (weights + eps).sum(-1, keepdim=True)
        cdf = F.pad(pdf.cumsum(-1), (1, 0))
        u = torch.rand(rays, N_importance, dtype=weights.dtype)
        if det:
            u = torch.linspace(0, 1, N_importance, dtype=weights.dtype).expand(rays, -1)
        out = torch.empty_like(u)
        for r in range(rays):
            for n in range(N_importance):
                low = int((cdf[r] <= u[r, n]).sum()) - 1
                high = min(low + 1, K)
                step = cdf[r, high] - cdf[r, low]
                fraction = (u[r, n] - cdf[r, low]) / (step if step >= eps else 1)
                out[r, n] = bins[r, low] + fraction * (bins[r, high] - bins[r, low])
        return out
