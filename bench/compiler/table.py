"""The compile table of docs/resources.md: every kernel on every target, what it takes, what fails.

``python -m bench.compiler.table --help``.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.compiler import inspect

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx1100", "gfx1201")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "resources.md"
BEGIN, END = "<!-- bench.compiler.table -->", "<!-- end of bench.compiler.table -->"
HEADER = ("target", "kernels", "compiled", "spill", "too much shared", "registers", "shared, KiB", "addresses", "gates")
ABOUT = """\
Compile each shipped kernel, in its first configuration and its largest, for every target, and write the table of
docs/resources.md. Rows of targets that are not asked for stay as they are. No GPU is needed. AMD's targets (gfx...) are
compiled and never run. Exit status: 0, or 1 if a kernel does not compile for one of the targets.

columns:
  kernels, compiled   how many there are, with different tiles each counted; how many of them compile
  spill               kernels that keep registers or arrays in memory
  too much shared     kernels that need more shared memory than a block may have
  registers, shared   the most of any kernel
  addresses           accesses to shared memory whose addresses were checked; AMD: none
  gates               kernels that a gate refuses; AMD: none looks

examples:
  python -m bench.compiler.table                                  all nine targets; minutes for each
  python -m bench.compiler.table --target sm_90 --target gfx942   these two rows
  python -m bench.compiler.table --target gfx942 --only encode --print   some kernels, printed instead of written
"""


@dataclass(frozen=True)
class Row:
    """A target's line, and why it is not better: a line for each problem."""

    cells: tuple[str, ...]
    problems: tuple[str, ...]
    failed: int  # kernels that do not compile


def cuda_row(target: str, only: re.Pattern[str], processes: int) -> Row:
    from bench.compiler import aot

    number = int(target.removeprefix("sm_"))
    jobs = inspect.core_jobs((number,), only)
    inspect.compile_jobs(jobs, processes)
    built = [job for job in jobs if job.report]
    reports = [job.report for job in built]
    cells = (
        target, str(len(jobs)), str(len(built)),
        str(sum(bool(r.stack or r.local_loads or r.local_stores) for r in reports)),
        str(sum(r.shared > aot.SHARED_LIMIT[number] for r in reports)),
        str(max((r.registers for r in reports), default=0)),
        f"{max((r.shared for r in reports), default=0) / 1024:.0f} of {aot.SHARED_LIMIT[number] // 1024}",
        str(sum(job.findings.shared_accesses - job.findings.unknown_accesses for job in built)),
        str(sum(bool(job.findings.faults) for job in built)),
    )  # fmt: skip
    problems = [f"{job.where}: {problem}" for job in jobs for problem in job.problems]
    return Row(cells, tuple(problems), len(jobs) - len(built))


def amd_row(target: str, only: re.Pattern[str], processes: int) -> Row:
    from bench.compiler import amd

    jobs = inspect.core_jobs((amd.TILES,), only)
    reports: list[Any] = []
    problems = []
    begin = time.monotonic()
    results = inspect.run_forked([partial(amd.build, job.launch, target) for job in jobs], processes)
    for done, (i, result) in enumerate(results, start=1):
        where = jobs[i].where.replace(f"sm_{amd.TILES}", target)
        if isinstance(result, str):
            problems.append(f"{where}: {result}")
        else:
            reports.append(result)
            problems += [f"{where}: {problem}" for problem in result.problems]
        inspect.show_progress(sys.stderr, done, len(jobs), time.monotonic() - begin, where)
    cells = (
        target, str(len(jobs)), str(len(reports)),
        str(sum(bool(r.spills or r.private) for r in reports)), str(sum(r.shared > amd.SHARED_LIMIT for r in reports)),
        str(max((r.registers for r in reports), default=0)),
        f"{max((r.shared for r in reports), default=0) / 1024:.0f} of {amd.SHARED_LIMIT // 1024}", "-", "-",
    )  # fmt: skip
    return Row(cells, tuple(problems), len(jobs) - len(reports))


def updated(page: str, rows: Iterable[tuple[str, ...]]) -> str:
    """``page`` with these rows between its marks; those of other targets stay."""
    before, _, rest = page.partition(BEGIN)
    old, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"wanted the marks {BEGIN} and {END} in the page, got a page without")
    cells = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    cells |= {row[0]: _line(row) for row in rows}
    lines = [_line(HEADER), _line(["---", *["---:"] * (len(HEADER) - 1)])]
    lines += [cells[target] for target in TARGETS if target in cells]
    return "\n".join([before + BEGIN, *lines, END + after])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compiler.table", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, action="append", metavar="T", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--only", default="", type=inspect.pattern, metavar="PATTERN", help="needs --print")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")
    parser.add_argument("--print", action="store_true", help="print the rows, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.only and not options.print:
        parser.error("--only leaves kernels out, so its rows are not written: add --print")
    failed = 0
    for target in options.target or TARGETS:
        make = amd_row if target.startswith("gfx") else cuda_row
        row = make(target, re.compile(options.only), options.jobs)
        print(*row.problems, _line(row.cells), sep="\n", flush=True)
        failed += row.failed
        if not options.print:
            PAGE.write_text(updated(PAGE.read_text(), [row.cells]))
    return 1 if failed else 0


def _run() -> int:
    if os.environ.pop("TRITON_INTERPRET", None):  # it would replace kernels by Python functions
        os.execv(sys.executable, [sys.executable, "-m", "bench.compiler.table", *sys.argv[1:]])
    return main()


if __name__ == "__main__":
    sys.exit(_run())
