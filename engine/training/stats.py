"""Statistics of a run: ``stats.jsonl``, means between two rows, a progress line, peak memory."""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from torch import Tensor

from ..errors import UserError, os_errors, os_reason, short
from ..files import fsync_folder, write_synced, write_whole

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

IMAGES_KEY = "Progress/images"
NONFINITE_KEY = "Stats/nonfinite_values"
Row = dict[str, Any]

_KEY = re.compile(r"[A-Z][A-Za-z0-9]*/[A-Za-z0-9_]+")
_REDRAW_S = 0.1


class StatsWriter:
    """Append rows, one JSON object per line, keys ``Group/name_unit``.

    JSON has no nan or inf: such a value becomes null, and ``Stats/nonfinite_values`` counts those of its row. Rows
    reach the disk at ``flush``: flush before writing a checkpoint, or a resumed run may lack them. A half-written last
    line of an earlier process is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._pending: list[str] = []
        with os_errors(self.path, "cannot write statistics"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not _ends_whole(self.path):
                _replace(self.path, read_stats(self.path))

    def write(self, row: Mapping[str, float | int | str | None]) -> None:
        """Queue one row. Raises: ValueError for a key that is not ``Group/name_unit``, TypeError for a value."""
        bad = 0
        out: Row = {}
        for key, value in row.items():
            if not _KEY.fullmatch(key):
                raise ValueError(f"key must look like Group/name_unit, got {key!r}")
            if not (value is None or isinstance(value, int | float | str)):
                raise TypeError(f"{key} must be a number, a string or None, got {type(value).__name__}")
            finite = not isinstance(value, float) or math.isfinite(value)
            bad += not finite
            out[key] = value if finite else None
        out[NONFINITE_KEY] = bad
        self._pending.append(_line(out))

    def flush(self) -> None:
        """Write the queued rows to the disk; after a failure the file is unchanged and the rows stay queued."""
        if not self._pending:
            return
        with os_errors(self.path, "cannot write statistics"):
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write("".join(self._pending))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                raise
        self._pending.clear()

    def truncate_after(self, images_shown: int) -> None:
        """Drop the rows past ``images_shown``, in one atomic rewrite, so that a resumed run writes them again."""
        self.flush()
        if self.path.exists():
            rows = [row for row in read_stats(self.path) if (row.get(IMAGES_KEY) or 0) <= images_shown]
            with os_errors(self.path, "cannot write statistics"):
                _replace(self.path, rows)

    def __enter__(self) -> "StatsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def read_stats(path: Path) -> list[Row]:
    """The rows of a ``stats.jsonl``. A last line cut short by a kill is left out; any other bad line is a UserError."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: wanted a statistics file, got: {os_reason(error)}") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            raise UserError(f"{path}, line {number}: wanted a JSON object, got {short(line)}")
    return rows


class Accumulator:
    """Means of named scalars collected between two rows.

    The sums are kept in float64, on the tensor's own device, and read only by ``summarise`` and ``state_dict``, so that
    ``add`` never waits for the GPU. A checkpoint preserves the sums bit for bit.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: float | Tensor) -> None:
        """Add one value. Raises: ValueError for a tensor of more than one element."""
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name} must be a scalar, got a tensor of shape {list(value.shape)}")
            value = value.detach().reshape(()).double()
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def summarise(self) -> dict[str, float]:
        """Name → mean, in the order of first use."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def reset(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def copy(self) -> tuple[dict[str, float | Tensor], dict[str, int]]:
        """Current sums and counts, for ``restore``; no sum is ever changed in place."""
        return dict(self._sums), dict(self._counts)

    def restore(self, copied: tuple[dict[str, float | Tensor], dict[str, int]]) -> None:
        self._sums, self._counts = copied

    def state_dict(self) -> dict[str, list[float]]:
        """Name → [sum, count], plain numbers."""
        return {name: [float(total), self._counts[name]] for name, total in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        self._sums = {name: float(total) for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}


class ProgressBar:
    """One line on stderr: percentage, count, rate, time left and a postfix. A ``total`` of 0 is an unknown one.

    On a terminal the line is redrawn; elsewhere a plain line is printed at most every ``interval_s`` seconds. Failed
    output (a closed terminal) ends the bar, never the work.
    """

    def __init__(
        self,
        total: int,
        desc: str,
        stream: TextIO | None = None,
        *,
        initial: int = 0,
        interval_s: float = 10.0,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.desc, self.count, self.postfix = total, desc, initial, ""
        self._stream = sys.stderr if stream is None else stream  # looked up now: tests and notebooks replace it
        self._enabled = enabled
        self._tty = enabled and self._stream.isatty()
        self._interval_s = _REDRAW_S if self._tty else interval_s
        self._initial, self._clock = initial, clock
        self._start_s = self._shown_s = clock()
        self._shown: tuple[int, str] | None = None

    def update(self, n: int = 1, postfix: str | None = None) -> None:
        """Count ``n`` more done; ``postfix`` replaces the text at the end of the line."""
        self.count += n
        if postfix is not None:
            self.postfix = postfix
        if self._enabled and self._clock() - self._shown_s >= self._interval_s:
            self._show()

    def close(self) -> None:
        """Show the last state and end the line."""
        if self._enabled:
            self._show()
            if self._tty:
                self._emit("\n")
        self._enabled = False

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def line(self) -> str:
        """The current text."""
        elapsed_s = self._clock() - self._start_s
        rate = (self.count - self._initial) / elapsed_s if elapsed_s > 0 else 0.0
        left = _clock_text((self.total - self.count) / rate) if rate > 0 else "?"
        text = f"{self.desc}: {self.count}, {rate:.4g}/s"
        if self.total:
            done = f"{100 * self.count / self.total:3.0f}% {self.count}/{self.total}"
            text = f"{self.desc}: {done}, {rate:.4g}/s, {left} left"
        return f"{text}, {self.postfix}" if self.postfix else text

    def _show(self) -> None:
        self._shown_s = self._clock()
        line = self.line()
        if self._tty:
            width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and \r not return to its start
            self._emit("\r" + line[:width] + "\x1b[K")
        elif self._shown != (self.count, self.postfix):
            self._emit(line + "\n")
        self._shown = (self.count, self.postfix)

    def _emit(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._enabled = False


def peak_memory_mib(device: torch.device | str = "cpu") -> float | None:
    """Peak memory of this process in MiB (2**20): allocated by torch on a CUDA device, else resident in RAM.

    None on the CPU of a system that does not report it (Windows).
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _clock_text(seconds: float) -> str:
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def _ends_whole(path: Path) -> bool:
    """Whether the file is empty or ends in a line break."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def _replace(path: Path, rows: list[Row]) -> None:
    """Replace the file by ``rows``: a kill or a power cut leaves the old file or the new one."""
    write_whole(path, lambda part: write_synced(part, "".join(map(_line, rows)).encode()))
    fsync_folder(path.parent)
