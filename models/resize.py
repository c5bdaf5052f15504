"""Bilinear resizing of images with half-pixel centres, no antialiasing.

A CPU takes torch's own. Elsewhere torch's backward adds with atomics, in an order that changes from run to run, so
even factors are filters there: enlarging twofold is [1, 3, 3, 1] / 4 along both axes between repeated edges, and a
reduction is the mean of the middle two of each group of pixels.
"""

import torch
from torch import Tensor

from ..kernels.base.constants import constant
from ..kernels.filters.upfirdn2d import upfirdn2d


def enlarge_bilinear(image: Tensor, edge: int) -> Tensor:
    """A square image [N, C, H, H] at ``edge`` pixels, twice its size in a generator."""
    if image.device.type == "cpu" or edge != 2 * image.shape[-1]:
        return torch.nn.functional.interpolate(image, size=(edge, edge), mode="bilinear", align_corners=False)
    return enlarge_by_filter(image)


def reduce_bilinear(image: Tensor, edge: int) -> Tensor:
    """A square image [N, C, H, H] at ``edge`` pixels."""
    factor, rest = divmod(image.shape[-1], edge)
    if image.shape[-1] == edge:
        return image
    if image.device.type == "cpu" or rest or factor % 2:
        return torch.nn.functional.interpolate(image, size=(edge, edge), mode="bilinear", align_corners=False)
    return reduce_by_filter(image, factor)


def enlarge_by_filter(image: Tensor) -> Tensor:
    """:func:`enlarge_bilinear` to twice the size by the project's filter."""
    for dim in (-2, -1):
        image = torch.cat([image.narrow(dim, 0, 1), image, image.narrow(dim, -1, 1)], dim)
    taps = constant((0.25, 0.75, 0.75, 0.25), like=image)
    return upfirdn2d(image, torch.outer(taps, taps), up=2, padding=[0, -1, 0, -1])


def reduce_by_filter(image: Tensor, factor: int) -> Tensor:
    """:func:`reduce_bilinear` by an even ``factor``, by the project's filter."""
    first = 1 - factor // 2
    return upfirdn2d(image, image.new_full((2, 2), 0.25), down=factor, padding=[first, 0, first, 0])
