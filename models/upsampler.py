"""The 2-D half: modulated 1x1 layers at low resolution, a careful upsampler, and a running sum of RGB images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..kernels.blocks.mean_square import mean_square
from ..kernels.blocks.modulated_conv import modulated_conv
from ..kernels.blocks.modulated_layer import modulated_layer
from ..kernels.blocks.refine_to_rgb import ModulatedWeights, refine_to_rgb
from ..kernels.blocks.upsample_block import upsample_block
from ..kernels.blocks.upsample_features import Adapter
from ..kernels.filters.bias_act import bias_act
from ..kernels.filters.upfirdn2d import setup_filter, upsample2d
from .config import UpsamplerConfig
from .layers import BLUR, Conv2d, FullyConnected
from .strips import in_strips, strip_rows

NoiseMode = Literal["const", "random", "none"]
SQRT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class BlockOptions:
    """How a block runs: its dtype, the source of its noise, and whether it upsamples.

    ``enlarge=False`` is the NeRF path: the same 1x1 layers on single ray samples, without upsampling, blur or noise.
    ``features`` says whether a block's features are needed besides its image.
    ``recorded`` holds magnitudes and noise of the first pass, reused when the block is recomputed.
    """

    dtype: torch.dtype = torch.float32
    noise: NoiseMode = "const"
    enlarge: bool = True
    features: bool = True
    generator: torch.Generator | None = None
    recorded: dict[tuple[nn.Module, str], Tensor] | None = None

    def once(self, layer: nn.Module, name: str, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, or its recorded value: recomputation neither updates averages nor draws noise again."""
        if self.recorded is None:
            return make()
        if (layer, name) not in self.recorded:
            self.recorded[layer, name] = make()
        return self.recorded[layer, name]


class SynthesisLayer(nn.Module):
    """x / sqrt(a) -> modulated conv -> upsample and blur -> noise -> bias, leaky ReLU, gain sqrt 2, clamp.

    a is a running mean of x^2, one number; in training it is updated with x before it divides x.
    """

    magnitude: Tensor
    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, cfg: UpsamplerConfig, *, up: bool
    ) -> None:
        super().__init__()
        self.up, self.clamp, self.decay = up, cfg.clamp, cfg.magnitude_decay
        self.resolution = resolution
        self.taps = None if cfg.mode.endswith("_noblur") else BLUR
        self.mode = cfg.mode.removesuffix("_noblur")
        self.mode = {"bilinear_all": "bilinear", "default": "transposed"}.get(self.mode, self.mode) if up else "plain"
        self.padding = cfg.kernel_size // 2
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(
            torch.randn(out_channels, in_channels, cfg.kernel_size, cfg.kernel_size, dtype=torch.float32)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=torch.float32))
        self.adapter = _make_adapter(self.mode, out_channels)
        if self.decay is not None:
            self.register_buffer("magnitude", torch.ones([], dtype=torch.float32))
        self.use_noise = cfg.noise
        if cfg.noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution, dtype=torch.float32))
            self.noise_strength = nn.Parameter(torch.zeros([], dtype=torch.float32))

    def forward(self, x: Tensor, w: Tensor, options: BlockOptions, *, gain: float = 1.0) -> Tensor:
        _, styles, _, input_gain = self.modulation(x, w, options)
        noise = self.draw_noise(x, options)
        clamp = None if self.clamp is None else self.clamp * gain
        gain *= math.sqrt(2.0)
        if self.up and options.enlarge:
            return upsample_block(
                x,
                self.weight,
                styles,
                mode=self.mode,
                adapter=self._adapter(),
                taps=self.taps,
                input_gain=input_gain,
                bias=self.bias,
                noise=noise,
                gain=gain,
                clamp=clamp,
            )
        if self.padding == 0:
            return modulated_layer(
                x, self.weight, styles, input_gain=input_gain, bias=self.bias, noise=noise, gain=gain, clamp=clamp
            )
        y = modulated_conv(x, self.weight, styles, input_gain=input_gain, noise=noise, padding=self.padding)
        return bias_act(y, self.bias, act="lrelu", gain=gain, clamp=clamp, inplace=True)

    def modulation(self, x: Tensor, w: Tensor, options: BlockOptions) -> ModulatedWeights:
        """Modulation of the layer for input x; in training, x updates the running magnitude first."""
        input_gain = None
        if self.decay is not None:
            input_gain = options.once(self, "input gain", lambda: self._update_magnitude(x).rsqrt())
        return ModulatedWeights(self.weight, self.affine(w), self.bias, input_gain)

    def _adapter(self) -> Adapter | None:
        if self.adapter is None:
            return None
        first, second = cast(list[AdapterLayer], list(self.adapter))
        return Adapter(first.flat_weight, first.bias, second.flat_weight, second.bias)

    @torch.no_grad()
    def _update_magnitude(self, x: Tensor) -> Tensor:
        if self.training:
            assert self.decay is not None
            self.magnitude.lerp_(mean_square(x), 1 - self.decay)
        return self.magnitude

    def draw_noise(self, x: Tensor, options: BlockOptions) -> Tensor | None:
        if not self.use_noise or options.noise == "none" or not options.enlarge:
            return None
        if options.noise == "const":
            noise = self.noise_const
        else:
            shape = (x.shape[0], 1, self.resolution, self.resolution)
            noise = options.once(
                self,
                "noise",
                lambda: torch.randn(shape, dtype=torch.float32, device=x.device, generator=options.generator),
            )
        return (noise * self.noise_strength).to(x.dtype)


class AdapterLayer(nn.Module):
    """An equalised 1x1 layer of an upsampling adapter; activation and gain belong to the upsampling op."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=torch.float32))

    @property
    def flat_weight(self) -> Tensor:
        return self.weight / math.sqrt(self.weight.shape[1])


def _make_adapter(mode: str, channels: int) -> nn.ModuleList | None:
    narrow = max(channels // 4, 1)
    shapes = {
        "nn_cat": ((2 * channels, narrow), (narrow, channels)),
        "pixelshuffle": ((channels, narrow), (narrow, 4 * channels)),
        "bilinear_ada": ((channels, channels), (channels, channels)),
    }
    return nn.ModuleList(AdapterLayer(a, b) for a, b in shapes[mode]) if mode in shapes else None


class ToRGB(nn.Module):
    """Modulated 1x1 without demodulation, styles scaled by 1/sqrt(in), then bias and clamp."""

    def __init__(self, in_channels: int, w_dim: int, *, channels: int = 3, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, in_channels, 1, 1, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32))

    def modulation(self, w: Tensor) -> ModulatedWeights:
        return ModulatedWeights(self.weight, self.affine(w) * self.weight_gain, self.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, styles, bias, _ = self.modulation(w)
        return modulated_layer(x, weight, styles, demodulate=False, bias=bias, slope=None, gain=1.0, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """conv0 doubles the resolution, conv1 refines, toRGB adds to the enlarged image of the previous block.

    Reads three rows of ws: conv0, conv1, toRGB.
    """

    blur: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, cfg: UpsamplerConfig, *, is_last: bool
    ) -> None:
        super().__init__()
        self.resolution, self.architecture = resolution, cfg.architecture
        self.bilinear_image = cfg.mode in ("bilinear_all", "bilinear_ada")
        self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, cfg, up=True)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, cfg, up=False)
        # a row of the output depends on neighbouring rows, not on its position
        self.local = cfg.pointwise and cfg.architecture != "resnet" and "bilinear" not in cfg.mode
        has_rgb = is_last or cfg.architecture == "skip"
        self.torgb = ToRGB(out_channels, w_dim, clamp=cfg.clamp) if has_rgb else None
        if cfg.architecture == "resnet":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, up=2)
        self.register_buffer("blur", setup_filter(BLUR), persistent=False)

    def forward(
        self, x: Tensor, image: Tensor | None, ws: Tensor, options: BlockOptions
    ) -> tuple[Tensor | None, Tensor | None]:
        """x [N, C, H, W], image [N, 3, H, W] float32 or None, ws [B, 3, w_dim] -> the same at twice the resolution.

        The features may be None where ``options`` do not ask for them.
        """
        x = x.to(options.dtype)
        if self.architecture == "resnet":
            if not options.enlarge:
                raise ValueError(
                    "the NeRF path needs an upsampler of 1x1 layers: architecture must be 'skip' or 'orig'"
                )
            short = self.skip(x, gain=SQRT_HALF)
            x = self.conv0(x, ws[:, 0], options)
            x = short + self.conv1(x, ws[:, 1], options, gain=SQRT_HALF)
        else:
            x = self.conv0(x, ws[:, 0], options)
            if self.torgb is not None and self.conv1.padding == 0:
                return self._refine(self.torgb, x, image, ws, options)
            x = self.conv1(x, ws[:, 1], options)
        if image is not None and options.enlarge:
            image = self._enlarge(image)
        if self.torgb is not None:
            rgb = self.torgb(x, ws[:, 2]).float()
            image = rgb if image is None else image + rgb
        return x, image

    def _refine(
        self, torgb: ToRGB, x: Tensor, image: Tensor | None, ws: Tensor, options: BlockOptions
    ) -> tuple[Tensor | None, Tensor]:
        """conv1, toRGB and the sum of the images as one op."""
        enlarge: Literal["fir", "bilinear"] = "bilinear" if self.bilinear_image else "fir"
        return refine_to_rgb(
            x,
            self.conv1.modulation(x, ws[:, 1], options),
            torgb.modulation(ws[:, 2]),
            image,
            enlarge=enlarge if options.enlarge else None,
            noise=self.conv1.draw_noise(x, options),
            clamp=torgb.clamp,
            keep=options.features,
        )

    def _enlarge(self, image: Tensor) -> Tensor:
        if self.bilinear_image:
            return torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=True)
        return upsample2d(image, self.blur)


class Upsampler(nn.Module):
    """The chain of blocks from the volume's resolution to the full one."""

    def __init__(self, in_channels: int, w_dim: int, resolutions: Sequence[int], cfg: UpsamplerConfig) -> None:
        super().__init__()
        self.image_skip = cfg.image_skip
        self.pointwise = cfg.pointwise
        self.recompute = cfg.recompute
        widths = [in_channels] + [cfg.channels(r) for r in resolutions]
        self.blocks = nn.ModuleDict(
            {
                f"b{r}": SynthesisBlock(a, b, w_dim, r, cfg, is_last=r == resolutions[-1])
                for a, b, r in zip(widths, widths[1:], resolutions)
            }
        )
        self.num_ws = 2 * len(resolutions) + 1 if resolutions else 0

    def forward(
        self,
        features: Tensor,
        image: Tensor,
        ws: Tensor,
        *,
        blocks: int,
        options: BlockOptions,
        fine_dtype: torch.dtype = torch.float32,
    ) -> list[Tensor]:
        """Run the first ``blocks`` blocks; all but the first of them in ``fine_dtype``.

        Args:
            features: [N, C, H, W] float32.  image: [N, 3, H, W] float32, the volume-rendered colours.
            ws: [B, num_ws, w_dim], this half's rows; N is a multiple of B.
        Returns: the images before the first and after every block.
        """
        images = [image]
        x: Tensor | None = features
        skip = image if self.image_skip else None
        for i, block in enumerate(cast(list[SynthesisBlock], list(self.blocks.values()))[:blocks]):
            assert x is not None
            dtype = fine_dtype if i else torch.float32
            recompute = self.recompute and torch.is_grad_enabled()
            needed = i + 1 < blocks or not x.is_cuda  # the plain form computes them anyway
            own = replace(options, dtype=dtype, features=needed, recorded={} if recompute else None)
            run = partial(block, ws=ws[:, 2 * i : 2 * i + 3], options=own)
            rows = self._strip_rows(block, x, own)
            if rows < x.shape[2]:
                x, skip = in_strips(run, x, skip, rows, keep_features=i + 1 < blocks)
            elif recompute:  # random numbers are recorded in ``own``, so checkpointing need not restore torch's state
                x, skip = checkpoint(run, x, skip, use_reentrant=False, preserve_rng_state=False)
            else:
                x, skip = run(x, skip)
            images.append(image if skip is None else skip)
        return images

    def _strip_rows(self, block: SynthesisBlock, x: Tensor, options: BlockOptions) -> int:
        """Rows that pass ``block`` at a time: all of them, except in inference on a CPU."""
        noisy = block.conv0.use_noise and options.noise != "none"
        whole = torch.is_grad_enabled() or self.training or x.device.type != "cpu" or noisy
        if whole or not block.local or not options.enlarge:
            return x.shape[2]
        return strip_rows(x.shape[0], block.conv1.weight.shape[0], x.shape[3], options.dtype.itemsize)
