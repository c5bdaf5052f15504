"""StyleGAN2's discriminator, growing: an image enters at the block of its own resolution.

The ``skip`` form carries an image pyramid along with the features; ``resnet`` adds a strided shortcut to every block.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.filters.upfirdn2d import downsample2d, setup_filter
from .config import DiscriminatorConfig
from .growth import Growth
from .layers import BLUR, DTYPES, Conv2d, FullyConnected, Precision
from .mapping import MappingNetwork
from .precision import in_float32
from .resize import reduce_bilinear

SQRT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class DiscriminatorOptions:
    """Options of a forward pass.

    Attributes:
        growth: current state of growth; None means full resolution. A larger image is first resized bilinearly.
        fade: blend in the newest block like the generator does.
        entry_rgb_twice: count fromRGB twice where growth enters below the full resolution and where a block is faded
            in (skip form), as the public code does; off is the intended behaviour, continuous from level to level.
        precision: of the finest blocks.
    """

    growth: Growth | None = None
    fade: bool = True
    entry_rgb_twice: bool = False
    precision: Precision = "fp32"


def minibatch_std(x: Tensor, group_size: int | None, channels: int = 1) -> Tensor:
    """Append ``channels`` maps that hold the standard deviation over groups of samples (progressive GAN, section 3).

    Sample n belongs to group n mod (B / G), G = min(group_size, B); None takes the whole batch as one group.
    x [B, C, H, W] -> [B, C + channels, H, W].
    """
    batch, width, height, breadth = x.shape
    group = batch if group_size is None else min(group_size, batch)
    group = group if batch else 1  # no samples, no groups: an empty result
    if group < 1 or batch % group:
        raise ValueError(f"group_size must divide the batch ({batch}), got {group}")
    y = x.reshape(group, batch // group, channels, width // channels, height, breadth)  # [G, B/G, F, C/F, H, W]
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [B/G, F]
    y = y[:, :, None, None].repeat(group, 1, height, breadth)
    return torch.cat([x, y], dim=1)


class DiscriminatorBlock(nn.Module):
    """conv0, conv1 (halves the resolution), and fromRGB where an image may enter."""

    blur: Tensor

    def __init__(self, in_channels: int, out_channels: int, cfg: DiscriminatorConfig, *, from_rgb: bool) -> None:
        super().__init__()
        self.architecture = cfg.architecture
        self.from_rgb = Conv2d(3, in_channels, 1, activation="lrelu", clamp=cfg.clamp) if from_rgb else None
        self.conv0 = Conv2d(in_channels, in_channels, 3, activation="lrelu", clamp=cfg.clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, activation="lrelu", down=2, clamp=cfg.clamp)
        if cfg.architecture == "resnet":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2)
        self.register_buffer("blur", setup_filter(BLUR), persistent=False)

    def forward(self, x: Tensor | None, image: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Features (None at the first block) and the image pyramid -> features at half the resolution, pyramid."""
        x = None if x is None else x.to(dtype)
        if image is not None:
            image = image.to(dtype)
            rgb = self.rgb_features(image)
            x = rgb if x is None else x + rgb
            image = downsample2d(image, self.blur) if self.architecture == "skip" else None
        assert x is not None
        if self.architecture == "resnet":
            short = self.skip(x, gain=SQRT_HALF)
            x = short + self.conv1(self.conv0(x), gain=SQRT_HALF)
        else:
            x = self.conv1(self.conv0(x))
        return x, image

    def rgb_features(self, image: Tensor) -> Tensor:
        if self.from_rgb is None:
            raise ValueError("this discriminator takes images at its full resolution only: progressive is off")
        return self.from_rgb(image)


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, 3x3 conv and two linear layers at 4x4."""

    def __init__(self, channels: int, cfg: DiscriminatorConfig, label_width: int) -> None:
        super().__init__()
        self.group_size, self.group_channels = cfg.group_size, cfg.group_channels
        self.from_rgb = Conv2d(3, channels, 1, activation="lrelu") if cfg.architecture == "skip" else None
        extra = cfg.group_channels
        self.conv = Conv2d(channels + extra, channels, 3, activation="lrelu", clamp=cfg.clamp)
        self.fc = FullyConnected(channels * 16, channels, activation="lrelu")
        self.out = FullyConnected(channels, label_width or 1)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        x = x.float()
        if self.from_rgb is not None and image is not None:
            x = x + self.from_rgb(image.float())
        if self.group_channels:
            x = minibatch_std(x, self.group_size, self.group_channels)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(nn.Module):
    """Images [B, 3, R, R] (and labels) to logits [B, 1]; large = real."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        edges = [2**i for i in range(int(math.log2(cfg.resolution)), 2, -1)]
        widths = [cfg.channels(e) for e in (*edges, 4)]
        self.blocks = nn.ModuleDict(
            {
                f"b{edge}": DiscriminatorBlock(
                    a, b, cfg, from_rgb=i == 0 or cfg.progressive or cfg.architecture == "skip"
                )
                for i, (edge, a, b) in enumerate(zip(edges, widths, widths[1:]))
            }
        )
        label_width = widths[-1] if cfg.label_dim else 0
        self.epilogue = DiscriminatorEpilogue(widths[-1], cfg, label_width)
        self.mapping: MappingNetwork | None = None
        if cfg.label_dim:
            self.mapping = MappingNetwork(0, cfg.label_dim, label_width, None, w_avg_decay=None)

    @in_float32
    def forward(
        self, image: Tensor, label: Tensor | None = None, *, options: DiscriminatorOptions | None = None
    ) -> Tensor:
        """Logits of images.

        Raises: ValueError for an image smaller than the resolution it should enter at, or not square.
        """
        options = options or DiscriminatorOptions()
        entry, blend = self.cfg.resolution, None
        if options.growth is not None and self.cfg.progressive:
            entry = max(options.growth.resolution, self.cfg.lowres if options.growth.level == 0 else 8)
            blend = options.growth.blend if options.fade else None
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[2] < entry:
            raise ValueError(f"image must be [B, 3, {entry}, {entry}] (or larger), got {list(image.shape)}")
        image = reduce_bilinear(image, entry).contiguous(memory_format=torch.channels_last)
        half = reduce_bilinear(image, entry // 2) if blend is not None else None
        x = None
        if options.entry_rgb_twice and entry < self.cfg.resolution and self.cfg.architecture == "skip":
            x = cast(DiscriminatorBlock, self.blocks[f"b{entry}"]).rgb_features(image)
        pyramid: Tensor | None = image
        for i, (name, block) in enumerate(cast(dict[str, DiscriminatorBlock], self.blocks).items()):
            edge = int(name[1:])
            if edge > entry:
                continue
            if half is not None and blend is not None and edge == entry // 2:
                assert x is not None
                x = x * blend
                # the skip form's pyramid brings the half-size image into this block; the resnet form needs its fromRGB
                if pyramid is None or options.entry_rgb_twice:
                    x = x + (1 - blend) * block.rgb_features(half).to(x.dtype)
                pyramid = None if pyramid is None else torch.lerp(half, pyramid.float(), blend)
            dtype = DTYPES[options.precision] if i < self.cfg.fp16_levels else torch.float32
            x, pyramid = block(x, pyramid, dtype)
        assert x is not None
        return self._logits(self.epilogue(x, pyramid), label)

    def _logits(self, x: Tensor, label: Tensor | None) -> Tensor:
        if self.mapping is None:
            return x
        projected = self.mapping(None, label)
        return (x * projected).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
