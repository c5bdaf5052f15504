"""Options of a projection, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import UserError
from ..render.choices import TERMS
from ..render.label_argument import Label


@dataclass(frozen=True)
class ProjectionOptions:
    """How to look for a photograph in a model.

    Attributes:
        space: "w", one style for every layer, or "w+", one for each.
        free: what of the camera is looked for: some of yaw, pitch, radius, roll; none for a camera that is known.
        yaw, pitch, radius, roll: where it is known or to start, one number for all photos or one for each; radians,
            world units; empty is the prior's middle, for a free yaw and pitch several places of the prior.
        fov_deg: of every camera; None is the model's.
        same_subject: whether all photos show one subject, with one background.
        subjects, cameras: how many of each the search renders; their product is its cost.
        starts: how many of the best are followed for a fifth of ``steps``.
        steps: of the long descent.
        polish: Levenberg-Marquardt steps on pixels after it.
        tune: steps of pivotal tuning after that.
        rate: learning rate of Adam in standard deviations, after a warm-up and before a cosine ramp down.
        noise: standard deviation of the noise on styles at the beginning, in theirs; gone after three quarters.
        regularise: weight of the mean square of the coordinates, which pulls towards the average.
        pixel_weight: of the pixels' loss; None is 1 without a perceptual network, 0.1 with one.
        tune_rate, locality: of the tuning, see :class:`Tuner`.
        label: of a conditional model; None for cameras is that of the prior's middle, in the tuning of each camera.
        seed: of everything random.
    """

    space: Literal["w", "w+"] = "w"
    free: tuple[str, ...] = ("yaw", "pitch")
    yaw: tuple[float, ...] = ()
    pitch: tuple[float, ...] = ()
    radius: tuple[float, ...] = ()
    roll: tuple[float, ...] = ()
    fov_deg: float | None = None
    same_subject: bool = False
    subjects: int = 64
    cameras: int = 8
    starts: int = 4
    steps: int = 300
    polish: int = 0
    tune: int = 0
    rate: float = 0.1
    noise: float = 0.05
    regularise: float = 1e-4
    pixel_weight: float | None = None
    tune_rate: float = 3e-4
    locality: float = 1.0
    label: Label | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("subjects", 1, 100_000), ("cameras", 1, 10_000), ("starts", 1, 64),
                                  ("steps", 0, 10**6), ("polish", 0, 10_000), ("tune", 0, 10**6)):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name}: wanted {least} to {most}, got {getattr(self, name)}")
        for name, low in (("rate", 1e-9), ("noise", 0), ("regularise", 0), ("tune_rate", 1e-12), ("locality", 0)):
            if not low <= getattr(self, name) <= 1e6:
                raise UserError(f"--{name.replace('_', '-')}: wanted {low:g} to 1e6, got {getattr(self, name)}")
        if self.pixel_weight is not None and not 0 <= self.pixel_weight <= 1e6:
            raise UserError(f"--pixel-weight: wanted 0 to 1e6, got {self.pixel_weight}")
        if not set(self.free) <= set(TERMS):
            raise UserError(f"--free: wanted some of {', '.join(TERMS)}, got {','.join(self.free)}")
        if any(not 0 < v < math.pi for v in self.pitch):
            raise UserError(f"--pitch: wanted radians between 0 and pi, from the zenith, got {self.pitch}")
        if any(not v > 0 for v in self.radius):
            raise UserError(f"--radius: wanted positive lengths, got {self.radius}")
        if self.fov_deg is not None and not 0 < self.fov_deg < 180:
            raise UserError(f"--fov: wanted degrees between 0 and 180, got {self.fov_deg}")

    @property
    def stages(self) -> dict[str, int]:
        """Steps of each stage after the search."""
        first = max(self.steps // 5, 1) if self.starts > 1 and self.steps > 0 else 0
        return {"starts": first, "descent": self.steps, "polish": self.polish, "tuning": self.tune}
