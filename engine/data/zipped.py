"""The files of a zip archive, read by name, from any process."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from engine.data.decode import MAX_FILE_BYTES, UnusableImage
from engine.errors import UserError

_BROKEN = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error, zipfile.BadZipFile)


class ZipFiles:
    """All files of the archive ``path``, named as in the archive; hidden files and macOS's ``__MACOSX`` are left out.

    Attributes:
        names:      sorted names.
        unreadable: always empty; a broken member shows when it is read.

    Raises: UserError unless ``path`` is a readable zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: dict[str, str] = {}
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()
        infos = self._archive().infolist()
        self.names = sorted({info.filename for info in infos if not info.is_dir() and _is_content(info.filename)})

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
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
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
        size = archive.getinfo(name).file_size
        if size == 0:
            raise UnusableImage("zero bytes")
        if size > MAX_FILE_BYTES:
            raise UnusableImage(f"{size} bytes are more than {MAX_FILE_BYTES}")
        try:
            return archive.open(name)
        except _BROKEN as error:
            raise UnusableImage(f"unreadable: {error}") from error

    def close(self) -> None:
        """Close the archive; the next read opens it again."""
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None


def _is_content(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)
