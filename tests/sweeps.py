"""Sweeps: the cases that every run takes, and the others, which ``make slow`` adds."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import pytest

slow = partial(pytest.param, marks=pytest.mark.slow)  # one of a list


def sweep(cases: Mapping[str, Any] | Iterable[Any], *, always: Collection[Any]) -> list[Any]:
    """Parameters for each case, slow but for those in ``always``: names of a mapping, else cases themselves."""
    named = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    assert set(always) <= set(named), f"no such cases: {set(always) - set(named)}"
    ids = {name: str(getattr(name, "__name__", name)) for name in named}
    return [
        pytest.param(case, id=ids[name], marks=() if name in always else pytest.mark.slow)
        for name, case in named.items()
    ]
