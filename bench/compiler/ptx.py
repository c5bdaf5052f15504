"""PTX of one kernel as statements, and the order of accesses to a program's scratch slot."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GUARDED = re.compile(r"@(!?)(%?[\w$]+)\s+(.*)", re.DOTALL)
_LABEL = re.compile(r"(\$?[A-Za-z_][\w$]*):$")
_COMMA = re.compile(r",(?![^{\[]*[}\]])")
_ADDRESS = re.compile(r"\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\d+)\s*)?\]")
_REGISTER = re.compile(r"%\w+")


@dataclass(frozen=True)
class Statement:
    """``@guard op operands;``"""

    op: tuple[str, ...]  # split at the points
    operands: tuple[str, ...]
    guard: str | None  # register of the predicate
    negated: bool
    text: str


@dataclass(frozen=True)
class Code:
    statements: list[Statement]
    labels: dict[str, int]  # index of the statement that follows

    def successors(self, at: int) -> list[int]:
        """Statements that may run after ``at``; none at the end."""
        statement = self.statements[at]
        after = [at + 1] if at + 1 < len(self.statements) else []
        if statement.op[0] == "bra":
            target = [self.labels[statement.operands[0]]]
            return target + after if statement.guard else target
        return [] if statement.op[0] in ("ret", "exit") and not statement.guard else after


def parse(ptx: str) -> Code:
    """The body of the first entry; blocks of inline assembly are part of it."""
    body = ptx[ptx.index("{", ptx.index(".visible .entry")) + 1 :]
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    pending = ""
    for line in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).splitlines():
        text = line.partition("//")[0].strip()
        if not text or text in "{}" or (text.startswith(".") and not pending):
            continue
        if not pending and (label := _LABEL.match(text)):
            labels[label[1]] = len(statements)
            continue
        *complete, pending = (pending + " " + text).split(";")
        statements += [_statement(part.strip()) for part in complete if part.strip(" {}") and ".reg" not in part]
        pending = pending.strip(" }")
    return Code(statements, labels)


def _statement(text: str) -> Statement:
    guard, negated, rest = None, False, text.removeprefix("{ ")
    if match := _GUARDED.match(rest):
        negated, guard, rest = match[1] == "!", match[2], match[3]
    op, _, operands = rest.partition(" ") if " " in rest else rest.partition("\t")
    parts = tuple(part.strip() for part in _COMMA.split(operands.replace("\t", " ")))
    return Statement(tuple(op.strip().split(".")), parts if parts != ("",) else (), guard, negated, text)


def address(operand: str) -> tuple[str, int] | None:
    """(register or symbol, offset) of ``[%r1 + 16]``."""
    match = _ADDRESS.search(operand)
    return (match[1], int(match[2] or 0)) if match else None


def slot_faults(code: Code, parameters: Sequence[int]) -> list[str]:
    """Faults in the use of memory that the threads of a program exchange data through.

    ``parameters``: indices of its pointers among the kernel's. Wanted: a barrier of the block between a store and a
    later load, and between a load and a later store, on every path; no load through the read-only cache.
    """
    pointers = _derived(code, parameters)
    faults: dict[int, str] = {}
    before: list[set[str]] = [set() for _ in code.statements]  # kinds of access since the last barrier, on some path
    todo = [0] if code.statements else []
    seen: set[int] = set()
    while todo:
        at = todo.pop()
        statement, state = code.statements[at], set(before[at])
        kind = _slot_access(statement, pointers)
        if kind == "load" and "nc" in statement.op:
            faults[at] = f"loads a slot through the read-only cache: {statement.text}"
        elif kind == "load" and "store" in state:
            faults[at] = f"loads a slot with no barrier since it was stored to: {statement.text}"
        elif kind == "store" and "load" in state:
            faults[at] = f"stores to a slot with no barrier since it was loaded: {statement.text}"
        if kind:
            state.add(kind)
        if statement.op[0] in ("bar", "barrier"):
            state.clear()
        for after in code.successors(at):
            if after not in seen or not state <= before[after]:
                seen.add(after)
                before[after] |= state
                todo.append(after)
    return [faults[at] for at in sorted(faults)]


def _derived(code: Code, parameters: Sequence[int]) -> set[str]:
    """64-bit registers computed from these parameters."""
    suffixes = tuple(f"_param_{i}]" for i in parameters)
    derived: set[str] = set()
    size = -1
    while size != len(derived):
        size = len(derived)
        for statement in code.statements:
            if not statement.operands or not statement.operands[0].startswith("%rd"):
                continue
            sources = statement.operands[1:]
            if statement.op[:2] == ("ld", "param"):
                follows = sources[0].endswith(suffixes)
            else:
                follows = statement.op[0] != "ld" and any(source in derived for source in sources)
            if follows:
                derived.add(statement.operands[0])
    return derived


def _slot_access(statement: Statement, pointers: set[str]) -> str | None:
    if statement.op[:2] == ("st", "global"):
        place = statement.operands[0]
    elif statement.op[:2] == ("ld", "global") or statement.op[:2] == ("cp", "async"):
        place = statement.operands[1] if len(statement.operands) > 1 else ""
    else:
        return None
    if not any(register in pointers for register in _REGISTER.findall(place)):
        return None
    return "store" if statement.op[0] == "st" else "load"
