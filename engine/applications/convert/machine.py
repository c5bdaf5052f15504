"""A reader of pickle streams that cannot run anything: the stack machine with its own small set of things to make.

Python's unpickler imports what a stream names and calls it. This one never imports and never calls by name: a global is
a ``Name``, a pair of strings that must stand in a table of rules, and what a stream "calls" is the rule's maker, a
function of ours that checks its arguments and returns an inert record. Everything else is refused by name.

What a stream may cost is bounded before it is spent: every size is checked against the bytes that are there, opcodes
and characters of text are counted, integers and keys are short. Time and memory are proportional to the file.
"""

import mmap
import struct
from collections import OrderedDict
from collections.abc import Callable

from .opcodes import HANDLERS, STOP
from .values import (
    MAX_OPCODES,
    Budget,
    Damaged,
    Foreign,
    Inert,
    Name,
    Notes,
    Refused,
    Rules,
    decode,
    kind,
    parsed,
    shown,
)

Source = bytes | mmap.mmap

MAX_INT_BYTES = 16  # torch's magic number takes 10
MAX_LINE = 65536  # of the text opcodes of protocol 0
MAX_ARGUMENTS = 8


class Machine:
    """One run over one pickle.

    Args:
        data: the bytes; others may follow the pickle: ``position`` tells where it ended.
        start: where the pickle begins.
        rules: the globals that are known.
        budget: shared by every machine that works on one file.
        notes: shared likewise.
        persistent: makes a value of a persistent id; None refuses persistent ids.
    Raises: Refused, Damaged.
    """

    def __init__(
        self,
        data: Source,
        rules: Rules,
        budget: Budget,
        notes: Notes,
        *,
        start: int = 0,
        persistent: Callable[[object], object] | None = None,
    ) -> None:
        self.position = start
        self.protocol = 0
        self._data, self._end = data, len(data)
        self._view = memoryview(data)
        self._rules, self._budget, self.notes, self._persistent = rules, budget, notes, persistent
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks under each mark
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """The value that the pickle describes."""
        at = self.position
        try:
            while True:
                at = self.position
                self._budget.spend_opcode()
                if at == self._end:
                    raise Damaged("the file is cut off")
                self.position = at + 1
                code = self._data[at]
                if code == STOP:
                    return self._finish()
                if code not in HANDLERS:
                    raise Damaged(f"{code:#04x} is no opcode")
                HANDLERS[code](self)
        except Damaged as error:
            raise Damaged(f"{error} (byte {at})") from None

    def _finish(self) -> object:
        if self._below or len(self._stack) != 1:
            raise Damaged(f"wanted one value at the end, got {len(self._stack)} and {len(self._below)} open marks")
        return self._stack[0]

    # bytes

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes, without a copy."""
        if size > self._end - self.position:
            raise Damaged(f"wanted {size} more bytes, got {self._end - self.position}: the file is cut off")
        start = self.position
        self.position = start + size
        return self._view[start : self.position]

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> bytes:
        """Up to the next line break, which is taken too."""
        end = self._data.find(b"\n", self.position, min(self._end, self.position + MAX_LINE))
        if end < 0:
            raise Damaged("wanted a line of text, got no end of it")
        text = bytes(self.take(end - self.position))
        self.take(1)
        self._budget.spend_text(len(text))
        return text

    def text(self, size: int, encoding: str = "utf-8") -> str:
        if size > self._end - self.position:
            self.take(size)  # says what is wrong
        self._budget.spend_text(size)
        return decode(bytes(self.take(size)), encoding)

    # the stack

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        if not self._stack:
            raise Damaged("the stack is empty")
        return self._stack.pop()

    def top(self) -> object:
        if not self._stack:
            raise Damaged("the stack is empty")
        return self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def to_mark(self) -> list[object]:
        """The values above the last mark."""
        if not self._below:
            raise Damaged("there is no mark")
        items, self._stack = self._stack, self._below.pop()
        return items

    def discard(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.to_mark()

    def discard_to_mark(self) -> None:
        self.to_mark()

    def remember(self, index: int) -> None:
        if index < 0:
            raise Damaged(f"memo index {index} is negative")
        if index > MAX_OPCODES:  # picklers count up, one at a time
            raise Damaged(f"wanted a memo index of at most {MAX_OPCODES}, got {index}")
        self._memo[index] = self.top()

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise Damaged(f"nothing is remembered under {index}")
        self.push(self._memo[index])

    # containers

    def append(self, items: list[object]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise Damaged(f"wanted a list to append to, got {kind(target)}")

    def set_items(self, items: list[object]) -> None:
        target = self.top()
        if isinstance(target, Foreign):
            return
        if type(target) not in (dict, OrderedDict):
            raise Damaged(f"wanted a mapping to fill, got {kind(target)}")
        if len(items) % 2:
            raise Damaged("wanted pairs, got a key without a value")
        assert isinstance(target, dict)
        for i in range(0, len(items), 2):
            key = self.key(items[i])
            if key in target:
                raise Damaged(f"key {shown(str(key))} is given twice")
            target[key] = items[i + 1]

    def add(self, items: list[object]) -> None:
        target = self.top()
        if type(target) is set:
            target.update(self.key(item) for item in items)
        elif not isinstance(target, Foreign):
            raise Damaged(f"wanted a set to add to, got {kind(target)}")

    def key(self, value: object) -> str | int | float | None:
        return self._budget.spend_key(value)

    def new_dict(self, items: list[object]) -> None:
        self.push({})
        self.set_items(items)

    # globals and what is made of them

    def find(self, module: object, name: object) -> object:
        """A global by its name: never imported, only looked up in the rules, both parts as they stand."""
        if type(module) is not str or type(name) is not str:
            raise Damaged(f"wanted a global's module and name, got {kind(module)} and {kind(name)}")
        if (module, name) not in self._rules:
            return self.notes.refuse(f"refused global {shown(f'{module}.{name}')}")
        found = Name(module, name)
        self.notes.known[str(found)] = self.notes.known.get(str(found), 0) + 1
        return found

    def make(self, what: object, args: object, *, bare: bool) -> None:
        """Push what the rule for ``what`` makes: by its call, or as a bare instance."""
        if isinstance(what, Foreign) or _refused_before(args):
            return self.push(Foreign())
        if not isinstance(what, Name):
            return self.push(self.notes.refuse(f"refused call of a {kind(what)}"))
        rule = self._rules[what.module, what.name]
        maker = rule.new if bare else rule.call
        try:
            if maker is None:
                raise Refused(f"refused {'instance' if bare else 'call'} of {shown(str(what))}")
            if type(args) is not tuple:
                raise Refused(f"refused {shown(str(what))} with arguments that are no tuple")
            self.push(maker(args))
        except Refused as error:
            self.push(self.notes.refuse(str(error)))

    def make_extended(self) -> None:
        keywords, args, what = self.pop(), self.pop(), self.pop()
        if keywords != {}:
            what = self.notes.refuse(f"refused keyword arguments for {kind(what)}")
        self.make(what, args, bare=True)

    def make_old(self, what: object) -> None:
        """INST and OBJ call a class with whatever lies on the stack; nothing that we know is written so."""
        self.push(what if isinstance(what, Foreign) else self.notes.refuse(f"refused old-style call of {kind(what)}"))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Foreign) or (type(target) is OrderedDict and type(state) is dict):
            return  # an OrderedDict's attributes hold nothing that we read
        try:
            if not isinstance(target, Inert):
                raise Refused(f"refused state for a {kind(target)}")
            target.build(state)
        except Refused as error:
            self.notes.refuse(str(error))

    def extension(self, code: int) -> None:
        self.push(self.notes.refuse(f"refused extension code {code}"))

    def persist(self, pid: object) -> None:
        try:
            if self._persistent is None:
                raise Refused(f"refused persistent id {shown(pid) if type(pid) is str else 'of type ' + kind(pid)}")
            self.push(self._persistent(pid))
        except Refused as error:
            self.push(self.notes.refuse(str(error)))

    # numbers

    def frame(self) -> None:
        size = self.number("<Q")
        if size > self._end - self.position:
            raise Damaged(f"wanted a frame of {size} bytes, got {self._end - self.position}: the file is cut off")

    def declare(self) -> None:
        self.protocol = self.number("<B")
        if self.protocol > 5:
            raise Damaged(f"wanted pickle protocol 5 at most, got {self.protocol}")

    def integer(self, size: int) -> None:
        if not 0 <= size <= MAX_INT_BYTES:
            raise Damaged(f"wanted an integer of at most {MAX_INT_BYTES} bytes, got {size}")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def written_integer(self) -> None:
        text = decode(self.line().rstrip(b"L"), "ascii")
        if text in ("00", "01"):  # how protocol 0 and 1 write False and True
            self.push(text == "01")
        else:
            self.push(parsed(int, text))

    def written_float(self) -> None:
        self.push(parsed(float, decode(self.line(), "ascii")))

    def written_string(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"') or b"\\" in text:
            raise Damaged("wanted a plain quoted string, got something else")
        self.push(decode(text[1:-1], "latin-1"))

    def index(self) -> int:
        return int(parsed(int, decode(self.line(), "ascii")))


def _refused_before(args: object) -> bool:
    """Whether an argument is itself what was refused, so that one cause is noted once."""
    return type(args) is tuple and len(args) <= MAX_ARGUMENTS and any(isinstance(arg, Foreign) for arg in args)
