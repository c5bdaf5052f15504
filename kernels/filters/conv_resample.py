"""2-D convolution with FIR up- or downsampling: y = down( filter( conv( filter( up( pad(x) ) ) ) ) ).

The filter runs after up (gain up^2) and before down, each only where its factor exceeds 1. The plain form reorders the
convolution to its cheapest position: it commutes with the filters, and a 1x1 convolution also with up and down.
"""

from collections.abc import Callable

from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes, check_shapes, fixed
from ..base.dispatch import Impl, resolve
from .conv_resample_ref import conv2d_resample_ref
from .upfirdn2d import Ints, Pads, check_filter, filter_size, parse_padding, upfirdn2d

Pair = tuple[int, int]


@under_autocast("beside")
def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Convolve, with optional upsampling before and downsampling after.

    Args:
        x:           [N, C, H, W] float64|float32|float16|bfloat16.
        w:           [O, C // groups, kh, kw], cast to the dtype of x.
        f:           filter as ``upfirdn2d`` takes it, or None (identity).
        up, down:    integer factors, at least 1.
        padding:     of the upsampled image: one number, [x, y] or [x0, x1, y0, y1], in pixels; pads that centre the
                     filters are added.
        groups:      as in ``torch.nn.functional.conv2d``.
        flip_weight: True = correlation (what torch calls convolution), False = convolution.
        flip_filter: False = convolution, True = correlation with f.
        impl:        of the filters; the convolution itself is always torch's (cuDNN on CUDA).
    Returns: [N, O, (H*up + y0 + y1 - kh + 1) // down, likewise in x], dtype of x.
    Differentiable: any order in x and w.
    Raises: ValueError on shapes, factors and channel counts, or if the result is empty; TypeError on dtype.
    Source: StyleGAN2 (arXiv 1912.04958); same argument meaning as the public function of that name.
    """
    C = fixed(check_shapes(x=(x, "N C H W"), w=(w, "O I KH KW"))["C"])
    check_dtypes(FLOATS, x=x, w=w)
    up, down, groups = fixed(up), fixed(down), fixed(groups)
    check_factors(up=up, down=down, groups=groups)
    out, fan_in = fixed(w.shape[0]), fixed(w.shape[1])
    if fan_in * groups != C or out % groups:
        raise ValueError(f"w must be [O, {C}/groups, kh, kw] with O divisible by groups={groups}, got {list(w.shape)}")
    check_filter(f)
    pads = parse_padding(padding)
    output_size(x, w, up, down, pads)
    taps = x.new_ones(1, 1) if f is None else f
    resolve("conv2d_resample", impl, x)
    pads = centre_filters(f, up, down, pads)
    return conv2d_resample_ref(x, w, taps, up, down, pads, groups, flip_weight, flip_filter, filter_by(impl))


def filter_by(impl: Impl) -> Callable[..., Tensor]:
    """``upfirdn2d`` by ``impl``, with the arguments of its plain form."""

    def fir(x: Tensor, f: Tensor, up: Pair, down: Pair, padding: Pads, flip_filter: bool, gain: float) -> Tensor:
        return upfirdn2d(x, f, up, down, padding, flip_filter, gain, impl=impl)

    return fir


def check_factors(**factors: int) -> None:
    """Refuse factors that are not integers of at least 1."""
    for arg, factor in factors.items():
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"{arg} must be an integer >= 1, got {factor!r}")


def output_size(x: Tensor, w: Tensor, up: int, down: int, pads: Pads) -> tuple[int, int]:
    """(H', W') of the result, at least 1 each."""
    (H, W), (kh, kw) = map(fixed, x.shape[2:]), map(fixed, w.shape[2:])
    height = (H * up + pads[2] + pads[3] - kh + 1) // down
    width = (W * up + pads[0] + pads[1] - kw + 1) // down
    if height < 1 or width < 1 or H < 1 or W < 1:  # not their minimum, which an exporter would note as a condition
        raise ValueError(
            f"padding must leave at least one pixel of x [{H}, {W}] under the kernel [{kh}, {kw}], "
            f"got {list(pads)} for up={up}, down={down}"
        )
    return height, width


def centre_filters(f: Tensor | None, up: int, down: int, pads: Pads) -> Pads:
    """Add the pads that centre the filters of up and down to ``pads``."""
    kh, kw = filter_size(f)
    x0, x1, y0, y1 = pads
    if up > 1:
        x0, x1, y0, y1 = x0 + (kw + up - 1) // 2, x1 + (kw - up) // 2, y0 + (kh + up - 1) // 2, y1 + (kh - up) // 2
    if down > 1:
        x0, x1 = x0 + (kw - down + 1) // 2, x1 + (kw - down) // 2
        y0, y1 = y0 + (kh - down + 1) // 2, y1 + (kh - down) // 2
    return x0, x1, y0, y1
