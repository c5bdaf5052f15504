"""Stands in for hypothesis where it is not installed: tests that draw examples are skipped and say so, others run."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

REASON = "hypothesis is not installed"


class Anything:
    """A strategy, a profile, a decorator: whatever is done with it at import gives another."""

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> "Anything":
        return Anything()

    def __or__(self, other: Any) -> "Anything":
        return self


class Settings(Anything):
    """``@settings(...)`` leaves the test as it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return lambda test: test


def given(*args: Any, **kwargs: Any) -> Any:
    return pytest.mark.skip(reason=REASON)


def install() -> None:
    """Make ``import hypothesis`` give the stand-in."""
    package, strategies = ModuleType("hypothesis"), ModuleType("hypothesis.strategies")
    named = {"given": given, "settings": Settings(), "example": Settings(), "strategies": strategies}
    for name, value in named.items():
        setattr(package, name, value)
    for module in (package, strategies):
        module.__spec__ = ModuleSpec(module.__name__, None)  # torch's own test helpers look for it
        module.__getattr__ = lambda name: getattr(Anything(), name)  # type: ignore[method-assign]
        sys.modules[module.__name__] = module
