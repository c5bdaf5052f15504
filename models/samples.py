"""Single samples of one subject: a field and the upsampler's 1x1 layers as plain matrix products, channels first.

What :meth:`Synthesis.strict` computes for a sample, in float32: styles enter the weights once, and the linear heads of
features and colours become one product with the first layer that reads them. A product is [O, I] x [I, N].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu_

from ..kernels.blocks.modulated_conv import modulate_weights
from ..kernels.rays.types import FieldWeights
from .field import ColourHead, Field, StyledField
from .growth import Growth
from .upsampler import BlockOptions, SynthesisBlock, SynthesisLayer, ToRGB, Upsampler

_ACTIVATION = (0.2, math.sqrt(2.0))  # slope and gain of the upsampler's layers


class _Layer(NamedTuple):
    weight: Tensor  # [O, I]
    bias: Tensor  # [O, 1]
    clamp: float | None = None

    def __call__(self, x: Tensor, slope: float | None = None) -> Tensor:
        y = torch.addmm(self.bias, self.weight, x)
        if slope is not None:
            y = leaky_relu_(y, slope)
        return y if self.clamp is None else y.clamp_(-self.clamp, self.clamp)

    def after(self, head: _Layer) -> _Layer:
        """This layer and the linear ``head`` before it as one."""
        return _Layer(self.weight @ head.weight, torch.addmm(self.bias, self.weight, head.bias), self.clamp)


class FieldSamples:
    """Hidden features and densities of a field at points."""

    def __init__(self, trunk: FieldWeights) -> None:
        """``trunk``: of one subject."""
        self.trunk, self.width = trunk, trunk.width
        gain = trunk.gain
        self.layers = [
            _Layer(_one(w, 2) * gain, _one(b, 1)[:, None] * gain) for w, b in zip(trunk.weights, trunk.biases)
        ]
        self.density = _Layer(_one(trunk.density_weight, 1)[None], trunk.density_bias[:, None])
        freqs = math.pi * 2.0 ** torch.arange(trunk.num_freqs, dtype=torch.float64, device=self.density.weight.device)
        self.freqs = freqs.float()[:, None, None]

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [D, N], contracted, to hidden features [H, N] and raw density [N]."""
        angles = points * self.freqs  # [F, D, N]
        encoded = torch.stack([angles.sin(), angles.cos_()], 1).flatten(0, 2)  # [2 F D, N]
        hidden = encoded
        for i, layer in enumerate(self.layers):
            x = torch.cat([hidden, encoded]) if i in self.trunk.skips else hidden
            hidden = layer(x, self.trunk.negative_slope)
        return hidden, self.density(hidden)[0]


class ColourSamples:
    """Colours of single samples from their hidden features."""

    def __init__(
        self,
        field: Field,
        head: ColourHead,
        upsampler: Upsampler,
        ws: Tensor,
        rows: Tensor,
        growth: Growth,
        blocks: int,
    ) -> None:
        """``ws`` and ``rows`` [1, ., w_dim]: the field's and the upsampler's styles of one subject."""
        self.growth, self.image_skip = growth, upsampler.image_skip
        if isinstance(field, StyledField):
            weight, bias = field.feature.weights(ws[:, len(field.layers) + 1])[0], field.feature.bias
        else:
            weight, bias = field.feature.weight, field.feature.bias
        features = _Layer(weight, bias[:, None])
        self.first = _Layer(head.weight / math.sqrt(head.weight.shape[1]), head.bias[:, None]).after(features)
        self.blocks: list[tuple[_Layer, _Layer, _Layer | None]] = []
        for i, block in enumerate(cast(Sequence[SynthesisBlock], list(upsampler.blocks.values()))[:blocks]):
            own = rows[0, 2 * i : 2 * i + 3]
            layers = [_layer(getattr(block, f"conv{k}"), own[k : k + 1]) for k in range(2)]
            if i == 0:
                layers[0] = layers[0].after(features)
            rgb = None if block.torgb is None else _layer(block.torgb, own[2:])
            self.blocks.append((layers[0], layers[1], rgb))

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden features [H, N] to colours [3, N]."""
        slope = _ACTIVATION[0]
        image = previous = self.first(hidden)
        skip = image if self.image_skip else None
        x = hidden
        for first, second, rgb in self.blocks:
            x = second(first(x, slope), slope)
            previous = image
            if rgb is not None:
                skip = rgb(x) if skip is None else rgb(x) + skip
            image = image if skip is None else skip
        blend = self.growth.blend
        return image if blend is None or not self.blocks else torch.lerp(previous, image, blend)


def _layer(layer: SynthesisLayer | ToRGB, w: Tensor) -> _Layer:
    """A layer of the upsampler under the style w [1, w_dim], its gain within the weights."""
    parts = layer.modulation(w) if isinstance(layer, ToRGB) else layer.modulation(w.new_zeros(0), w, BlockOptions())
    weight = modulate_weights(parts.weight[..., 0, 0], parts.styles, demodulate=not isinstance(layer, ToRGB))[0]
    gain: Tensor | float = 1.0 if isinstance(layer, ToRGB) else _ACTIVATION[1]
    if parts.input_gain is not None:
        weight = weight * parts.input_gain
    assert parts.bias is not None
    return _Layer(weight * gain, parts.bias[:, None] * gain, layer.clamp)


def _one(parameter: Tensor, dims: int) -> Tensor:
    """A parameter of one subject without the axis of subjects."""
    return parameter[0] if parameter.ndim > dims else parameter
