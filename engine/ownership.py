"""Ownership of a folder: one process at a time, by a lock that the system releases when that process ends or dies."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import UserError, os_errors, os_reason, remark_once

try:
    import fcntl
except ImportError:  # Windows locks by msvcrt
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
LEFTOVER_S = 60.0  # a temporary file unchanged for this long belongs to a killed process
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.part(\..*)?", re.DOTALL)
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_WINDOWS_LOCK_AT = 2**20  # a locked byte cannot be read on Windows; this one lies past the owner's name


@contextlib.contextmanager
def own_folder(folder: Path, made: Sequence[Path] = ()) -> Iterator[None]:
    """Lock ``folder``; missing folders are made, and removed at the end if they are still empty.

    ``made``: folders that the caller has just made for it, removed likewise, innermost first.

    The lock file names the owner for other processes. It is removed at the end; the lock file of a killed process is
    taken over, and that process's temporary files are removed.

    Raises: UserError naming the owner if another process holds the folder, or if it cannot be written.
    """
    folder = Path(folder)
    ours = [*made, *_missing(folder)]
    descriptor = None
    try:
        with os_errors(folder):
            descriptor = _open_locked(folder)
        _remove_leftovers(folder, now=os.fstat(descriptor).st_mtime)  # by the clock of the file system
        yield
    finally:
        if descriptor is not None:
            _release(descriptor, folder / LOCK_FILE)
        for path in ours:
            with contextlib.suppress(OSError):  # not empty, or never made
                path.rmdir()


def make_numbered(base: Path) -> list[Path]:
    """Make the first of base, base-2, base-3 ... that does not exist: two processes never get the same one.

    Returns: the folders made, the numbered one first, then its parents.
    Raises: UserError if it cannot be made.
    """
    above = _missing(base.parent)
    with os_errors(base):
        base.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                path.mkdir()
                return [path, *above]
            except FileExistsError:
                number += 1


def check_writable(path: Path) -> None:
    """Check before a long computation that ``path`` can be made: make and remove a file in its nearest existing parent.

    Raises: UserError naming ``path`` if that fails.
    """
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    with os_errors(path):
        probe = above / temporary_name()
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()


def _missing(folder: Path) -> list[Path]:
    """The folder and its parents, as far as they do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def entries(folder: Path) -> list[str]:
    """Names in a folder, without the lock file and temporary files."""
    return [name for name in os.listdir(folder) if name != LOCK_FILE and not _TEMPORARY.fullmatch(name)]


def temporary_name(ending: str = "") -> str:
    """A hidden name that is unique among threads, processes and hosts, for a file to be renamed when complete."""
    return f".{uuid.uuid4().hex}.part{ending}"


def _remove_leftovers(folder: Path, now: float) -> None:
    """Remove temporary files of killed processes, in the folder and below.

    Recent ones stay: a program that does not own the folder may be writing a file into it.
    """
    for above, _, names in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, names):
            path = os.path.join(above, name)
            with contextlib.suppress(OSError):
                if now - os.lstat(path).st_mtime > LEFTOVER_S:
                    os.unlink(path)


def _open_locked(folder: Path) -> int:
    """Descriptor that holds the lock of the lock file in ``folder``."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # an owner that ended removed the empty folder
        try:
            _lock(descriptor, folder)
            if _is_file(descriptor, folder / LOCK_FILE):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner ended and removed it in between


def _lock(descriptor: int, folder: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _WINDOWS_LOCK_AT, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            remark_once(f"remark: this system has no file locks: nothing keeps a second process out of {folder}")
    except OSError as error:
        if error.errno in _TAKEN:
            owner = os.pread(descriptor, 200, 0) if hasattr(os, "pread") else os.read(descriptor, 200)
            name = owner.decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{folder}: wanted a folder that no other process works in, got one in use by {name}"
            ) from None
        remark_once(
            f"remark: {folder} has no file locks ({os_reason(error)}): nothing keeps a second process out of it"
        )


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release(descriptor: int, file: Path) -> None:
    """Remove the file while it is still locked, so that nobody locks a file about to be removed."""
    with contextlib.suppress(OSError):
        file.unlink()  # fails on Windows, which cannot remove an open file
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if fcntl is None:
        with contextlib.suppress(OSError):
            file.unlink()
