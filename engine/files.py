"""Files that are there as a whole, or not at all."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import UserError


def write_whole(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` write a file under a temporary name beside ``path`` and rename it: no reader sees half a file.

    Missing folders are made; the temporary name ends like ``path``, since writers go by the ending.
    Raises: UserError naming ``path`` if it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: wanted a file that can be written, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none after success, nor where its folder could not be made
            part.unlink()
