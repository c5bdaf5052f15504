"""StyleGAN3's ``torch_utils.ops.filtered_lrelu``."""

import math
from typing import Any

from torch import Tensor

from ...filters import filtered_lrelu as ours
from .arguments import implementation, integers

__all__ = ["filtered_lrelu"]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    """:func:`kernels.filtered_lrelu`."""
    sizes = int(up), int(down), integers(padding)
    return ours.filtered_lrelu(x, fu, fd, b, *sizes, gain, slope, clamp, flip_filter, impl=implementation(impl))
