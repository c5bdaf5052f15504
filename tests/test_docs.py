"""The documents' examples run, their links lead somewhere, the real parsers take their commands."""

import dataclasses
import importlib.util
import pathlib
import re
import shlex

import pytest

from stylenerf.engine.command_line import main as cli
from stylenerf.engine.command_line.verbs import verb_module
from stylenerf.engine.training.config import PRESETS, Config, load_config
from stylenerf.engine.training.config_io import leaves, to_dict
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
            lines = [re.sub(r"^(?:\w+=\S+ )+", "", line) for line in block.replace("\\\n", " ").splitlines()]
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


OTHERS = [
    *commands("make"),
    *commands("pytest"),
    *(c for c in commands("python") if not c.startswith("python train.py")),
]


@pytest.mark.parametrize("command", OTHERS)
def test_other_command(command: str) -> None:
    """Targets, modules and files are there, and know the options; none of these runs within seconds."""
    program, *arguments = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        return
    if program == "pytest":
        sources = [ROOT / "bench" / "conftest.py", *(ROOT / "bench").glob("*.py")]
        plugin = importlib.util.find_spec("pytest_benchmark.plugin")
        assert plugin is not None and plugin.origin is not None
        sources.append(pathlib.Path(plugin.origin))
        assert all((ROOT / a).exists() for a in arguments if a.startswith("bench/"))
    else:
        file = f"{arguments[1].replace('.', '/')}.py" if arguments[0] == "-m" else arguments[0]
        folder = ROOT / file.removesuffix(".py")
        sources = list(folder.glob("*.py")) if folder.is_dir() else [ROOT / file]
    known = "".join(source.read_text() for source in sources)
    assert [a for a in arguments if a.startswith("--") and not re.search(rf"['\"]{a.split('=')[0]}['\"]", known)] == []


SECTIONS = "|".join(field.name for field in dataclasses.fields(Config))
OTHER_NAMES = {"train.py", "data.unusable", "data.label_kind", "camera.data.angle_x"}  # a file, data sets, Blender
CONFIG_KEY = rf"`(?:--set )?((?:{SECTIONS})\.[a-z0-9_.]+?)(?:[=: ][^`]*)?`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_keys_of_the_configuration_exist(page: pathlib.Path) -> None:
    known = leaves(to_dict(Config()))
    named = set(re.findall(CONFIG_KEY, page.read_text())) - OTHER_NAMES
    assert [key for key in named if key not in known and not any(k.startswith(f"{key}.") for k in known)] == []


def test_the_drawn_schedule_is_that_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("make_schedule", ROOT / "docs" / "make_schedule.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PICTURE.read_text() == module.drawn(load_config("ffhq1024", None, []), "ffhq1024")
