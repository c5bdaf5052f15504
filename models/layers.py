"""Equalised building blocks: weights are stored at unit scale and multiplied by 1/sqrt(fan-in) when used."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..kernels.filters.bias_act import bias_act
from ..kernels.filters.conv_resample import conv2d_resample
from ..kernels.filters.upfirdn2d import setup_filter

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BLUR = (1, 3, 3, 1)


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dim [N, C] (StyleGAN2, mapping input)."""
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """y = act(x (W g / sqrt(in))^T + g b), g the learning-rate multiplier.

    Args:
        activation: any of ``stylenerf.kernels.filters.bias_act``; its default gain applies.
        lr_multiplier: g; weights start at N(0, 1) / g.
        bias_init: initial value of the bias term g b.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(max(in_features, 1))
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features, dtype=torch.float32) / lr_multiplier)
        self.bias = (
            nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier, dtype=torch.float32)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear" and bias is not None:
            return torch.addmm(bias, x, weight.t())
        return bias_act(x @ weight.t(), bias, act=self.activation)


class Conv2d(nn.Module):
    """Equalised convolution with optional FIR up- or downsampling, bias, activation and clamp.

    y = clamp(gain * act(W / sqrt(in k^2) * x + b)); the clamp scales with ``gain``.
    """

    blur: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.clamp = activation, up, down, clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = 1.0 if activation == "linear" else math.sqrt(2.0)
        self.weight = nn.Parameter(
            torch.randn(out_channels, in_channels, kernel_size, kernel_size, dtype=torch.float32)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=torch.float32)) if bias else None
        self.register_buffer("blur", setup_filter(BLUR), persistent=False)

    @property
    def scaled_weight(self) -> Tensor:
        """The convolution's weight, scaled by its gain, [O, I, k, k]."""
        return self.weight * self.weight_gain

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = self.scaled_weight.to(x.dtype)
        # correlation, except with up=2, where the public weights are laid out for a true convolution
        y = conv2d_resample(
            x, weight, self.blur, up=self.up, down=self.down, padding=self.padding, flip_weight=self.up == 1
        )
        bias = None if self.bias is None else self.bias.to(x.dtype)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(y, bias, act=self.activation, gain=self.act_gain * gain, clamp=clamp)
