"""The files of a zip archive, read by name, from any process."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from ..errors import UserError, one_line, os_reason
from .decode import MAX_FILE_BYTES, UnusableImage
from .names import stored_names

_BROKEN = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error, zipfile.BadZipFile)
_IS_UTF8 = 0x800  # bit 11 of a member's flags


class ZipFiles:
    """All files of the archive ``path`` by their plain names; hidden files and macOS's ``__MACOSX`` are left out.

    Attributes:
        names:      sorted plain names.
        unreadable: always empty; a broken member shows when it is read.

    Raises: UserError unless ``path`` is a readable zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: dict[str, str] = {}
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()
        self._members: dict[str, str] = {}  # name in UTF-8 -> name that the archive knows, where they differ
        names = [_readable(info, self._members) for info in self._archive().infolist()]
        self.names, self._stored = stored_names(name for name in names if not name.endswith(("/", "\\")))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_handle", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _handle=None, _lock=threading.Lock())

    def _archive(self) -> zipfile.ZipFile:
        """The open archive of this process: after a fork, parent and child would move one shared file position."""
        with self._lock:
            if self._handle is None or self._handle[0] != os.getpid():
                try:
                    self._handle = os.getpid(), zipfile.ZipFile(self.path)
                except _BROKEN as error:
                    reason = os_reason(error) if isinstance(error, OSError) else one_line(error)
                    raise UserError(
                        f"data: wanted a folder of images or a complete zip archive, got {self.path} ({reason})"
                    ) from error
            return self._handle[1]

    def read(self, name: str) -> bytes:
        """The whole member. Raises: UnusableImage."""
        try:
            return self.open(name).read()
        except _BROKEN as error:
            raise UnusableImage(f"unreadable: {error}") from error

    def open(self, name: str) -> IO[bytes]:
        """The member as a stream. Raises: UnusableImage."""
        archive = self._archive()
        stored = self._stored.get(name, name)
        member = self._members.get(stored, stored)
        size = archive.getinfo(member).file_size
        if size == 0:
            raise UnusableImage("zero bytes")
        if size > MAX_FILE_BYTES:
            raise UnusableImage(f"{size} bytes are more than {MAX_FILE_BYTES}")
        try:
            return archive.open(member)
        except _BROKEN as error:
            raise UnusableImage(f"unreadable: {error}") from error

    def close(self) -> None:
        """Close the archive; the next read opens it again."""
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None


def _readable(info: zipfile.ZipInfo, members: dict[str, str]) -> str:
    """The member's name; macOS writes UTF-8 without the flag that says so, and ``zipfile`` reads that as cp437."""
    name = info.filename
    if not info.flag_bits & _IS_UTF8:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    if name != info.filename:
        members[name] = info.filename
    return name
