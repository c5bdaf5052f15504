"""A style-conditioned field under `torch.compile`, whole: latents to styles to modulated weights to rays, and back.

`python docs/examples/compiled_field.py` compares results and times with those of the calls as they are.
"""

import itertools
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stylenerf.kernels import FieldWeights, RayDraws, RaySpan, modulate_weights, render_rays

FREQS, LATENT = 10, 64


class StyledField(nn.Module):
    """Rays [B, R, 3] and latents [B, LATENT] to colours [B, R, 3]: each latent is a scene of its own."""

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        sizes = [6 * FREQS, *[width] * layers]
        self.styles = nn.ModuleList(nn.Linear(LATENT, size) for size in sizes[:-1])
        self.weights = nn.ParameterList(torch.randn(o, i) for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes[1:])
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width, 3)

    def forward(self, origins: Tensor, directions: Tensor, u: Tensor, latents: Tensor) -> Tensor:
        weights = tuple(modulate_weights(w, style(latents) + 1) for w, style in zip(self.weights, self.styles))
        field = FieldWeights(weights, tuple(self.biases), self.density.weight, self.density.bias, FREQS)
        fractions = (torch.arange(u.shape[-1], device=u.device) + u) / u.shape[-1]
        out = render_rays(origins, directions, fractions, field, RaySpan(0.88, 1.12), draws=RayDraws(fractions))
        return out.hidden @ self.colour.weight.T + out.opacity[..., None] * self.colour.bias


def step(field: Callable[..., Tensor], inputs: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """Colours, and the gradient of their mean square for every parameter."""
    colours = field(*inputs)
    return [colours, *torch.autograd.grad(colours.square().mean(), parameters)]


def milliseconds(call: Callable[[], object], times: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (time.perf_counter() - start) / times * 1e3


def main(backend: str = "inductor", rays: int = 256, samples: int = 14) -> float:
    """Returns the greatest relative difference between both; "aot_eager" needs no C++ compiler on a CPU."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    field = StyledField().to(device)
    directions = torch.nn.functional.pad(0.1 * torch.randn(2, rays, 2), (0, 1), value=-1.0)
    origins, u = torch.tensor([0.0, 0.0, 1.0]).expand(2, rays, 3), torch.rand(2, rays, samples)
    inputs = [x.to(device) for x in (origins, directions, u, torch.randn(2, LATENT))]
    compiled, parameters = torch.compile(field, backend=backend, fullgraph=True), list(field.parameters())
    plain, fast = step(field, inputs, parameters), step(compiled, inputs, parameters)
    worst = max(((a - b).norm() / a.norm().clamp_min(1e-12)).item() for a, b in zip(plain, fast))
    before, after = (milliseconds(lambda f=f: step(f, inputs, parameters)) for f in (field, compiled))
    print(f"{before:.1f} ms as it is, {after:.1f} ms compiled by {backend}; they differ by {worst:.1e}")
    return worst


if __name__ == "__main__":
    main(*sys.argv[1:2])
