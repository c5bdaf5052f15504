"""What every test shares: poisoned allocation and recorded numbers."""

import os
import pathlib
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.recorded.small_set import load_small_set

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
def quicker_interpreter() -> None:
    """Triton's interpreter finds out again, for each operation and call, what never changes; remember it."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        return
    # it works out whether integers overflow, and tells nobody unless debugging
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
    of_scalar = cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda t: of_scalar(interpreter.tl.uint64 if t.scalar.is_ptr() else t.scalar)
    patch_lang, prepared = interpreter._patch_lang, set()

    @cache
    def languages(fn: Any) -> frozenset[Any]:
        return frozenset(m for m in fn.__globals__.values() if m in (interpreter.tl, interpreter.tl.core))

    def patch_what_is_left(fn: Any) -> Any:
        """Replace the functions of triton.language for a kernel's launch, not again for each function it calls."""
        wanted = languages(fn)
        if wanted <= prepared:
            return interpreter._LangPatchScope()
        scope = patch_lang(fn)
        prepared.update(wanted)

        def restore() -> None:
            prepared.difference_update(wanted)
            type(scope).restore(scope)

        scope.restore = restore
        return scope

    interpreter._patch_lang = patch_what_is_left


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny model's folder, for reading."""
    from stylenerf.engine.model_io import save_model
    from tests.models_at_hand import PRIOR, tiny_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny", tiny_model().generator, PRIOR)


class Fixture:
    """Recorded numbers: ``f["name"]`` is a tensor, ``f.keys(prefix)`` lists, ``f.state(prefix)`` a state dict."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.names: list[str] = list(arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name].copy())

    def text(self, name: str) -> str:
        return str(self._arrays[name])

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


FULL_SET = pathlib.Path(os.environ.get("STYLENERF_FIXTURES", ROOT.parent / "shared" / "fixtures"))


@cache
def load_fixture(file: str) -> Fixture:
    """``file`` of the full set of recorded numbers where there is one, else what the small set holds of it."""
    if (FULL_SET / file).is_file():
        return Fixture(np.load(FULL_SET / file))
    return Fixture(load_small_set()[file])


def at_hand(file: str, cases: Iterable[str], field: str) -> list[Any]:
    """The ``cases`` whose ``field`` is recorded in the set at hand, and one skipped case that names the others."""
    f, cases = load_fixture(file), list(cases)
    absent = [case for case in cases if f"{case}/{field}" not in f]
    reason = f"only the full set of recorded numbers (tests/recorded/README.md) has {field} of {', '.join(absent)}"
    skipped = [pytest.param(absent[0], id="others", marks=pytest.mark.skip(reason=reason))] if absent else []
    return [*(case for case in cases if case not in absent), *skipped]
