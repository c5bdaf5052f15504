"""A NeRF: fit a radiance field to photographs with known cameras, and look at it from where no camera stood.

The photographs are procedural, nothing is downloaded. `python docs/examples/nerf.py --out nerf.png`
"""

import argparse
import math
import time

import torch
from PIL import Image
from torch import Tensor, nn

from stylenerf import Camera, CameraPrior
from stylenerf.engine.data.procedural import ProceduralScenes
from stylenerf.kernels import FieldWeights, RayDraws, RaySpan, encode_positions, render_rays
from stylenerf.models.camera import pixel_grid

SPAN = RaySpan(1.5, 3.5, density_scale=20)  # the scene lies in the unit ball, the cameras 2.5 from its centre


class Nerf(nn.Module):
    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(width if i else 6 * 6, width) for i in range(layers))
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width, 3)
        self.background = nn.Sequential(nn.Linear(6 * 4, 32), nn.ReLU(), nn.Linear(32, 3))
        nn.init.constant_(self.density.bias, 0.1)  # a mist to begin with: where density is 0 it has no gradient

    def forward(self, rays: Tensor, samples: int = 12) -> Tensor:
        """Colours [R, 3] of rays [R, 6], origin and direction."""
        origins, directions = rays.split(3, -1)
        trunk = [tuple(getattr(layer, name) for layer in self.trunk) for name in ("weight", "bias")]
        field = FieldWeights(*trunk, self.density.weight, self.density.bias, num_freqs=6)
        jitter = torch.rand(2, 1, len(rays), samples) if self.training else torch.full((2, 1, len(rays), 1), 0.5)
        coarse, fine = (torch.arange(samples) + jitter) / samples
        out = render_rays(origins[None], directions[None], coarse, field, SPAN, draws=RayDraws(fine))
        # a linear head commutes with the sum over samples; its bias counts as much as the ray has met of the solid
        solid = out.hidden[0] @ self.colour.weight.T + out.opacity[0, :, None] * self.colour.bias
        behind = self.background(encode_positions(nn.functional.normalize(directions), 4))
        return solid + out.transmittance[0, :, None] * behind


def photographs(yaw: Tensor, pitch: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rays [V, size^2, 6] and colours [V, size^2, 3] of a scene from V sides; pitch is measured from above."""
    scenes = ProceduralScenes(resolution=size, camera_prior=CameraPrior(fov_deg=40, radius=(2.5, 2.5)))
    cameras = Camera.orbit(pitch, yaw, 2.5, fov_deg=40)
    images = [torch.tensor(scenes.view(5, size, cameras[i]).image) for i in range(len(cameras))]
    return torch.cat(cameras.rays(pixel_grid(size)), -1), torch.stack(images).flatten(1, 2) / 255


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps (default %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of a photograph in pixels (default %(default)s)")
    parser.add_argument("--out", default="nerf.png", help="held-out photographs above ours (default %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    nerf, yaw = Nerf(), torch.arange(48) * math.pi / 24
    rays, colours = (part.flatten(0, 1) for part in photographs(yaw, 1 + 0.6 * (yaw * 5 % 1), args.size))
    adam = torch.optim.Adam(nerf.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=args.steps)
    for some in torch.randint(len(rays), (args.steps, 512)):
        adam.zero_grad()
        (nerf(rays[some]) - colours[some]).square().mean().backward()
        adam.step()
        schedule.step()
    rays, truth = photographs(torch.arange(6) * math.pi / 3 + 0.1, torch.full((6,), 1.3), args.size)
    with torch.no_grad():
        ours = torch.stack([nerf.eval()(view) for view in rays])
    psnr = -10 * math.log10((ours - truth).square().mean())
    picture = torch.stack([truth, ours]).unflatten(2, (args.size, args.size)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    Image.fromarray((picture.flatten(0, 1).clamp(0, 1) * 255).byte().numpy()).save(args.out)
    print(f"held-out views: {psnr:.1f} dB, {time.process_time():.0f} s of processor time; {args.out}")
    return psnr


if __name__ == "__main__":
    main()
