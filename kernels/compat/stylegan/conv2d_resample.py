"""StyleGAN's ``torch_utils.ops.conv2d_resample``."""

from typing import Any

from torch import Tensor

from ...filters import conv_resample as ours
from .arguments import integers
from .conv2d_gradfix import heed

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """:func:`kernels.conv2d_resample`."""
    sizes = int(up), int(down), integers(padding), int(groups)
    return ours.conv2d_resample(x, heed(w), f, *sizes, flip_weight, flip_filter)
