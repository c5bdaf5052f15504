"""A walk through one block of threads of a compiled kernel, which checks every address in shared memory.

The PTX is run with integers only: whatever depends on data is unknown. Threads that branch apart run one group after
the other, the one that is furthest behind first. Addresses of loads, stores, copies and of the matrices of warp-group
products must be aligned and inside what the kernel allocates.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.compiler.ptx import Code, Statement, address

Value = np.ndarray | None  # int64, one per thread or one for all; None: unknown

LIMIT = 50_000  # statements per block
ROUNDS = 6  # of a loop, which is left then: more than any has stages
WIDTHS = {0: 16, 1: 128, 2: 64, 3: 32}  # bytes of a swizzled row, by a matrix descriptor's top two bits
_BYTES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8}
_BYTES |= {"f16": 2, "bf16": 2, "s16": 2, "s64": 8, "f64": 8, "b128": 16}
_COMPARE = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal}
_COMPARE |= {"ne": np.not_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_BINARY: dict[str, Callable[..., np.ndarray]] = {
    **{"add": operator.add, "sub": operator.sub, "mul": operator.mul, "and": operator.and_, "or": operator.or_},
    **{"xor": operator.xor, "min": np.minimum, "max": np.maximum},
}


@dataclass
class Walk:
    """Results. ``accesses`` counts instructions, each time they run."""

    accesses: int = 0
    unknown: int = 0  # of these, with an address that depends on data
    truncated: bool = False
    faults: list[str] = field(default_factory=list)


def walk(
    code: Code,
    parameters: Mapping[int, int | None],
    shared: int,
    threads: int,
    block: Sequence[int],
    grid: Sequence[int],
) -> Walk:
    """Walk through the block with index ``block`` of ``grid``; ``parameters`` by index, None: unknown."""
    with np.errstate(all="ignore"):
        return _Machine(code, parameters, shared, threads, block, grid).run()


class _Machine:
    def __init__(
        self, code: Code, parameters: Mapping[int, int | None], shared: int, threads: int,
        block: Sequence[int], grid: Sequence[int],
    ) -> None:  # fmt: skip
        self.code, self.parameters, self.shared, self.threads = code, parameters, shared, threads
        self.registers: dict[str, Value] = {"global_smem": _one(0), "%tid.x": np.arange(threads, dtype=np.int64)}
        self.registers |= {"%laneid": np.arange(threads, dtype=np.int64) % 32, "%ntid.x": _one(threads)}
        for axis, letter in enumerate("xyz"):
            self.registers[f"%ctaid.{letter}"] = _one(block[axis] if axis < len(block) else 0)
            self.registers[f"%nctaid.{letter}"] = _one(grid[axis] if axis < len(grid) else 1)
        self.active = np.ones(threads, bool)
        self.result = Walk()
        self.reported: set[int] = set()
        self.rounds: Counter[int] = Counter()

    def run(self) -> Walk:
        groups: dict[int, np.ndarray] = {0: self.active}
        steps = 0
        while groups:
            at = min(groups)
            self.active = groups.pop(at)
            if at >= len(self.code.statements):
                continue
            steps += 1
            if steps > LIMIT:
                self.result.truncated = True
                break
            for following, threads in self.step(at):
                groups[following] = groups[following] | threads if following in groups else threads
        return self.result

    def step(self, at: int) -> list[tuple[int, np.ndarray]]:
        """Run a statement; (next, threads that go there)."""
        statement = self.code.statements[at]
        guard = self.guard(statement)
        if statement.op[0] in ("bra", "ret", "exit"):
            return self.branch(statement, at, guard)
        if guard is None or guard.any():
            self.execute(statement, at, guard)
        return [(at + 1, self.active)]

    def guard(self, statement: Statement) -> np.ndarray | None:
        """The active threads that run it; None: unknown."""
        if statement.guard is None:
            return self.active
        value = self.registers.get(statement.guard)
        if value is None:
            return None
        return self.active & ((value != 0) ^ statement.negated)

    def branch(self, statement: Statement, at: int, guard: np.ndarray | None) -> list[tuple[int, np.ndarray]]:
        if guard is None:  # the body of a condition is checked, a loop or a wait is left
            return [(at + 1, self.active)]
        back = statement.op[0] == "bra" and self.code.labels[statement.operands[0]] <= at
        self.rounds[at] = self.rounds[at] + 1 if back and guard.any() else 0
        if self.rounds[at] > ROUNDS and statement.guard is not None:
            self.rounds[at] = 0
            return [(at + 1, self.active)]
        stay = self.active & ~guard
        paths = [(at + 1, stay)] if stay.any() else []
        if statement.op[0] == "bra" and guard.any():
            paths.append((self.code.labels[statement.operands[0]], guard))
        return paths

    def execute(self, statement: Statement, at: int, guard: np.ndarray | None) -> None:
        op, operands = statement.op, statement.operands
        if self.access(statement, at, guard) or not operands:
            return
        if op[0] == "setp":
            self.compare(op, operands, guard)
        elif op[0] == "mov" and operands[0].startswith("{"):
            self.unpack(op, operands, guard)
        elif operands[0].startswith(("%", "{")):
            names = [name.split("|")[0].strip() for name in operands[0].strip("{}").split(",")]
            value = self.evaluate(op, operands) if len(names) == 1 else None
            for name in names:
                self.put(name, value, guard)

    def put(self, name: str, value: Value, guard: np.ndarray | None) -> None:
        before = self.registers.get(name)
        if value is not None and guard is not self.active and not (guard is not None and guard.all()):
            if guard is None or before is None:
                value = None if guard is None or name in self.registers else value
            else:
                value = np.where(guard, value, before)
        elif value is not None and before is not None and not self.active.all():
            value = np.where(self.active, value, before)
        self.registers[name] = value

    def value(self, operand: str) -> Value:
        if operand in self.registers:
            return self.registers[operand]
        try:
            number = int(operand, 0)
        except ValueError:
            return None
        return _one(number - 2**64 if number >= 2**63 else number)

    def compare(self, op: tuple[str, ...], operands: tuple[str, ...], guard: np.ndarray | None) -> None:
        left, right = self.value(operands[1]), self.value(operands[2])
        result = None
        if left is not None and right is not None and op[-1] in _BYTES and not op[-1].startswith("f"):
            if op[-1].startswith("u"):
                left, right = _unsigned(left, op[-1]), _unsigned(right, op[-1])
            result = _COMPARE[op[1]](left, right).astype(np.int64)
            if len(operands) > 3:
                other = self.value(operands[3])
                result = None if other is None else _BINARY[op[2]](result, other)
        first, _, second = operands[0].partition("|")
        self.put(first, result, guard)
        if second:
            self.put(second, None if result is None else 1 - result, guard)

    def unpack(self, op: tuple[str, ...], operands: tuple[str, ...], guard: np.ndarray | None) -> None:
        names = [name.strip() for name in operands[0].strip("{}").split(",")]
        value, bits = self.value(operands[1]), 8 * _BYTES.get(op[1], 4) // len(names)
        for i, name in enumerate(names):
            self.put(
                name, None if value is None else _wrapped((value >> (i * bits)) & (2**bits - 1), f"s{bits}"), guard
            )

    def evaluate(self, op: tuple[str, ...], operands: tuple[str, ...]) -> Value:
        """The result of an integer operation; None of any other."""
        if op[:2] == ("ld", "param"):
            parameter = self.parameters.get(int(operands[1].rsplit("_", 1)[1].rstrip("]")))
            return None if parameter is None else _one(parameter)
        if op[0] == "mov" and operands[1].startswith("{"):
            parts = [self.value(part.strip()) for part in operands[1].strip("{}").split(",")]
            bits = 8 * _BYTES.get(op[1], 4) // len(parts)
            if any(part is None for part in parts):
                return None
            return sum((part & (2**bits - 1)) << (i * bits) for i, part in enumerate(parts) if part is not None)
        if op[:3] == ("shfl", "sync", "idx"):
            return self.shuffle(operands)
        if any(
            part.startswith(("f", "bf")) and part in ("f16", "f16x2", "f32", "f64", "bf16", "bf16x2") for part in op[1:]
        ):
            return None
        values = [self.value(operand) for operand in operands[1:]]
        if any(value is None for value in values):
            return None
        return _integer(op, [value for value in values if value is not None])

    def shuffle(self, operands: tuple[str, ...]) -> Value:
        value, lane = self.value(operands[1]), self.value(operands[2])
        if value is None or lane is None or len(lane) != 1:
            return None
        threads = np.arange(self.threads)
        return np.broadcast_to(value, self.threads)[threads // 32 * 32 + int(lane[0]) % 32]

    def access(self, statement: Statement, at: int, guard: np.ndarray | None) -> bool:
        """Check an access to shared memory; whether ``statement`` is one and has no integer result."""
        op, operands = statement.op, statement.operands
        if op[0] == "wgmma" and op[1] == "mma_async":
            self.product(statement, at)
        elif op[0] in ("ld", "st") and op[1] == "shared":
            size = _BYTES.get(op[-1], 4) * next((int(part[1:]) for part in op if part in ("v2", "v4", "v8")), 1)
            self.touch(operands[op[0] == "ld"], size, min(size, 16), guard, at)
        elif op[0] in ("ldmatrix", "stmatrix"):
            lanes = next((8 * int(part[1:]) for part in op if part in ("x1", "x2", "x4")), 32)
            rows = np.arange(self.threads) % 32 < lanes
            where = operands[op[0] == "ldmatrix"]
            self.touch(where, 16, 16, (self.active if guard is None else guard) & rows, at)
        elif op[:2] == ("cp", "async") and "shared" in op and "bulk" not in op:
            size = int(operands[2], 0)
            self.touch(operands[0], size, size, guard, at)
        elif op[0] == "mbarrier" and operands and "[" in operands[-1 if op[1] == "arrive" else 0]:
            self.touch(operands[-1 if op[1] == "arrive" else 0], 8, 8, guard, at)
        else:
            return op[0] in ("bar", "barrier", "fence", "st", "wgmma", "cp", "membar", "griddepcontrol", "red")
        return op[0] not in ("ld", "ldmatrix")

    def touch(self, where: str, size: int, align: int, guard: np.ndarray | None, at: int) -> None:
        place = address(where)
        base = self.value(place[0]) if place else None
        self.result.accesses += 1
        if place is None or base is None:
            self.result.unknown += 1
            return
        threads = self.active if guard is None else guard
        at_byte = np.broadcast_to(base + place[1], self.threads)[threads]
        if guard is None and len(at_byte) and self.outside(at_byte, size, align):
            self.result.unknown += 1  # perhaps by threads that skip it
        elif len(at_byte) and self.outside(at_byte, size, align):
            self.report(at, int(at_byte.min()), int(at_byte.max()) + size)

    def outside(self, at_byte: np.ndarray, size: int, align: int) -> bool:
        return bool(at_byte.min() < 0 or at_byte.max() + size > self.shared or (at_byte % align).any())

    def report(self, at: int, low: int, high: int) -> None:
        if at not in self.reported:
            self.reported.add(at)
            text = self.code.statements[at].text
            text = text if len(text) < 100 else text[:48] + " ... " + text[-48:]
            self.result.faults.append(f"bytes {low} to {high} of {self.shared} shared, or misaligned: {text}")

    def product(self, statement: Statement, at: int) -> None:
        """The matrices of a warp-group product in shared memory: [64, 32 bytes] and [32 bytes, N]."""
        shape = next(part for part in statement.op if part.startswith("m64n"))
        columns = int(shape[4:].partition("k")[0])
        size = 4 if "tf32" in statement.op else 2
        left, right, *rest = statement.operands[1:]
        turns = [operand == "1" for operand in rest[3:]]
        matrices = [(right, columns, bool(turns and turns[-1]))]
        if not left.startswith("{"):
            matrices.append((left, 64, len(turns) > 1 and turns[0]))
        for descriptor, rows, turned in matrices:
            self.result.accesses += 1
            value = self.value(descriptor)
            if value is None:
                self.result.unknown += 1
                continue
            for number in np.unique(value):
                at_byte = matrix_bytes(int(number), rows, size, turned)
                if self.outside(at_byte, 16, 16):
                    self.report(at, int(at_byte.min()), int(at_byte.max()) + 16)


def matrix_bytes(descriptor: int, rows: int, size: int, turned: bool) -> np.ndarray:
    """Addresses of the 16-byte pieces of a matrix of ``rows`` times 32 bytes, of elements of ``size`` bytes.

    The descriptor holds start, leading and stride byte offset, and the swizzle (PTX ISA, "Matrix descriptor"). Turned,
    the long side of the matrix is contiguous.
    """
    start, lead, stride = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = WIDTHS[(descriptor >> 62) & 3]
    if turned:
        line, piece = np.arange(32 // size)[:, None], 16 * np.arange(max(rows * size // 16, 1))[None, :]
        offset = line // 8 * stride + line % 8 * width + piece // width * lead + piece % width
    else:
        line, piece = np.arange(rows)[:, None], np.arange(2)[None, :]
        offset = line // 8 * stride + line % 8 * width + piece * (lead if width == 16 else 16)
    at_byte = (start + offset).ravel()
    return at_byte ^ (((at_byte >> 7) & (width // 16 - 1)) << 4)


def _integer(op: tuple[str, ...], v: list[np.ndarray]) -> Value:
    name, kind = op[0], op[-1]
    unsigned = kind.startswith(("u", "b"))
    if name == "mov" or name == "cvta":
        return v[0]
    if name in ("mul", "mad"):
        wide = "wide" in op
        a, b = (_unsigned(x, kind) for x in v[:2]) if wide and unsigned else v[:2]
        if "hi" in op:
            return None
        product = a * b + (v[2] if name == "mad" else 0)
        return product if wide else _wrapped(product, kind)
    if name in _BINARY:
        if name in ("min", "max") and unsigned:
            v = [_unsigned(x, kind) for x in v]
        return _wrapped(_BINARY[name](*v), kind)
    if name == "not":
        return 1 - v[0] if kind == "pred" else _wrapped(~v[0], kind)
    if name == "neg":
        return _wrapped(-v[0], kind)
    if name in ("shl", "shr"):
        return _shifted(name, kind, v[0], v[1] & 0xFFFFFFFF)
    if name == "bfe":
        field_ = (_unsigned(v[0], kind) >> v[1]) & ((1 << v[2]) - 1)
        signed = kind.startswith("s")
        return _wrapped(np.where((field_ >> (v[2] - 1)) & 1, field_ - (1 << v[2]), field_) if signed else field_, kind)
    if name == "selp":
        return np.where(v[2] != 0, v[0], v[1])
    if name == "cvt":
        return _wrapped(_unsigned(v[0], kind) if unsigned else _wrapped(v[0], kind), op[-2] if len(op) > 2 else kind)
    if name in ("div", "rem"):
        a, b = (_unsigned(x, kind) if unsigned else x for x in v)
        quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b)) * np.sign(a) * np.sign(b)
        return _wrapped(quotient if name == "div" else a - quotient * b, kind)
    return None


def _shifted(name: str, kind: str, value: np.ndarray, count: np.ndarray) -> np.ndarray:
    bits = 8 * _BYTES.get(kind, 4)
    if name == "shl":
        return _wrapped(np.where(count < bits, value << np.minimum(count, 63), 0), kind)
    if kind.startswith("s"):
        return _wrapped(value >> np.minimum(count, bits - 1), kind)
    shifted = (value.view(np.uint64) if bits == 64 else _unsigned(value, kind).view(np.uint64)) >> count.view(np.uint64)
    return _wrapped(np.where(count < bits, shifted.view(np.int64), 0), kind)


def _one(number: int) -> np.ndarray:
    return np.array([number], np.int64)


def _unsigned(value: np.ndarray, kind: str) -> np.ndarray:
    """As an unsigned number of this type; 64 bits are left as they are."""
    bits = 8 * _BYTES.get(kind, 4)
    return value & (2**bits - 1) if bits < 64 else value


def _wrapped(value: np.ndarray, kind: str) -> np.ndarray:
    """Modulo the type's size, in the signed range; a predicate's lowest bit."""
    if kind == "pred":
        return value & 1
    bits = 8 * _BYTES.get(kind, 4)
    return ((value + 2 ** (bits - 1)) & (2**bits - 1)) - 2 ** (bits - 1) if bits < 64 else value
