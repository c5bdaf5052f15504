"""A generator and a discriminator of two resolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from ..torch_utils import misc
from ..torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d


@misc.profiled_function
def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    N = x.shape[0]
    w = weight[None] * styles[:, None, :, None, None]
    norm = (w.square().sum([2, 3, 4]) + 1e-8).rsqrt() if demodulate else w.new_ones(w.shape[:2])
    options: dict[str, Any] = {"f": resample_filter, "up": up, "down": down, "padding": padding}
    if not fused_modconv:
        x = x * styles[:, :, None, None]
        x = conv2d_resample.conv2d_resample(x, weight, **options, flip_weight=flip_weight)
        return fma.fma(x, norm[:, :, None, None], x.new_zeros(()) if noise is None else noise)
    w = w * norm[:, :, None, None, None]
    x = x.reshape(1, -1, *x.shape[2:])
    x = conv2d_resample.conv2d_resample(x, w.flatten(0, 1), **options, groups=N, flip_weight=flip_weight)
    x = x.reshape(N, -1, *x.shape[2:])
    return x if noise is None else x + noise


class SynthesisLayer(nn.Module):
    def __init__(self, fan_in: int, out: int, w_dim: int, size: int, up: int = 1) -> None:
        super().__init__()
        self.up, self.affine = up, nn.Linear(w_dim, fan_in)
        self.weight, self.bias = nn.Parameter(torch.randn(out, fan_in, 3, 3)), nn.Parameter(torch.randn(out))
        self.noise_strength = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool) -> Tensor:
        x = modulated_conv2d(
            x=x,
            weight=self.weight,
            styles=self.affine(w),
            noise=self.noise_const * self.noise_strength,
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter,
            flip_weight=(self.up == 1),
            fused_modconv=fused_modconv,
        )
        gain = bias_act.activation_funcs["lrelu"]["def_gain"]
        return bias_act.bias_act(x, self.bias.to(x.dtype), act="lrelu", gain=gain * 0.7, clamp=256)


class ToRGB(nn.Module):
    def __init__(self, fan_in: int, out: int, w_dim: int) -> None:
        super().__init__()
        self.affine, self.weight = nn.Linear(w_dim, fan_in), nn.Parameter(torch.randn(out, fan_in, 1, 1) / fan_in**0.5)
        self.bias = nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool) -> Tensor:
        styles = self.affine(w)
        x = modulated_conv2d(x=x, weight=self.weight, styles=styles, demodulate=False, fused_modconv=fused_modconv)
        return bias_act.bias_act(x, self.bias.to(x.dtype), clamp=256)


class Generator(nn.Module):
    """4 to 8 pixels, ``out`` channels, from one w [N, w_dim]."""

    def __init__(self, channels: int = 6, w_dim: int = 5, out: int = 3) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(channels, 4, 4))
        self.first = SynthesisLayer(channels, channels, w_dim, 4)
        self.second = SynthesisLayer(channels, channels, w_dim, 8, up=2)
        self.small, self.large = ToRGB(channels, out, w_dim), ToRGB(channels, out, w_dim)

    def forward(self, w: Tensor, fused_modconv: bool = True) -> Tensor:
        x = self.first(self.const.expand(w.shape[0], -1, -1, -1), w, fused_modconv)
        image = upfirdn2d.upsample2d(self.small(x, w, fused_modconv), self.second.resample_filter)
        return image + self.large(self.second(x, w, fused_modconv), w, fused_modconv)


class Conv2dLayer(nn.Module):
    def __init__(self, fan_in: int, out: int, k: int, down: int = 1, act: str = "lrelu", bias: bool = True) -> None:
        super().__init__()
        self.down, self.padding, self.act = down, k // 2, act
        self.weight = nn.Parameter(torch.randn(out, fan_in, k, k) / (fan_in * k * k) ** 0.5)
        self.bias = nn.Parameter(torch.randn(out)) if bias else None
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def forward(self, x: Tensor, gain: float = 1) -> Tensor:
        x = conv2d_resample.conv2d_resample(
            x=x, w=self.weight, f=self.resample_filter, down=self.down, padding=self.padding, flip_weight=True
        )
        return bias_act.bias_act(x, self.bias, act=self.act, gain=2**0.5 * gain, clamp=256 * gain)


class Discriminator(nn.Module):
    """Logits of 8-pixel images: a residual block that halves them, and a last layer."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.fromrgb = Conv2dLayer(3, channels, 1)
        self.conv0, self.conv1 = Conv2dLayer(channels, channels, 3), Conv2dLayer(channels, channels, 3, down=2)
        self.skip = Conv2dLayer(channels, channels, 1, down=2, act="linear", bias=False)
        self.out = nn.Linear(channels * 16, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.fromrgb(image)
        x = self.skip(x, gain=0.5**0.5) + self.conv1(self.conv0(x), gain=0.5**0.5)
        return self.out(x.flatten(1))
