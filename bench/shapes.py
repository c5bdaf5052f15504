"""Inputs of the benches: random float32 tensors in the shapes that the FFHQ model gives each op.

Every function takes (device, seed) first, so that a child process can build the same inputs again.
"""

import torch
from torch import Tensor

from stylenerf.kernels.blocks.refine_to_rgb import ModulatedWeights
from stylenerf.kernels.blocks.upsample_features import Adapter

RAYS, SAMPLES, HIDDEN, DEPTH, OCTAVES = 32 * 32, 14, 128, 8, 10  # FFHQ: 14 coarse and 14 fine samples per ray
ENCODED = 2 * 3 * OCTAVES
NEAR, FAR = 0.88, 1.12


class Draw:
    """Random numbers from one seed; a ``leaf`` takes part in the gradient."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device, self.rng = device, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, leaf: bool = False) -> Tensor:
        if self.device.type == "meta":  # meta tensors have shapes only
            return torch.empty(shape, device=self.device, requires_grad=leaf)
        return self._place(torch.randn(*shape, generator=self.rng).mul_(scale), leaf)

    def uniform(self, *shape: int, leaf: bool = False) -> Tensor:
        return self._place(torch.rand(*shape, generator=self.rng), leaf)

    def ascending(self, *shape: int) -> Tensor:
        """Jittered positions in 0..1, sorted along the last dim."""
        return self.uniform(*shape).sort(dim=-1).values

    def _place(self, x: Tensor, leaf: bool) -> Tensor:
        return x.to(self.device).requires_grad_(leaf)


def points(device: torch.device, seed: int, *, count: int) -> tuple[Tensor]:
    return (Draw(device, seed).normal(1, count, 3, scale=0.5, leaf=True),)


def trunk(draw: Draw, batch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Modulated weights and biases of the FFHQ field: 60 -> 128, then seven times 128 -> 128."""
    widths = [ENCODED] + [HIDDEN] * (DEPTH - 1)
    weights = tuple(draw.normal(batch, HIDDEN, width, scale=width**-0.5, leaf=True) for width in widths)
    return weights, tuple(draw.normal(HIDDEN, scale=0.1, leaf=True) for _ in widths)


def mlp(device: torch.device, seed: int, *, count: int) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    draw = Draw(device, seed)
    return (draw.normal(1, count, ENCODED, leaf=True), *trunk(draw, 1))


def volume(device: torch.device, seed: int, *, rays: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Density, depths, ray norms, hidden features."""
    draw = Draw(device, seed)
    depths = NEAR + (FAR - NEAR) * draw.ascending(1, rays, samples)
    density = draw.normal(1, rays, samples, scale=30, leaf=True)
    return density, depths, 1 + draw.uniform(1, rays), draw.normal(1, rays, samples, HIDDEN, leaf=True)


def packed_volume(device: torch.device, seed: int, *, rays: int, samples: int) -> tuple[Tensor, ...]:
    """As :func:`volume`, packed rays of 0 to 2 ``samples`` samples; offsets last."""
    draw = Draw(device, seed)
    lengths = torch.arange(rays) % (2 * samples + 1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    count = int(offsets[-1])
    along = torch.arange(count) - offsets[:-1].repeat_interleave(lengths)
    depths = NEAR + (FAR - NEAR) * (along.to(device) + draw.uniform(count)) / (2 * samples)
    density = draw.normal(count, scale=30, leaf=True)
    return density, depths, 1 + draw.uniform(rays), draw.normal(count, HIDDEN, leaf=True), offsets.to(device)


def importance(device: torch.device, seed: int, *, rays: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges between the samples, the inner samples' weights, ascending u."""
    draw = Draw(device, seed)
    edges, weights = draw.ascending(1, rays, samples - 1), draw.uniform(1, rays, samples - 2)
    return edges, weights, draw.ascending(1, rays, samples)


def images(device: torch.device, seed: int, *, channels: int, edge: int, batch: int = 1) -> tuple[Tensor]:
    return (Draw(device, seed).normal(batch, channels, edge, edge, leaf=True),)


def biased(device: torch.device, seed: int, *, channels: int, edge: int) -> tuple[Tensor, Tensor]:
    draw = Draw(device, seed)
    return draw.normal(1, channels, edge, edge, leaf=True), draw.normal(channels, leaf=True)


def layer(
    device: torch.device, seed: int, *, inputs: int, outputs: int, edge: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features [1, inputs, edge, edge] of ``dtype``, channels last, and weight, styles, bias of a 1x1 layer."""
    draw = Draw(device, seed)
    features = draw.normal(1, inputs, edge, edge).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = draw.normal(outputs, inputs, 1, 1, leaf=True)
    styles = (1 + draw.normal(1, inputs, scale=0.3)).requires_grad_()
    return features.requires_grad_(), weight, styles, draw.normal(outputs, scale=0.1, leaf=True)


def tail(
    device: torch.device, seed: int, *, channels: int, edge: int, dtype: torch.dtype
) -> tuple[Tensor, ModulatedWeights, ModulatedWeights, Tensor]:
    """Features [1, channels, edge, edge] of ``dtype``, channels last, second layer, colours, image of half the size."""
    x, *first = layer(device, seed, inputs=channels, outputs=channels, edge=edge, dtype=dtype)
    _, *second = layer(device, seed + 1, inputs=channels, outputs=3, edge=1, dtype=dtype)
    image = Draw(device, seed + 2).normal(1, 3, edge // 2, edge // 2, leaf=True)
    return x, ModulatedWeights(*first), ModulatedWeights(*second), image


def convolution(
    device: torch.device, seed: int, *, batch: int, channels: int, edge: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight, one style row per image."""
    draw = Draw(device, seed)
    x = draw.normal(batch, channels, edge, edge, leaf=True)
    weight = draw.normal(channels, channels, kernel, kernel, leaf=True)
    styles = 1 + draw.normal(batch, channels, scale=0.3)
    return x, weight, styles.requires_grad_()


def enlarged(device: torch.device, seed: int, *, channels: int, edge: int) -> tuple[Tensor, Adapter]:
    """Features [1, C, edge, edge] and the two layers of an nn_cat adapter, hidden width C/4."""
    draw, narrow = Draw(device, seed), channels // 4
    adapter = Adapter(
        weight0=draw.normal(narrow, 2 * channels, scale=(2 * channels) ** -0.5, leaf=True),
        bias0=draw.normal(narrow, scale=0.1, leaf=True),
        weight1=draw.normal(channels, narrow, scale=narrow**-0.5, leaf=True),
        bias1=draw.normal(channels, scale=0.1, leaf=True),
    )
    return draw.normal(1, channels, edge, edge, leaf=True), adapter


def block(
    device: torch.device, seed: int, *, inputs: int, channels: int, edge: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Adapter, Tensor]:
    """Features [1, inputs, edge, edge] of ``dtype``, layer, styles, adapter and bias of an enlarging block."""
    draw = Draw(device, seed)
    features = draw.normal(1, inputs, edge, edge).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = draw.normal(channels, inputs, 1, 1, leaf=True)
    styles = (1 + draw.normal(1, inputs, scale=0.3)).requires_grad_()
    _, adapter = enlarged(device, seed + 1, channels=channels, edge=1)
    return features.requires_grad_(), weight, styles, adapter, draw.normal(channels, scale=0.1, leaf=True)
