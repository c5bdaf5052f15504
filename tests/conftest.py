"""What every test shares: poisoned allocation and the fixtures folder."""

import inspect
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

# One thread unless the environment says otherwise: the tests' tensors are small, and threads would wait for each other.
# The processes that tests start inherit the number: only the same one gives the same bits.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

try:
    from hypothesis import settings
except ImportError:
    from tests.without_hypothesis import install

    install()
else:
    # the same examples every time: a commit either passes or fails
    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def poison_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every fresh ``torch.empty`` with NaN or the largest integer, so that what nobody wrote is no result."""
    real, real_like = torch.empty, torch.empty_like

    def fill(t: torch.Tensor) -> torch.Tensor:
        if t.requires_grad or t.is_complex() or t.dtype == torch.bool or t.is_meta:
            return t
        return t.fill_(float("nan") if t.is_floating_point() else torch.iinfo(t.dtype).max)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(real(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(real_like(*a, **k)))


@pytest.fixture(autouse=True, scope="session")
def heed_interruptions() -> None:
    """A shell starts what it puts in the background deaf to Ctrl-C, and the processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def look_through_triton_once() -> None:
    """Every call of an interpreted function searches triton.language for what to replace; remember what there is."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        return
    found: dict[Any, dict[str, Any]] = {}

    def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
        if package not in found:
            members = inspect.getmembers(package, interpreter.tl.core.is_builtin)
            found[package] = dict(members)
        for name, member in found[package].items():
            if getattr(package, name) is not member:
                return  # replaced already, by the function that calls this one
            interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch_builtin


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny model's folder, for reading."""
    from stylenerf.engine.model_io import save_model
    from tests.models_at_hand import PRIOR, tiny_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny", tiny_model().generator, PRIOR)


class Fixture:
    """One npz of numbers: ``f["name"]`` is a tensor, ``f.keys(prefix)`` lists, ``f.state(prefix)`` a state dict."""

    def __init__(self, path: pathlib.Path) -> None:
        self._npz = np.load(path)
        self.names: list[str] = list(self._npz.files)

    def __contains__(self, name: str) -> bool:
        return name in self._npz

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._npz[name])

    def text(self, name: str) -> str:
        return str(self._npz[name])

    def keys(self, prefix: str) -> list[str]:
        return [n[len(prefix) :] for n in self.names if n.startswith(prefix)]

    def state(self, prefix: str) -> dict[str, torch.Tensor]:
        return {n: self[prefix + n] for n in self.keys(prefix)}


@pytest.fixture
def rounded_to_the_nearest() -> Iterator[None]:
    """Recorded numbers are one processor's, whose library chose how to convolve; what is compared depends on none."""
    from tests.roundings import Rounding

    with Rounding():
        yield


def fixtures_dir() -> pathlib.Path:
    return pathlib.Path(os.environ.get("STYLENERF_FIXTURES", ROOT.parent / "shared" / "fixtures"))


def load_fixture(file: str) -> Fixture:
    """Open ``file`` of the fixtures folder, or skip the calling test or module, saying why."""
    path = fixtures_dir() / file
    if not path.is_file():
        pytest.skip(
            f"fixture {file} is absent: looked in {path.parent} (set STYLENERF_FIXTURES)", allow_module_level=True
        )
    return Fixture(path)
