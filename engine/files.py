"""Atomic writing of files, file names, and hashes of values."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError, os_reason, remark_once
from .ownership import temporary_name

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_whole(path: str | Path, write: Callable[[Path], Any], *, new: bool = False) -> None:
    """Write a file atomically: ``write`` gets a temporary name beside ``path``, which is then renamed.

    Missing folders are made; the temporary name has the suffix of ``path``, since writers choose the format by it. With
    ``new`` nothing is overwritten, not even a file created during ``write``.
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
        raise UserError(f"{path}: wanted a file that can be written, got {os_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # absent after success, or if its folder could not be made
            part.unlink()


def _rename_to_new(part: Path, path: Path) -> None:
    """Rename atomically without replacing a file. Raises: UserError if ``path`` exists."""
    try:
        if not _link(part, path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            part.replace(path)  # replaces the empty file just made
    except FileExistsError:
        raise UserError(f"{path}: wanted a name that is not taken, got one that exists by now") from None


def _link(part: Path, path: Path) -> bool:
    """Hard-link ``part`` to ``path``; False without hard links, as on FAT and some network mounts."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        return False
    return True


def write_synced(path: Path, data: bytes) -> None:
    """Write and fsync a file."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Fsync a folder: without it a file may survive a power cut but lose its name.

    Best effort: mounts without support (network, FUSE) get one warning; a disk failure is still an error.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        remark_once("remark: this file system cannot sync folders: after a power cut, the newest file may be missing")
    finally:
        os.close(descriptor)


def file_names(labels: Sequence[str], otherwise: str) -> list[str]:
    """A unique file name for each label; ``otherwise`` for a label without usable characters."""
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
