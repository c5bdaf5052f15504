"""The documents' examples run, their links lead somewhere, the real parsers take their commands."""

import pathlib
import re
import shlex

import pytest

from stylenerf.engine.command_line import main as cli
from stylenerf.engine.command_line.verbs import verb_module
from stylenerf.engine.training.config import PRESETS
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# examples about a reader's own files or packages, or in Blender
NEEDS_FILES = ("photos/", "runs/quickstart", "init_kwargs", "bpy", "torch_utils", "nerfacc")


EXAMPLES = {
    f"{page.name}-{i}": code
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
}
COMPLETE = {name: code for name, code in EXAMPLES.items() if not any(word in code for word in NEEDS_FILES)}


@pytest.mark.parametrize("code", COMPLETE.values(), ids=COMPLETE)
def test_example_runs(code: str) -> None:
    exec(compile(code, "example", "exec"), {})


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - COMPLETE.keys()))
def test_example_compiles(name: str) -> None:
    compile(EXAMPLES[name], name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_preset_is_documented() -> None:
    text = (ROOT / "docs" / "train.md").read_text()
    for preset in PRESETS.glob("*.yaml"):
        assert f"`{preset.stem}`" in text, preset.stem


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
