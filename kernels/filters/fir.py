"""Device functions of a FIR filter that resamples: taps, rows of the image, sums, stores. See ``upfirdn2d``.

Tiles are [groups, channels] in channels_last images, [channels, groups] in planar ones; a group is the run of
neighbouring columns that one thread holds. Tuples of tiles are indexed at compile time: registers only.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from ..base.operands import to_operand


class Axis(NamedTuple):
    """A program's work along one axis, in the notation of ``upfirdn2d_triton``."""

    up: int
    down: int
    taps: int
    first: int  # tap that meets the first pixel of a window at r = 0
    phases: int  # outputs of a period that the program computes
    step: int
    window: int  # pixels under the taps of a period


@triton.jit
def load_taps(
    f_ptr, gain, first_y, first_x, spread_y, spread_x, taps_y, taps_x,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """Taps [first + spread i] of the correlation, row by row; zero beyond the ends of the filter."""
    taps = tl.tuple([])
    for i in tl.static_range(ROWS):
        y = first_y + spread_y * i
        for j in tl.static_range(COLUMNS):
            x = first_x + spread_x * j
            inside = (y >= 0) & (y < taps_y) & (x >= 0) & (x < taps_x)
            index = y * taps_x + x
            if not FLIP:
                index = taps_y * taps_x - 1 - index
            taps += (gain * tl.load(f_ptr + index, mask=inside, other=0.0),)
    return taps


@triton.jit
def load_columns(
    row_ptr, offs_c, group, inside, base, W, stride_w,
    COUNT: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Columns SPAN group + base + 0 .. COUNT - 1 of a row as a tile each, float32, zero outside the image."""
    column = group * SPAN + base
    offs = offs_c + column.to(tl.int64) * stride_w
    columns = tl.tuple([])
    for i in tl.static_range(COUNT):
        mask = inside & (column + i >= 0) & (column + i < W)
        columns += (tl.load(row_ptr + offs + i * stride_w, mask=mask, other=0.0).to(tl.float32),)
    return columns


@triton.jit
def load_vectors(
    row_ptr, offs_c, group, inside, base, W, stride_w,
    COUNT: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The same from column SPAN group + WIDTH base on: aligned loads of four columns, then split."""
    columns = tl.tuple([])
    for i in tl.static_range((COUNT + WIDTH - 1) // WIDTH):
        column = (WIDTH * (group * (SPAN // WIDTH) + base + i))[:, :, None] + tl.arange(0, WIDTH)[None, None, :]
        mask = inside[:, :, None] & (column >= 0) & (column < W)
        offs = offs_c[:, :, None] + column.to(tl.int64) * stride_w
        x = tl.load(row_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        even, odd = tl.split(x.reshape(x.shape[0], x.shape[1], 2, 2))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        columns += (x0, x1, x2, x3)
    return columns


@triton.jit
def repeat(tile, COUNT: tl.constexpr):
    tiles = tl.tuple([])
    for _ in tl.static_range(COUNT):
        tiles += (tile,)
    return tiles


@triton.jit
def _add_across(start, columns, taps, ROW: tl.constexpr, SKIP: tl.constexpr, RUN: tl.constexpr, X: tl.constexpr):
    """start[i phases + r] + sum_t taps[ROW, up t + first - r down] columns[SKIP + i step + t], for a whole run."""
    PHASES: tl.constexpr = X.phases
    WINDOW: tl.constexpr = X.window
    UP: tl.constexpr = X.up
    DOWN: tl.constexpr = X.down
    FIRST: tl.constexpr = X.first
    TAPS: tl.constexpr = X.taps
    STEP: tl.constexpr = X.step
    sums = tl.tuple([])
    for i in tl.static_range(RUN):
        for r in tl.static_range(PHASES):
            acc = start[i * PHASES + r]
            for t in tl.static_range(WINDOW):
                if UP * t + FIRST - r * DOWN >= 0 and UP * t + FIRST - r * DOWN < TAPS:
                    acc += taps[ROW * TAPS + UP * t + FIRST - r * DOWN] * columns[SKIP + i * STEP + t]
            sums += (acc,)
    return sums


@triton.jit
def _add_scaled(start, tap, across, COUNT: tl.constexpr):
    """start + tap across, tile by tile."""
    sums = tl.tuple([])
    for i in tl.static_range(COUNT):
        sums += (start[i] + tap * across[i],)
    return sums


@triton.jit
def add_row(
    sums, zero, columns, taps, taps_y,
    S: tl.constexpr, SKIP: tl.constexpr, RUN: tl.constexpr, SEPARABLE: tl.constexpr, Y: tl.constexpr, X: tl.constexpr,
):  # fmt: skip
    """Add row S of the rows just loaded to all outputs that it contributes to, the oldest first.

    The oldest output meets its last tap, LAST - r down, the next one a tap that lies BACK = up step before it.
    """
    DOWN: tl.constexpr = Y.down
    ROWS: tl.constexpr = Y.taps
    PHASES: tl.constexpr = Y.phases
    GROUPS: tl.constexpr = (Y.window + Y.step - 1) // Y.step
    LAST: tl.constexpr = Y.up * (Y.step * (GROUPS - 1) + S) + Y.first
    BACK: tl.constexpr = Y.up * Y.step
    COUNT: tl.constexpr = RUN * X.phases
    if SEPARABLE:
        across = _add_across(repeat(zero, COUNT), columns, taps, 0, SKIP, RUN, X)
    added = tl.tuple([])
    for i in tl.static_range(GROUPS):
        for r in tl.static_range(PHASES):
            start = sums[(i * PHASES + r) * COUNT : (i * PHASES + r + 1) * COUNT]
            if LAST - BACK * i - DOWN * r < 0 or LAST - BACK * i - DOWN * r >= ROWS:
                added += start
            elif SEPARABLE:
                added += _add_scaled(start, taps_y[LAST - BACK * i - DOWN * r], across, COUNT)
            else:
                added += _add_across(start, columns, taps, LAST - BACK * i - DOWN * r, SKIP, RUN, X)
    return added


@triton.jit
def store_run(
    row_ptr, tiles, offs_c, group, inside, phase, period, OW, stride_w,
    COUNT: tl.constexpr, RUN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store the consecutive outputs of a run, as vectors where WIDTH is 4."""
    DT: tl.constexpr = row_ptr.dtype.element_ty
    PHASES: tl.constexpr = COUNT // RUN
    for i in tl.static_range(0, COUNT, WIDTH):
        if WIDTH == 4:
            even = tl.join(to_operand(tiles[i], DT), to_operand(tiles[i + 2], DT))
            odd = tl.join(to_operand(tiles[i + 1], DT), to_operand(tiles[i + 3], DT))
            tile = tl.join(even, odd).reshape(even.shape[0], even.shape[1], 4)
            column = (COUNT * group + i)[:, :, None] + tl.arange(0, 4)[None, None, :]
            offs = offs_c[:, :, None] + column.to(tl.int64) * stride_w
            tl.store(row_ptr + offs, tile, mask=inside[:, :, None] & (column < OW))
        else:
            column = (group * RUN + i // PHASES) * period + phase + i % PHASES
            offs = offs_c + column.to(tl.int64) * stride_w
            tl.store(row_ptr + offs, to_operand(tiles[i], DT), mask=inside & (column < OW))
