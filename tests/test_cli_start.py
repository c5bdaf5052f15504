"""What a command does before it works: a quick start, any text on any console, home folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli_guard import EXIT_INTERRUPTED
from engine.verbs import VERBS, verb_module
from tests.conftest import ROOT

WITHOUT_TORCH = """
import contextlib, sys
from engine.cli import main, train_main
with contextlib.suppress(SystemExit):
    {call}
assert "torch" not in sys.modules, "torch was imported"
"""
QUICK = {
    "verbs": "main(['--help'])",
    "train help": "main(['train', '--help'])",
    "train.py help": "train_main(['--help'])",
    "presets": "train_main(['--list-presets'])",
    "no such verb": "main(['nothing'])",
}


@pytest.mark.parametrize("case", QUICK)
def test_starts_without_torch(case: str) -> None:
    code = WITHOUT_TORCH.format(call=QUICK[case])
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", VERBS)
def test_list_of_verbs_has_the_first_line_of_each_help(name: str) -> None:
    assert VERBS[name] == verb_module(name).HELP.splitlines()[0].rstrip(".")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_any_path_can_be_named_on_any_console(encoding: str) -> None:
    """A Japanese folder and a byte that is no UTF-8, on stdout and in the one line of an error."""
    code = (
        "import sys\nfrom engine.cli_guard import run_guarded\nfrom engine.errors import UserError\n"
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
    monkeypatch.setattr("engine.cli.train", lambda args: seen.append(args.out or args.resume))
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

    monkeypatch.setattr("engine.cli.verb_module", interrupted)
    assert main(["mesh", "--help"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
