"""Precision and recall of a set of features: how many samples look real, how much of the real set is covered.

The manifold of a set is the union of balls around its features, each as large as the distance to its k-th nearest
neighbour in the set. Precision: the share of samples inside the real set's manifold; recall: the share of real images
inside that of the samples.

Source: Kynkaanniemi et al. 2019 (improved precision and recall), k = 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ....kernels.base.checks import check_shapes
from ...errors import UserError

NEIGHBOURS = 3
_ROWS = 1024  # of a block of distances: bounds memory, not the result


class Coverage(NamedTuple):
    """Per item, whether it lies in the other set's manifold."""

    precise: Tensor  # [N] bool, samples
    recalled: Tensor  # [M] bool, real images

    @property
    def precision(self) -> float:
        return self.precise.double().mean().item()

    @property
    def recall(self) -> float:
        return self.recalled.double().mean().item()


def precision_recall(samples: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> Coverage:
    """Coverage of features ``samples`` [N, D] and ``real`` [M, D], in float64.

    Raises: ValueError on shape, UserError unless both sets have more than ``neighbours`` items.
    """
    check_shapes(samples=(samples, "N D"), real=(real, "M D"))
    if min(len(samples), len(real)) <= neighbours or neighbours < 1:
        raise UserError(
            f"images: wanted more than {max(neighbours, 1)} of each set, got {len(samples)} and {len(real)}"
        )
    samples, real = samples.double(), real.double()
    return Coverage(_inside(samples, real, neighbours), _inside(real, samples, neighbours))


def _inside(points: Tensor, centres: Tensor, neighbours: int) -> Tensor:
    """Whether each of ``points`` lies in the manifold of ``centres``."""
    radii = torch.cat(
        [torch.cdist(rows, centres).kthvalue(neighbours + 1, dim=1).values for rows in centres.split(_ROWS)]
    )  # the nearest of all is the centre itself
    return torch.cat([(torch.cdist(rows, centres) <= radii).any(dim=1) for rows in points.split(_ROWS)])
