"""One process at a time works in a folder; two never choose the same one, and one that fails leaves none behind."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stylenerf.engine import ownership, pictures
from stylenerf.engine.command_line.main import main, train_main
from stylenerf.engine.command_line.verbs import VERBS, common
from stylenerf.engine.errors import UserError
from stylenerf.engine.ownership import LOCK_FILE, check_writable, make_numbered, own_folder
from stylenerf.engine.training.checkpoint import read_checkpoint, write_folder
from stylenerf.engine.training.stats import read_stats
from tests.conftest import ROOT
from tests.runs import config_file, digests, fresh

HOLD = """
import sys, time
from pathlib import Path
from stylenerf.engine.ownership import own_folder
with own_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the folder ``run``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_there_and_a_dead_owner_holds_nothing(holder: Any, tmp_path: Path) -> None:
    before = digests(tmp_path)
    with pytest.raises(UserError, match=rf"run: wanted a folder that no .* in use by process {holder.pid} on \w+"):
        own_folder(tmp_path / "run").__enter__()
    assert digests(tmp_path) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).is_file()
    with own_folder(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("arguments", ["--resume run", "--config tiny.yaml --out run", "--resume run/checkpoints/X"])
def test_training_in_a_folder_in_use_is_one_line(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config_file(tmp_path)
    (tmp_path / "run" / "checkpoints" / "X").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "X" / "manifest.json").write_text("{}")
    if "--out" in arguments:
        (tmp_path / "run" / "checkpoints" / "X" / "manifest.json").unlink()
        (tmp_path / "run" / "checkpoints" / "X").rmdir()
        (tmp_path / "run" / "checkpoints").rmdir()
    with own_folder(tmp_path / "run"):
        before = digests(tmp_path)
        assert train_main(arguments.split()) == 2
        assert digests(tmp_path) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"in use by process {os.getpid()} on " in error


def test_starts_at_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    start, chosen = threading.Barrier(8), []

    def choose() -> None:
        start.wait()
        chosen.append(make_numbered(tmp_path / "runs" / "tiny")[0].name)

    threads = [threading.Thread(target=choose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(chosen) == sorted(["tiny", *(f"tiny-{i}" for i in range(2, 9))])


@pytest.mark.parametrize("out", ["", "--out new/deep", "--out there"])
def test_a_start_on_bad_input_leaves_no_folder(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config_file(tmp_path)
    (tmp_path / "there").mkdir()
    assert train_main(["--config", "tiny.yaml", "--data", "nowhere", *out.split()]) == 2
    assert sorted(os.listdir(tmp_path)) == ["there", "tiny.yaml"]
    assert os.listdir("there") == []


@pytest.mark.slow
def test_two_resumptions_of_one_run_write_it_once(tmp_path: Path) -> None:
    run = fresh(tmp_path / "run")
    command = [sys.executable, "train.py", "--resume", str(run), "--no-progress", "--set", "train.total_kimg=0.064"]
    pair = [subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) for _ in range(2)]
    errors = [process.communicate()[1] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 2]
    assert sum("in use by process" in error for error in errors) == 1
    shown = [row["Progress/images"] for row in read_stats(run / "stats.jsonl")]
    assert shown == sorted(set(shown)) and shown[-1] == 64
    assert LOCK_FILE not in os.listdir(run)


WRITERS = {
    "render": "render tiny --frames 1 --save image",
    "interpolate": "interpolate tiny --seeds 0,1 --frames 2 --format png",
    "zoom": "zoom tiny --frames 2 --format png",
    "mix": "mix tiny --coarse 0 --fine 1",
    "edit": "edit tiny --pick 0 --columns 2",
    "project": "project tiny a.png --subjects 1 --cameras 1 --starts 1 --steps 1 --video none",
}
RESUMED = {
    "render": WRITERS["render"] + " --out out --resume",
    "interpolate": WRITERS["interpolate"] + " --out out --resume",
    "zoom": WRITERS["zoom"] + " --out out --resume",
    "project": "project --resume out",
}


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who has a model and a picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    Image.new("RGB", (16, 16), (90, 120, 60)).save("a.png")
    return tmp_path


@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_holds_its_folder_while_it_writes(verb: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], pictures.write_whole

    def write(path: Path, how: Any, **more: Any) -> None:
        with pytest.raises(UserError, match="in use by process"):
            own_folder(Path("out")).__enter__()
        written.append(path)
        save(path, how, **more)

    Path("out").mkdir()
    Path("out", LOCK_FILE).write_text("process 1 on elsewhere, killed")
    monkeypatch.setattr(pictures, "write_whole", write)
    assert main([*WRITERS[verb].split(), "--out", "out", "--no-progress"]) == 0
    assert written and LOCK_FILE not in os.listdir("out")


@pytest.mark.parametrize(
    "command", [*(f"{words} --out out" for words in WRITERS.values()), *RESUMED.values()], ids=lambda c: c[:30]
)
def test_a_verb_whose_folder_is_in_use_is_one_line(
    command: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_folder(Path("out")):
        before = digests(desk)
        assert main([*command.split(), "--no-progress"]) == 2
        assert digests(desk) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"in use by process {os.getpid()} on " in error


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_filled_before_its_lock_is_got_is_refused(
    resume: bool, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        folder.mkdir()
        (folder / "theirs.txt").write_text("theirs")
        with own_folder(folder):
            yield

    monkeypatch.setattr(common, "own_folder", late)
    assert main([*WRITERS["mix" if not resume else "render"].split(), "--out", "out", *["--resume"] * resume]) == 2
    assert "out: wanted a new or empty folder" in capsys.readouterr().err
    assert os.listdir("out") == ["theirs.txt"]


def test_a_lock_left_behind_keeps_no_model_out(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / LOCK_FILE).touch()
    with own_folder(tmp_path / "model"), pytest.raises(UserError, match="in use by process"):
        write_folder(tmp_path / "model", {"a": 1}, {})
    (tmp_path / "model" / LOCK_FILE).touch()
    write_folder(tmp_path / "model", {"a": 1}, {})
    assert read_checkpoint(tmp_path / "model")[0] == {"a": 1} and LOCK_FILE not in os.listdir(tmp_path / "model")


def test_a_file_system_without_locks_gets_one_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(ownership.fcntl, "flock", flock)
    for _ in range(2):
        with own_folder(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK_FILE).is_file()
    assert capsys.readouterr().err.count("has no file locks (No locks available)") == 1


OUT_COMES_FIRST = {
    "render": "none",
    "mix": "none --coarse 0 --fine 1",
    "interpolate": "none --seeds 0,1",
    "zoom": "none",
    "project": "none photo.png",
    "edit": "none",
    "mesh": "none",
    "convert": "none.pkl",
    "dataset": "none --resolution 64",
    "report": "none",
    "evaluate": "none",
}


@pytest.mark.parametrize(
    "verb", [name for name in VERBS if name not in ("compare", "doctor", "plan", "tune", "view")]
)  # these write no file
def test_out_that_cannot_be_written_is_found_out_before_the_model_is_read(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("keep me")
    out = "file/new" + {"mesh": ".ply", "dataset": ".zip", "evaluate": ".json"}.get(verb, "")
    assert main([verb, *OUT_COMES_FIRST[verb].split(), "--out", out]) == 2
    error = capsys.readouterr().err
    assert "file" in error and "cannot write here: Not a directory" in error and error.count("\n") == 1
    assert digests(tmp_path) == {"file": digests(tmp_path)["file"]} and Path("file").read_text() == "keep me"


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "yet" / "there.ply")
    assert os.listdir(tmp_path) == []
