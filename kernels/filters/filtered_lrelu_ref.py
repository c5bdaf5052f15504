"""Definition of filtered_lrelu in plain torch: a leaky ReLU at a higher resolution, between two filters."""

from torch import Tensor

from .bias_act_ref import bias_act_ref
from .upfirdn2d_ref import upfirdn2d_ref


def filtered_lrelu_ref(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> Tensor:
    """All arguments given, none defaulted; ``padding`` is (x0, x1, y0, y1) in pixels of the enlarged image."""
    x = bias_act_ref(x, b, 1, "linear", 0.0, 1.0, None, False)
    x = upfirdn2d_ref(x, fu, (up, up), (1, 1), padding, flip_filter, up**2)
    x = bias_act_ref(x, None, 1, "lrelu", slope, gain, clamp, True)
    return upfirdn2d_ref(x, fd, (1, 1), (down, down), (0, 0, 0, 0), flip_filter, 1)
