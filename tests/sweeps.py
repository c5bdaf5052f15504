"""Sweeps: the cases that every run takes, and the others, which ``make slow`` adds."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import pytest

slow = partial(pytest.param, marks=pytest.mark.slow)  # one of a list


def sweep(cases: Mapping[str, Any] | Iterable[Any], *, always: Collection[Any]) -> list[Any]:
    """Parameters for each case, slow but for those in ``always``: by name in a mapping, else the cases themselves.

    A tuple in a list is several arguments.
    """
    assert set(always) <= set(cases), f"no such cases: {set(always) - set(cases)}"
    if isinstance(cases, Mapping):
        return [(pytest.param if name in always else slow)(case, id=name) for name, case in cases.items()]
    return [
        (pytest.param if case in always else slow)(*(case if isinstance(case, tuple) else (case,))) for case in cases
    ]
