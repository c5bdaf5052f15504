"""--label: a class, numbers, or a file of them; without torch, for a quick command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...errors import UserError, os_reason, short

Label = int | tuple[float, ...]
FILES = (".json", ".npy", ".txt")
MAX_NUMBERS = 2**16


def add_label_argument(group: argparse._ArgumentGroup) -> None:
    """--label."""
    group.add_argument(
        "--label",
        metavar="LABEL",
        type=read_label,
        help="of a conditional model: a class number, numbers with commas between them, or a .json, .npy or .txt file "
        "of numbers (default for camera labels: that of the rendering camera)",
    )


def read_label(text: str) -> Label:
    """A class number, or numbers with commas between them, or those of a file.

    Raises: UserError naming --label.
    """
    wanted = "a class number, numbers such as 0.5,1,2 or a .json, .npy or .txt file of them"
    try:
        if Path(text).suffix.lower() in FILES:
            numbers = _of_file(Path(text))
        elif text.strip().isascii() and text.strip().isdecimal() and len(text) < 10:
            return int(text)
        else:
            numbers = [float(part) for part in text.split(",") if part.strip() or "," not in text]
    except OSError as error:
        raise UserError(f"--label: wanted {wanted}, got {short(text)}: {os_reason(error)}") from None
    except (ValueError, TypeError, EOFError, RecursionError, OverflowError):
        raise UserError(f"--label: wanted {wanted}, got {short(text)}") from None
    if not 1 <= len(numbers) <= MAX_NUMBERS or not all(abs(n) < 3e38 for n in numbers):
        raise UserError(f"--label: wanted 1 to {MAX_NUMBERS} finite numbers, got {short(text)}")
    return tuple(numbers)


def _of_file(path: Path) -> list[float]:
    import numpy as np  # a fifth of a second, for files of numbers only

    if path.suffix.lower() == ".npy":
        values = np.load(path, allow_pickle=False)
    elif path.suffix.lower() == ".json":
        values = np.array(json.loads(path.read_text(encoding="utf-8")))
    else:
        return [float(part) for part in path.read_text(encoding="utf-8").replace(",", " ").split()]
    if values.dtype.kind not in "iuf":
        raise ValueError("no numbers")
    return [float(value) for value in values.reshape(-1)]
