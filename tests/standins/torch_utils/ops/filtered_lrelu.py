from typing import Any

from torch import Tensor

from . import bias_act, upfirdn2d


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    one = x.new_ones(1, 1)
    x = bias_act.bias_act(x, b, impl=impl)
    x = upfirdn2d.upfirdn2d(x, one if fu is None else fu, up, 1, padding, flip_filter, up**2, impl)
    x = bias_act.bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d.upfirdn2d(x, one if fd is None else fd, down=down, flip_filter=flip_filter, impl=impl)
