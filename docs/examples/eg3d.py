"""EG3D's renderer on our ops: three planes of features and a small decoder, fitted to the photographs of `nerf.py`.

Planes are sampled, decoded and marched coarsely; fine samples go where the marcher has found something; both are sorted
and marched again. `python docs/examples/eg3d.py`
"""

import math
import time

import torch
from nerf import photographs
from torch import Tensor, nn

from stylenerf.kernels.compat import nerf


class TriPlanes(nn.Module):
    def __init__(self, channels: int = 16, edge: int = 48) -> None:
        super().__init__()
        self.planes = nn.Parameter(0.1 * torch.randn(1, 3, channels, edge, edge))
        self.decoder = nn.ModuleList([nn.Linear(channels, 32), nn.Linear(32, 1 + 3)])
        self.background = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3))

    def at(self, rays: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [1, R, S, 3] and raw densities [1, R, S, 1] at depths [1, R, S, 1] along rays [R, 6]."""
        origins, directions = rays[None, :, None].split(3, -1)
        points = (origins + depths * directions).flatten(1, 2)
        features = nerf.sample_from_planes(nerf.generate_planes(), self.planes, points, box_warp=2.0)
        out = nerf.decode_planes(features, [d.weight for d in self.decoder], [d.bias for d in self.decoder])
        return tuple(out[name].unflatten(1, depths.shape[1:3]) for name in ("rgb", "sigma"))

    def forward(self, rays: Tensor, samples: int = 12) -> Tensor:
        """Colours [R, 3] of rays [R, 6], origin and direction."""
        jitter = torch.rand(1, len(rays), samples, 1) if self.training else 0.5
        depths = 1.5 + 2 * (torch.arange(samples)[:, None] + jitter) / samples
        depths = depths.expand(1, len(rays), samples, 1)
        colours, density = self.at(rays, depths)
        fine = nerf.sample_importance(depths, nerf.march_rays(colours, density, depths)[2], samples)
        merged, order = torch.cat([depths, fine], 2).sort(2)
        both = [torch.cat(pair, 2).take_along_dim(order, 2) for pair in zip((colours, density), self.at(rays, fine))]
        colours, _, weights = nerf.march_rays(*both, merged)
        behind = self.background(nn.functional.normalize(rays[:, 3:]))
        return (colours[0] + 1) / 2 + (1 - weights[0].sum(1)) * behind


def main(steps: int = 300, size: int = 64) -> float:
    """Returns the PSNR in dB of views between those of the photographs."""
    torch.manual_seed(0)
    yaw, field = torch.arange(48) * math.pi / 24, TriPlanes()
    rays, colours = (part.flatten(0, 1) for part in photographs(yaw, 1 + 0.6 * (yaw * 5 % 1), size))
    adam = torch.optim.Adam(field.parameters(), 1e-2)
    for some in torch.randint(len(rays), (steps, 512)):
        adam.zero_grad()
        (field(rays[some]) - colours[some]).square().mean().backward()
        adam.step()
    rays, truth = photographs(torch.arange(6) * math.pi / 3 + 0.1, torch.full((6,), 1.3), size)
    with torch.no_grad():
        errors = [(field.eval()(view) - colours).square().mean() for view, colours in zip(rays, truth)]
    psnr = -10 * math.log10(sum(errors) / len(errors))
    print(f"held-out views: {psnr:.1f} dB, {time.process_time():.0f} s of processor time")
    return psnr


if __name__ == "__main__":
    main()
