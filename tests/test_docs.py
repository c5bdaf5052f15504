"""The documents' examples run, and their links lead somewhere."""

import pathlib
import re

import pytest

from stylenerf.engine.training.config import PRESETS
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS_FILES = ("photos/", "runs/quickstart", "init_kwargs", "bpy")  # examples about a reader's own files, or in Blender


def blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            found.append((f"{page.name}-{i}", code))
    return found


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in blocks()])
def test_example_runs(code: str) -> None:
    compiled = compile(code, "example", "exec")
    if any(word in code for word in NEEDS_FILES):
        pytest.skip("compiles; running it needs the reader's own files")
    exec(compiled, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_preset_is_documented() -> None:
    text = (ROOT / "docs" / "train.md").read_text()
    for preset in PRESETS.glob("*.yaml"):
        assert f"`{preset.stem}`" in text, preset.stem
