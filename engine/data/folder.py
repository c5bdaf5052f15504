"""The files of a folder, read by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from ..errors import os_reason
from .decode import MAX_FILE_BYTES, UnusableImage
from .names import stored_names


class FolderFiles:
    """All files below ``path``, named by their path relative to it in its plain form.

    Linked folders are followed, each real folder once; hidden files and folders are left out.

    Attributes:
        names:      sorted plain names.
        unreadable: folders that could not be listed -> why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: dict[str, str] = {}
        self.names, self._stored = stored_names(self._walk())

    def _walk(self) -> list[str]:
        names: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, subfolders, files in os.walk(self.path, followlinks=True, onerror=self._note):
            identity = os.stat(folder)
            if (identity.st_dev, identity.st_ino) in seen:  # a link that leads back up
                subfolders.clear()
                continue
            seen.add((identity.st_dev, identity.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            names += [self._relative(Path(folder) / name) for name in files if not name.startswith(".")]
        return names

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _note(self, error: OSError) -> None:
        self.unreadable[self._relative(Path(error.filename))] = f"folder cannot be listed: {os_reason(error)}"

    def read(self, name: str) -> bytes:
        """The whole file. Raises: UnusableImage."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str) -> BinaryIO:
        """The file as a stream. Raises: UnusableImage."""
        try:
            file = self.path / self._stored.get(name, name)
            size = os.stat(file).st_size
            if size == 0:
                raise UnusableImage("zero bytes")
            if size > MAX_FILE_BYTES:
                raise UnusableImage(f"{size} bytes are more than {MAX_FILE_BYTES}")
            return io.BufferedReader(io.FileIO(file))
        except OSError as error:
            raise UnusableImage(f"unreadable: {os_reason(error)}") from error

    def close(self) -> None:
        """Nothing is held open."""
