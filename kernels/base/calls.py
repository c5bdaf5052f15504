"""Which public ops a program calls, and with what: for timing them with the arguments that they get."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple


class OpCall(NamedTuple):
    """A call of a public op; its tensors may be written to later."""

    op: Callable[..., Any]
    args: tuple[Any, ...]
    named: Mapping[str, Any]


_observer: Callable[[OpCall], None] | None = None


def note(op: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Every public op says so when it is called."""
    if _observer is not None:
        _observer(OpCall(op, args, named))


@contextmanager
def observe_calls(observer: Callable[[OpCall], None]) -> Iterator[None]:
    """Show each call to ``observer`` within the context, those that ops make of other ops, too."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before
