"""A run's figures as TensorBoard's events, under the names of ``stats.jsonl``: the extra ``tensorboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import os_errors
from ...extras import need
from ..stats import IMAGES_KEY, Row
from .record import Record, is_number

FOLDER = "tensorboard"


class EventWriter:
    """Writes rows of statistics as scalars, with the number of images shown as the step.

    Args:
        folder: for the event files; made if absent.
        since: images shown from which a resumed run writes anew: TensorBoard hides older events past it.
    Raises: UserError if tensorboard is not installed or the folder cannot be written.
    """

    def __init__(self, folder: Path, since: int | None = None) -> None:
        need("tensorboard", "monitor.tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        with os_errors(folder, "cannot write events"):
            self._writer: Any = SummaryWriter(str(folder), purge_step=since)

    def write(self, row: Row) -> None:
        """Every finite number of a row but the step itself."""
        for key, value in row.items():
            if key != IMAGES_KEY and is_number(value):
                self._writer.add_scalar(key, value, int(row[IMAGES_KEY]))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def write_events(record: Record, folder: Path) -> None:
    """All figures of a run; events that lie in ``folder`` already are replaced."""
    if folder.is_dir():
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    writer = EventWriter(folder)
    for row in record.rows:
        writer.write(row)
    for x, y in record.variety:
        writer.write({IMAGES_KEY: int(x * 1000), "Samples/variety": y})
    writer.close()
