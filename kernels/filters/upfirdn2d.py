"""Upsample, filter and downsample a batch of images with one small FIR filter, per channel.

    y = down( filter( pad( up(x) ) ) )

``up`` inserts up - 1 zeros after every pixel, ``pad`` adds zeros (or crops, where negative), ``filter`` is a valid 2-D
convolution with the taps f, ``down`` keeps every down-th pixel from the first on. The output has
(H * up + pad0 + pad1 - K) // down + 1 rows. Bytes moved: x once, y once. The gradient of x is an upfirdn2d too, with up
and down exchanged and the filter flipped.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes, check_shapes, fixed
from ..base.dispatch import Impl, resolve
from .upfirdn2d_ref import upfirdn2d_ref

SEPARABLE_TAPS = 8  # from this length on two 1-D passes are cheaper than one 2-D pass
FUSED_TAPS, FUSED_SEPARABLE_TAPS = 8, 32  # along an axis, the most that the kernel unrolls

Ints = int | Sequence[int]
Pads = tuple[int, int, int, int]  # x0, x1, y0, y1


def setup_filter(
    f: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Make the filter tensor that the functions of this file take.

    Args:
        f:           [kh, kw] taps, [k] taps of a separable filter, one number, or None (identity).
        normalize:   scale the taps to sum 1, so that a constant image stays constant.
        flip_filter: reverse the taps along every axis.
        gain:        factor on an image; a separable filter is scaled by its square root.
        separable:   keep [k] taps as they are (True) or form their outer product (False);
                     None keeps them from 8 taps on.
    Returns: float32 [kh, kw], or [k] if separable.
    Raises: ValueError on the rank, on an empty filter, or if 2-D taps are asked to be separable.
    """
    taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32)
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"f must be a number, [k] or [kh, kw] with at least one tap, got {list(taps.shape)}")
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= SEPARABLE_TAPS
    if separable and taps.ndim != 1:
        raise ValueError(f"f must be [k] where separable=True, got {list(taps.shape)}")
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device)


@under_autocast("beside")
def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Ints = 1,
    down: Ints = 1,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Insert zeros, pad or crop, filter and decimate each channel of a batch of images.

    Args:
        x:           [N, C, H, W] float64|float32|float16|bfloat16.
        f:           [kh, kw] of any of these dtypes, [k] for the same taps along both axes, or None (identity); cast to
                     the dtype of x, by the kernel to float32, in which it also sums.
        up, down:    factor, or [x, y] factors, at least 1.
        padding:     zeros around the upsampled image, in its pixels: one number, [x, y] or [x0, x1, y0, y1];
                     negative values crop.
        flip_filter: False = convolution (taps reversed), True = correlation.
        gain:        factor on the result.
    Returns: [N, C, (H*up_y + y0 + y1 - kh) // down_y + 1, likewise in x], dtype and memory format of x.
    Differentiable: any order in x and f. For x the backward is this op, for f it is the plain form.
    Raises: ValueError on shapes, factors and padding, or if the padded image is smaller than the filter; TypeError on
        dtype; RuntimeError if impl="triton" has no GPU, or gets float64 or a filter longer than 8 taps along an axis
        (32 if separable).
    Source: StyleGAN2 (arXiv 1912.04958), appendix B; same argument meaning as its public function of that name.
    """
    C, H, W = (fixed(check_shapes(x=(x, "N C H W"))[name]) for name in "CHW")
    check_dtypes(FLOATS, x=x)
    check_filter(f)
    up_xy, down_xy, pads = _pair("up", up), _pair("down", down), parse_padding(padding)
    kh, kw = filter_size(f)
    height, width = H * up_xy[1] + pads[2] + pads[3], W * up_xy[0] + pads[0] + pads[1]
    if C < 1 or H < 1 or W < 1 or height < kh or width < kw:
        raise ValueError(
            f"x must have pixels, and after padding at least those of f [{kh}, {kw}], got {list(x.shape)} "
            f"padded to [{height}, {width}]"
        )
    taps = x.new_ones(1, 1) if f is None else f
    if resolve("upfirdn2d", impl, x, unsupported=not_fused(x, taps)) == "triton":
        from . import upfirdn2d_triton

        return upfirdn2d_triton.upfirdn2d(x, taps, up_xy, down_xy, pads, flip_filter, gain)
    return upfirdn2d_ref(x, taps, up_xy, down_xy, pads, flip_filter, gain)


@under_autocast("beside")
def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Filter each channel without resampling; ``padding`` is added to the pads that preserve the size.

    Arguments, dtypes and errors as in ``upfirdn2d``. Returns: [N, C, H + y0 + y1, W + x0 + x1].
    """
    kh, kw = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    pads = [x0 + kw // 2, x1 + (kw - 1) // 2, y0 + kh // 2, y1 + (kh - 1) // 2]
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


@under_autocast("beside")
def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Ints = 2,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Upsample by ``up``; the gain up_x * up_y that compensates the inserted zeros is included.

    Arguments, dtypes and errors as in ``upfirdn2d``. Returns: [N, C, H*up_y + y0 + y1, W*up_x + x0 + x1].
    """
    ux, uy = _pair("up", up)
    kh, kw = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    pads = [x0 + (kw + ux - 1) // 2, x1 + (kw - ux) // 2, y0 + (kh + uy - 1) // 2, y1 + (kh - uy) // 2]
    return upfirdn2d(x, f, up=(ux, uy), padding=pads, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


@under_autocast("beside")
def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Ints = 2,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Downsample by ``down`` after filtering.

    Arguments, dtypes and errors as in ``upfirdn2d``. Returns: [N, C, H // down_y, W // down_x] for even sizes and
    padding 0.
    """
    dx, dy = _pair("down", down)
    kh, kw = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    pads = [x0 + (kw - dx + 1) // 2, x1 + (kw - dx) // 2, y0 + (kh - dy + 1) // 2, y1 + (kh - dy) // 2]
    return upfirdn2d(x, f, down=(dx, dy), padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def check_filter(f: Tensor | None) -> None:
    """Refuse invalid filters."""
    if f is not None:
        check_dtypes(FLOATS, f=f)
        filter_size(f)


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(kh, kw) of a filter as ``upfirdn2d`` takes it."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or 0 in map(fixed, f.shape):
        raise ValueError(f"f must be [k] or [kh, kw] with at least one tap, got {list(f.shape)}")
    return fixed(f.shape[0]), fixed(f.shape[-1])


def not_fused(x: Tensor, *filters: Tensor) -> str | None:
    """Why the kernel does not cover this call, None if it does."""
    if x.dtype == torch.float64:
        return "float64"
    for f in filters:
        most = FUSED_SEPARABLE_TAPS if f.ndim == 1 else FUSED_TAPS
        if max(map(fixed, f.shape)) > most:
            return f"a filter {list(f.shape)} of more than {most} taps along an axis"
    return None


def parse_padding(padding: Ints) -> Pads:
    """One number, [x, y] or [x0, x1, y0, y1] to (x0, x1, y0, y1)."""
    pads = [fixed(p) for p in padding] if isinstance(padding, Sequence) else [fixed(padding)]
    if len(pads) not in (1, 2, 4) or not all(isinstance(p, int) for p in pads):
        raise ValueError(f"padding must be an integer, [x, y] or [x0, x1, y0, y1], got {padding!r}")
    if len(pads) == 4:
        return pads[0], pads[1], pads[2], pads[3]
    return pads[0], pads[0], pads[-1], pads[-1]


def _pair(arg: str, factor: Ints) -> tuple[int, int]:
    pair = [fixed(p) for p in factor] if isinstance(factor, Sequence) else [fixed(factor)] * 2
    if len(pair) != 2 or not all(isinstance(p, int) and p >= 1 for p in pair):
        raise ValueError(f"{arg} must be an integer >= 1 or a pair [x, y] of them, got {factor!r}")
    return pair[0], pair[1]
