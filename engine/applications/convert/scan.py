"""First pass over a pickle: its opcodes, taken apart with the tables of ``pickletools`` before anything is built.

The pass bounds what the second one (``unpickler``) can cost: opcodes, text, keys, memo indices, lengths. It lists the
globals that the file names and the opcodes that no snapshot needs. It also takes the bytes out: each bytes opcode
becomes a NEXT_BUFFER, for which Python's unpickler takes the next of ``buffers``. Those are views of the file, so
gigabytes of tensors are neither read nor copied.
"""

import io
import mmap
import pickletools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .refusals import Damaged, brief, kind

Source = bytes | mmap.mmap

MAX_OPCODES = 500_000  # a snapshot of the public code needs about a fifth of each bound
# chosen numbers can share a hash path: n of them as keys cost n**2 comparisons
LIMITS = {"opcodes": MAX_OPCODES, "bytes of text": 32 * 2**20, "numbers as keys": 4096}
MAX_INT_BYTES = 16  # torch's magic number takes 10
MAX_LINE = 1000
_KEY_INTS = range(-(2**63), 2**64)  # without a bound any number of them share a hash: multiples of 2**61 - 1

# what Python's picklers write in protocols 2 to 5; a file with any other opcode is not loaded
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
    "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET",
    "ADDITEMS", "FROZENSET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID",
}  # fmt: skip
_BY_CODE = {ord(op.code): op for op in pickletools.opcodes}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_NAMED = {"GLOBAL", "INST"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_NEXT_BUFFER = b"\x97"
_PREFIX_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4, pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}  # fmt: skip
_KEYS = {  # which operands are hashed
    "SETITEM": slice(1, 2), "SETITEMS": slice(1, None, 2), "DICT": slice(0, None, 2), "ADDITEMS": slice(1, None),
    "FROZENSET": slice(0, None),
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PLAIN = {  # kinds whose value is the opcode's argument
    pickletools.pyunicode, pickletools.pybytes_or_str, pickletools.pyint, pickletools.pyinteger_or_bool,
    pickletools.pyfloat,
}  # fmt: skip


class Budget:
    """Bounds on the memory and time that one file may cost."""

    def __init__(self) -> None:
        self._left = dict(LIMITS)

    def spend(self, what: str, amount: int = 1) -> None:
        self._left[what] -= amount
        if self._left[what] < 0:
            raise Damaged(f"wanted at most {LIMITS[what]} {what}, got more")

    def spend_key(self, key: object) -> object:
        """A key of a mapping or set: plain and short, and few numbers, so that hashing is neither deep nor slow."""
        if type(key) is int and key not in _KEY_INTS:
            raise Damaged(f"wanted an integer key of at most 64 bits, got one of {key.bit_length()}")
        if type(key) in (int, float):
            self.spend("numbers as keys")
        elif key is not None and type(key) not in (str, bool):
            raise Damaged(f"wanted text or a number as a key, got {kind(key)}")
        return key


@dataclass
class Scan:
    """A pickle as the second pass takes it, what it names, and where it ends."""

    end: int
    protocol: int = 0
    stream: bytearray = field(default_factory=bytearray)
    buffers: list[memoryview] = field(default_factory=list)
    globals: Counter[tuple[str, str]] = field(default_factory=Counter)
    foreign_opcodes: Counter[str] = field(default_factory=Counter)


def scan(data: Source, budget: Budget, start: int = 0) -> Scan:
    """Read the pickle that begins at ``start``; others may follow it. Raises: Damaged."""
    view, stack, result = memoryview(data), _Stack(budget), Scan(start)
    at = kept = start  # the current opcode; the first byte that the stream does not have yet
    name = ""
    try:
        while name != "STOP":
            budget.spend("opcodes")
            op, begin, end = _opcode(data, at, budget)
            arg: Any = None
            name = op.name
            if name == "FRAME" or name in _BYTES:  # a frame's length changes with the bytes; none is needed
                result.stream += view[kept:at]
                kept = end
            if name in _BYTES:
                result.stream += _NEXT_BUFFER
                result.buffers.append(view[begin:end])
            elif op.arg is not None:
                arg = op.arg.reader(io.BytesIO(data[at + 1 : end]))
            operands: Sequence[object] = stack.step(op, arg)
            if name not in OPCODES:
                result.foreign_opcodes[name] += 1
            if name in _NAMED:
                operands = str(data[at + 1 : end - 1], "utf-8").split("\n")
            if name in _NAMED or name == "STACK_GLOBAL":
                result.globals[_global(*operands)] += 1
            elif name == "PROTO":
                result.protocol = arg
            at = end
    except (Damaged, ValueError) as error:  # a ValueError is what pickletools has for an argument that is none
        raise Damaged(f"{brief(error)} (byte {at})") from None
    result.stream += view[kept:at]
    result.end = at
    return result


def _opcode(data: Source, at: int, budget: Budget) -> tuple[pickletools.OpcodeInfo, int, int]:
    """The opcode at ``at``, and where its text or bytes begin and end: checked before any of them is read."""
    if at == len(data):
        raise Damaged("the file is cut off")
    op = _BY_CODE.get(data[at])
    if op is None:
        raise Damaged(f"{data[at]:#04x} is no opcode")
    begin, size = at + 1, op.arg.n if op.arg else 0
    if size == pickletools.UP_TO_NEWLINE:
        size = _lines(data, begin, 2 if op.name in _NAMED else 1)
    elif size < 0:  # given by a prefix
        begin += _PREFIX_BYTES[size]
        size = int.from_bytes(data[at + 1 : begin], "little")
        if op.name in ("LONG1", "LONG4") and size > MAX_INT_BYTES:
            raise Damaged(f"wanted an integer of at most {MAX_INT_BYTES} bytes, got {size}")
    if begin + size > len(data):
        raise Damaged(f"wanted {size} more bytes, got {max(len(data) - begin, 0)}: the file is cut off")
    if op.name not in _BYTES:
        budget.spend("bytes of text", size)
    return op, begin, begin + size


def _lines(data: Source, begin: int, count: int) -> int:
    """How long ``count`` lines are."""
    end = begin
    for _ in range(count):
        end = data.find(b"\n", end, end + MAX_LINE) + 1
        if end == 0:
            raise Damaged(f"wanted a line of at most {MAX_LINE} bytes, got no end of it")
    return end - begin


def _global(module: object, name: object) -> tuple[str, str]:
    if type(module) is not str or type(name) is not str:
        raise Damaged(f"wanted a global's module and name, got {kind(module)} and {kind(name)}")
    return module, name


class _Stack:
    """The unpickler's stack and memo: text, numbers and constants as they are, of other values only the kind."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.values: list[object] = []
        self.marks: list[int] = []  # how many values lie under each mark
        self.memo: dict[int, object] = {}

    def step(self, op: pickletools.OpcodeInfo, arg: Any) -> list[object]:
        """Apply one opcode. Returns: the values that it takes off the stack, the lowest first."""
        name = op.name
        if name == "MARK":
            self.marks.append(len(self.values))
        elif name == "POP" and self.marks and self.marks[-1] == len(self.values):
            self.marks.pop()
        elif name in _PUT:
            self._remember(len(self.memo) if arg is None else arg)
        elif name in _GET:
            if arg not in self.memo:
                raise Damaged(f"nothing is remembered under {arg}")
            self.values.append(self.memo[arg])
        else:
            if name == "STOP" and (len(self.values) != 1 or self.marks):
                raise Damaged(f"wanted one value at the end, got {len(self.values)} and {len(self.marks)} open marks")
            operands = self._take(op.stack_before)
            if name in _KEYS:
                for key in operands[_KEYS[name]]:
                    self.budget.spend_key(key)
            for made in op.stack_after:
                self.values.append(_CONSTANTS.get(name, arg if made in _PLAIN else made))
            return operands
        return []

    def _remember(self, index: int) -> None:
        if not 0 <= index <= MAX_OPCODES:  # picklers count up, one at a time; the unpickler's memo is an array
            raise Damaged(f"wanted a memo index of at most {MAX_OPCODES}, got {index}")
        self.memo[index] = self._take([pickletools.anyobject])[0]
        self.values.append(self.memo[index])

    def _take(self, kinds: list[pickletools.StackObject]) -> list[object]:
        """Pop as many values, and all above the last mark if a mark is among them."""
        if not kinds:
            return []
        start = len(self.values)
        if pickletools.markobject in kinds:
            if not self.marks:
                raise Damaged("there is no mark")
            start, kinds = self.marks.pop(), kinds[: kinds.index(pickletools.markobject)]
        start -= len(kinds)
        if start < (self.marks[-1] if self.marks else 0):
            raise Damaged("the stack is empty")
        operands = self.values[start:]
        del self.values[start:]
        return operands
