"""upfirdn2d as one kernel: zero insertion, padding, FIR filter and decimation in one pass over the image.

Along each axis the outputs come in periods, over which the image moves by a whole number of pixels:

    y[period k + r] = sum_t f[up t + first - r down] x[step k + base + t]
    period = up / gcd(up, down),  step = down / gcd(up, down)

over the taps that exist, so that inserted zeros are never visited. A program moves down a strip of the image, reads
each row once and carries the partial sums of outputs that need further rows. A thread holds a run of neighbouring
columns, so that one load serves several outputs. Bytes moved: x once plus the rows that two strips share, y once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.register import differentiable_gradients, differentiate, register
from .fir import Axis, add_row, load_columns, load_taps, load_vectors, repeat, store_run
from .upfirdn2d_ref import upfirdn2d_ref

ONE_PASS_TAPS = 8  # a longer separable filter runs as two passes, each along one axis
STATIC_PHASES = 4  # with more outputs per period, every phase has its own program
WAITING_REGISTERS = 64  # per thread, for sums that need further rows
VECTOR = 4  # columns of a planar image that are loaded at once
ENOUGH_PROGRAMS = 1024  # several per multiprocessor of the largest GPUs

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


@triton.jit
def _upfirdn2d_kernel(
    y_ptr, x_ptr, f_ptr,
    gain, base_y, base_x, taps_y, taps_x, first_y, first_x, spread_y, spread_x, down_y, down_x, period_y, period_x,
    C, H, W, OH, OW, blocks_c, blocks_y, blocks_x,
    stride_y_n, stride_y_c, stride_y_h, stride_y_w,
    stride_x_n, stride_x_c, stride_x_h, stride_x_w,
    Y: tl.constexpr, X: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr,
    PLANAR: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr, SKIP: tl.constexpr,
    RUN: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    group_0, pid = (pid % blocks_x) * BLOCK_X, pid // blocks_x
    period_0, pid = (pid % blocks_y) * BLOCK_Y, pid // blocks_y
    c, n = (pid % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C), (pid // blocks_c).to(tl.int64)
    if PLANAR:
        group, c = group_0 + tl.arange(0, BLOCK_X)[None, :], c[:, None]
        zero = tl.zeros([BLOCK_C, BLOCK_X], tl.float32)
    else:
        group, c = group_0 + tl.arange(0, BLOCK_X)[:, None], c[None, :]
        zero = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    mask_c = c < C
    offs_x, offs_y = c.to(tl.int64) * stride_x_c, c.to(tl.int64) * stride_y_c
    x_ptr += n * stride_x_n
    y_ptr += n * stride_y_n

    # a second dimension of the grid means a program per phase, which uses its own phase's taps only
    phase_y, phase_x = tl.program_id(1) // period_x, tl.program_id(1) % period_x
    first_y, first_x = first_y - phase_y * down_y, first_x - phase_x * down_x
    ROWS: tl.constexpr = Y.taps
    TAPS: tl.constexpr = X.taps
    if SEPARABLE:
        taps = load_taps(f_ptr, gain, 0, first_x, 1, spread_x, 1, taps_x, 1, TAPS, FLIP)
        along_y = load_taps(f_ptr, 1.0, 0, first_y, 1, spread_y, 1, taps_y, 1, ROWS, FLIP)
    else:
        taps = load_taps(f_ptr, gain, first_y, first_x, spread_y, spread_x, taps_y, taps_x, ROWS, TAPS, FLIP)
        along_y = ()

    STEP: tl.constexpr = Y.step
    PHASES: tl.constexpr = Y.phases
    GROUPS: tl.constexpr = (Y.window + Y.step - 1) // Y.step  # steps from an output's first row to its last
    COUNT: tl.constexpr = RUN * X.phases  # outputs of a run in one row
    COLUMNS: tl.constexpr = SKIP + (RUN - 1) * X.step + X.window
    SPAN: tl.constexpr = RUN * X.step
    waiting = repeat(zero, (GROUPS - 1) * PHASES * COUNT)
    for m in range(BLOCK_Y + GROUPS - 1):
        sums = waiting + repeat(zero, PHASES * COUNT)
        for s in tl.static_range(STEP):
            row = (period_0 + m) * STEP + s + base_y
            inside = mask_c & (row >= 0) & (row < H)
            row_ptr = x_ptr + row.to(tl.int64) * stride_x_h
            if LOAD > 1:
                columns = load_vectors(row_ptr, offs_x, group, inside, base_x, W, stride_x_w, COLUMNS, SPAN, LOAD)
            else:
                columns = load_columns(row_ptr, offs_x, group, inside, base_x, W, stride_x_w, COLUMNS, SPAN)
            sums = add_row(sums, zero, columns, taps, along_y, s, SKIP, RUN, SEPARABLE, Y, X)
        period = period_0 + m - (GROUPS - 1)
        for r in tl.static_range(PHASES):
            row = period * period_y + phase_y + r
            inside = mask_c & (m >= GROUPS - 1) & (row < OH)
            store_run(
                y_ptr + row.to(tl.int64) * stride_y_h, sums[r * COUNT : (r + 1) * COUNT], offs_y, group,
                inside, phase_x, period_x, OW, stride_y_w, COUNT, RUN, STORE,
            )  # fmt: skip
        waiting = sums[PHASES * COUNT :]


class _Geometry(NamedTuple):
    """One axis: compile-time constants of the program, and its run-time sizes."""

    axis: Axis
    period: int
    base: int
    first: int
    spread: int
    down: int


def _geometry(up: int, down: int, taps: int, pad: int, split: bool) -> _Geometry:
    """Periods of an axis; with ``split``, a program computes one phase, a correlation with that phase's taps."""
    common = math.gcd(up, down)
    period, step = up // common, down // common
    first, base = pad % up, -(pad // up)
    window = max((taps - 1 - first + (period - 1) * down) // up + 1, 1)
    if split:
        return _Geometry(Axis(1, 0, window, 0, 1, step, window), period, base, first, up, down)
    return _Geometry(Axis(up, down, taps, first, period, step, window), period, base, 0, 1, 0)


def _thread(Y: Axis, X: Axis, planar: bool, most: int) -> Pair:
    """Columns of a run, at most ``most``, and elements of a tile that a thread holds."""
    widest = max(X.step, X.phases)
    if planar:  # a run is a vector or nothing
        choices = [(run, each) for run in ([VECTOR, 1] if widest <= 2 else [1]) for each in (2, 1)]
    else:
        choices = [(VECTOR // widest >> i, 4) for i in range(3) if VECTOR // widest >> i] + [(1, 4), (1, 2), (1, 1)]
    waiting = (triton.cdiv(Y.window, Y.step) - 1) * Y.phases * X.phases
    room = 40 if planar else 96  # registers for a row of the image; a vector is held twice while it is split
    for run, each in choices:
        columns = (run - 1) * X.step + X.window
        if run <= most and waiting * run * each <= WAITING_REGISTERS and columns * each <= room:
            return run, each
    return 1, 1


def _tile(Y: Axis, X: Axis, planar: bool, images: int, C: int, periods_y: int, periods_x: int) -> dict[str, int]:
    """Columns of a run, tile, and threads: as many elements per thread as registers hold their sums and columns."""
    run, each = _thread(Y, X, planar, triton.next_power_of_2(periods_x))
    groups, channels = triton.next_power_of_2(triton.cdiv(periods_x, run)), triton.next_power_of_2(max(C, 1))
    block_x = min(groups, 128 * each if planar else max(128 * each // min(channels, 64), 1))
    block_c = min(channels, 128 * each // block_x)
    strips = images * triton.cdiv(C, block_c) * triton.cdiv(periods_x, run * block_x)
    block_y = min(32, triton.next_power_of_2(periods_y))
    while block_y > 4 and strips * triton.cdiv(periods_y, block_y) < ENOUGH_PROGRAMS:
        block_y //= 2
    return {
        "RUN": run,
        "BLOCK_Y": block_y,
        "BLOCK_X": block_x,
        "BLOCK_C": block_c,
        "num_warps": max(block_x * block_c // (32 * each), 1),
    }


def output_size(x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int]) -> Pair:
    """(H', W'); pairs are (x, y), padding is (x0, x1, y0, y1)."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    height, width = x.shape[2] * uy + y0 + y1 - f.shape[0], x.shape[3] * ux + x0 + x1 - f.shape[-1]
    return height // dy + 1, width // dx + 1


def _layout(x: Tensor) -> torch.memory_format:
    """Memory format of x by its strides; where sizes of 1 allow both, that which torch reports."""
    return torch.contiguous_format if x.stride(1) >= x.stride(3) else torch.channels_last


def _empty_like(x: Tensor, size: Pair) -> Tensor:
    """A new [N, C, *size] in the memory format of x."""
    return torch.empty(*x.shape[:2], *size, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _launch(
    x: Tensor,
    f: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """One pass over x [N, C, H, W] of any strides."""
    (ux, uy), (dx, dy), (x0, _, y0, _) = up, down, padding
    out = _empty_like(x, output_size(x, f, up, down, padding))
    y, planar = out, _layout(x) == torch.contiguous_format
    if planar and x.stride(0) == x.shape[1] * x.stride(1):  # all channels of all images are independent planes
        x, y = x.flatten(0, 1)[None], y.flatten(0, 1)[None]
    (N, C, H, W), (OH, OW) = x.shape, y.shape[2:]
    split = uy // math.gcd(uy, dy) * (ux // math.gcd(ux, dx)) > STATIC_PHASES
    Y, X = _geometry(uy, dy, f.shape[0], y0, split), _geometry(ux, dx, f.shape[-1], x0, split)
    periods_y, periods_x = triton.cdiv(OH, Y.period), triton.cdiv(OW, X.period)
    tile = _tile(Y.axis, X.axis, planar, N, C, periods_y, periods_x)
    count, span = tile["RUN"] * X.axis.phases, tile["RUN"] * X.axis.step
    width = VECTOR if planar and span % VECTOR == 0 else 1
    blocks_c, blocks_y = triton.cdiv(C, tile["BLOCK_C"]), triton.cdiv(periods_y, tile["BLOCK_Y"])
    blocks_x = triton.cdiv(periods_x, tile["RUN"] * tile["BLOCK_X"])
    launch(
        _upfirdn2d_kernel,
        (blocks_x * blocks_y * blocks_c * N, Y.period * X.period if split else 1),
        y_ptr=y,
        x_ptr=x,
        f_ptr=f.to(torch.float32).contiguous(),
        gain=float(gain),
        base_y=Y.base,
        base_x=X.base // width,
        taps_y=f.shape[0],
        taps_x=f.shape[-1],
        **{
            f"{n}_{axis}": getattr(g, n)
            for axis, g in (("y", Y), ("x", X))
            for n in ("period", "first", "spread", "down")
        },
        C=C,
        H=H,
        W=W,
        OH=OH,
        OW=OW,
        blocks_c=blocks_c,
        blocks_y=blocks_y,
        blocks_x=blocks_x,
        **{f"stride_{name}_{dim}": s for name, t in (("y", y), ("x", x)) for dim, s in zip("nchw", t.stride())},
        Y=Y.axis,
        X=X.axis,
        SEPARABLE=f.ndim == 1,
        FLIP=flip_filter,
        PLANAR=planar,
        LOAD=width,
        STORE=VECTOR if planar and count % VECTOR == 0 and not split else 1,
        SKIP=X.base % width,
        **tile,
    )
    return out


def _upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """f is [kh, kw] or [k]; pairs are (x, y), padding is (x0, x1, y0, y1)."""
    if f.ndim == 2 or f.numel() <= ONE_PASS_TAPS:
        return _launch(x, f, up, down, padding, flip_filter, gain)
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    x = _launch(x, f[None, :], (ux, 1), (dx, 1), (x0, x1, 0, 0), flip_filter, gain)
    return _launch(x, f[:, None], (1, uy), (1, dy), (0, 0, y0, y1), flip_filter, 1.0)


def _upfirdn2d_fake(x: Tensor, f: Tensor, up: Pair, down: Pair, padding: Pads, *options: Any) -> Tensor:
    return _empty_like(x, output_size(x, f, up, down, padding))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *ctx.options = inputs
    ctx.size, ctx.layout = x.shape[2:], _layout(x)
    ctx.save_for_backward(x if f.requires_grad else None, f)


def adjoint_padding(size: Sequence[int], out: Sequence[int], f: Tensor, up: Pair, down: Pair, padding: Pads) -> Pads:
    """Pads of the transposed operation, from ``out`` = (H', W') back to ``size`` = (H, W)."""
    pads = []
    for length, length_out, taps, u, d, pad in zip(
        reversed(size), reversed(out), (f.shape[-1], f.shape[0]), up, down, padding[::2]
    ):
        pads += [taps - 1 - pad, length * u - length_out * d + pad - u + 1]
    return pads[0], pads[1], pads[2], pads[3]


def _upfirdn2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The transpose of upfirdn2d is an upfirdn2d, so calling the op itself makes every order differentiable."""
    x, f = ctx.saved_tensors
    up, down, padding, flip_filter, gain = ctx.options
    grad_x = grad_f = None
    if ctx.needs_input_grad[0]:
        pads = adjoint_padding(ctx.size, grad.shape[2:], f, up, down, padding)
        grad = grad if _layout(grad) == ctx.layout else grad.contiguous(memory_format=ctx.layout)
        grad_x = upfirdn2d(grad, f, down, up, pads, not flip_filter, gain)
    if ctx.needs_input_grad[1]:
        grad_f = _filter_gradient(x, f, grad, ctx.options)
    return grad_x, grad_f, None, None, None, None, None


def _filter_gradient(x: Tensor, f: Tensor, grad: Tensor, options: Sequence[Any]) -> Tensor | None:
    """Gradient of the filter by the plain form, since filters are rarely trained."""
    up, down, padding, flip_filter, gain = options
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        if not recording:
            x, f = x.detach(), f.detach().requires_grad_()
        inputs = (x, f, tuple(up), tuple(down), tuple(padding), flip_filter, gain)
        return differentiable_gradients(upfirdn2d_ref, inputs, (grad,))[1]


upfirdn2d = register(_upfirdn2d, fake=_upfirdn2d_fake)
differentiate(upfirdn2d, _save, _upfirdn2d_backward)
