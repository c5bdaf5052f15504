"""Inference on a CPU, a strip of rows at a time, so that a layer's output stays in the cache for the next layer.

At 1024 px every layer's output is 128 MiB: plain torch writes it to memory that the system provides page by page, and
reads it back for the next layer. A block without noise is local: a row of its output depends on neighbouring rows,
through the blur's taps, and not on its position. So a strip of rows passes the whole block at once, with a halo for the
blur whose output is discarded. Results differ only by the rounding of products of another height.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STRIP_BYTES = 8 * 2**20  # of a block's output: about the size of a core's caches
MIN_ROWS = 16  # of the input in a strip: with fewer, the halo costs too much
HALO = 2  # rows of the input on each side that a strip depends on: one for nn_cat's corners, one for the blur of 4 taps

Block = Callable[[Tensor, Tensor | None], tuple[Tensor | None, Tensor | None]]


def strip_rows(batch: int, channels: int, width: int, itemsize: int) -> int:
    """Rows of the input in a strip whose output, [batch, channels, 2 rows, 2 width], is about STRIP_BYTES large."""
    return max(STRIP_BYTES // max(batch * channels * 4 * width * itemsize, 1), MIN_ROWS)


def in_strips(
    block: Block, x: Tensor, image: Tensor | None, rows: int, *, keep_features: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Compute ``block(x, image)`` in strips of ``rows`` rows of the input.

    Args:
        block: doubles the resolution of features [N, C, H, W] and of an image [N, 3, H, W].
        keep_features: return the features too, not only the image.
    """
    height = x.shape[2]
    features: Tensor | None = None
    picture: Tensor | None = None
    for first in range(0, height, rows):
        last = min(first + rows, height)
        low, high = max(first - HALO, 0), min(last + HALO, height)
        fine, enlarged = block(x[:, :, low:high], None if image is None else image[:, :, low:high])
        cut, place = slice(2 * (first - low), 2 * (last - low)), slice(2 * first, 2 * last)
        if keep_features:
            assert fine is not None
            features = _like(fine, height) if features is None else features
            features[:, :, place] = fine[:, :, cut]
        if enlarged is not None:
            picture = _like(enlarged, height) if picture is None else picture
            picture[:, :, place] = enlarged[:, :, cut]
    return features, picture


def _like(strip: Tensor, height: int) -> Tensor:
    """An empty tensor for all strips, in the memory format of one."""
    N, C, _, W = strip.shape
    layout = torch.channels_last if strip.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.empty((N, C, 2 * height, W), dtype=strip.dtype, device=strip.device, memory_format=layout)
