"""Leaky ReLU at a higher resolution than its input and output: y = down( lrelu( up(x + b) ) ), with filters.

A pointwise nonlinearity creates frequencies above the pixel grid's limit. Here it acts on the upsampled image, and the
filter before downsampling removes those frequencies. Minimal bytes: x once, y once.
"""

import math

from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes, check_shapes, fixed
from ..base.dispatch import Impl, resolve
from .conv_resample import check_factors
from .filtered_lrelu_ref import filtered_lrelu_ref
from .upfirdn2d import Ints, check_filter, filter_size, not_fused, parse_padding


@under_autocast("beside")
def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Add a bias, upsample, apply a leaky ReLU with gain and clamp, downsample.

    This version composes the kernels of ``bias_act`` and ``upfirdn2d``, so that the enlarged image goes through memory.

    Args:
        x:           [N, C, H, W] float64|float32|float16|bfloat16.
        fu, fd:      filters of up and down, [kh, kw], or [k] for the same taps along both axes, or None (identity).
        b:           [C] or None; added inside the image only, not to its padding.
        up, down:    integer factors, at least 1; the gain up^2 that compensates the inserted zeros is included.
        padding:     zeros around the enlarged image, in its pixels: one number, [x, y] or [x0, x1, y0, y1]; negative
                     values crop.
        gain:        factor after the leaky ReLU.
        slope:       of the leaky ReLU below zero.
        clamp:       bound on the magnitude after the gain; None or a negative number = no bound.
        flip_filter: False = convolution (taps reversed), True = correlation, for both filters.
    Returns: [N, C, (H*up + y0 + y1 - kh_u - kh_d + 1) // down + 1, likewise in x], dtype and memory format of x.
    Differentiable: any order in x, b, fu and fd.
    Raises: ValueError on shapes, factors and padding, or if an image is smaller than its filter; TypeError on dtype;
        RuntimeError if impl="triton" has no GPU, or gets float64 or a filter too long for ``upfirdn2d``.
    Source: StyleGAN3 (arXiv 2106.12423), section 3.2; same argument meaning as its public function of that name.
    """
    C, H, W = (fixed(check_shapes(x=(x, "N C H W"))[name]) for name in "CHW")
    up, down = fixed(up), fixed(down)
    check_dtypes(FLOATS, x=x)
    check_factors(up=up, down=down)
    check_filter(fu)
    check_filter(fd)
    if b is not None:
        check_dtypes(FLOATS, b=b)
        if [fixed(n) for n in b.shape] != [C]:
            raise ValueError(f"b must be [{C}], one per channel of x, got {list(b.shape)}")
    x0, x1, y0, y1 = parse_padding(padding)
    (kh, kw), (kh_down, kw_down) = filter_size(fu), filter_size(fd)
    height, width = H * up + y0 + y1 - kh + 1, W * up + x0 + x1 - kw + 1
    if C < 1 or H < 1 or W < 1 or height < kh_down or width < kw_down:
        raise ValueError(
            f"x must have pixels, and padded and filtered at least those of fd [{kh_down}, {kw_down}], "
            f"got {list(x.shape)} that becomes [{height}, {width}]"
        )
    one = x.new_ones(1, 1)
    fu, fd = one if fu is None else fu, one if fd is None else fd
    clamp = None if clamp is None or clamp < 0 else clamp
    args = (x, fu, fd, b, up, down, (x0, x1, y0, y1), gain, slope, clamp, flip_filter)
    if resolve("filtered_lrelu", impl, x, unsupported=not_fused(x, fu, fd)) == "triton":
        from . import filtered_lrelu_triton

        return filtered_lrelu_triton.filtered_lrelu(*args)
    return filtered_lrelu_ref(*args)
