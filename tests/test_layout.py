"""Imports go down the floors, the subjects of ``kernels/`` do not import each other, and there is no circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = ("kernels", "models", "engine")
# folder -> folders it may import from, besides itself
ALLOWED = {
    "kernels/base": set(),
    "kernels/rays": {"kernels/base"},
    "kernels/filters": {"kernels/base"},
    "kernels/blocks": {"kernels/base", "kernels/filters"},
    "kernels/compat": {"kernels/base", "kernels/rays", "kernels/filters", "kernels/blocks"},
    "kernels": {"kernels/rays", "kernels/filters", "kernels/blocks"},
    "models": {"kernels", "kernels/base", "kernels/rays", "kernels/filters", "kernels/blocks"},
    "engine": {"kernels/base", "models", "engine/data", "engine/training"},
    "engine/data": {"kernels/base", "models", "engine"},
    "engine/training": {"kernels/base", "models", "engine", "engine/data"},
    "engine/machine": {"kernels", "kernels/base", "models", "engine", "engine/data", "engine/training"},
    "engine/planning": {"kernels/base", "models", "engine", "engine/data", "engine/training"},
    "engine/applications": {"kernels/base", "models", "engine", "engine/data", "engine/training"},
    "engine/command_line": {
        "models",
        "engine",
        "engine/data",
        "engine/training",
        "engine/applications",
        "engine/machine",
        "engine/planning",
    },
}
SOURCES = {path.relative_to(ROOT): path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def folder(module: str) -> str:
    """The key of ``ALLOWED`` that a module belongs to."""
    parts = module.split(".")
    return "/".join(parts[:2]) if "/".join(parts[:2]) in ALLOWED else parts[0]


def imports(path: Path, *, at_the_top: bool) -> set[str]:
    """Modules of the three floors that a file imports; ``at_the_top``: not those inside functions."""
    tree = ast.parse(SOURCES[path].read_text())
    nodes = tree.body if at_the_top else list(ast.walk(tree))
    package = path.parent.parts
    targets = set()
    for node in nodes:
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ())]
        for alias in node.names:
            target = ".".join([*base, alias.name])
            targets.add(target if target in MODULES else ".".join(base))
    return targets - {""}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_folders_import_what_they_may(path: Path) -> None:
    own = folder(module_name(path))
    for target in imports(path, at_the_top=False):
        assert target in MODULES, f"{path} imports {target}, which is no module of the three floors"
        assert folder(target) in {own, *ALLOWED[own]}, f"{path} imports {target}"


def test_no_circles() -> None:
    """Packages aside: importing a module imports its package first."""
    graph = {module_name(path): imports(path, at_the_top=True) for path in SOURCES if path.name != "__init__.py"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")
