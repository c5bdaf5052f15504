"""The layout of a Hugging Face kernel: made from ``kernels/``, loaded as the hub's client loads it, and by it."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import pytest
import torch

import stylenerf.kernels
from tests.conftest import ROOT


def load(path: pathlib.Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub = load(ROOT / "hub" / "make.py", "hub_make")


def changed(folder: pathlib.Path) -> pathlib.Path:
    """Another version of the kernels, which says so."""
    shutil.copytree(ROOT / "kernels", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "__init__.py").open("a") as file:
        file.write('\nFLAVOUR = "second"\n')
    return folder


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """Two versions of the kernels, laid out."""
    folder = tmp_path_factory.mktemp("hub")
    first, second = folder / "first", folder / "second"
    hub.make(first)
    hub.make(second, 2, changed(folder / "other"))
    return first, second


def modules(versions: tuple[pathlib.Path, ...]) -> list[ModuleType]:
    """Loaded by file and name, as the client does."""
    loaded = []
    for out in versions:
        variant = out / "build" / "torch-universal"
        name = json.loads((variant / "metadata.json").read_text())["id"]
        loaded.append(load(variant / "stylenerf_kernels" / "__init__.py", name))
    return loaded


def test_layout(versions: tuple[pathlib.Path, pathlib.Path]) -> None:
    for out, number in zip(versions, (1, 2)):
        general = tomllib.loads((out / "build.toml").read_text())["general"]
        meta = json.loads((out / "build" / "torch-universal" / "metadata.json").read_text())
        assert general["name"] == meta["name"] == "stylenerf-kernels"
        assert general["version"] == meta["version"] == number
        assert (out / "LICENSE").is_file() and (out / "README.md").is_file()
        assert hub.digest(out / "torch-ext" / "stylenerf_kernels") == hub.digest(
            out / "build" / "torch-universal" / "stylenerf_kernels"
        )
        assert not list(out.rglob("__pycache__"))


def test_two_versions_beside_the_package(versions: tuple[pathlib.Path, pathlib.Path]) -> None:
    first, second = modules(versions)
    assert first.__name__ != second.__name__ and second.FLAVOUR == "second" and not hasattr(first, "FLAVOUR")
    x, f = torch.randn(1, 2, 6, 6), stylenerf.kernels.setup_filter([1, 3, 3, 1])
    want = stylenerf.kernels.upsample2d(x, f)
    for module in (first, second):
        assert torch.equal(module.upsample2d(x, f), want) and module.upsample2d is not stylenerf.kernels.upsample2d


def test_made_again(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "hub"
    before = (hub.make(out) / "metadata.json").read_text()
    (out / "stale").touch()
    assert (hub.make(out) / "metadata.json").read_text() == before
    assert not (out / "stale").exists() and [p.name for p in tmp_path.iterdir()] == ["hub"]


@pytest.mark.parametrize("argv", [["--out", "."], ["--version", "0"]])
def test_refusals(
    argv: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("years of work")
    try:
        code = hub.main(argv)
    except SystemExit as error:
        code = error.code
    assert code == 2 and f"{argv[0]}: wanted" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


CLIENT = """
import sys
from pathlib import Path
import torch
from kernels import get_loaded_kernels, get_local_kernel

import stylenerf.kernels
first, second = (get_local_kernel(Path(folder)) for folder in sys.argv[1:3])
assert second.FLAVOUR == "second" and not hasattr(first, "FLAVOUR")
assert [loaded.metadata.version for loaded in get_loaded_kernels()] == [1, 2]
x = torch.randn(1, 2, 6, 6, requires_grad=True)
f = stylenerf.kernels.setup_filter([1, 3, 3, 1])
want = stylenerf.kernels.upsample2d(x, f)
for ops in (first, second, stylenerf.kernels):
    kernel = ops.upsample2d(x, f, impl="triton")  # in the interpreter
    assert torch.allclose(kernel, want, atol=1e-6)
    (grad,) = torch.autograd.grad(kernel.square().sum(), x)
    assert torch.allclose(grad, torch.autograd.grad(want.square().sum(), x, retain_graph=True)[0], atol=1e-5)
names = {name for name in torch._C._dispatch_get_all_op_names() if name.split("::")[1] == "upfirdn2d"}
print(len(names))
"""


@pytest.mark.slow
def test_the_client_loads_it(versions: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """In a process of its own: in a checkout our folder has the client's name."""
    try:
        version("kernels")
    except PackageNotFoundError:
        pytest.skip("needs the client of the Hugging Face Hub: pip install 'stylenerf-engine[hub]'")
    installed = tmp_path / "site" / "stylenerf"  # what an installation has
    installed.mkdir(parents=True)
    for part in ("stylenerf/__init__.py", "kernels", "models", "engine"):
        (installed / pathlib.Path(part).name).symlink_to(ROOT / part)
    environment = {**os.environ, "PYTHONPATH": str(installed.parent), "TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}
    python = [sys.executable, "-c", CLIENT, *map(str, versions)]
    done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"  # ours, and one of each version
