"""Frechet distance between two sets of features, each taken for a normal distribution.

FID = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), means m and covariances C (of n - 1) of a detector's features. The
trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric and positive:
no complex root of a product is needed, and singular covariances (fewer images than features) do no harm.

Source: Heusel et al. 2017 (two time-scale update rule), section 4; Dowson and Landau 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels.base.checks import check_shapes
from ...errors import UserError


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] of ``count`` features, float64."""

    count: int
    mean: Tensor
    covariance: Tensor


class FeatureSums:
    """Streaming mean and covariance of features, float64 and on the CPU.

    Sums are taken about the mean of the first batch, so that features far from 0 lose no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._sum = self._outer = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add features [N, D]. Raises: ValueError on shape, UserError if they are not finite."""
        check_shapes(features=(features, "N D"))
        if not len(features):
            return
        x = features.detach().cpu().double()
        if not x.isfinite().all():
            raise UserError("detector: wanted finite features, got some that are not")
        if not self.count:
            width = x.shape[1]
            self._shift = x.mean(dim=0)
            self._sum = torch.zeros(width, dtype=torch.float64)
            self._outer = torch.zeros(width, width, dtype=torch.float64)
        if x.shape[1] != len(self._shift):
            raise ValueError(f"features must be [N, {len(self._shift)}], got {list(x.shape)}")
        x = x - self._shift
        self.count += len(x)
        self._sum = self._sum + x.sum(dim=0)
        self._outer = self._outer.addmm(x.T, x)

    def gaussian(self) -> Gaussian:
        """Mean and covariance so far. Raises: UserError with fewer than two features."""
        if self.count < 2:
            raise UserError(f"images: wanted at least 2 for a covariance, got {self.count}")
        offset = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return Gaussian(self.count, self._shift + offset, (covariance + covariance.T) / 2)


def gaussian_of(features: Tensor, weights: Tensor | None = None) -> Gaussian:
    """Mean and covariance of features [N, D]; ``weights`` [N] say how often each counts."""
    check_shapes(features=(features, "N D"))
    x = features.double()
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    total = w.sum()
    if total < 2:
        raise UserError(f"images: wanted at least 2 for a covariance, got {len(x)}")
    mean = w @ x / total
    centred = x - mean
    return Gaussian(int(total), mean, (centred * w[:, None]).T @ centred / (total - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """FID of two normal distributions; 0 for equal ones, symmetric, in squared units of a feature.

    Raises: ValueError on shape.
    """
    check_shapes(a=(a.covariance, "D D"), b=(b.covariance, "D D"))
    return FrechetTo(b).distance(a)


class FrechetTo:
    """Distances from one distribution, the root of whose covariance is taken once."""

    def __init__(self, reference: Gaussian) -> None:
        self.reference = reference
        values, vectors = torch.linalg.eigh(reference.covariance)
        self._root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    def distance(self, other: Gaussian) -> float:
        """FID of ``other`` and the reference."""
        ref = self.reference
        inner = self._root @ other.covariance @ self._root
        roots = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
        apart = (ref.mean - other.mean).square().sum()
        return float(apart + ref.covariance.trace() + other.covariance.trace() - 2 * roots)
