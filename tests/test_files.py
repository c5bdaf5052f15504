"""Files appear whole under their names, nothing that came meanwhile is lost, and killed writers block nobody."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stylenerf.engine import ownership
from stylenerf.engine.applications.mesh import mesh as mesh_module
from stylenerf.engine.applications.render.outputs import save_text
from stylenerf.engine.command_line.main import main
from stylenerf.engine.errors import UserError
from stylenerf.engine.files import write_whole
from stylenerf.engine.ownership import own_folder, temporary_name
from stylenerf.engine.training.checkpoint import check_vacant, check_writable, read_checkpoint, write_folder
from tests.conftest import ROOT

KILLED = """
import os, signal, sys
from stylenerf.engine import files
from stylenerf.engine.training import checkpoint
number = os.getpid()
os.getpid = lambda: 7  # as the first process of each container has the same number
def die(*args):
    os.kill(number, signal.SIGKILL)
def half(part):
    part.write_text("half")
    die()
if sys.argv[1] == "file":
    files.write_whole("out/a.txt", half)
checkpoint.os.rename = die
checkpoint.write_folder("model", {"a": 1}, {})
"""


def _no_links(*args: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("taken", ["file", "folder", "dangling link"])
def test_a_new_file_replaces_nothing_that_came_meanwhile(
    links: bool, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"

    def write(part: Path) -> None:
        part.write_text("ours")
        if taken == "file":
            path.write_text("theirs")
        elif taken == "folder":
            path.mkdir()
        else:
            path.symlink_to("nowhere")

    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    with pytest.raises(UserError, match=r"a\.txt: wanted a name that is not taken, got one that exists by now"):
        write_whole(path, write, new=True)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "theirs" if taken == "file" else path.is_dir() or path.is_symlink()
    write_whole(tmp_path / "b.txt", lambda part: part.write_text("ours"), new=True)
    assert (tmp_path / "b.txt").read_text() == "ours" and sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_of_a_new_file_one_wins(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    start, won, lost = threading.Barrier(8), [], []

    def write(i: int) -> None:
        start.wait()
        try:
            save_text(f"writer {i}", tmp_path / "a.txt", new=True)
            won.append(i)
        except UserError:
            lost.append(i)

    _in_threads(write)
    assert len(won) == 1 and len(lost) == 7
    assert (tmp_path / "a.txt").read_text() == f"writer {won[0]}" and os.listdir(tmp_path) == ["a.txt"]


def test_threads_that_write_one_file_never_mix(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def write(i: int) -> None:
        def half_and_half(part: Path) -> None:
            part.write_text(f"{i}" * 10)
            start.wait()  # all are at work on it
            assert part.read_text() == f"{i}" * 10

        write_whole(tmp_path / "a.txt", half_and_half)
        done.append(i)

    done: list[int] = []
    _in_threads(write)
    assert len(done) == 8 and len(set((tmp_path / "a.txt").read_text())) == 1
    assert os.listdir(tmp_path) == ["a.txt"]


def _in_threads(work: Any) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("late", ["a.ply", "a.png", "a-cameras.json"])
def test_a_mesh_overwrites_nothing_that_came_while_it_was_made(
    late: str, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    extract = mesh_module.extract_mesh

    def slow(*args: Any, **more: Any) -> Any:
        Path(late).write_text("theirs")
        return extract(*args, **more)

    monkeypatch.setattr(mesh_module, "extract_mesh", slow)
    box = ["--bounds", "-0.1", "-0.1", "-0.1", "0.1", "0.1", "0.1"]
    assert main(["mesh", str(saved_model), "--out", "a.ply", "--grid", "6", *box, "--preview", "--no-progress"]) == 2
    assert capsys.readouterr().err == f"error: {late}: wanted a name that is not taken, got one that exists by now\n"
    assert Path(late).read_text() == "theirs" and not list(tmp_path.glob(".*"))


def test_names_differ_between_threads_processes_and_hosts() -> None:
    command = [sys.executable, "-c", "from stylenerf.engine.ownership import temporary_name as t; print(t('.png'))"]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    names = {other, *(temporary_name(".png") for _ in range(100))}
    assert len(names) == 101 and all(re.fullmatch(r"\.[0-9a-f]{32}\.part\.png", name) for name in names)


def _killed(what: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", KILLED, what], cwd=folder, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL


def _age(path: Path, seconds: float) -> None:
    for each in (path, *path.rglob("*")):
        os.utime(each, (time.time() - seconds,) * 2)


def test_a_killed_writer_s_file_blocks_nothing_and_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _killed("file", tmp_path)
    (left,) = out.iterdir()
    (out / "deep").mkdir()
    mine = [out / ".mine.part", out / "deep" / "notes.part", out / ".0123.part.txt"]
    with own_folder(out):
        assert left.exists()  # so recent that it may be another program's, at work
    check_vacant_but(out, "deep")
    for path in mine:
        path.write_text("keep me")
    deep = left.rename(out / "deep" / left.name)
    _age(out, ownership.LEFTOVER_S + 10)
    with own_folder(out):
        assert not deep.exists() and all(path.read_text() == "keep me" for path in mine)


def check_vacant_but(folder: Path, name: str) -> None:
    """The folder counts as empty once ``name`` is gone from it."""
    with pytest.raises(UserError):
        check_vacant(folder)
    (folder / name).rmdir()
    check_vacant(folder)
    (folder / name).mkdir()


@pytest.mark.slow
def test_a_killed_writer_s_folder_blocks_nothing_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _killed("folder", tmp_path)
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(os, "getpid", lambda: 7)
    write_folder(tmp_path / "model", {"a": 2}, {})
    assert read_checkpoint(tmp_path / "model")[0] == {"a": 2} and left.exists()  # recent: perhaps at work
    (tmp_path / ".writing-model-of-mine").mkdir()
    _age(tmp_path, 7200)
    write_folder(tmp_path / "other", {"a": 3}, {})
    assert left.exists()
    (tmp_path / "model").rename(tmp_path / "before")
    write_folder(tmp_path / "model", {"a": 4}, {})
    assert sorted(os.listdir(tmp_path)) == [".writing-model-of-mine", "before", "model", "other"]


def test_a_folder_with_a_killed_writer_s_file_takes_a_model(tmp_path: Path) -> None:
    left = tmp_path / "model" / temporary_name(".json")
    left.parent.mkdir()
    left.write_text("half")
    _age(left.parent, 600)
    check_vacant(left.parent)
    write_folder(tmp_path / "model", {"a": 1}, {})
    assert read_checkpoint(tmp_path / "model")[0] == {"a": 1} and not left.exists()


def test_processes_of_one_number_prove_a_folder_writable_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in containers that share a mount
    (tmp_path / ".write-probe-7").mkdir()
    check_writable(tmp_path)
    assert os.listdir(tmp_path) == [".write-probe-7"]
