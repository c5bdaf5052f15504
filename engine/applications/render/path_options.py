"""Options of a camera path, checked before any work; without torch, for a quick command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...errors import UserError

PATHS = ("turntable", "ellipse", "sweep", "zoom", "dolly", "grid", "still", "random")
MAX_FRAMES = 100_000

Range = tuple[float, float]


@dataclass(frozen=True)
class PathOptions:
    """Options of a camera path; None is the prior's own value.

    Attributes:
        frames: number of cameras.
        yaw_rad, pitch_rad, radius: (low, high); pitch between 0 and pi, radius in world units.
        fov_deg: field of view.
        magnification: (first, last) of the path "zoom": 2 shows things twice as large.
        grid: (columns, rows) of the path "grid", yaws and pitches.
        seed: of the path "random".
    """

    frames: int = 48
    yaw_rad: Range | None = None
    pitch_rad: Range | None = None
    radius: Range | None = None
    fov_deg: float | None = None
    magnification: Range = (1.0, 2.0)
    grid: tuple[int, int] = (5, 3)
    seed: int = 0

    def __post_init__(self) -> None:
        checks: dict[str, tuple[Any, bool, str]] = {
            "--frames": (self.frames, 1 <= self.frames <= MAX_FRAMES, f"1 to {MAX_FRAMES}"),
            "--yaw": (self.yaw_rad, _ascending(self.yaw_rad, -100, 100), "LOW <= HIGH in radians"),
            "--pitch": (self.pitch_rad, _ascending(self.pitch_rad, 0, math.pi), "0 <= LOW <= HIGH <= pi, in radians"),
            "--radius": (self.radius, _positive(self.radius), "two positive lengths"),
            "--fov": (self.fov_deg, self.fov_deg is None or 0 < self.fov_deg < 180, "degrees between 0 and 180"),
            "--magnify": (self.magnification, _positive(self.magnification), "two positive factors"),
            "--grid": (self.grid, min(self.grid) >= 1 and math.prod(self.grid) <= MAX_FRAMES, "COLUMNS x ROWS"),
            "--path-seed": (self.seed, 0 <= self.seed < 2**63, "0 to 2**63 - 1"),
        }
        for name, (value, good, wanted) in checks.items():
            if not good:
                raise UserError(f"{name}: wanted {wanted}, got {value}")


def _ascending(ends: Range | None, least: float, most: float) -> bool:
    return ends is None or least <= ends[0] <= ends[1] <= most


def _positive(ends: Range | None) -> bool:
    return ends is None or all(1e-3 <= v <= 1e3 for v in ends)
