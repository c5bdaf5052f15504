"""Configuration of a model as frozen dataclasses; every combination that cannot work is refused on construction."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from ..kernels.blocks.upsample_features import UPSAMPLE_MODES


def _at_least(section: str, minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{section}{name} must be at least {minimum}, got {value}")


@dataclass(frozen=True)
class FieldConfig:
    """The foreground field and how its rays are sampled.

    hidden x depth trunk, num_freqs octaves; samples per pass (twice that with hierarchical sampling) between the depths
    near and far, counted along the optical axis and spread linearly, in 1/t ("inverse") or in log t ("log"). Where
    nothing is drawn at random, as outside training, render_samples take their place: few fixed samples cut a solid into
    layers that turn with the camera.
    density_scale multiplies the density, per world unit: at 1 (as released) a short segment of a ray is thin fog at
    initialisation; at 10 to 50 it is solid, which short trainings need. ``density_bias`` is the density's bias in a new
    field: below 0 much of it is empty, so that light reaches the far end whatever the scale. ``space`` warps points
    before encoding, for scenes that reach beyond the unit sphere (see ``stylenerf.kernels.RaySpan``): "contracted" maps
    space into a ball of radius 2, "radial" compresses distances from ``centre``. Where ``bound_radius`` is
    given, rays are sampled only within that distance of the world's origin: outside the foreground is empty, so that it
    cannot stand as a painted wall before the cameras.
    """

    hidden: int = 128
    depth: int = 8
    num_freqs: int = 10
    skips: tuple[int, ...] = ()
    track_magnitude: bool = False
    samples: int = 14
    render_samples: int | None = None
    hierarchical: bool = True
    near: float = 0.88
    far: float = 1.12
    warp: Literal["linear", "inverse", "log"] = "linear"
    align_corners: bool = False
    density_scale: float = 1.0
    density_bias: float = 0.0
    bound_radius: float | None = None
    space: Literal["plain", "contracted", "radial"] = "plain"
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        _at_least("", 1, hidden=self.hidden, depth=self.depth, num_freqs=self.num_freqs)
        _at_least("", 3 if self.hierarchical else 1, samples=self.samples)
        if self.render_samples is not None:
            _at_least("", 3 if self.hierarchical else 1, render_samples=self.render_samples)
        if not 0 < self.near < self.far:
            raise ValueError(f"near and far must be 0 < near < far, got {self.near} and {self.far}")
        if not self.density_scale > 0:
            raise ValueError(f"density_scale must be positive, got {self.density_scale}")
        if self.bound_radius is not None and not self.bound_radius > 0:
            raise ValueError(f"bound_radius must be positive or null, got {self.bound_radius}")


@dataclass(frozen=True)
class BackgroundConfig:
    """The background outside the unit sphere.

    "coded": the released form, plain layers with a latent of their own; "styled": the paper's, conditioned on w and
    with the foreground's colour head; "none": the last foreground sample is opaque. ``start`` is the largest inverse
    radius.
    """

    kind: Literal["none", "coded", "styled"] = "coded"
    hidden: int = 64
    depth: int = 4
    num_freqs: int = 10
    z_dim: int = 32
    samples: int = 4
    start: float = 0.5

    def __post_init__(self) -> None:
        _at_least("", 1, hidden=self.hidden, depth=self.depth, num_freqs=self.num_freqs, z_dim=self.z_dim)
        _at_least("", 2, samples=self.samples)
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be in (0, 1], got {self.start}")


@dataclass(frozen=True)
class UpsamplerConfig:
    """The 2-D network after the volume: a block per doubling, channels min(channel_base / resolution, channel_max).

    ``recompute`` checkpoints each block: only its inputs are kept, and the backward recomputes the rest.
    """

    mode: str = "nn_cat"
    kernel_size: Literal[1, 3] = 1
    architecture: Literal["skip", "resnet", "orig"] = "skip"
    channel_base: float = 32768
    channel_max: int = 512
    clamp: float | None = 256.0
    magnitude_decay: float | None = 0.999
    noise: bool = False
    image_skip: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.mode not in SYNTHESIS_MODES:
            raise ValueError(f"mode must be one of {list(SYNTHESIS_MODES)}, got {self.mode!r}")
        if self.magnitude_decay is not None and not 0 <= self.magnitude_decay < 1:
            raise ValueError(f"magnitude_decay must be in [0, 1) or null, got {self.magnitude_decay}")
        if self.clamp is not None and not self.clamp > 0:
            raise ValueError(f"clamp must be positive or null, got {self.clamp}")
        _at_least("", 1, channel_max=self.channel_max)

    @property
    def pointwise(self) -> bool:
        """Whether, without upsampling, every layer acts on single pixels, as the NeRF path needs."""
        return self.kernel_size == 1 and self.mode != "default" and self.architecture != "resnet"

    def channels(self, resolution: int) -> int:
        return min(max(int(self.channel_base / resolution), 1), self.channel_max)


SYNTHESIS_MODES = (*UPSAMPLE_MODES, "nn_cat_noblur", "pixelshuffle_noblur", "bilinear_all", "default")


@dataclass(frozen=True)
class GeneratorConfig:
    """A whole StyleNeRF generator.

    ``resolution`` is reached from a volume rendered at ``volume_resolution``; progressive growth begins at
    ``start_resolution``. ``features`` is the width of the feature map between the two halves. ``path_lattice`` squared
    rays take part in the NeRF-path regularisation; 0 turns it off.
    """

    resolution: int = 256
    volume_resolution: int = 32
    start_resolution: int = 32
    z_dim: int = 512
    w_dim: int = 512
    label_dim: int = 0
    mapping_layers: int = 8
    features: int = 256
    path_lattice: int = 16
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    background: BackgroundConfig = dataclasses.field(default_factory=BackgroundConfig)
    upsampler: UpsamplerConfig = dataclasses.field(default_factory=UpsamplerConfig)

    def __post_init__(self) -> None:
        _at_least("", 1, w_dim=self.w_dim, mapping_layers=self.mapping_layers, features=self.features)
        _at_least("", 0, z_dim=self.z_dim, label_dim=self.label_dim, path_lattice=self.path_lattice)
        if self.volume_resolution < 1 or self.start_resolution < 1:
            raise ValueError(
                f"volume_resolution and start_resolution must be positive, got {self.volume_resolution} "
                f"and {self.start_resolution}"
            )
        if self.field.bound_radius is not None and self.background.kind == "none":
            raise ValueError("field.bound_radius must be null without a background: outside the ball there is nothing")
        doublings = math.log2(self.resolution / self.volume_resolution) if self.resolution > 0 else -1
        if doublings < 0 or doublings != int(doublings):
            raise ValueError(
                f"resolution must be volume_resolution times a power of two, got {self.resolution} "
                f"from {self.volume_resolution}"
            )
        if self.start_resolution > self.volume_resolution:
            raise ValueError(
                f"start_resolution must be at most volume_resolution ({self.volume_resolution}), "
                f"got {self.start_resolution}"
            )

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Output resolution of every upsampler block."""
        blocks = []
        resolution = self.volume_resolution * 2
        while resolution <= self.resolution:
            blocks.append(resolution)
            resolution *= 2
        return tuple(blocks)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """StyleGAN2's discriminator; ``lowres`` is the resolution at which progressive growth begins.

    ``fp16_levels`` of the finest blocks run in half precision where the precision switch asks for it.
    """

    resolution: int = 256
    label_dim: int = 0
    architecture: Literal["skip", "resnet", "orig"] = "resnet"
    channel_base: float = 32768
    channel_max: int = 512
    clamp: float | None = 256.0
    group_size: int | None = 4
    group_channels: int = 1
    progressive: bool = True
    lowres: int = 32
    fp16_levels: int = 4

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 8, got {self.resolution}")
        if self.progressive and not 8 <= self.lowres <= self.resolution:
            raise ValueError(f"lowres must be between 8 and resolution ({self.resolution}), got {self.lowres}")
        _at_least("", 1, channel_max=self.channel_max)

    def channels(self, resolution: int) -> int:
        return min(max(int(self.channel_base / resolution), 1), self.channel_max)
