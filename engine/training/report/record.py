"""What a run's folder holds, as the report needs it."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError, os_reason
from ..checkpoint import FOLDER as CHECKPOINTS
from ..config import Config
from ..config_io import from_dict
from ..stats import IMAGES_KEY, Row, read_stats
from .sheets import Sheets

Points = list[tuple[float, float]]  # thousands of images shown, value

DATA_KEY = "Data/images"
_PICTURE = re.compile(r"(samples|turn|depth|views)-(\d+)\.png")


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it.

    Attributes:
        folder:   the run's folder.
        config:   its configuration.
        rows:     its statistics, in the order of images shown.
        pictures: kind (samples, turn, depth, views) -> [(images shown, file)], in that order.
        variety:  [(kimg, how much samples differ from each other, relative to training images)].
    """

    folder: Path
    config: Config
    rows: list[Row]
    pictures: dict[str, list[tuple[int, Path]]]
    variety: Points = field(default_factory=list)

    @property
    def images_shown(self) -> int:
        return max((int(row.get(IMAGES_KEY) or 0) for row in self.rows), default=0)

    @property
    def finished(self) -> bool:
        return self.images_shown >= self.config.train.total_kimg * 1000

    @property
    def data_images(self) -> int | None:
        """Number of training images, without mirrored copies; None if the run does not tell."""
        return next((int(row[DATA_KEY]) for row in self.rows if row.get(DATA_KEY)), None)

    @property
    def has_checkpoint(self) -> bool:
        return any((self.folder / CHECKPOINTS).glob("*-images-*"))

    def points(self, key: str) -> Points:
        """Finite values of one figure over thousands of images."""
        return [(row[IMAGES_KEY] / 1000, float(row[key])) for row in self.rows if is_number(row.get(key))]

    def last(self, key: str) -> float | None:
        """The newest value of a figure: NaN if it was not finite, None if it was never written."""
        value = next((row[key] for row in reversed(self.rows) if key in row), 0)
        if not any(key in row for row in self.rows):
            return None
        return float(value) if is_number(value) else math.nan

    def recent(self, key: str, share: float = 0.25) -> float | None:
        """Mean of a figure over the last ``share`` of the run's images; None without any value."""
        since = self.images_shown * (1 - share) / 1000
        values = [y for x, y in self.points(key) if x >= since]
        return sum(values) / len(values) if values else None

    def by_resolution(self, key: str) -> dict[int, Points]:
        """Values of a figure that compares at one size of picture only, by that size."""
        result: dict[int, Points] = {}
        edge = self.config.generator.start_resolution if self.config.growth.enabled else None
        for row in self.rows:
            edge = int(row["Growth/resolution"]) if is_number(row.get("Growth/resolution")) else edge
            if is_number(row.get(key)):
                size = self.config.generator.resolution if edge is None else edge
                result.setdefault(size, []).append((row[IMAGES_KEY] / 1000, float(row[key])))
        return result


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_record(folder: Path) -> Record:
    """Read a run's folder.

    Raises: UserError if it is no folder of a run, or its statistics or configuration cannot be read.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, false for any name that leads nowhere, however long
        raise UserError(f"RUN: wanted the folder of a training run, got {folder}, which is no folder")
    missing = [name for name in ("config.json", "stats.jsonl") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"RUN: wanted the folder of a training run, got {folder}, which has no {' and no '.join(missing)}"
        )
    config = _read_config(folder / "config.json")
    rows = [row for row in read_stats(folder / "stats.jsonl") if is_number(row.get(IMAGES_KEY))]
    if not rows:
        raise UserError(f"{folder / 'stats.jsonl'}: wanted statistics with {IMAGES_KEY}, got none")
    rows.sort(key=lambda row: float(row[IMAGES_KEY]))
    pictures: dict[str, list[tuple[int, Path]]] = {"samples": [], "turn": [], "depth": [], "views": []}
    for path in sorted((folder / "images").glob("*.png")):
        if match := _PICTURE.fullmatch(path.name):
            pictures[match[1]].append((int(match[2]), path))
    sheets = Sheets(folder / "images" / "reals.png", config.monitor.grid_images)
    variety = [(shown / 1000, sheets.variety(path)) for shown, path in pictures["samples"]]
    return Record(folder, config, rows, pictures, [(x, y) for x, y in variety if math.isfinite(y)])


def _read_config(path: Path) -> Config:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: wanted a run's configuration, got: {os_reason(error)}") from None
    except ValueError:
        raise UserError(f"{path}: wanted a run's configuration as JSON, got another text") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: wanted a JSON object, got {type(values).__name__}")
    return from_dict(Config, values, where="")
