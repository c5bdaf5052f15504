"""Progressive growing: the current resolution, and the blend weight of its newest level."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """State of growth at one moment.

    Attributes:
        resolution: edge of the current image in pixels.
        previous: edge of the level before it (equal at the start).
        level: number of levels in use; 0 is the volume-rendered image alone.
        blend: weight f of the newest level, image = (1 - f) up(previous) + f newest; None shows the newest alone.
    """

    resolution: int
    previous: int
    level: int
    blend: float | None = None


def growth_levels(start: int, volume: int, full: int) -> tuple[int, ...]:
    """Resolutions that growth passes through after ``start``: field levels up to ``volume``, then upsampler blocks."""
    levels = []
    resolution = min(start, volume) * 2
    while resolution <= full:
        levels.append(resolution)
        resolution *= 2
    return tuple(levels)


def growth_at(alpha: float, start: int, volume: int, full: int) -> Growth:
    """Growth for a progress ``alpha`` in [0, 1].

    0 is the start resolution, 1 the full resolution without blending. Between, level e = int(alpha L) + 1 of L is
    current and f = frac(alpha L); a level that the field itself renders is never blended. The product is computed in
    float32, as in the public schedule, so that levels change at the same alpha.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    levels = growth_levels(start, volume, full)
    if alpha == 0 or not levels:
        resolution = start if alpha == 0 else full
        return Growth(resolution, resolution, 0)
    before = (start, *levels)
    if alpha == 1:
        return Growth(full, before[-2], len(levels))
    progress = float(np.float32(alpha) * np.float32(len(levels)))
    whole = min(int(progress), len(levels) - 1)
    resolution = levels[whole]
    blend = progress - whole if resolution > volume else None
    return Growth(resolution, before[whole], whole + 1, blend)


def alpha_at(kimg: float, start_kimg: float, end_kimg: float) -> float:
    """Linear schedule: clip((kimg - start) / (end - start), 0, 1)."""
    if end_kimg <= start_kimg:
        return 1.0 if kimg >= start_kimg else 0.0
    return min(max((kimg - start_kimg) / (end_kimg - start_kimg), 0.0), 1.0)
