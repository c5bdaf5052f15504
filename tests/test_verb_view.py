"""``stylenerf view`` from the command line: one line for what is wrong, an address that answers, an end in order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import save_model
from tests.conftest import ROOT
from tests.models_at_hand import PRIOR, tiny_model


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model("model", tiny_model().generator, PRIOR)
    return tmp_path


BAD = {
    "": "the following arguments are required: MODEL",
    "none": "none: wanted a run, a checkpoint or a converted model, got nothing there",
    "model --port 70000": "--port: wanted 0 to 65535, got 70000",
    "model --port x": "argument --port: invalid int value: 'x'",
    "model --port 0 --host 192.0.2.1": "--host: wanted an address of this machine, got '192.0.2.1'",
    "model --port 0 --device tpu9": "--device: wanted a device of this machine, got 'tpu9'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line(arguments: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--no-browser", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"error: {BAD[arguments]}"), err


def test_a_port_in_use_is_one_line(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", "model", "--no-browser", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert err == f"error: --port: wanted a free one, got {port}, which is in use (0 picks a free one)\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_told_to_end(desk: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "stylenerf", "view", str(desk / "model"), "--port", "0", "--no-browser"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "model:       model, 16 px, on CPU, 1 thread\n"
        found = re.fullmatch(r"page:        (http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends\)\n", run.stdout.readline())
        assert found is not None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(found[1] + "api/image?seed=1", timeout=120) as answer:
            assert answer.status == 200 and answer.read(4) == b"\x89PNG"
        run.send_signal(number)
        out, err = run.communicate(timeout=120)
        assert (run.returncode, out, err) == (0, "\nended\n", "")
    finally:
        run.kill()
        run.wait()


def test_a_browser_is_opened_where_there_is_a_screen(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("stylenerf.engine.command_line.verbs.view.webbrowser.open", opened.append)
    monkeypatch.setattr("stylenerf.engine.applications.view.server.Server.serve_forever", lambda self: None)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert main(["view", "model", "--port", "0", "--no-browser"]) == 0 and opened == []
    assert main(["view", "model", "--port", "0"]) == 0
    assert opened == [capsys.readouterr().out.split()[-3]]
    monkeypatch.setenv("SSH_CONNECTION", "far away")
    assert main(["view", "model", "--port", "0"]) == 0 and len(opened) == 1


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["view", "--help"])
    assert ended.value.code == 0 and "ssh -L 8000:127.0.0.1:8000" in capsys.readouterr().out
