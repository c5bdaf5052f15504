"""Radiance fields: style-conditioned (foreground, and the paper's background) and latent-coded (released background).

A field passes its trunk to the ray pass as :class:`stylenerf.kernels.FieldWeights`; its linear feature and colour heads
run afterwards, once per ray.
"""

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.blocks.modulated_conv import modulate_weights
from ..kernels.rays.render import FieldWeights
from .layers import FullyConnected


class ModulatedLayer(nn.Module):
    """A modulated 1x1 layer's parameters; ``weights(w)`` gives its weight per image, [B, O, I].

    Demodulated layers have unit-norm rows; the others scale their style by 1/sqrt(in).
    """

    magnitude: Tensor

    def __init__(
        self, in_features: int, out_features: int, w_dim: int, *, demodulate: bool, track_magnitude: bool = False
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(torch.randn(out_features, in_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=torch.float32))
        self.affine = FullyConnected(w_dim, in_features, bias_init=1.0)
        self.track_magnitude = track_magnitude
        if track_magnitude:
            self.register_buffer("magnitude", torch.ones([], dtype=torch.float32))

    def weights(self, w: Tensor) -> Tensor:
        styles = self.affine(w)
        if not self.demodulate:
            styles = styles / math.sqrt(self.weight.shape[1])
        weight = modulate_weights(self.weight, styles, demodulate=self.demodulate)
        # the running magnitude divides the layer's input, or equally the weight, since the layer is linear
        return weight * self.magnitude.rsqrt() if self.track_magnitude else weight


class ColourHead(nn.Module):
    """Equalised linear map from features to RGB, no bound on its values: rgb = W / sqrt(in) f + b sum(w)."""

    def __init__(self, in_features: int, channels: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, in_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32))

    def forward(self, features: Tensor, weight_sum: Tensor) -> Tensor:
        scaled = self.weight / math.sqrt(self.weight.shape[1])
        return features @ scaled.t() + self.bias * weight_sum[..., None]


class StyledField(nn.Module):
    """h = trunk(gamma(p); w): ``depth`` modulated, demodulated layers with leaky ReLU and gain sqrt 2.

    Uses ws rows 0 .. depth+1: one per layer, then density, then features.

    Args:
        depth: trunk layers including the first.
        skips: layers (counted from 0) that also read the encoding.
        track_magnitude: layers after the first divide their input by the root of a running mean square. Evaluation
            only: released fields do not track it, so no training rule is known.
        colour_head: build one; False where the field shares another field's.
        density_bias: initial bias of the density.
    """

    def __init__(
        self,
        w_dim: int,
        *,
        hidden: int,
        depth: int,
        features: int,
        point_dims: int = 3,
        num_freqs: int = 10,
        skips: tuple[int, ...] = (),
        track_magnitude: bool = False,
        colour_head: bool = True,
        density_bias: float = 0.0,
    ) -> None:
        super().__init__()
        encoded = 2 * point_dims * num_freqs
        self.num_freqs, self.skips, self.track_magnitude = num_freqs, skips, track_magnitude
        self.num_ws = depth + 2
        widths = [encoded] + [hidden + (encoded if i in skips else 0) for i in range(1, depth)]
        self.layers = nn.ModuleList(
            ModulatedLayer(width, hidden, w_dim, demodulate=True, track_magnitude=track_magnitude and i > 0)
            for i, width in enumerate(widths)
        )
        self.density = ModulatedLayer(hidden, 1, w_dim, demodulate=False)
        nn.init.constant_(self.density.bias, density_bias)
        self.feature = ModulatedLayer(hidden, features, w_dim, demodulate=False)
        self.colour = ColourHead(features) if colour_head else None

    def trunk(self, ws: Tensor, z: Tensor | None = None) -> FieldWeights:
        """Modulated weights for the styles ws [B, num_ws, w_dim]."""
        if self.track_magnitude and self.training:
            raise RuntimeError("a field with tracked magnitudes can be evaluated but not trained; call eval()")
        layers = cast(list[ModulatedLayer], list(self.layers))
        depth = len(layers)
        return FieldWeights(
            weights=tuple(layer.weights(ws[:, i]) for i, layer in enumerate(layers)),
            biases=tuple(layer.bias for layer in layers),
            density_weight=self.density.weights(ws[:, depth]).squeeze(1),
            density_bias=self.density.bias,
            num_freqs=self.num_freqs,
            skips=self.skips,
        )

    def features(self, hidden: Tensor, weight_sum: Tensor, ws: Tensor) -> Tensor:
        """Feature head on (aggregated) hidden features [B, ..., H], biases scaled by ``weight_sum`` [B, ...]."""
        weight = self.feature.weights(ws[:, len(self.layers) + 1])
        flat = torch.bmm(hidden.flatten(1, -2), weight.transpose(1, 2))
        return flat.unflatten(1, hidden.shape[1:-1]) + self.feature.bias * weight_sum[..., None]


class CodedField(nn.Module):
    """The released background: plain linear layers with ReLU on (gamma(p), z), Kaiming initialisation."""

    def __init__(
        self, z_dim: int, *, hidden: int, depth: int, features: int, point_dims: int = 4, num_freqs: int = 10
    ) -> None:
        super().__init__()
        self.z_dim, self.num_freqs, self.num_ws = z_dim, num_freqs, 0
        self.encoded = 2 * point_dims * num_freqs
        widths = [self.encoded + z_dim] + [hidden] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=torch.float32) for a, b in pairwise(widths))
        for layer in cast(list[nn.Linear], self.layers):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.density = nn.Linear(hidden, 1, dtype=torch.float32)
        self.feature = nn.Linear(hidden, features, dtype=torch.float32)
        self.colour: ColourHead | None = ColourHead(features)

    def trunk(self, ws: Tensor, z: Tensor | None = None) -> FieldWeights:
        """Weights for the codes z [B, z_dim]; the code's part of the first layer becomes a bias per image."""
        if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z_bg must be [B, {self.z_dim}], got {None if z is None else list(z.shape)}")
        first, *rest = cast(list[nn.Linear], list(self.layers))
        bias = torch.addmm(first.bias, z, first.weight[:, self.encoded :].t())  # [B, H]
        return FieldWeights(
            weights=(first.weight[:, : self.encoded], *(layer.weight for layer in rest)),
            biases=(bias, *(layer.bias for layer in rest)),
            density_weight=self.density.weight[0],
            density_bias=self.density.bias,
            num_freqs=self.num_freqs,
            gain=1.0,
            negative_slope=0.0,
        )

    def features(self, hidden: Tensor, weight_sum: Tensor, ws: Tensor) -> Tensor:
        """Feature head on (aggregated) hidden features, bias scaled by ``weight_sum``."""
        return hidden @ self.feature.weight.t() + self.feature.bias * weight_sum[..., None]


Field = StyledField | CodedField
