"""What a command does before it works: a quick start, any text on any console, home folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylenerf.engine.command_line.guard import EXIT_INTERRUPTED
from stylenerf.engine.command_line.main import main
from stylenerf.engine.command_line.verbs import VERBS, verb_module
from tests.conftest import ROOT

WITHOUT_TORCH = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # importing it fails
from stylenerf.engine.command_line import main as cli
wrong = {}
for case, (entry, argv) in json.loads(sys.argv[1]).items():
    try:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            getattr(cli, entry)(argv)
    except ImportError as error:
        wrong[case] = str(error)
print(json.dumps(wrong))
"""
QUICK = {
    "list of verbs": ("main", ["--help"]),
    "train.py help": ("train_main", ["--help"]),
    "presets": ("train_main", ["--list-presets"]),
    "no such verb": ("main", ["nothing"]),
    "wrong argument": ("main", ["render", "model", "--nothing"]),
    "bad label": ("main", ["mix", "model", "--label", "x"]),
    "no snapshot": ("main", ["convert", "--inspect", "nothing.pkl"]),
    **{verb: ("main", [verb, "--help"]) for verb in ("train", *VERBS)},
}


@pytest.fixture(scope="module")
def wanted_torch() -> dict[str, str]:
    """The cases that import torch, which takes seconds, all tried in one process."""
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(QUICK)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    wrong: dict[str, str] = json.loads(ended.stdout)
    return wrong


@pytest.mark.parametrize("case", QUICK)
def test_starts_without_torch(case: str, wanted_torch: dict[str, str]) -> None:
    assert wanted_torch.get(case) is None


@pytest.mark.parametrize("name", VERBS)
def test_list_of_verbs_has_the_first_line_of_each_help(name: str) -> None:
    assert VERBS[name] == verb_module(name).HELP.splitlines()[0].rstrip(".")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_any_path_can_be_named_on_any_console(encoding: str) -> None:
    """A Japanese folder and a byte that is no UTF-8, on stdout and in the one line of an error."""
    code = (
        "import sys\nfrom stylenerf.engine.command_line.guard import run_guarded\n"
        "from stylenerf.engine.errors import UserError\n"
        "def work():\n    print('\\u65e5\\udcff')\n    raise UserError('\\u65e5\\udcff')\n"
        "sys.exit(run_guarded(work))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert ended.returncode == 2 and b"Traceback" not in ended.stderr
    assert ended.stdout.strip().endswith(b"\\udcff") and ended.stderr.startswith(b"error: ")


@pytest.mark.parametrize("argv", [["--out=~/x"], ["--out", "~/x"], ["--resume=~/x"]])
def test_home_folder_in_every_path(argv: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    monkeypatch.setattr("stylenerf.engine.command_line.main.train", lambda args: seen.append(args.out or args.resume))
    assert main(["train", *argv]) == 0
    assert seen == [str(tmp_path / "x")]


def test_home_folder_in_arguments_of_verbs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["convert", "~/none.pkl", "--inspect"]) == 2
    assert str(tmp_path / "none.pkl") in capsys.readouterr().err


def test_interrupted_while_a_verb_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stylenerf.engine.command_line.main.verb_module", interrupted)
    assert main(["mesh", "--help"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("entry", [["-m", "stylenerf"], ["train.py"]], ids=["stylenerf", "train.py"])
def test_interrupted_while_the_command_line_is_imported(entry: list[str], tmp_path: Path) -> None:
    """Ctrl-C while the first module of the command line is being imported."""
    (tmp_path / "yaml.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell's job began
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *entry, "--help"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (EXIT_INTERRUPTED, "", "interrupted\n")
