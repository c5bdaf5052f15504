"""2-D convolution with FIR up- or downsampling: y = down( filter( conv( filter( up( pad(x) ) ) ) ) ).

The filter runs once after up (gain up^2) and once before down, each only where its factor exceeds 1. The plain form
moves the convolution to where it is cheapest: it commutes with the filters, and a 1x1 one also with up and down.
"""

from torch import Tensor

from .checks import FLOATS, check_dtypes, check_shapes
from .dispatch import Impl, resolve
from .reference.conv_resample import conv2d_resample_ref
from .upfirdn2d import Ints, filter_size, parse_padding


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
    """Convolve, with optional enlarging before and shrinking after.

    Args:
        x:           [N, C, H, W] float64|float32|float16|bfloat16.
        w:           [O, C // groups, kh, kw], cast to the dtype of x.
        f:           filter as ``upfirdn2d`` takes it, or None (identity).
        up, down:    integer factors, at least 1.
        padding:     with respect to the upsampled image: one number, [x, y] or [x0, x1, y0, y1], in pixels; the pads
                     that centre the filters come on top.
        groups:      as in ``torch.nn.functional.conv2d``.
        flip_weight: True = correlation (what torch calls convolution), False = convolution.
        flip_filter: False = convolution, True = correlation with f.
    Returns: [N, O, H', W'], dtype of x; H' = (H*up + y0 + y1 - kh + 1) // down rounded up, likewise W'.
    Differentiable: any order in x and w ("ref").
    Raises: ValueError on shapes, factors and channel counts; TypeError on dtype.
    Source: StyleGAN2 (arXiv 1912.04958); same argument meaning as the public function of that name.
    """
    C = check_shapes(x=(x, "N C H W"), w=(w, "O I KH KW"))["C"]
    check_dtypes(FLOATS, x=x, w=w)
    for arg, factor in (("up", up), ("down", down), ("groups", groups)):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"{arg} must be an integer >= 1, got {factor!r}")
    if w.shape[1] * groups != C or w.shape[0] % groups:
        raise ValueError(f"w must be [O, {C}/groups, kh, kw] with O divisible by groups={groups}, got {list(w.shape)}")
    kh, kw = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    if up > 1:
        x0, x1, y0, y1 = x0 + (kw + up - 1) // 2, x1 + (kw - up) // 2, y0 + (kh + up - 1) // 2, y1 + (kh - up) // 2
    if down > 1:
        x0, x1, y0, y1 = x0 + (kw - down + 1) // 2, x1 + (kw - down) // 2, y0 + (kh - down + 1) // 2, y1 + (kh - down) // 2
    taps = x.new_ones(1, 1) if f is None else f
    resolve("conv2d_resample", impl, x)
    return conv2d_resample_ref(x, w, taps, up, down, (x0, x1, y0, y1), groups, flip_weight, flip_filter)
