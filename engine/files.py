"""Files that are there as a whole or not at all, their names, and hashes of what is in them."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .ownership import temporary_name


def write_whole(path: str | Path, write: Callable[[Path], Any], *, new: bool = False) -> None:
    """Let ``write`` write a file under a temporary name beside ``path`` and rename it: no reader sees half a file.

    Missing folders are made; the temporary name ends like ``path``, since writers go by the ending. With ``new``
    nothing is overwritten, even what came there while ``write`` was at work.
    Raises: UserError naming ``path`` if it cannot be written, or with ``new`` if it exists.
    """
    path = Path(path)
    part = path.with_name(temporary_name(path.suffix))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        if new:
            _rename_to_new(part, path)
        else:
            part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: wanted a file that can be written, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none after success, nor where its folder could not be made
            part.unlink()


def _rename_to_new(part: Path, path: Path) -> None:
    """Rename onto nothing, checked and taken in one step; UserError if there is anything."""
    try:
        if not _link(part, path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            part.replace(path)  # the empty file just made
    except FileExistsError:
        raise UserError(f"{path}: wanted a name that is not taken, got one that exists by now") from None


def _link(part: Path, path: Path) -> bool:
    """Give a file its name too, if the file system has hard links: FAT and some network mounts have none."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        return False
    return True


def file_names(labels: Sequence[str], otherwise: str) -> list[str]:
    """A name for the files of each label, no two alike; ``otherwise`` where nothing of a label may stand in a name."""
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip(".-")[:80] or otherwise for label in labels]
    return [f"{i}-{n}" for i, n in enumerate(names)] if len(set(names)) < len(names) else names


def sha256_of(value: Any) -> str:
    """SHA-256 of nested lists and mappings of tensors and plain values."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype}{list(item.shape)}".encode())
            digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(item, dict):
            for key in sorted(item):
                add(key)
                add(item[key])
        elif isinstance(item, list | tuple):
            digest.update(f"[{len(item)}".encode())
            for entry in item:
                add(entry)
        else:
            digest.update(f"{item!r};".encode())

    add(value)
    return digest.hexdigest()
