"""The snapshot with the best figure so far."""

from __future__ import annotations

import math
from typing import NamedTuple


class Best(NamedTuple):
    """Which snapshot was best, by a distance; figures at different resolutions do not compare."""

    images: int | None = None  # images shown
    value: float = math.inf
    resolution: int = 0

    def after(self, value: float | None, images: int, resolution: int) -> Best:
        """The best, now that a snapshot of ``images`` has this ``value``; a first one at a resolution is its best."""
        if value is None or not math.isfinite(value) or images == 0:
            return self
        better = resolution != self.resolution or value < self.value
        return Best(images, value, resolution) if better else self
