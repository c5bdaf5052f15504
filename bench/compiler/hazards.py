"""Registers that machine code of sm_90 writes while an asynchronous warp-group product may still use them.

HGMMA returns at once: until a WARPGROUP.DEPBAR has waited for its group, the registers of its left operand must not be
written, nor those of its accumulator. Assemblers before CUDA 13.3 are known to reuse the former too early.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?);", re.MULTILINE)
_LABEL = re.compile(r"^(\.L_\w+):", re.MULTILINE)
_BRANCH_TARGET = re.compile(r"`\((\.L_\w+)\)")
_RESULT = re.compile(r"(?:!?U?P\w+,\s*)?R(\d+)\b")
_PRODUCT = re.compile(r"HGMMA\.(?:SP\.)?64x(\d+)x\d+\.(F32|F16|S32)?")
_READS_ONLY = re.compile(r"(BRX|JMX|RET|CALL|WARPSYNC|NANOSLEEP|BMOV|R2B|HGMMA)")


@dataclass(frozen=True)
class _Instruction:
    op: str
    operands: str
    guarded: bool
    text: str


_Pending = tuple[frozenset[int], ...]  # registers in use by the groups, the open one first, then the latest


def overwritten(listing: str) -> list[str]:
    """Instructions of nvdisasm's ``listing`` that write such a register, a line each."""
    instructions, targets = _read(listing)
    states: list[set[_Pending]] = [set() for _ in instructions]
    faults: dict[int, str] = {}
    todo: list[tuple[int, _Pending]] = [(0, (frozenset(),))] if instructions else []
    while todo:
        at, pending = todo.pop()
        if at >= len(instructions) or pending in states[at]:
            continue
        states[at].add(pending)
        instruction = instructions[at]
        if shared := _results(instruction) & frozenset().union(*pending):
            registers = ", ".join(f"R{r}" for r in sorted(shared))
            faults[at] = f"writes {registers}, which a product may still use: {instruction.text}"
        pending = _after(instruction, pending)
        todo += [(following, pending) for following in _successors(instruction, at, targets)]
    return [faults[at] for at in sorted(faults)]


def _read(listing: str) -> tuple[list[_Instruction], dict[str, int]]:
    instructions: list[_Instruction] = []
    targets: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            targets[label[1]] = len(instructions)
        elif match := _LINE.match(line):
            text = " ".join(line.split("*/", 1)[1].split()).rstrip(" ;")
            instructions.append(_Instruction(match[2], match[3], bool(match[1]), text))
    return instructions, targets


def _successors(instruction: _Instruction, at: int, targets: dict[str, int]) -> list[int]:
    following = [at + 1]
    if instruction.op.startswith("BRA") and (target := _BRANCH_TARGET.search(instruction.operands)):
        following = [targets[target[1]], *(following if instruction.guarded or ", " in instruction.operands else [])]
    elif instruction.op.startswith("EXIT") and not instruction.guarded:
        following = []
    return following


def _after(instruction: _Instruction, pending: _Pending) -> _Pending:
    """The groups in flight after ``instruction``."""
    if instruction.op.startswith("HGMMA"):
        opened = pending[0] | _used(instruction)
        return (frozenset(), opened, *pending[1:8]) if "gsb0" in instruction.operands else (opened, *pending[1:])
    if instruction.op.startswith("WARPGROUP.DEPBAR") and (
        count := re.search(r"gsb0, 0x([0-9a-f]+)", instruction.operands)
    ):
        return pending[: 1 + int(count[1], 16)]
    return pending


def _used(product: _Instruction) -> frozenset[int]:
    """Registers of the accumulator, and of the left operand if it has any."""
    size = _PRODUCT.match(product.op)
    operands = [operand.strip() for operand in product.operands.split(",")]
    width = int(size[1]) // (4 if size[2] == "F16" else 2) if size else 0
    registers = _span(operands[0], width)
    return registers | (_span(operands[1], 4) if len(operands) > 1 else frozenset())


def _span(operand: str, width: int) -> frozenset[int]:
    match = re.match(r"R(\d+)\b", operand)
    return frozenset(range(int(match[1]), int(match[1]) + width)) if match else frozenset()


def _results(instruction: _Instruction) -> frozenset[int]:
    """Registers that an ordinary instruction writes: its first operand; how many, says its name."""
    match = None if _READS_ONLY.match(instruction.op) else _RESULT.match(instruction.operands)
    if not match:
        return frozenset()
    first, op = int(match[1]), instruction.op
    width = 1
    if ".128" in op or (op.startswith("LDSM") and op.endswith(".4")) or (op.startswith("HMMA") and "F32" in op):
        width = 4
    elif re.search(r"\.64\b|\.WIDE|\.X4", op) or re.match(r"LDSM.*\.2$|HMMA|DADD|DMUL|DFMA", op):
        width = 2
    return frozenset(range(first, first + width))
