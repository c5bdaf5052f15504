"""Kernel distance (KID) between two sets of features: the unbiased squared maximum mean discrepancy.

KID = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean of k(x_i, y_j), with the kernel
k(x, y) = (x.y / D + 1)^3.
Its expectation does not depend on the number of images, so it may be negative, and few images give it a wide interval
rather than a bias. Over all pairs; the usual mean over subsets of 1000 estimates the same with more noise.

Source: Binkowski et al. 2018 (demystifying MMD GANs), section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....kernels.base.checks import check_shapes
from ...errors import UserError

_ROWS = 1024  # of a block of the kernel matrix: bounds memory, not the result


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """KID of features x [N, D] and y [M, D], in float64.

    Raises: ValueError on shape, UserError with fewer than two of either.
    """
    return float(_terms(x, y)[0])


def kernel_distance_error(x: Tensor, y: Tensor) -> tuple[float, float]:
    """KID and its standard error from the choice of ``x``: 2 std(h) / sqrt(N).

    h_i = mean over j of k(x_i, x_j) - mean over j of k(x_i, y_j).
    h is the influence of x_i on the distance, so this is the infinitesimal jackknife.
    """
    value, influence = _terms(x, y)
    return float(value), float(2 * influence.std() / len(x) ** 0.5)


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    check_shapes(x=(x, "N D"), y=(y, "M D"))
    if min(len(x), len(y)) < 2:
        raise UserError(f"images: wanted at least 2 of each set, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    within_x, within_y, across = _row_sums(x, x, True), _row_sums(y, y, True), _row_sums(x, y, False)
    n, m = len(x), len(y)
    value = within_x.sum() / (n * (n - 1)) + within_y.sum() / (m * (m - 1)) - 2 * across.sum() / (n * m)
    return value, within_x / (n - 1) - across / m


def _row_sums(a: Tensor, b: Tensor, same: bool) -> Tensor:
    """Sums over the rows of the kernel matrix [len(a)]; without its diagonal if the sets are the same."""
    sums = []
    for first in range(0, len(a), _ROWS):
        block = _kernel(a[first : first + _ROWS] @ b.T, a.shape[1])
        sums.append(block.sum(dim=1))
    total = torch.cat(sums)
    return total - _kernel(a.square().sum(dim=1), a.shape[1]) if same else total


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3
