"""Snapshots (``.pkl``) of the public implementation, read without running anything in them.

Python's own unpickler runs whatever a file names, and the public loader compiles the source text that a snapshot brings
along. Here the opcodes are scanned first (``scan``); the unpickler (``unpickler``) is then given inert stand-ins for
what a file may name (``objects``, ``storage``), and source stays text.
"""

import hashlib
import mmap
import os
import re
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...errors import UserError
from .objects import Persistent, known_globals
from .refusals import Damaged, Refused, kind, shown
from .scan import Budget, scan
from .storage import MAGIC
from .unpickler import load, refusals

# O_NONBLOCK: a pipe without a writer would wait for one. O_BINARY is Windows', the others POSIX'.
_READ = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
MAX_BYTES = 8 * 2**30
_TEXTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned",
    b"<!doctype html": "a web page, not the file itself; the download needs its direct link",
    b"<html": "a web page, not the file itself; the download needs its direct link",
    b"<?xml": "an XML answer, not the file itself; the download needs its direct link",
    b"pk\x03\x04": "a zip archive; unpack it first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"bzh": "a bzip2 archive; unpack it first",
    b"\xfd7zxz": "an xz archive; unpack it first",
    b"(\xb5/\xfd": "a zstandard archive; unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it first",
    b"rar!": "a RAR archive; unpack it first",
    b"\x89hdf": "an HDF5 file, not a pickle",
    b"\x93numpy": "an array of numpy's, not a pickle",
    b"\x89png": "a picture (PNG), not a pickle",
    b"\xff\xd8\xff": "a picture (JPEG), not a pickle",
}
_WHAT_TO_DO = "weights without a snapshot's arguments; convert takes the network-snapshot-*.pkl of the public training"
_ZIP_OF_TORCH = re.compile(rb"PK\x03\x04.{26}[^/\0]{1,200}/(data\.pkl|\.format_version|byteorder|version)", re.DOTALL)


@dataclass(frozen=True)
class Snapshot:
    """Contents of a file.

    Attributes:
        path, data, protocol: the file's own facts; ``data`` is its bytes, mapped.
        objects: the top-level mapping: G, D, G_ema, training_set_kwargs, ... as inert records.
        globals_named: globals with the number of times that they are named.
        refused: reasons to refuse the file, with counts; nothing of a refused file is in ``objects``.
    """

    path: Path
    data: mmap.mmap = field(repr=False)
    protocol: int
    objects: dict[str, object]
    globals_named: dict[str, int]
    refused: dict[str, int]

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Reads the whole file: asked for once the rest of it is known to be of use."""
        return hashlib.sha256(self.data).hexdigest()

    def network(self, name: str) -> Persistent:
        """The network called ``name``. Raises: UserError listing those there are."""
        network = self.objects.get(name)
        if not isinstance(network, Persistent):
            known = [shown(key)[1:-1] for key, value in self.objects.items() if isinstance(value, Persistent)]
            raise UserError(f"{self.path}: wanted a network {name}, got {', '.join(known[:20]) or 'none at all'}")
        return network


def read_snapshot(path: str | Path, *, tolerant: bool = False) -> Snapshot:
    """Read a snapshot; nothing in it is imported, called or compiled.

    Args:
        path: the file.
        tolerant: note what is refused instead of raising it, to show all of it.
    Raises: UserError: no such file, not a snapshot, cut off, refused (naming what).
    """
    path = Path(path)
    data = _map_file(path)
    _check_start(path, data)
    budget, refused = Budget(), dict[str, int]()
    try:
        known, scanned = known_globals(budget), scan(data, budget)
        try:
            value = load(scanned, known)
        except Refused as error:
            if not tolerant:
                raise
            value, refused = {}, refusals(scanned, known) or {str(error): 1}
        if type(value) is int and value == MAGIC:
            raise Refused(f"wanted a snapshot (a pickle), got a checkpoint in torch's older form, {_WHAT_TO_DO}")
        if scanned.end != len(data):
            raise Damaged(f"{len(data) - scanned.end} bytes follow its end (byte {scanned.end})")
    except Damaged as error:
        raise UserError(f"{path}: wanted a whole snapshot (a pickle), got one that is damaged: {error}") from None
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(value, dict) or not all(type(key) is str for key in value):
        raise UserError(f"{path}: wanted a mapping with G_ema in it, got a {kind(value)}")
    names = {".".join(key): count for key, count in scanned.globals.items()}
    return Snapshot(path, data, scanned.protocol, value, names, refused)


def _map_file(path: Path) -> mmap.mmap:
    """The bytes of a regular file, mapped: they are read when looked at, and a tensor's numbers only when wanted."""
    try:
        descriptor = os.open(path, _READ)
        try:
            _check_file(path, os.fstat(descriptor))
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: wanted a readable snapshot file, got: {reason}") from None


def _check_start(path: Path, data: mmap.mmap) -> None:
    """Say what the usual wrong files are: what a failed download leaves behind, archives, other kinds of weights."""
    got = None
    if _ZIP_OF_TORCH.match(data[:300]):
        got = f"a checkpoint in torch's zip form, {_WHAT_TO_DO}"
    elif data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):  # the size of its head, then JSON
        got = f"a safetensors file, {_WHAT_TO_DO}"
    elif data[257:262] == b"ustar":
        got = "a tar archive; unpack it first"
    if got is not None:
        raise UserError(f"{path}: wanted a snapshot (a pickle), got {got}")
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for text, what in _TEXTS.items():
        if start.startswith(text):
            raise UserError(f"{path}: wanted a snapshot (a pickle), got {what}")


def _check_file(path: Path, facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise UserError(f"{path}: wanted a snapshot file, got a folder")
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path}: wanted a snapshot file, got a pipe or device")
    if facts.st_size == 0:
        raise UserError(f"{path}: wanted a snapshot file, got an empty one")
    if facts.st_size > MAX_BYTES:
        raise UserError(f"{path}: wanted a snapshot of at most {MAX_BYTES >> 30} GiB, got {facts.st_size} bytes")
