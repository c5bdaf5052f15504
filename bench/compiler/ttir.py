"""Requirements on machine code from a kernel's Triton IR: tensor cores for products, asynchronous copies in loops.
Read from the text of the ``ttir`` stage, where functions are inlined and loops still exist.
"""

import math
import re
from dataclasses import dataclass, field

_DOT = re.compile(
    r"tt\.dot .*?(?:inputPrecision = (\w+))?(?: \{.*\})? : tensor<([\dx]+)x(\w+)> \* tensor<.*> -> tensor<([\dx]+)x\w+>"
)
_VALUE = re.compile(r"%[\w$.-]+")
_STAGES = re.compile(r"tt\.num_stages = (\d+)")
_LOAD = re.compile(r"tt\.(?:descriptor_)?load\b.*?(?:ptr<[a-z]+(\d+)|$)")
_FOR = re.compile(r"scf\.for (%[\w$.-]+) = (\S+) to \S+ step (\S+)")
_CARRIED = re.compile(r"(%[\w$.-]+) = (%[\w$.-]+)")
_ARGUMENT = re.compile(r"(%[\w$.-]+): [^ ]+(?: \{[^}]*tt\.divisibility = (\d+))?")
_DECLARED = re.compile(r"tt\.divisibility = (?:dense<)?\[?(\d+)")
_CONSTANT = re.compile(r"arith\.constant (?:dense<)?(-?\d+)[ >]")


@dataclass(frozen=True)
class Expectations:
    """Requirements on the machine code."""

    tensor_cores: str | None = None  # "HMMA", "HGMMA", "UTCMMA"; None: no product for them
    asynchronous: bool = False  # a pipelined loop loads the operands of its products


@dataclass(frozen=True)
class Dot:
    """A ``tt.dot``: [rows, depth] @ [depth, cols], of ``batch`` or none."""

    batched: bool
    rows: int
    cols: int
    depth: int
    dtype: str
    precision: str


@dataclass(frozen=True)
class _Alignment:
    """Known divisibility and contiguity of an integer, a pointer, or a tensor of them, in elements."""

    multiple: int = 1  # a power of two up to 16 that divides it, or the start of a run of successive values
    counts: bool = False  # whether it is such a run, in some dimension


@dataclass
class _Loop:
    loads: set[str] = field(default_factory=set)  # values that an asynchronous copy could load
    operands: set[str] = field(default_factory=set)  # of its products


@dataclass
class _Region:
    """A pair of braces; ``loop`` is the innermost ``scf.for`` around or at it."""

    results: list[str]
    is_loop: bool
    loop: _Loop | None


def parse_dots(ttir: str) -> list[Dot]:
    """Every ``tt.dot`` of the IR."""
    dots = []
    for line in ttir.splitlines():
        if "tt.dot " not in line:
            continue
        match = _DOT.search(line)
        if match is None:
            raise ValueError(f"cannot read this tt.dot: {line.strip()}")
        precision, a, dtype, out = match.groups()
        *_, depth = map(int, a.split("x"))
        *batch, rows, cols = map(int, out.split("x"))
        dots.append(Dot(bool(batch), rows, cols, depth, dtype, precision or "ieee"))
    return dots


def tensor_cores(dot: Dot, target: int, num_warps: int) -> str | None:
    """The tensor-core instruction that Triton can use for ``dot``; None: plain arithmetic, as in full float32."""
    bits = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16}.get(dot.dtype, 8)
    if bits == 64 or (bits == 32 and dot.precision == "ieee"):
        return None
    wide = not dot.batched and dot.rows % 64 == 0 and dot.depth * bits >= 256  # the size that one instruction covers
    if target // 10 == 9 and wide and dot.cols % 8 == 0 and num_warps % 4 == 0:
        return "HGMMA"
    if target // 10 == 10 and wide and dot.cols % 16 == 0 and num_warps in (4, 8):
        return "UTCMMA"
    return "HMMA"


def streams_operands(ttir: str, num_stages: int) -> bool:
    """Whether a loop with more than one stage multiplies data that it loads, and could load asynchronously."""
    sources: dict[str, set[str]] = {}  # value -> values it is computed from
    alignment: dict[str, _Alignment] = {}
    regions = [_Region([], False, None)]
    for line in map(str.strip, ttir.splitlines()):
        if line.startswith("}"):
            closed = regions.pop()
            if closed.is_loop and closed.loop and _reaches(closed.loop.operands, closed.loop.loads, sources):
                stages = _STAGES.search(line)
                if int(stages[1] if stages else num_stages) > 1:
                    return True
        left, _, right = line.partition(" = ")
        results = _VALUE.findall(left) if left.startswith("%") else []
        operands = _VALUE.findall(right)
        loop = regions[-1].loop
        if line.startswith("tt.func"):
            alignment.update((value, _Alignment(int(multiple or 1))) for value, multiple in _ARGUMENT.findall(line))
        elif counter := _FOR.search(line):
            start, step = (alignment.get(value, _Alignment()) for value in counter.groups()[1:])
            alignment[counter[1]] = _Alignment(min(start.multiple, step.multiple))
            for carried, initial in _CARRIED.findall(line.partition("iter_args(")[2]):
                alignment[carried] = alignment.get(initial, _Alignment())
            loop = _Loop()
        elif line.startswith("scf.yield") and not regions[-1].is_loop:  # a branch yields values
            for result in regions[-1].results:
                sources.setdefault(result, set()).update(_VALUE.findall(line))
        else:
            sources.update((result, set(operands)) for result in results)
            alignment.update((result, _alignment(right, operands, alignment)) for result in results)
        if loop is not None and right.startswith("tt.dot "):
            loop.operands.update(operands[:2])
        if loop is not None and (load := _LOAD.match(right)):
            # a thread copies at least 4 bytes, so small types need contiguous elements and aligned rows
            bits = int(load[1] or 32)
            if bits * alignment.get(operands[0], _Alignment()).multiple >= 32:
                loop.loads.update(results)
        if line.endswith("{"):
            regions.append(_Region(results, "scf.for " in line, loop))
    return False


def _alignment(op: str, operands: list[str], known: dict[str, _Alignment]) -> _Alignment:
    """Facts about the result of ``op``: a part of Triton's own analysis, enough for addresses of rows and columns."""
    terms = [known.get(operand, _Alignment()) for operand in operands]
    if declared := _DECLARED.search(op):
        return _Alignment(math.gcd(16, int(declared[1])), any(term.counts for term in terms))
    if constant := _CONSTANT.match(op):
        return _Alignment(math.gcd(16, int(constant[1])))
    if op.startswith("tt.make_range"):
        return _Alignment(16, counts=True)
    if op.startswith(("arith.addi", "arith.subi", "tt.addptr")):
        return _Alignment(min(term.multiple for term in terms), any(term.counts for term in terms))
    if op.startswith("arith.muli"):
        return _Alignment(math.gcd(16, math.prod(1 if term.counts else term.multiple for term in terms)))
    if op.startswith(("arith.ext", "arith.trunci", "tt.splat", "tt.broadcast", "tt.expand_dims")):
        return terms[0]
    return _Alignment()


def _reaches(start: set[str], goal: set[str], sources: dict[str, set[str]]) -> bool:
    todo, seen = set(start), set()
    while todo:
        value = todo.pop()
        if value in goal:
            return True
        seen.add(value)
        todo |= sources.get(value, set()) - seen
    return False


def expectations(ttir: str, target: int, num_warps: int, num_stages: int) -> Expectations:
    """Requirements on the machine code of this IR."""
    kinds = {tensor_cores(dot, target, num_warps) for dot in parse_dots(ttir)}
    best = next((kind for kind in ("UTCMMA", "HGMMA", "HMMA") if kind in kinds), None)
    return Expectations(best, best is not None and streams_operands(ttir, num_stages))
