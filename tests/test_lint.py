"""Linters and type checker, as ``make lint`` runs them: a test among the others, so that they share the cores."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MISSING = [tool for tool in ("ruff", "mypy") if importlib.util.find_spec(tool) is None]
MISSING += [] if shutil.which("make") else ["make"]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_nothing_to_complain_of() -> None:
    command = ["make", "lint", "READY=", f"RUN={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
