"""Arguments and results of the ray pass."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class FieldWeights:
    """Trunk and density head of a radiance field; weights are already modulated.

    h_0 = gamma(p); h_l = gain * lrelu(W_l h_{l-1} + b_l); sigma = <v, h_L> + c. A layer named in ``skips`` reads
    (h_{l-1}, gamma(p)) instead of h_{l-1} alone.

    Attributes:
        weights: L tensors [O, I] or [B, O, I]; the first has I = 2 F D.
        biases: L tensors [O] or [B, O]; a per-image code enters as part of the first bias.
        density_weight: [H] or [B, H].  density_bias: [1].
        num_freqs: octaves F of the positional encoding.
        gain, negative_slope: of the activation.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    density_weight: Tensor
    density_bias: Tensor
    num_freqs: int = 10
    gain: float = 2.0**0.5
    negative_slope: float = 0.2
    skips: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Width of the hidden features."""
        return self.weights[-1].shape[-2]


@dataclass(frozen=True)
class RayDraws:
    """Random numbers of one pass, all optional: fine positions u [B, R, S_f] in [0, 1] and density noise [B, R, S]."""

    fine_u: Tensor | None = None
    coarse_noise: Tensor | None = None
    fine_noise: Tensor | None = None


class RayFeatures(NamedTuple):
    """Result of a pass along rays; S' samples per ray in ascending depth (coarse and fine merged)."""

    hidden: Tensor  # [B, R - E, H] sum_i w_i h_i
    weights: Tensor  # [B, R, S']
    depths: Tensor  # [B, R, S']
    fractions: Tensor  # [B, R, S']
    density: Tensor  # [B, R, S'] raw, noise included
    transmittance: Tensor  # [B, R]
    sample_hidden: Tensor | None  # [B, E, S', H] hidden features of each sample of the last E rays

    @property
    def opacity(self) -> Tensor:
        """[B, R] sum_i w_i."""
        return self.weights.sum(-1)

    @property
    def expected_depth(self) -> Tensor:
        """[B, R] sum_i w_i t_i; light beyond the last sample adds nothing."""
        return (self.weights * self.depths).sum(-1)
