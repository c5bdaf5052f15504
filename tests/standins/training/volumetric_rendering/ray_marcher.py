from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MipRayMarcher2(nn.Module):
    def run_forward(
        self, colors: Tensor, densities: Tensor, depths: Tensor, rendering_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Interval after interval, with the light that is left."""
        light = torch.ones_like(densities[:, :, 0])
        colour, depth, weights = torch.zeros_like(colors[:, :, 0]), torch.zeros_like(light), []
        assert rendering_options["clamp_mode"] == "softplus"
        for i in range(depths.shape[2] - 1):
            density = F.softplus((densities[:, :, i] + densities[:, :, i + 1]) / 2 - 1)
            alpha = 1 - torch.exp(-density * (depths[:, :, i + 1] - depths[:, :, i]))
            weights.append(alpha * light)
            light = light * (1 - alpha + 1e-10)
            colour = colour + weights[-1] * (colors[:, :, i] + colors[:, :, i + 1]) / 2
            depth = depth + weights[-1] * (depths[:, :, i] + depths[:, :, i + 1]) / 2
        every = torch.stack(weights, 2)
        depth = torch.nan_to_num(depth / every.sum(2), float("inf"))
        depth = torch.clamp(depth, torch.min(depths), torch.max(depths))
        if rendering_options.get("white_back", False):
            colour = colour + 1 - every.sum(2)
        return colour * 2 - 1, depth, every

    def forward(
        self, colors: Tensor, densities: Tensor, depths: Tensor, rendering_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.run_forward(colors, densities, depths, rendering_options)
