"""Second pass over a pickle: Python's own unpickler, in which a global is what a table of ours has under its name.

Nothing is imported, and nothing is called but what the table holds: inert classes, and functions that check their
arguments and return inert objects.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from .refusals import Refused, brief, demand, kind, shown
from .scan import Scan

Known = Mapping[tuple[str, str], object]  # what stands for a global, by its module and name


class Inert:
    """Base of the objects a file may create. It refuses state: without ``__setstate__``, BUILD sets attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"refused state for a {kind(self)}")


class Global(Inert):
    """A function or type under its dotted name; ``make`` is what a call of it does, None where it is only named."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[[tuple[Any, ...]], object] | None) -> None:
        self.name, self.make = name, make

    def __call__(self, *args: object) -> object:
        if self.make is None:
            raise Refused(f"refused call of {shown(self.name)}")
        return self.make(args)


def refusals(scan: Scan, known: Known) -> dict[str, int]:
    """Why a pickle may not be loaded, as far as its opcodes tell, with counts."""
    names = {f"refused global {shown('.'.join(key))}": n for key, n in scan.globals.items() if key not in known}
    return names | {f"refused opcode {name}": n for name, n in scan.foreign_opcodes.items()}


def load(scan: Scan, known: Known, persistent: Callable[[object], object] | None = None) -> object:
    """The value of a scanned pickle; ``persistent`` makes that of a persistent id. Raises: Refused."""
    for reason in refusals(scan, known):
        raise Refused(reason)
    try:
        return _Unpickler(scan, known, persistent).load()
    except Refused:
        raise
    except Exception as error:  # a dozen types: an object that cannot be called, a mapping that is none
        raise Refused(f"refused by Python's unpickler: {brief(error)}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, scan: Scan, known: Known, persistent: Callable[[object], object] | None) -> None:
        super().__init__(io.BytesIO(scan.stream), buffers=scan.buffers)
        self._known, self._persistent = known, persistent

    def find_class(self, module: str, name: str) -> object:
        demand((module, name) in self._known, f"global {shown(f'{module}.{name}')}")
        return self._known[module, name]

    def persistent_load(self, pid: object) -> object:
        if self._persistent is None:
            raise Refused(f"refused persistent id {shown(pid)}")
        return self._persistent(pid)
