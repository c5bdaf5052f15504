"""What each opcode does to the machine; NEXT_BUFFER and READONLY_BUFFER, which no file holds, are absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .values import Damaged, decode

if TYPE_CHECKING:
    from .machine import Machine

Handler = Callable[["Machine"], None]


def _group(machine: Machine, size: int) -> None:
    items = [machine.pop() for _ in range(size)]
    machine.push(tuple(reversed(items)))


def _pair(machine: Machine) -> list[object]:
    value, key = machine.pop(), machine.pop()
    return [key, value]


def _pop_two_and(use: Callable[[Machine, object, object], None]) -> Callable[[Machine], None]:
    """A handler that takes the two topmost values, the lower one first."""

    def handler(machine: Machine) -> None:
        upper, lower = machine.pop(), machine.pop()
        use(machine, lower, upper)

    return handler


def _named(machine: Machine) -> object:
    module, name = machine.line(), machine.line()
    return machine.find(decode(module, "utf-8"), decode(name, "utf-8"))


def _old_instance(machine: Machine) -> None:
    what = _named(machine)
    machine.to_mark()
    machine.make_old(what)


def _old_object(machine: Machine) -> None:
    items = machine.to_mark()
    if not items:
        raise Damaged("wanted a class above the mark, got nothing")
    machine.make_old(items[0])


STOP = ord(".")
HANDLERS: dict[int, Handler] = {
    # stack and memo
    ord("("): lambda m: m.mark(),
    ord("0"): lambda m: m.discard(),
    ord("1"): lambda m: m.discard_to_mark(),
    ord("2"): lambda m: m.push(m.top()),
    ord("g"): lambda m: m.recall(m.index()),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    ord("p"): lambda m: m.remember(m.index()),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.memoize(),
    # constants and numbers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("J"): lambda m: m.push(m.number("<i")),
    0x8A: lambda m: m.integer(m.number("<B")),
    0x8B: lambda m: m.integer(m.number("<i")),
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("I"): lambda m: m.written_integer(),
    ord("L"): lambda m: m.written_integer(),
    ord("F"): lambda m: m.written_float(),
    # text and bytes
    ord("X"): lambda m: m.push(m.text(m.number("<I"))),
    0x8C: lambda m: m.push(m.text(m.number("<B"))),
    0x8D: lambda m: m.push(m.text(m.number("<Q"))),
    ord("T"): lambda m: m.push(m.text(m.number("<I"), "latin-1")),
    ord("U"): lambda m: m.push(m.text(m.number("<B"), "latin-1")),
    ord("V"): lambda m: m.push(decode(m.line(), "raw-unicode-escape")),
    ord("S"): lambda m: m.written_string(),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),
    # containers
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: _group(m, 1),
    0x86: lambda m: _group(m, 2),
    0x87: lambda m: _group(m, 3),
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("d"): lambda m: m.new_dict(m.to_mark()),
    ord("s"): lambda m: m.set_items(_pair(m)),
    ord("u"): lambda m: m.set_items(m.to_mark()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add(m.to_mark()),
    0x91: lambda m: m.push(frozenset(m.key(item) for item in m.to_mark())),
    # objects
    ord("c"): lambda m: m.push(_named(m)),
    0x93: _pop_two_and(lambda m, module, name: m.push(m.find(module, name))),
    ord("R"): _pop_two_and(lambda m, what, args: m.make(what, args, bare=False)),
    0x81: _pop_two_and(lambda m, what, args: m.make(what, args, bare=True)),
    0x92: lambda m: m.make_extended(),
    ord("i"): _old_instance,
    ord("o"): _old_object,
    ord("b"): lambda m: m.build(),
    ord("P"): lambda m: m.persist(decode(m.line(), "ascii")),
    ord("Q"): lambda m: m.persist(m.pop()),
    0x82: lambda m: m.extension(m.number("<B")),
    0x83: lambda m: m.extension(m.number("<H")),
    0x84: lambda m: m.extension(m.number("<i")),
    # the stream
    0x80: lambda m: m.declare(),
    0x95: lambda m: m.frame(),
}  # fmt: skip
