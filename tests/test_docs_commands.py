"""The documents' commands are taken by the real parsers, and training's presets and keys by the real configuration."""

from __future__ import annotations

import re
import shlex

import pytest

from stylenerf.engine.command_line import main as cli
from stylenerf.engine.command_line.verbs import verb_module
from tests.test_docs import PAGES


def commands(program: str) -> list[str]:
    """Whole lines of code blocks that call ``program``, continued lines joined, without the text beside them."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line.startswith(f"{program} ")]
    return [re.split(r" {3,}| +# ", re.sub(r"(?<=\S) +(?=-)", " ", line))[0] for line in found]


@pytest.mark.parametrize("command", commands("python train.py"))
def test_training_command(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(command)[2:]
    if "--preset" not in arguments or "--init" in arguments:  # needs a reader's own files: its arguments alone
        monkeypatch.setattr(cli, "train", lambda args: 0)
    assert cli.train_main([*arguments, "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [c for c in commands("stylenerf") if "VERB" not in c])
def test_verb_command(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(command)[1:]
    monkeypatch.setattr(verb_module(arguments[0]), "run", lambda args: 0)
    assert cli.main(arguments) == 0, capsys.readouterr().err
