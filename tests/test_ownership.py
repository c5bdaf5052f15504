"""One process at a time works in a folder; two never choose the same one, and one that fails leaves none behind."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine import ownership
from engine.cli import train_main
from engine.errors import UserError
from engine.ownership import LOCK_FILE, make_numbered, own_folder
from engine.stats import read_stats
from tests.conftest import ROOT
from tests.runs import ENVIRONMENT, config_file, digests, fresh

HOLD = """
import sys, time
from pathlib import Path
from engine.ownership import own_folder
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


def test_two_resumptions_of_one_run_write_it_once(tmp_path: Path) -> None:
    run = fresh(tmp_path / "run")
    command = [sys.executable, "train.py", "--resume", str(run), "--no-progress", "--set", "train.total_kimg=0.064"]
    pair = [subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=-1, stderr=-1) for _ in range(2)]
    errors = [process.communicate()[1] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 2]
    assert sum("in use by process" in error for error in errors) == 1
    shown = [row["Progress/images"] for row in read_stats(run / "stats.jsonl")]
    assert shown == sorted(set(shown)) and shown[-1] == 64
    assert LOCK_FILE not in os.listdir(run)


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
