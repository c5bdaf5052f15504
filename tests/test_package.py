"""What an installation holds: one top-level name, every package and every file that is not Python."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stylenerf
from tests.conftest import ROOT

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FLOORS = ("kernels", "models", "engine")


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("__init__.py")}
    assert set(SETUPTOOLS["packages"]) == {"stylenerf", *(f"stylenerf.{'.'.join(f.parts)}" for f in folders)}
    assert SETUPTOOLS["package-dir"] == {f"stylenerf.{floor}": floor for floor in FLOORS}


def test_every_data_file_is_listed() -> None:
    """Whatever lies in a package and is no Python file."""
    listed = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT / (package if package == "stylenerf" else package.removeprefix("stylenerf.").replace(".", "/"))
        listed |= {path for pattern in patterns for path in folder.glob(pattern)}
    there = {
        path
        for folder in ("stylenerf", *FLOORS)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert listed == there


def test_names_at_the_top_are_what_they_say() -> None:
    for name in stylenerf.__all__:
        assert getattr(stylenerf, name).__name__ == name
    with pytest.raises(AttributeError, match="'stylenerf' has no attribute 'nothing'"):
        _ = stylenerf.nothing


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, stylenerf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_a_wheel_has_one_name(tmp_path: Path) -> None:
    """Built from the sources; pip fetches setuptools from an index for it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"stylenerf"}
    assert "stylenerf/engine/applications/view/page.html" in names
