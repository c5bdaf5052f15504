"""The documentation as a site: every page is in it, its links lead somewhere, and it needs nothing from elsewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

DOCS = ROOT / "docs"
MADE = {"index.md", "changelog.md", "reference/stylenerf.md", "reference/kernels.md", "reference/compat.md"}
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
needs_mkdocs = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)}: not installed (pip install 'stylenerf-engine[docs]')"
)
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//[^>]+stylesheet"""
)


def pages_in(nav: list[dict[str, object]]) -> list[str]:
    found: list[str] = []
    for entry in nav:
        for target in entry.values():
            found += pages_in(target) if isinstance(target, list) else [str(target)]
    return found


def test_every_page_is_in_the_navigation() -> None:
    nav = pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(nav) == len(set(nav))
    assert set(nav) == MADE | {"examples/README.md"} | {path.name for path in DOCS.glob("*.md")}


def all_of(folder: str) -> list[str]:
    tree = ast.parse((ROOT / folder / "__init__.py").read_text())
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    return list(ast.literal_eval(values[0]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as ``make docs`` does, by its strict build, in which a dead link or anchor is an error."""
    out = tmp_path_factory.mktemp("site")
    command = ["make", "docs", "READY=", "DOCS=", f"RUN={sys.executable}", f"SITE={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
@needs_mkdocs
def test_is_built_of_every_page(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in [path.stem for path in DOCS.glob("*.md")]:
        assert (site / f"{page}.html").is_file()
        assert f'href="{page}.html"' in home
    for example in (DOCS / "examples").glob("*.py"):
        assert (site / "examples" / f"{example.stem}.html").is_file()
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
@needs_mkdocs
def test_needs_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not ELSEWHERE.search(page.read_text()), page


@pytest.mark.slow
@needs_mkdocs
def test_reference_has_every_public_name(site: Path) -> None:
    for page, package, folder in (
        ("stylenerf", "stylenerf", "stylenerf"),
        ("kernels", "stylenerf.kernels", "kernels"),
        ("compat", "stylenerf.kernels.compat", "kernels/compat"),
        ("compat", "stylenerf.kernels.compat.nerf", "kernels/compat/nerf"),
        ("compat", "stylenerf.kernels.compat.stylegan", "kernels/compat/stylegan"),
    ):
        html = (site / "reference" / f"{page}.html").read_text()
        assert [name for name in all_of(folder) if f'id="{package}.{name}"' not in html] == []
