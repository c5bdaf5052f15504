from typing import Any

from torch import Tensor

from .. import misc
from . import conv2d_gradfix, upfirdn2d


@misc.profiled_function
def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Enlarge and filter, convolve, filter and reduce: in this order, whatever it costs."""
    k = 1 if f is None else f.shape[0]
    low, high = padding, padding
    if up > 1:
        low, high = low + (k + up - 1) // 2, high + (k - up) // 2
    if down > 1:
        low, high = low + (k - down + 1) // 2, high + (k - down) // 2
    one = x.new_ones(1, 1)
    pads: Any = [low, high] * 2
    x = upfirdn2d.upfirdn2d(x, f if f is not None and up > 1 else one, up, 1, pads, flip_filter, up**2)
    x = conv2d_gradfix.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d.upfirdn2d(x, f if f is not None and down > 1 else one, 1, down, flip_filter=flip_filter)
