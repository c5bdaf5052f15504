"""Planes from a StyleGAN2 generator, a decoder, and rays."""

from typing import Any

import torch
from torch import Tensor, nn

from .networks_stylegan2 import Generator
from .volumetric_rendering.renderer import ImportanceRenderer


class OSGDecoder(nn.Module):
    def __init__(self, channels: int, hidden: int = 8, colours: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(channels, hidden), nn.Softplus(), nn.Linear(hidden, 1 + colours))

    def forward(self, sampled_features: Tensor, ray_directions: Tensor) -> dict[str, Tensor]:
        x = self.net(sampled_features.mean(1).flatten(0, 1)).unflatten(0, (sampled_features.shape[0], -1))
        return {"rgb": torch.sigmoid(x[..., 1:]) * (1 + 2 * 0.001) - 0.001, "sigma": x[..., 0:1]}


class TriPlaneGenerator(nn.Module):
    """8 x 8 pixels of rays that cross a cube around the origin."""

    def __init__(self, channels: int = 4, w_dim: int = 5) -> None:
        super().__init__()
        self.backbone, self.channels = Generator(6, w_dim, 3 * channels), channels
        self.decoder, self.renderer = OSGDecoder(channels), ImportanceRenderer()

    def forward(self, w: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        planes = self.backbone(w).unflatten(1, (3, self.channels))
        side = torch.linspace(-0.6, 0.6, 8).to(planes)
        spread = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(1, 64, 2)
        directions = torch.nn.functional.pad(spread, (0, 1), value=-1.0).expand(w.shape[0], -1, -1)
        origins = torch.tensor([0.1, -0.05, 1.5]).to(planes).expand_as(directions)
        settings = {"ray_start": 0.6, "ray_end": 2.4, "clamp_mode": "softplus", **options}
        settings |= {"depth_resolution": 7, "depth_resolution_importance": 5}
        rgb, depth, total = self.renderer(planes, self.decoder, origins, directions, settings)
        return rgb.mT.unflatten(2, (8, 8)), depth, total
