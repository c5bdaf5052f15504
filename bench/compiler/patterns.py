"""Patterns of a kernel's Triton IR that a compiler is known to get wrong; ``stylenerf.kernels.base.faults`` lists them.

Read from the text of the ``ttir`` stage, where functions are inlined and loops still exist.
"""

import re
from dataclasses import dataclass

from bench.compiler.ttir import parse_dots, tensor_cores

_VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
_RESULT = re.compile(r"(%[\w$.-]+)(?::(\d+))? = ")
_SHAPE = re.compile(r"tensor<((?:\d+x)+)")
_CARRIED = re.compile(r"(%[\w$.-]+) = (%[\w$.-]+(?:#\d+)?)")
_STAGES = re.compile(r"tt\.num_stages = (\d+)")
_ELEMENTWISE = ("arith.", "math.", "tt.fp_to_fp", "tt.extern_elementwise", "tt.clampf", "tt.bitcast")


@dataclass
class _Op:
    name: str
    operands: list[str]
    line: str
    loop: "_Loop | None"  # the innermost around it


@dataclass
class _Loop:
    results: list[str]
    carried: list[tuple[str, str]]  # (name inside, initial value)
    outer: "_Loop | None"
    stages: int | None = None  # of its own; None: the launch's
    yielded: tuple[str, ...] = ()


class _Program:
    """Values of one kernel: ``ops`` defines them, ``passed`` leads from a loop's or a branch's value to its sources."""

    def __init__(self, ttir: str) -> None:
        self.ops: dict[str, _Op] = {}
        self.passed: dict[str, list[str]] = {}
        self.loops: list[_Loop] = []
        # results, the loop if it is one, the innermost loop
        regions: list[tuple[list[str], _Loop | None, _Loop | None]] = [([], None, None)]
        for line in map(str.strip, ttir.splitlines()):
            if line.startswith("}"):
                _, loop, _ = regions.pop()
                if loop is not None and (stages := _STAGES.search(line)):
                    loop.stages = int(stages[1])
            innermost = regions[-1][2]
            head = _RESULT.match(line)
            right = line[head.end() :] if head else line
            results = _names(head[1], int(head[2] or 0)) if head else []
            name = right.split(maxsplit=1)[0] if right else ""
            loop = None
            if name == "scf.for":
                carried = _CARRIED.findall(right.partition("iter_args(")[2].partition(")")[0])
                loop = innermost = _Loop(results, carried, innermost)
                self.loops.append(loop)
            elif name == "scf.yield":
                self._yield(tuple(_VALUE.findall(right)), *regions[-1][:2])
            elif head:
                op = _Op(name, _VALUE.findall(right), line, innermost)
                self.ops.update((result, op) for result in results)
            if line.endswith("{") and name != "}":
                regions.append((results, loop, innermost))

    def _yield(self, values: tuple[str, ...], results: list[str], loop: _Loop | None) -> None:
        for result, value in zip(results, values):
            self.passed.setdefault(result, []).append(value)
        if loop is not None:
            loop.yielded = values
            for (inside, initial), value in zip(loop.carried, values):
                self.passed.setdefault(inside, []).extend((initial, value))

    def derived(self, value: str) -> set[str]:
        """``value`` and all from which it is computed element by element."""
        todo, seen = [value], set[str]()
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            op = self.ops.get(value)
            if value in self.passed:
                todo += self.passed[value]
            elif op is not None and op.name.startswith(_ELEMENTWISE):
                todo += op.operands
        return seen


def _names(name: str, count: int) -> list[str]:
    return [f"{name}#{i}" for i in range(count)] if count else [name]


def turned_products(ttir: str, target: int, num_warps: int) -> list[str]:
    """Warp-group products on sm_90 whose left operand is another product's result, transposed: their lines."""
    program = _Program(ttir)
    return [
        op.line
        for op in program.ops.values()
        if op.name == "tt.dot" and _unit(op, target, num_warps) == "HGMMA" and _is_turned(program, op.operands[0])
    ]


def _is_turned(program: _Program, value: str) -> bool:
    """Whether ``value`` is derived from the transpose of what is derived from a product."""
    turned = (program.ops[v] for v in program.derived(value) if v in program.ops and program.ops[v].name == "tt.trans")
    return any(
        program.ops[v].name == "tt.dot"
        for op in turned
        for v in program.derived(op.operands[0])
        if v in program.ops and _shape(program.ops[v].line) == _shape(op.line)[::-1]
    )


def chained_accumulations(ttir: str, target: int, num_warps: int, num_stages: int) -> list[str]:
    """Products on sm_100, in a loop of several stages, that add to a sum to which another adds in that round."""
    program = _Program(ttir)
    lines = []
    for loop in program.loops:
        if (num_stages if loop.stages is None else loop.stages) < 2:
            continue
        for (inside, _), value in zip(loop.carried, loop.yielded):
            chain = _accumulation(program, value, inside, loop)
            if len(chain) > 1 and all(_unit(op, target, num_warps) == "UTCMMA" for op in chain):
                lines += [op.line for op in chain]
    return lines


def _accumulation(program: _Program, value: str, inside: str, loop: _Loop) -> list[_Op]:
    """The products of a round from the carried value ``inside`` to ``value``, each adding to the one before."""
    chain: list[_Op] = []
    while value != inside:
        op = program.ops.get(value)
        if op is None or op.name != "tt.dot" or op.loop is not loop:
            return []
        chain.append(op)
        value = op.operands[2]
    return chain


def _unit(op: _Op, target: int, num_warps: int) -> str | None:
    (dot,) = parse_dots(op.line)
    return tensor_cores(dot, target, num_warps)


def _shape(line: str) -> tuple[int, ...]:
    """Of the result: the last tensor type of the line."""
    shapes = _SHAPE.findall(line)
    return tuple(map(int, shapes[-1].rstrip("x").split("x"))) if shapes else ()


def _main() -> None:
    """Print the patterns in the IR of the shipped kernels as JSON: of each, the first configuration and the largest."""
    import argparse
    import json

    from bench.compiler import aot, inspect

    parser = argparse.ArgumentParser(prog="python -m bench.compiler.patterns", description=_main.__doc__)
    parser.add_argument("--target", type=int, choices=sorted(aot.SHARED_LIMIT), default=90, metavar="SM")
    parser.add_argument("--only", type=re.compile, default="", metavar="PATTERN", help="in module/configuration/kernel")
    options = parser.parse_args()
    jobs = inspect.core_jobs((options.target,), re.compile(options.only))
    found = {}
    for job in jobs:
        ir, launch = aot.lower(job.launch, job.target), job.launch
        lines = turned_products(ir, job.target, launch.num_warps)
        lines += chained_accumulations(ir, job.target, launch.num_warps, launch.num_stages)
        if lines:
            found[job.where] = lines
    print(json.dumps({"kernels": len(jobs), "found": found}))


if __name__ == "__main__":
    _main()
