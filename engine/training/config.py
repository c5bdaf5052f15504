"""The configuration of a run: frozen dataclasses by concern, YAML presets, overrides.

Sections of the model live beside the models; this module adds what training needs and checks the combinations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ...models.camera import CameraPrior
from ...models.config import DiscriminatorConfig, GeneratorConfig
from ...models.growth import alpha_at
from ...models.layers import Precision
from ..errors import UserError
from .config_io import PRESETS, apply_overrides, from_dict, load_file

HALF_MAX = torch.finfo(torch.float16).max
AugmentKind = Literal[
    "flip", "rotate90", "translate",
    "scale", "rotate", "stretch", "shift",
    "brightness", "contrast", "luma_flip", "hue", "saturation",
]  # fmt: skip
AUGMENT_KINDS: tuple[AugmentKind, ...] = get_args(AugmentKind)
# Network keys that may change when a run is resumed: they affect sampling density, precision or recomputation, but
# neither the tensors nor their meaning. All other keys of these sections are fixed.
NETWORK_SECTIONS = ("generator", "discriminator", "growth")
FREE_ON_RESUME = frozenset({
    "generator.upsampler.recompute", "generator.path_lattice", "generator.field.samples",
    "generator.field.render_samples", "generator.background.samples", "discriminator.fp16_levels",
})  # fmt: skip


def _need(name: str, wanted: str, ok: bool, got: object) -> None:
    if not ok:
        raise ValueError(f"{name} must be {wanted}, got {got}")


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class DataConfig:
    """Source of the images: "procedural", a folder or a zip.

    mirror doubles the set by flipped copies; labels conditions both networks on dataset.json; scenes is the number of
    procedural scenes; cache_mib bounds the memory for decoded images.
    """

    path: str = "procedural"
    mirror: bool = False
    labels: bool = False
    scenes: int = 4096
    cache_mib: int = 1024

    def __post_init__(self) -> None:
        _need("scenes", "at least 1", self.scenes >= 1, self.scenes)
        _need("cache_mib", "at least 0", self.cache_mib >= 0, self.cache_mib)


@dataclass(frozen=True)
class DiscriminatorSection:
    """Architecture of the discriminator; its resolutions follow the generator's."""

    architecture: Literal["skip", "resnet", "orig"] = "skip"
    channel_base: float = 16384
    channel_max: int = 512
    clamp: float | None = 256.0
    group_size: int | None = 4
    group_channels: int = 1
    fp16_levels: int = 4

    def __post_init__(self) -> None:
        _need("channel_base", "positive", self.channel_base > 0, self.channel_base)
        _need("channel_max", "at least 1", self.channel_max >= 1, self.channel_max)
        _need("clamp", "positive, or null", self.clamp is None or self.clamp > 0, self.clamp)
        _need("fp16_levels", "at least 0", self.fp16_levels >= 0, self.fp16_levels)


@dataclass(frozen=True)
class LossConfig:
    """Loss weights; a weight of 0 disables its loss. Intervals count steps (lazy regularisation)."""

    r1_gamma: float = 0.5
    r1_interval: int = 16
    path_length_weight: float = 2.0
    path_length_interval: int = 4
    path_length_decay: float = 0.01
    nerf_path_weight: float = 2.0
    distortion_weight: float = 0.0
    style_mixing: float = 0.9

    def __post_init__(self) -> None:
        for name in ("r1_gamma", "path_length_weight", "nerf_path_weight", "distortion_weight"):
            _need(name, "at least 0", getattr(self, name) >= 0, getattr(self, name))
        for name in ("r1_interval", "path_length_interval"):
            _need(name, "at least 1", getattr(self, name) >= 1, getattr(self, name))
        for name in ("path_length_decay", "style_mixing"):
            _need(name, "between 0 and 1", 0 <= getattr(self, name) <= 1, getattr(self, name))


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam of both networks, before the scaling for lazy regularisation."""

    generator_lr: float = 0.0025
    discriminator_lr: float = 0.0025
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("generator_lr", "discriminator_lr", "eps"):
            _need(name, "positive", getattr(self, name) > 0, getattr(self, name))
        for name in ("beta1", "beta2"):
            _need(name, "in [0, 1)", 0 <= getattr(self, name) < 1, getattr(self, name))


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of what the discriminator sees: transforms of ``kinds``, each with probability p.

    mode "fixed" holds p; "ada" begins with it and, every ``interval`` steps, moves it up if the mean sign of D(real) is
    above ``target`` and down if below, at a rate of 1 in ``kimg`` thousand images, within 0..``limit``. A camera whose
    prior is centred upright cannot show a picture turned, flipped or stretched: those kinds are off unless asked for.
    """

    mode: Literal["none", "fixed", "ada"] = "none"
    p: float = 0.0
    target: float = 0.6
    kimg: float = 500.0
    interval: int = 4
    limit: float = 0.8
    kinds: tuple[AugmentKind, ...] = ("translate", "brightness", "contrast", "luma_flip", "hue", "saturation")

    def __post_init__(self) -> None:
        _need("limit", "between 0 and 1, above 0", 0 < self.limit <= 1, self.limit)
        most, name = (self.limit, ", augment.limit") if self.mode == "ada" else (1, "")
        _need("p", f"between 0 and {most:g}{name}", 0 <= self.p <= most, self.p)
        _need("p", "above 0 where mode is fixed", self.mode != "fixed" or self.p > 0, self.p)
        _need("target", "between -1 and 1", -1 <= self.target <= 1, self.target)
        _need("kimg", "positive", self.kimg > 0, self.kimg)
        _need("interval", "at least 1", self.interval >= 1, self.interval)
        once = 0 < len(self.kinds) == len(set(self.kinds))
        _need("kinds", f"some of {', '.join(AUGMENT_KINDS)}, each once", once, list(self.kinds))


@dataclass(frozen=True)
class GrowthConfig:
    """Progressive growth from start_kimg to end_kimg; if off, all resolutions are trained from the start."""

    enabled: bool = True
    start_kimg: float = 500.0
    end_kimg: float = 5000.0

    def __post_init__(self) -> None:
        wanted = 0 <= self.start_kimg <= self.end_kimg
        _need("start_kimg, end_kimg", "0 <= start <= end", wanted, (self.start_kimg, self.end_kimg))

    def alpha(self, images_shown: int) -> float:
        return alpha_at(images_shown / 1000, self.start_kimg, self.end_kimg) if self.enabled else 1.0


@dataclass(frozen=True)
class TrainConfig:
    """Training loop.

    total_kimg thousands of images; batch images per step in rounds of micro_batch; ema_kimg is the half-life of G_ema,
    shortened early to ema_rampup times the images shown; a row of statistics every tick_kimg, checkpoint and pictures
    every snapshot_kimg; after max_nonfinite_steps steps in a row with a loss or gradient that is not finite, training
    stops (null: never); with ``reuse_fakes`` the discriminator learns from the images of the generator's phase, instead
    of rendering others; ``match_public_code`` trains as the public code does: no fade-in of the discriminator, fromRGB
    counted twice at its entry, the NeRF path not blended during growth but run in every generator pass; on CUDA
    ``capture`` replays the rounds of a step as graphs, with the same numbers.
    """

    total_kimg: float = 25000.0
    batch: int = 64
    micro_batch: int = 8
    seed: int = 0
    precision: Precision = "fp16"
    ema_kimg: float = 20.0
    ema_rampup: float | None = 0.05
    tick_kimg: float = 4.0
    snapshot_kimg: float = 200.0
    max_nonfinite_steps: int | None = 64
    reuse_fakes: bool = False
    match_public_code: bool = False
    capture: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch"):
            _need(name, "at least 1", getattr(self, name) >= 1, getattr(self, name))
        whole = self.batch % self.micro_batch == 0
        _need("batch", f"a multiple of micro_batch ({self.micro_batch})", whole, self.batch)
        for name in ("total_kimg", "tick_kimg", "snapshot_kimg"):
            _need(name, "positive", getattr(self, name) > 0, getattr(self, name))
        _need("ema_kimg", "at least 0", self.ema_kimg >= 0, self.ema_kimg)
        _need("ema_rampup", "at least 0, or null", self.ema_rampup is None or self.ema_rampup >= 0, self.ema_rampup)
        limit = self.max_nonfinite_steps
        _need("max_nonfinite_steps", "at least 1, or null", limit is None or limit >= 1, limit)
        _need("seed", "at least 0 and below 2**63", 0 <= self.seed < 2**63, self.seed)


@dataclass(frozen=True)
class MonitorConfig:
    """Monitoring: pictures and metrics of G_ema at every snapshot.

    grid_images latents in the sample sheet, turn_frames cameras in the turning strip, swd_images images for the sliced
    Wasserstein distance (0 turns it off), depth_scenes scenes and latents for the depth correlation (procedural data).
    detector: a TorchScript file or torch-fidelity:WEIGHTS for FID, KID, precision and recall (docs/evaluate.md), of
    evaluate_images samples, at the first snapshot after every evaluate_kimg and the last. The checkpoint with the best
    of the figure ``best`` at the current resolution is kept beside the newest (null: none).
    report: report.html and curves.png at the end of training; tensorboard: the statistics as its events too (an extra).
    """

    grid_images: int = 24
    turn_frames: int = 8
    swd_images: int = 512
    depth_scenes: int = 32
    batch: int = 8
    report: bool = True
    tensorboard: bool = False
    detector: str | None = None
    evaluate_kimg: float = 1000.0
    evaluate_images: int = 2048
    best: Literal["swd", "fid", "kid"] | None = "swd"

    def __post_init__(self) -> None:
        for name in ("grid_images", "turn_frames", "batch"):
            _need(name, "at least 1", getattr(self, name) >= 1, getattr(self, name))
        for name in ("swd_images", "depth_scenes"):
            _need(name, "at least 0", getattr(self, name) >= 0, getattr(self, name))
        _need("evaluate_kimg", "positive", self.evaluate_kimg > 0, self.evaluate_kimg)
        _need("evaluate_images", "at least 4", self.evaluate_images >= 4, self.evaluate_images)
        needs = self.best in ("fid", "kid") and self.detector is None
        _need("best", "swd, or null, without a detector", not needs, self.best)


@dataclass(frozen=True)
class Config:
    """Complete configuration of a run; written into its folder and into every checkpoint."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    camera: CameraPrior = dataclasses.field(default_factory=CameraPrior)
    generator: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorSection = dataclasses.field(default_factory=DiscriminatorSection)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    monitor: MonitorConfig = dataclasses.field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        self._check_generator()
        self._check_discriminator()
        self._check_clamps()
        upsampler = self.generator.upsampler
        weight = self.loss.nerf_path_weight
        if weight > 0 and self.generator.block_resolutions and not upsampler.pointwise:
            raise ValueError(
                "loss.nerf_path_weight must be 0 unless the upsampler is made of 1x1 layers "
                f"(generator.upsampler.kernel_size 1, not mode 'default', not 'resnet'), got {weight}"
            )
        if self.generator.background.kind != "none" and self.camera.radius[1] > 1:
            raise ValueError(
                f"camera.radius must be at most 1 with a background outside the unit sphere, got {self.camera.radius}"
            )

    def _check_generator(self) -> None:
        g = self.generator
        _need("generator.label_dim", "0: it follows the data (set data.labels instead)", g.label_dim == 0, g.label_dim)
        _need("generator.z_dim", "at least 1", g.z_dim >= 1, g.z_dim)
        tracks = g.field.track_magnitude
        _need("generator.field.track_magnitude", "false: such a field cannot be trained", not tracks, tracks)
        edge = g.resolution
        _need("generator.resolution", "a power of two of at least 8", edge >= 8 and _is_power_of_two(edge), edge)
        first = g.start_resolution
        grows = not self.growth.enabled or (first >= 8 and _is_power_of_two(first))
        _need("generator.start_resolution", "a power of two of at least 8 where growth is enabled", grows, first)

    def _check_discriminator(self) -> None:
        d, micro_batch = self.discriminator, self.train.micro_batch
        group = micro_batch if d.group_size is None else min(d.group_size, micro_batch)
        fits = group >= 1 and micro_batch % group == 0
        _need("discriminator.group_size", f"a divisor of train.micro_batch ({micro_batch})", fits, d.group_size)
        width, maps = self.discriminator_config().channels(4), d.group_channels
        fits = maps == 0 or (maps > 0 and width % maps == 0)
        _need("discriminator.group_channels", f"0 or a divisor of the last block's {width} channels", fits, maps)

    def _check_clamps(self) -> None:
        if self.train.precision == "fp16":
            clamps = {"generator.upsampler": self.generator.upsampler.clamp, "discriminator": self.discriminator.clamp}
            for section, clamp in clamps.items():
                fits = clamp is None or clamp <= HALF_MAX
                _need(f"{section}.clamp", f"at most {HALF_MAX:g}, the largest fp16 number", fits, clamp)

    def discriminator_config(self, label_dim: int = 0) -> DiscriminatorConfig:
        """Configuration of the discriminator for this generator's images."""
        g = self.generator
        return DiscriminatorConfig(
            resolution=g.resolution,
            label_dim=label_dim,
            progressive=self.growth.enabled,
            lowres=min(max(g.start_resolution, 8), g.resolution),
            **dataclasses.asdict(self.discriminator),
        )


def load_config(preset: str | None, file: str | None, overrides: list[str]) -> Config:
    """A preset or a YAML file, with ``a.b=c`` overrides on top.

    Raises: UserError naming the key, the wanted and the given value.
    """
    if (preset is None) == (file is None):
        got = "neither" if file is None else "both"
        raise UserError(f"--preset, --config: wanted exactly one of the two (or --resume alone), got {got}")
    if file is not None:
        data = load_file(Path(file), PRESETS)
    else:
        assert preset is not None
        data = load_file(preset_path(preset), PRESETS)
    return from_dict(Config, apply_overrides(data, overrides, Config), where="")


def preset_path(name: str) -> Path:
    """File of a preset. Raises: UserError listing the available presets."""
    known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"--preset: wanted one of {', '.join(known)}, got {name!r}")
    return PRESETS / f"{name}.yaml"
