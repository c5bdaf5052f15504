"""The last digits of a least-squares problem with few unknowns: Levenberg-Marquardt steps with rendered derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..render.choices import TERMS
from .perceptual import ROBUST_AT, saturate
from .unknowns import Chart, Unknowns

POLISH_EDGE = 128  # px; larger pictures are averaged down to it
FIRST_DAMPING = 1e-2
_BATCH = 16
# Of a standard deviation. A picture has kinks (leaky ReLUs, samples that move): where one hides a slope from short
# differences, long ones see past it, and near the end short ones are the exact ones.
STEPS = (5e-4, 2e-3, 2e-2)
_LIGHTER = 0.1  # times the descent's regularisation: pixels to the last digit say more than the average
_TRIES = 10
_FLOOR = 1e-3  # of the largest curvature: an unknown without effect stays where it is


class Polished(NamedTuple):
    """Result of a step."""

    unknowns: Tensor  # [P]
    damping: float  # for the next step; infinite if none lowered the residual
    objective: float  # sum of squared residuals


@torch.no_grad()
def levenberg_marquardt(
    residuals: Callable[[Tensor], Tensor], unknowns: Tensor, damping: float, step: float
) -> Polished:
    """One step: solve (J^T J + damping diag(J^T J)) s = -J^T r and go there if that lowers |r|^2.

    J comes from forward differences, P + 1 evaluations: for a few hundred unknowns cheaper than derivatives of every
    pixel. The damping is raised fivefold until a step is taken, lowered to a fifth afterwards (Nocedal and Wright,
    Numerical Optimization, 2006, sec. 10.3).

    Args:
        residuals: [n, P] -> [n, M], n points at a time.
        unknowns: [P] float32, scaled so that one is a large step for each.
        step: length of the differences, see :data:`STEPS`.
    """
    here = residuals(unknowns[None])[0]
    objective = here.double().square().sum()
    shifts = unknowns + step * torch.eye(len(unknowns), device=unknowns.device)
    slopes = (residuals(shifts) - here) / step  # [P, M]
    normal = _gram(slopes, slopes)
    pull = _gram(slopes, here[None])[:, 0]
    scale = normal.diagonal() + _FLOOR * normal.diagonal().max() + 1e-30
    for _ in range(_TRIES):
        move = torch.linalg.solve(normal + torch.diag(damping * scale), -pull)
        there = unknowns + move.to(unknowns.dtype)
        reached = residuals(there[None])[0].double().square().sum()
        if bool(reached < objective):
            return Polished(there, damping / 5, float(reached))
        damping *= 5
    return Polished(unknowns, float("inf"), float(objective))


class PhotoResiduals:
    """The pixels of one subject's photos as residuals of a flat vector [P] of its unknowns, ``start`` the first."""

    def __init__(self, chart: Chart, photos: Tensor, start: Unknowns, free: tuple[str, ...], regularise: float) -> None:
        """photos: [V, 3, R, R] of the one subject of ``start``, a single hypothesis; ``free``: terms of the pose."""
        self.chart = Chart(chart.model, chart.space, [0] * len(photos), chart.fov_deg)
        self.photos, self.regularise = photos, regularise
        self.free = [i for i, term in enumerate(TERMS) if term in free]
        self._shape, self._code, self._pose = start.style.shape[2:], start.code.shape[-1], start.pose[0]
        self.start = torch.cat([start.style.flatten(), start.code.flatten(), self._pose[:, self.free].flatten()])

    def unknowns(self, flat: Tensor) -> Unknowns:
        """[n, P] as n hypotheses."""
        style, code, pose = flat.split([math.prod(self._shape), self._code, len(self._pose) * len(self.free)], dim=1)
        poses = self._pose.repeat(len(flat), 1, 1)
        poses[:, :, self.free] = pose.unflatten(1, (len(self._pose), len(self.free)))
        return Unknowns(style.unflatten(1, self._shape)[:, None], code[:, None], poses)

    def residuals(self, flat: Tensor) -> Tensor:
        """[n, M]: differences of pixels, then coordinates by the square root of what they are regularised with."""
        rows = []
        for part in flat.split(max(_BATCH // len(self.photos), 1)):
            images = self.chart.render(self.unknowns(part))
            photos = self.photos.repeat(len(part), 1, 1, 1)
            e = saturate(images, photos) - photos
            if e.shape[-1] > POLISH_EDGE:
                e = adaptive_avg_pool2d(e, POLISH_EDGE)
            rows.append(e.unflatten(0, (len(part), -1)).flatten(1))
        pixels = torch.cat(rows)
        pixels = pixels / math.sqrt(pixels.shape[1])
        # e^2 / (2 d) is what a small difference costs in the descent
        weight = math.sqrt(2 * ROBUST_AT * _LIGHTER * self.regularise)
        size = math.prod(self._shape)
        style, code = flat[:, :size], flat[:, size : size + self._code]
        return torch.cat([pixels, weight * style / math.sqrt(size), weight * code / math.sqrt(max(self._code, 1))], 1)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of [P, M] and [Q, M], accumulated in float64 over parts of M."""
    parts = zip(a.split(65536, dim=1), b.split(65536, dim=1))
    return sum((x.double() @ y.double().t() for x, y in parts), a.new_zeros(len(a), len(b), dtype=torch.float64))
