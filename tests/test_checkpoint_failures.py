"""Checkpoints whose writing fails: full disks, unwritable folders, kill -9 at every stage."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenerf.engine.errors import UserError
from stylenerf.engine.training import checkpoint
from stylenerf.engine.training.checkpoint import (
    check_writable,
    latest_checkpoint,
    read_checkpoint,
    verify,
    write_checkpoint,
)
from tests.checkpoints import assert_state_equal, images, names, spoil, state_of, write
from tests.conftest import ROOT


def _fail_at_call(number: int, real: Callable[..., Any], code: int = errno.ENOSPC) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return wrapped


FULL = {
    "mkdir": (Path, "mkdir", 2),
    "state_sync": (os, "fsync", 2),
    "meta_sync": (os, "fsync", 3),
    "manifest_sync": (os, "fsync", 5),
    "rename": (os, "replace", 1),
}


@pytest.mark.parametrize("case", FULL)
def test_full_disk_is_one_line_and_leaves_the_older_ones(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    owner, name, number = FULL[case]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _fail_at_call(number, getattr(owner, name)))
        with pytest.raises(UserError, match="checkpoints: cannot write a checkpoint: No space left on device"):
            write(tmp_path, 3)
    assert names(tmp_path) == ["00001-images-1", "00002-images-2"]
    assert [verify(p) for p in (tmp_path / "checkpoints").iterdir()] == [None, None]
    write(tmp_path, 3)
    assert images(tmp_path) == [2, 3]


class _FullOnce:
    """A file whose second write fails and whose later ones would succeed: room that comes back too late."""

    def __init__(self, file: Any) -> None:
        self.write, self.flush = _fail_at_call(2, file.write), file.flush


def test_failed_write_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint._Sink
    monkeypatch.setattr(checkpoint, "_Sink", lambda file: real(_FullOnce(file)))
    with pytest.raises(UserError, match="cannot write a checkpoint: No space left on device"):
        write(tmp_path, 1)
    assert names(tmp_path) == []


@pytest.fixture
def small_files() -> Iterator[int]:
    """A real limit on the size of a file: the kernel writes what fits, then fails (EFBIG)."""
    limit = 64 << 10
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_that_the_kernel_cuts_short(tmp_path: Path, small_files: int) -> None:
    write(tmp_path, 1)
    with pytest.raises(UserError, match="cannot write a checkpoint: File too large"):
        write_checkpoint(tmp_path, 2, {"g": torch.zeros(small_files)}, {})
    assert images(tmp_path) == [1]
    assert latest_checkpoint(tmp_path) is not None


FULL_TMPFS = """
import sys, torch
from stylenerf.engine.training.checkpoint import latest_checkpoint, write_checkpoint
from stylenerf.engine.errors import UserError
first = write_checkpoint(sys.argv[1], 1, {"g": torch.zeros(50_000)}, {})
try:
    write_checkpoint(sys.argv[1], 2, {"g": torch.zeros(250_000)}, {})
except UserError as error:
    print(error)
assert latest_checkpoint(sys.argv[1]) == first
assert list(first.parent.iterdir()) == [first]
write_checkpoint(sys.argv[1], 3, {"g": torch.zeros(50_000)}, {})
"""


@pytest.mark.slow
def test_really_full_disk(tmp_path: Path) -> None:
    """A 1 MiB file system of our own; 200 kB fit, 1 MB more do not."""
    unshare = shutil.which("unshare")
    probe = [str(unshare), "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if unshare is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs the right to mount in a namespace of its own (unshare -rm)")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    command = [unshare, "-rm", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", FULL_TMPFS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/checkpoints: cannot write a checkpoint: No space left on device\n"


def test_storage_that_does_not_keep_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    real = os.fsync

    def forget(fd: int) -> None:
        real(fd)
        file = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if file.name == "state.pt":
            spoil(file.parent)

    monkeypatch.setattr(os, "fsync", forget)
    with pytest.raises(UserError, match=r"2: wanted the checkpoint just written to read back, got: state\.pt does not"):
        write(tmp_path, 2, keep=1)
    assert images(tmp_path) == [1, 2]


def test_interruption_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    write(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_synced", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2)
    assert names(tmp_path) == ["00001-images-1"]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/run/checkpoints: cannot write a checkpoint: Not a directory"):
        write(tmp_path / "file" / "run", 1)
    with pytest.raises(UserError, match="file/run: cannot write here: Not a directory"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="file: cannot write here: File exists"):
        check_writable(tmp_path / "file")


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    monkeypatch.setattr(os, "fsync", _fail_at_call(1, os.fsync))
    with pytest.raises(UserError, match="a: cannot write here: No space left on device"):
        check_writable(tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


# One process that forks a child per stage: importing torch once instead of a dozen times. Each child writes into a run
# of its own, which already has checkpoints 1 and 2, and is killed for real at its stage.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from stylenerf.engine.training import checkpoint

def kill_at(owner, name, number, after):
    real, calls = getattr(owner, name), 0
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)

def write(run, images):
    checkpoint.write_checkpoint(run, images, {"g": {"weight": torch.full((3, 5), float(images))}, "count": images}, {})

owners = {"torch": torch, "os": os, "sink": checkpoint._Sink, "path": Path, "shutil": shutil}
base = Path(sys.argv[1])
for stage in sys.argv[2:]:
    owner, name, number, when, before = stage.split(":")
    run = base / stage
    for images in range(1, int(before) + 1):
        write(run, images)
    child = os.fork()
    if child == 0:
        kill_at(owners[owner], name, int(number), when == "after")
        write(run, 3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(stage, -os.waitstatus_to_exitcode(status))
"""

# owner:function:call:when:how many checkpoints were there → the newest afterwards (0: none)
KILLS = {
    "torch:save:1:before:2": 2,
    "sink:write:6:after:2": 2,
    "torch:save:1:after:2": 2,
    "os:fsync:2:before:2": 2,  # state.pt
    "os:fsync:3:before:2": 2,  # meta.json
    "os:fsync:4:before:2": 2,  # the directory
    "os:fsync:5:before:2": 2,  # manifest.json
    "os:fsync:6:after:2": 2,  # the directory, complete
    "os:replace:1:before:2": 2,
    "os:replace:1:after:2": 3,
    "os:fsync:7:before:2": 3,  # the directory of all checkpoints
    "path:rename:1:before:2": 3,  # making room
    "path:rename:1:after:2": 3,
    "shutil:rmtree:1:after:2": 3,
    "os:fsync:1:before:0": 0,
    "os:fsync:3:before:0": 0,
    "os:replace:1:before:0": 0,
    "os:replace:1:after:0": 3,
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """Stage → (run, signal that ended its writer)."""
    base = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, str(base), *KILLS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {stage: (base / stage, int(code)) for stage, code in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("stage", KILLS)
def test_kill_9_while_writing(stage: str, killed: dict[str, tuple[Path, int]]) -> None:
    run, ended_by = killed[stage]
    assert ended_by == signal.SIGKILL
    newest = KILLS[stage]
    reports: list[str] = []
    found = latest_checkpoint(run, reports.append)
    assert reports == []  # what was half written is hidden, not broken
    if newest:
        assert found is not None
        state, meta = read_checkpoint(found)
        assert_state_equal(state, state_of(newest))
        assert meta["images_shown"] == newest
    else:
        assert found is None
    path = write(run, 4)
    assert latest_checkpoint(run, reports.append) == path
    assert images(run) == [i for i in (newest, 4) if i]
    assert [verify(run / "checkpoints" / name) for name in names(run)] == [None] * len(names(run))


def test_leftovers_stay_until_a_good_one_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / "checkpoints" / ".writing-00001-images-5"
    leftover.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _fail_at_call(1, os.replace))
        with pytest.raises(UserError):
            write(tmp_path, 6)
    assert names(tmp_path) == [leftover.name]
    write(tmp_path, 6)
    assert names(tmp_path) == ["00002-images-6"]


def test_leftovers_make_room_before_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / ".writing-00002-images-5").mkdir()
    monkeypatch.setattr(os, "replace", _fail_at_call(1, os.replace))
    with pytest.raises(UserError):
        write(tmp_path, 6)
    assert names(tmp_path) == ["00001-images-1"]


# owner, method and call at which the second Ctrl-C comes; the checkpoints that are there afterwards
SECOND = {
    "first write": ("sink", "write", 1, [1]),
    "head of an entry": ("sink", "write", 2, [1]),
    "numbers": ("sink", "write", 9, [1]),
    "flush": ("sink", "flush", 1, [1]),
    "state's fsync": ("os", "fsync", 2, [1]),
    "rename": ("os", "replace", 1, [1]),
    "reading back": ("checkpoint", "verify", 1, [1, 2]),
    "removing older ones": ("checkpoint", "_prune", 1, [1, 2]),
}
INTERRUPTED_TWICE = """
import os, signal, sys, torch
from pathlib import Path
from stylenerf.engine.training import checkpoint
from stylenerf.engine.command_line.guard import run_guarded
from stylenerf.engine.interrupt import Interrupt
torch.set_num_threads(1)  # threads do not survive a fork, and a child would wait for them
owners = {"sink": checkpoint._Sink, "os": os, "checkpoint": checkpoint}

def save(run, images):
    checkpoint.write_checkpoint(run, images, {"g": torch.full((300, 500), float(images))}, {})

def work(run, owner, name, number):
    real, calls = getattr(owner, name), 0
    def wrapped(*args):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)
    with Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        setattr(owner, name, wrapped)
        save(run, 2)

for case in sys.argv[2:]:
    label, owner, name, number = case.split(":")
    run = Path(sys.argv[1]) / label
    save(run, 1)
    child = os.fork()
    if child == 0:
        os._exit(run_guarded(lambda: work(run, owners[owner], name, int(number))))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130, label
"""


@pytest.mark.slow
def test_second_interruption_during_a_save(tmp_path: Path) -> None:
    """Ends with 130 and one line; what was saved before verifies, and the next save is not in its way."""
    cases = [f"{label}:{owner}:{name}:{number}" for label, (owner, name, number, _) in SECOND.items()]
    command = [sys.executable, "-c", INTERRUPTED_TWICE, str(tmp_path), *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("interrupted\n") == len(SECOND)
    for label, (*_, kept) in SECOND.items():
        run = tmp_path / label
        assert images(run) == kept and latest_checkpoint(run) is not None
        assert len(list((run / "checkpoints").iterdir())) == len(kept)
        write(run, 3)
        assert images(run)[-1] == 3
