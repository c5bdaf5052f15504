"""filtered_lrelu composed of fused ops: bias, upfirdn2d, leaky ReLU, upfirdn2d, a kernel each.
There is no single kernel: the enlarged image is written to memory twice and read twice, where one kernel would keep it
on the chip. Derivatives of any order are those of the parts.
"""

from torch import Tensor

from .bias_act_triton import bias_act
from .upfirdn2d_triton import Pads, upfirdn2d


def filtered_lrelu(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    padding: Pads,
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> Tensor:
    """All arguments given, none defaulted; ``padding`` is (x0, x1, y0, y1) in pixels of the enlarged image."""
    x = bias_act(x, b, 1, "linear", 0.0, 1.0, None, False)
    x = upfirdn2d(x, fu, (up, up), (1, 1), padding, flip_filter, float(up**2))
    x = bias_act(x, None, 1, "lrelu", slope, gain, clamp, True)
    return upfirdn2d(x, fd, (1, 1), (down, down), (0, 0, 0, 0), flip_filter, 1.0)
