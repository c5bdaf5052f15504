"""Inputs that tests and benches share: fields, rays, images and whole networks of small named sizes, from a seed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stylenerf.kernels.rays.render import FieldWeights, RayDraws
from stylenerf.models.camera import Camera, CameraPrior
from stylenerf.models.config import BackgroundConfig, DiscriminatorConfig, FieldConfig, GeneratorConfig, UpsamplerConfig

Network = TypeVar("Network", bound=nn.Module)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class FieldCase:
    """A field and the rays that go through it."""

    batch: int = 2
    rays: int = 5
    samples: int = 5
    fine: int = 4
    dims: int = 3
    hidden: int = 7
    depth: int = 3
    num_freqs: int = 3
    per_image: bool = True
    skips: tuple[int, ...] = ()
    gain: float = 2.0**0.5
    negative_slope: float = 0.2

    @property
    def encoded(self) -> int:
        return 2 * self.dims * self.num_freqs


FIELD_CASES: dict[str, FieldCase] = {
    "odd": FieldCase(),
    "one": FieldCase(batch=1, rays=1, samples=3, fine=1, hidden=1, depth=1, num_freqs=1),
    "released": FieldCase(batch=1, rays=9, samples=14, fine=14, hidden=32, depth=8, num_freqs=10),
    "shared": FieldCase(per_image=False),
    "skip": FieldCase(skips=(1, 2)),
    "relu": FieldCase(gain=1.0, negative_slope=0.0, per_image=False),
    "wide": FieldCase(rays=3, hidden=33, depth=2),
    "no_rays": FieldCase(rays=0),
}
# as small as a field can be with every part in it, for numerical derivatives
GRADIENT_CASE = FieldCase(batch=2, rays=2, samples=3, fine=2, hidden=2, depth=2, num_freqs=1)

IMAGE_CASES: dict[str, tuple[int, int, int, int]] = {
    "one": (1, 1, 1, 1),
    "odd": (2, 3, 5, 7),
    "square": (4, 3, 16, 16),
    "empty": (0, 3, 4, 4),
}


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_field(
    case: FieldCase, *, dtype: torch.dtype = torch.float64, device: torch.device = CPU, seed: int = 0
) -> FieldWeights:
    """A field whose layers keep the size of their input, with density of both signs."""
    g = source(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(device, dtype)

    lead = (case.batch,) if case.per_image else ()
    first = [case.encoded * (2 if 0 in case.skips else 1)]
    widths = first + [case.hidden + (case.encoded if i in case.skips else 0) for i in range(1, case.depth)]
    return FieldWeights(
        weights=tuple(normal(*lead, case.hidden, width) / width**0.5 for width in widths),
        biases=tuple(0.3 * normal(*(lead if i == 0 else ()), case.hidden) for i in range(case.depth)),
        density_weight=4 * normal(*lead, case.hidden) / case.hidden**0.5,
        density_bias=normal(1),
        num_freqs=case.num_freqs,
        gain=case.gain,
        negative_slope=case.negative_slope,
        skips=case.skips,
    )


def make_points(
    case: FieldCase, *, dtype: torch.dtype = torch.float64, device: torch.device = CPU, seed: int = 1
) -> Tensor:
    """[B, R, S, D] in [-1, 1]."""
    shape = (case.batch, case.rays, case.samples, case.dims)
    return (2 * torch.rand(shape, generator=source(seed), dtype=torch.float64) - 1).to(device, dtype)


def make_fractions(
    case: FieldCase, *, dtype: torch.dtype = torch.float64, device: torch.device = CPU, seed: int = 2
) -> Tensor:
    """[B, R, S] ascending in 0..1, never equal."""
    jitter = torch.rand(case.batch, case.rays, case.samples, generator=source(seed), dtype=torch.float64)
    return ((torch.arange(case.samples) + 0.1 + 0.8 * jitter) / case.samples).to(device, dtype)


def make_rays(
    case: FieldCase, *, dtype: torch.dtype = torch.float64, device: torch.device = CPU, seed: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Origins near (0, 0, 1), directions down -z and not normalised, fractions."""
    noise = 0.3 * torch.randn(2, case.batch, case.rays, 3, generator=source(seed), dtype=torch.float64)
    origins, directions = noise[0] + torch.tensor([0.0, 0, 1]), noise[1] - torch.tensor([0.0, 0, 1])
    fractions = make_fractions(case, dtype=dtype, device=device, seed=seed + 1)
    return origins.to(device, dtype), directions.to(device, dtype), fractions


def make_draws(
    case: FieldCase, *, dtype: torch.dtype = torch.float64, device: torch.device = CPU, seed: int = 5
) -> RayDraws:
    """Unsorted fine positions and density noise."""
    g = source(seed)
    coarse, fine = (case.batch, case.rays, case.samples), (case.batch, case.rays, case.fine)
    return RayDraws(
        fine_u=torch.rand(fine, generator=g, dtype=torch.float64).to(device, dtype),
        coarse_noise=torch.randn(coarse, generator=g, dtype=torch.float64).to(device, dtype),
        fine_noise=torch.randn(fine, generator=g, dtype=torch.float64).to(device, dtype),
    )


def make_image(
    case: str | tuple[int, int, int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    seed: int = 6,
) -> Tensor:
    """[N, C, H, W] of unit variance."""
    shape = IMAGE_CASES[case] if isinstance(case, str) else case
    return torch.randn(shape, generator=source(seed)).to(device, dtype)


def tiny_generator_config(**changes: Any) -> GeneratorConfig:
    """16 px from a 4 px volume: two blocks, every part of a generator at work. ``changes`` replace top-level fields."""
    base = GeneratorConfig(
        resolution=16,
        volume_resolution=4,
        start_resolution=4,
        z_dim=6,
        w_dim=5,
        mapping_layers=2,
        features=8,
        path_lattice=2,
        field=FieldConfig(hidden=6, depth=2, num_freqs=2, samples=4, near=0.5, far=1.5),
        background=BackgroundConfig(hidden=5, depth=2, num_freqs=2, z_dim=3, samples=3),
        upsampler=UpsamplerConfig(channel_base=64, channel_max=8),
    )
    return replace(base, **changes)


def tiny_discriminator_config(**changes: Any) -> DiscriminatorConfig:
    base = DiscriminatorConfig(resolution=32, channel_base=128, channel_max=8, lowres=8, architecture="skip")
    return replace(base, **changes)


def seeded(make: Callable[[], Network], seed: int = 0) -> Network:
    """Make a network that is the same every time, no parameter and no running average at its initial constant."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = make()
        for p in module.parameters():
            spread = p.std() if p.numel() > 1 and p.std() > 0 else torch.ones(())
            p.add_(0.3 * spread * torch.randn(p.shape))
        for name, b in module.named_buffers():
            if name.endswith("magnitude"):
                b.fill_(0.5 + torch.rand(()))
            elif name.endswith("w_avg"):
                b.copy_(torch.randn(b.shape))
    return module


def cameras(n: int, seed: int = 7) -> Camera:
    """``n`` cameras at radius 1, all around, with a wide view."""
    prior = CameraPrior("uniform", yaw=(-3.0, 3.0), pitch=(0.6, 2.5), fov_deg=40.0)
    return prior.sample(n, source(seed))
