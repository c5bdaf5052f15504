"""``kernels/`` stands alone: under any name, twice in one process, importing nothing but torch and itself."""

import ast
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "kernels").rglob("*.py"))
ALLOWED = {
    "torch",
    "triton",
    "math",
    "os",
    "typing",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "gc",
    "importlib",
    "inspect",
    "contextlib",
    "argparse",
    "json",
    "multiprocessing",
    "operator",
    "pathlib",
    "pkgutil",
    "re",
    "subprocess",
    "sys",
    "tempfile",
    "time",
    "types",
    "warnings",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_torch_and_itself(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in ALLOWED, f"{path.name} imports {name}"


@pytest.mark.slow
def test_two_copies_under_other_names(tmp_path: pathlib.Path) -> None:
    for name in ("my_ops", "their_ops"):
        shutil.copytree(ROOT / "kernels", tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import torch, my_ops, their_ops\n"
        "x = torch.randn(2, 3, 8, 8)\n"
        "f = my_ops.setup_filter([1, 3, 3, 1])\n"
        "a, b = my_ops.upsample2d(x, f), their_ops.upsample2d(x, f)\n"
        "assert a.shape == (2, 3, 16, 16) and torch.equal(a, b)\n"
        "assert my_ops.upsample2d is not their_ops.upsample2d\n"
        "print('fine')"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "fine", out.stderr
