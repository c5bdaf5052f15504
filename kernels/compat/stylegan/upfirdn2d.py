"""StyleGAN's ``torch_utils.ops.upfirdn2d``."""

from typing import Any

from torch import Tensor

from ...filters import upfirdn2d as ours
from ...filters.upfirdn2d import setup_filter
from .arguments import implementation, integers

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Any = 1,
    down: Any = 1,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`kernels.upfirdn2d`."""
    sizes = integers(up), integers(down), integers(padding)
    return ours.upfirdn2d(x, f, *sizes, flip_filter, gain, impl=implementation(impl))


def filter2d(
    x: Tensor, f: Tensor | None, padding: Any = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> Tensor:
    """:func:`kernels.filter2d`."""
    return ours.filter2d(x, f, integers(padding), flip_filter, gain, impl=implementation(impl))


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Any = 2,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`kernels.upsample2d`."""
    return ours.upsample2d(x, f, integers(up), integers(padding), flip_filter, gain, impl=implementation(impl))


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Any = 2,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`kernels.downsample2d`."""
    return ours.downsample2d(x, f, integers(down), integers(padding), flip_filter, gain, impl=implementation(impl))
