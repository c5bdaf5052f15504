"""What this machine was found to run best or not at all: ``dispatch`` and launchers ask here, with one table for all.

A choice names the form that a call takes instead of the default, for an op whatever its arguments, or for one shape and
dtype of its first tensor. An empty table, as at the start, means defaults everywhere.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

Key = tuple[Any, ...]  # (op,) or (op, dtype, *shape)
Table = dict[Key, str]

_table: Table = {}


def chosen(op: str, x: Tensor) -> str | None:
    """The form that calls of ``op`` on ``x`` take, or None for the default."""
    if not _table:
        return None
    return _table.get((op,)) or _table.get(key(op, x))


def key(op: str, x: Tensor) -> Key:
    """What distinguishes the calls of an op: dtype and shape of its first tensor."""
    return (op, str(x.dtype).removeprefix("torch."), *x.shape)


def choices() -> Table:
    """A copy of the table."""
    return dict(_table)


def replaced() -> list[str]:
    """The ops that take their plain form whatever their arguments: their kernels failed on this machine."""
    return [key[0] for key in _table if len(key) == 1]


def choose(more: Mapping[Key, str]) -> None:
    """Add choices, from here on in this process."""
    _table.update(more)


@contextmanager
def choosing(more: Mapping[Key, str], *, alone: bool = False) -> Iterator[None]:
    """Add choices within the context; ``alone``: in place of those made before."""
    before = dict(_table)
    if alone:
        _table.clear()
    _table.update(more)
    try:
        yield
    finally:
        _table.clear()
        _table.update(before)
