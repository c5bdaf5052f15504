"""Checkpoints that survive a kill at any moment: ``<run>/checkpoints/<sequence>-images-<count>/``.

Each directory holds ``state.pt`` (tensors and plain values, read with ``weights_only=True``), ``meta.json`` and
``manifest.json`` (size and SHA-256 of the other two). It is written under a hidden name, every file and directory is
fsynced, the manifest comes last, then one rename makes it visible; so a directory that is not hidden is whole, and
later damage shows in the hashes. The sequence number orders checkpoints by time of writing; the count of images does
not, once a run has been resumed from an earlier checkpoint.
"""

import contextlib
import glob
import hashlib
import json
import os
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, one_line, os_errors, os_reason, to_stderr
from ..files import fsync_folder, write_synced
from ..ownership import entries, own_folder, temporary_name
from .config_io import with_present_names

FORMAT_VERSION = 1
FOLDER = "checkpoints"
FILES = _STATE, _META, _MANIFEST = "state.pt", "meta.json", "manifest.json"
_OLD_S = 3600.0
_NAME = re.compile(r"(\.writing-|\.removing-)?(\d+)-images-(\d+)")


def write_checkpoint(
    run_dir: Path,
    images_shown: int,
    state: dict[str, Any],
    meta: dict[str, Any],
    *,
    keep: int = 2,
    spare: int | None = None,
) -> Path:
    """Write one checkpoint, then remove the ones before it, except the newest ``keep`` (this one included) that verify.

    Args:
        run_dir:      the run's folder; ``checkpoints/`` is made in it.
        images_shown: count of training images so far; it becomes part of the name and of ``meta.json``.
        state:        dicts and lists of tensors, numbers, strings, None.
        meta:         whatever JSON can hold; ``images_shown`` is added.
        keep:         how many to keep, at least 1.
        spare:        count of images of a checkpoint that stays besides those.
    Returns: the checkpoint's directory.
    Raises: UserError naming the path when the disk is full or the folder cannot be written; what was there before
        stays as it was. TypeError or ValueError, before anything is written, for state or meta that could not be read
        back.
    """
    if keep < 1 or images_shown < 0:
        raise ValueError(f"keep must be >= 1 and images_shown >= 0, got {keep} and {images_shown}")
    _check_state(state, "state")
    meta_text = json.dumps({**meta, "images_shown": images_shown}, indent=2, allow_nan=False)
    folder = Path(run_dir) / FOLDER
    with os_errors(folder, "cannot write a checkpoint"):
        folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(folder.parent)
        sequence = 1 + max((seq for _, seq in _entries(folder, hidden=True)), default=0)
        final = folder / f"{sequence:05d}-images-{images_shown}"
        _free_leftovers(folder)
        hidden = folder / f".writing-{final.name}"
        hidden.mkdir()  # outside of try: the handler must not remove another process's folder
        try:
            _write_files(hidden, state, meta_text, {"images_shown": images_shown})
            os.replace(hidden, final)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        fsync_folder(folder)
    reason = verify(final)
    if reason is not None:
        raise UserError(f"{final}: wanted the checkpoint just written to read back, got: {reason}; older ones are kept")
    _prune(folder, keep, final, spare)
    return final


def write_folder(path: Path, state: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write state and meta as a folder of a checkpoint's form outside any run: whole, or not at all.

    Args:
        path: must not exist, or be an empty folder; nothing is ever overwritten.
        state, meta: as for :func:`write_checkpoint`.
    Returns: the folder.
    Raises: UserError naming the path if it holds anything or cannot be written; TypeError and ValueError as there.
    """
    _check_state(state, "state")
    meta_text = json.dumps(meta, indent=2, allow_nan=False)
    final = Path(os.path.abspath(path))
    with os_errors(path, "cannot write here"):
        check_vacant(path)
        if final.is_dir() and os.listdir(final):
            with own_folder(final):  # removes leftovers of a killed process; fails while another process holds the lock
                pass
        hidden = final.with_name(f".writing-{final.name[:40]}{temporary_name()}")
        final.parent.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        _free_old_leftovers(hidden)
        try:
            _write_files(hidden, state, meta_text, {})
            if os.name == "nt" and final.is_dir():
                final.rmdir()  # Windows renames onto nothing; this fails on a folder with anything in it
            os.rename(hidden, final)  # replaces an empty folder; fails on anything else
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        fsync_folder(final.parent)
    reason = verify(final)
    if reason is not None:
        raise UserError(f"{path}: wanted the folder just written to read back, got: {reason}")
    return Path(path)


def check_vacant(path: Path) -> None:
    """Raises: UserError unless ``path`` is absent or an empty folder (a lock file does not count)."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not entries(path)):
        raise UserError(f"{path}: wanted a new or empty folder, got one that exists; nothing is overwritten")


def verify(path: Path) -> str | None:
    """Reason to distrust the checkpoint directory, or None if its files match the manifest."""
    try:
        files = _read_manifest(Path(path))["files"]
        for name in (_STATE, _META):
            file = Path(path) / name
            size, wanted = file.stat().st_size, files[name]
            if size != wanted["bytes"]:
                return f"{name} has {size} bytes, its manifest says {wanted['bytes']}"
            if _sha256(file) != wanted["sha256"]:
                return f"{name} does not match its SHA-256"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {os_reason(error)}"
    except _BadManifest as error:
        return str(error)
    return None


def latest_checkpoint(run_dir: Path, report: Callable[[str], None] = to_stderr) -> Path | None:
    """The newest checkpoint of a run that verifies, or None; ``report`` gets one line for each newer one skipped."""
    for path in _newest_first(Path(run_dir) / FOLDER):
        reason = verify(path)
        if reason is None:
            return path
        report(f"skipped checkpoint {path}: {reason}")
    return None


def read_checkpoint(path: Path, report: Callable[[str], None] = to_stderr) -> tuple[dict[str, Any], dict[str, Any]]:
    """State (tensors on the CPU) and meta of a checkpoint directory, or of the newest intact one of a run directory.

    Nothing in the files is executed. Raises: UserError saying what is wrong with which path.
    """
    folder = _checkpoint_dir(Path(path), report)
    reason = verify(folder)
    if reason is not None:
        raise UserError(f"{folder}: wanted an intact checkpoint, got: {reason}")
    state = _load_state(folder / _STATE)
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / _META}: wanted JSON, got: {one_line(error)}") from None
    for name, value in ((_STATE, state), (_META, meta)):
        if not isinstance(value, dict):
            raise UserError(f"{folder / name}: wanted a mapping, got {type(value).__name__}")
    if isinstance(meta.get("config"), dict):
        meta["config"] = with_present_names(meta["config"], folder, report)
    return state, meta


def check_writable(folder: Path) -> None:
    """Make the folder and write and sync a test file in it. Raises: UserError if that fails."""
    folder = Path(folder)
    probe = folder / temporary_name()
    with os_errors(folder, "cannot write here"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(probe, b"probe")
        finally:
            probe.unlink(missing_ok=True)


class _BadManifest(Exception):
    """Fault of a manifest."""


class _Sink:
    """A file for torch.save that hashes the written bytes and keeps the first OSError.

    The hash covers the bytes passed to ``write``, not those read back, so that ``verify`` is a real comparison. After
    a failed write, torch's archive writer raises an unrelated RuntimeError while it closes: the original error is
    kept here, the rest of the stream is dropped, and the caller raises the original.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        size = memoryview(data).nbytes
        self._hash.update(data)
        self._bytes += size
        return size

    def entry(self) -> dict[str, Any]:
        """The file's entry in the manifest."""
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def flush(self) -> None:
        if self.error is None:
            try:
                self._file.flush()
            except OSError as error:
                self.error = error


def _write_files(hidden: Path, state: dict[str, Any], meta_text: str, facts: dict[str, Any]) -> None:
    """Write both files into an empty directory, and the manifest once they are synced."""
    with open(hidden / _STATE, "wb") as file:
        sink = _Sink(file)
        try:
            torch.save(state, sink)  # type: ignore[arg-type]
        except RuntimeError as error:
            # Ctrl-C inside a write: the archive writer fails to close, and its error hides the KeyboardInterrupt
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())
    meta = meta_text.encode()
    write_synced(hidden / _META, meta)
    meta_entry = {"bytes": len(meta), "sha256": hashlib.sha256(meta).hexdigest()}
    fsync_folder(hidden)
    manifest = {
        "format_version": FORMAT_VERSION,
        **facts,
        "files": {_STATE: sink.entry(), _META: meta_entry},
    }
    write_synced(hidden / _MANIFEST, json.dumps(manifest, indent=2).encode())
    fsync_folder(hidden)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path, *, hidden: bool) -> list[tuple[Path, int]]:
    """(directory, sequence number) of each checkpoint; with ``hidden`` also of half-written and half-removed ones."""
    if not folder.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, int(m[2])) for path, m in matches if m and (hidden or not m[1]) and path.is_dir()]


def _newest_first(folder: Path) -> list[Path]:
    return [path for path, _ in sorted(_entries(folder, hidden=False), key=lambda e: e[1], reverse=True)]


def _free_leftovers(folder: Path) -> None:
    """Remove leftovers of killed writes, to free space for this write.

    Only if an intact checkpoint exists: until then a complete but not yet renamed one may be the only copy.
    """
    leftovers = [path for path, _ in _entries(folder, hidden=True) if path.name.startswith(".")]
    if leftovers and any(verify(path) is None for path in _newest_first(folder)):
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)


def _free_old_leftovers(hidden: Path) -> None:
    """Remove leftovers of killed writes of the same folder, beside the newly made ``hidden``.

    Nobody owns the parent folder: entries modified within the hour may belong to another process, and stay.
    """
    stem = hidden.name[: -len(temporary_name())]
    now = hidden.stat().st_mtime  # by the clock of the file system
    for path in hidden.parent.glob(f"{glob.escape(stem)}.*.part"):
        with contextlib.suppress(OSError):
            if now - max(p.stat().st_mtime for p in (path, *path.iterdir())) > _OLD_S:
                shutil.rmtree(path, ignore_errors=True)


def checkpoint_at(run_dir: Path, images_shown: int) -> Path | None:
    """The newest checkpoint of exactly so many images, verified or not; None if there is none."""
    ending = f"-images-{images_shown}"
    return next((path for path in _newest_first(Path(run_dir) / FOLDER) if path.name.endswith(ending)), None)


def _prune(folder: Path, keep: int, written: Path, spare: int | None) -> None:
    """Keep the newest ``keep`` that verify, ``written`` (known to be intact) included; remove none while fewer do.

    The newest of ``spare`` images stays too.
    """
    spared = None if spare is None else checkpoint_at(folder.parent, spare)
    good = [written]
    candidates = _newest_first(folder)
    for path in candidates:
        if len(good) < keep and path != written and verify(path) is None:
            good.append(path)
    if len(good) == keep:
        for path in candidates:
            if path not in good and path != spared:
                _remove(path)
    _free_leftovers(folder)


def _remove(path: Path) -> None:
    # Rename before removal: a kill halfway leaves a hidden leftover, not a damaged checkpoint.
    # A failed removal is retried at the next write.
    with contextlib.suppress(OSError):
        shutil.rmtree(path.rename(path.with_name(f".removing-{path.name}")), ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise _BadManifest("no such directory")
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
    except (ValueError, RecursionError):
        raise _BadManifest(f"{_MANIFEST} is not JSON") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise _BadManifest(f"format version {version!r}, this program reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(files.get(name), dict) and {"bytes", "sha256"} <= files[name].keys() for name in (_STATE, _META)
    ):
        raise _BadManifest(f"{_MANIFEST} does not list {_STATE} and {_META}")
    return manifest


def _checkpoint_dir(path: Path, report: Callable[[str], None]) -> Path:
    """Checkpoint directory for a path: a run, its ``checkpoints`` folder or a checkpoint itself."""
    if not path.is_dir():
        raise UserError(
            f"{path}: wanted a run or checkpoint directory, got {'a file' if path.exists() else 'nothing there'}"
        )
    run_dir = path.parent if path.name == FOLDER else path
    if not (run_dir / FOLDER).is_dir():
        if not (path / _MANIFEST).exists() and not _NAME.fullmatch(path.name):
            raise UserError(f"{path}: wanted a run or checkpoint directory, got one without {FOLDER}/ and {_MANIFEST}")
        return path
    latest = latest_checkpoint(run_dir, report)
    if latest is None:
        raise UserError(f"{run_dir}: wanted a run with an intact checkpoint, got none")
    return latest


def _load_state(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        detail = f"it asks for {match[1]}" if match else "its pickle is not a plain one"
        raise UserError(f"{file}: refused: wanted tensors and plain values only, but {detail}") from None
    except Exception as error:
        # torch may raise almost any exception for a crafted or foreign archive; none of them is a bug of ours.
        raise UserError(f"{file}: wanted a file of tensors, got one that torch cannot read: {_head(error)}") from None


def _head(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)[:160]}"


def _check_state(value: object, where: str) -> None:
    """Refuse values that ``weights_only`` could not read back; exact types only, since subclasses pickle as code."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) not in (str, int):
                raise TypeError(f"{where}: wanted keys of type str or int, got {key!r}")
            _check_state(item, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):  # type: ignore[arg-type]
            _check_state(item, f"{where}[{i}]")
    elif type(value) not in (Tensor, torch.nn.Parameter, bool, int, float, str, type(None)):
        raise TypeError(f"{where}: wanted tensors, numbers, strings, lists and dicts, got {type(value).__name__}")
