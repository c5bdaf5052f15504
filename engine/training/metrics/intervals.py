"""Intervals of 95 % for figures of a finite number of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .frechet import FrechetTo, gaussian_of

_SPAN = 1.959964  # standard deviations that hold 95 % of a normal distribution


class Figure(NamedTuple):
    """A figure and its 95 % interval; without one, both ends are None."""

    value: float
    low: float | None = None
    high: float | None = None


def frechet_interval(
    samples: Tensor, reference: FrechetTo, *, resamples: int, seed: int, progress: Callable[[], None] = lambda: None
) -> Figure:
    """FID of ``samples`` [N, D] and a bootstrap interval of what it would be with any number of samples.

    N samples are drawn with replacement ``resamples`` times. A finite set has too large a distance, by about c / N; a
    resample adds about as much again: mean(resampled) - value estimates the bias. The interval is value - bias
    ± 1.96 deviations of the resampled figures, and may lie below the value itself. It holds where N is several times
    the number of features; the reference is taken as it is.
    """
    value = reference.distance(gaussian_of(samples))
    if resamples < 2:
        return Figure(value)
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(resamples):
        picks = torch.randint(len(samples), (len(samples),), generator=rng)
        weights = torch.bincount(picks, minlength=len(samples))
        found.append(reference.distance(gaussian_of(samples, weights)))
        progress()
    drawn = torch.tensor(found, dtype=torch.float64)
    centre, half = 2 * value - drawn.mean().item(), _SPAN * drawn.std().item()
    return Figure(value, max(centre - half, 0.0), max(centre + half, 0.0))


def normal_interval(value: float, error: float) -> Figure:
    """± 1.96 standard errors."""
    return Figure(value, value - _SPAN * error, value + _SPAN * error)


def share_interval(hits: Tensor) -> Figure:
    """Share of true values [N] with Wilson's interval, which stays in 0..1 and has a width at 0 and 1 too."""
    n, p = len(hits), hits.double().mean().item()
    z2 = _SPAN**2 / n
    centre = (p + z2 / 2) / (1 + z2)
    half = _SPAN * (p * (1 - p) / n + z2 / (4 * n)) ** 0.5 / (1 + z2)
    return Figure(p, max(centre - half, 0.0), min(centre + half, 1.0))
