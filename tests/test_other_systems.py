"""What Linux on a disk of its own has and others lack: nothing fails at import, nor for want of a sync."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylenerf.engine.errors import UserError, remark_once
from stylenerf.engine.training import checkpoint
from stylenerf.engine.training.checkpoint import latest_checkpoint, write_checkpoint
from tests.conftest import ROOT

# What Windows' Python does not have.
WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys, time
import torch  # the libraries have versions of their own for each system
try:
    import triton
except ImportError:
    pass
import numpy, yaml, PIL.Image, concurrent.futures, multiprocessing, subprocess, tempfile, uuid, shutil, socket
import unittest.mock, http.server, webbrowser, pytest
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
for owner, names in (
    (os, "O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK getuid geteuid fork register_at_fork killpg setsid pread pwrite "
         "sched_getaffinity sysconf uname getloadavg mkfifo"),
    (signal, "SIGPIPE SIGHUP SIGKILL SIGALRM SIGUSR1 SIGCHLD pthread_sigmask"),
):
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
import bench, stylenerf
from stylenerf import engine, kernels, models
modules = [m.name for package in (bench, engine, kernels, models)
           for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in modules:
    if not name.endswith(("__main__", "conftest")):
        importlib.import_module(name)
import stylenerf.engine.command_line.main, stylenerf.engine.training.checkpoint, stylenerf.engine.training.stats
import stylenerf.engine.ownership, stylenerf.engine.applications.convert.snapshot, bench.compiler.inspect
import bench.gpu.__main__, bench.gpu.runner
from pathlib import Path
run = Path(sys.argv[1])
stylenerf.engine.training.checkpoint.write_checkpoint(run, 1, {"a": 1}, {})
writer = stylenerf.engine.training.stats.StatsWriter(run / "stats.jsonl")
writer.write({"Progress/images": 1, "Memory/peak_mib": stylenerf.engine.training.stats.peak_memory_mib()})
writer.truncate_after(1)

# calls that only POSIX has
with stylenerf.engine.ownership.own_folder(run):
    pass
(run / "x.pkl").write_bytes(b"nothing")
assert bytes(stylenerf.engine.applications.convert.snapshot._map_file(run / "x.pkl")) == b"nothing"
bench.compiler.inspect._parser([80])
os.environ.pop("TRITON_INTERPRET", None)
assert bench.compiler.inspect.main([]) == 2
process = unittest.mock.Mock(pid=2**30)
bench.gpu.runner.end(process)
process.kill.assert_called_once()
print(len(modules), stylenerf.engine.command_line.main.train_main(["--list-presets"]))
"""


@pytest.mark.slow
def test_every_module_is_imported_without_what_only_posix_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "stats.jsonl").read_text().count('"Memory/peak_mib": null') == 1
    modules, code = done.stdout.split()[-2:]
    assert int(modules) > 120
    assert code == "0"
    assert latest_checkpoint(tmp_path / "run") is not None


def _folders_fail(monkeypatch: pytest.MonkeyPatch, code: int, *, files: bool = False) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if files or os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    remark_once.cache_clear()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_folder_that_cannot_be_synced_gets_one_remark(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _folders_fail(monkeypatch, code)
    write_checkpoint(tmp_path, 1, {"a": 1}, {})
    assert latest_checkpoint(write_checkpoint(tmp_path, 2, {"a": 2}, {}).parent.parent) is not None
    assert capsys.readouterr().err.splitlines() == [
        "remark: this file system cannot sync folders: after a power cut, the newest file may be missing"
    ]


@pytest.mark.parametrize(("code", "files"), [(errno.EIO, False), (errno.EINVAL, True), (errno.EIO, True)])
def test_a_disk_that_fails_is_still_an_error(
    code: int, files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folders_fail(monkeypatch, code, files=files)
    if code == errno.EINVAL:  # a folder's EINVAL passes, a file's does not
        monkeypatch.setattr(checkpoint, "fsync_folder", lambda path: None)
    with pytest.raises(UserError, match="cannot write a checkpoint: "):
        write_checkpoint(tmp_path, 1, {"a": 1}, {})
    assert latest_checkpoint(tmp_path) is None
