"""What this machine was found to run best or not at all: dispatch and launchers ask here, with one table for all.

Whoever has several ways to compute the same offers them by a name, the first being the default. A choice holds for a
name whatever the arguments, or for dtype and shape of one tensor: an op's first, a launcher's input, a kernel's output.
An empty table, as at the start, means defaults everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

Way = TypeVar("Way", str, int)
Key = tuple[str | int, ...]  # (name,) or (name, dtype, *shape)
Table = dict[Key, str | int]

_table: Table = {}
_offers: dict[Key, Sequence[str | int]] | None = None


def choice(name: str, x: Tensor, ways: Sequence[Way]) -> Way:
    """The one of ``ways`` that this call takes: what the table says, if it is among them, else the first."""
    if not choosing_now():
        return ways[0]
    own = key(name, x)
    if _offers is not None:
        _offers[own] = ways
    found = _table.get((name,), _table.get(own))
    return next((way for way in ways if way == found), ways[0])


def choosing_now() -> bool:
    """Whether :func:`choice` does more than return the default."""
    return bool(_table) or _offers is not None


def key(name: str, x: Tensor) -> Key:
    return (name, str(x.dtype).removeprefix("torch."), *x.shape)


def choices() -> Table:
    """A copy of the table."""
    return dict(_table)


def replaced() -> list[str]:
    """The ops that take their plain form whatever their arguments: their kernels failed on this machine."""
    return [str(key[0]) for key in _table if len(key) == 1]


def choose(more: Mapping[Key, str | int]) -> None:
    """Add choices, from here on in this process."""
    _table.update(more)


@contextmanager
def choosing(more: Mapping[Key, str | int], *, alone: bool = False) -> Iterator[None]:
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


@contextmanager
def record_offers() -> Iterator[dict[Key, Sequence[str | int]]]:
    """Collect what is offered within the context, in its order."""
    global _offers
    before, _offers = _offers, {}
    try:
        yield _offers
    finally:
        _offers = before
