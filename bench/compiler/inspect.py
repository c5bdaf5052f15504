"""Resources of every shipped kernel on every GPU generation, determined without a GPU.

``python -m bench.compiler.inspect --help``. ``bench/compiler/shipped`` names the configurations;
their launches are recorded on meta tensors, compiled as the runtime would compile them, and held against a budget.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TextIO

Shipped = Mapping[str, Mapping[str, Callable[[], None]]]  # module -> configuration -> a function that launches

TARGETS = (80, 86, 89, 90)  # targets of the tiles; newer ones are optional
ABOUT = """\
Compile every shipped kernel configuration ahead of time, exactly as the runtime would, and report its resources.
No GPU is needed. Exit status: 0 if all keep the budget, 1 if any does not, 2 if the question makes no sense.
"""

EXAMPLES = """\
the budget, by kernel and target:
  stack = LDL = STL = 0          nothing spills, nothing is indexed at run time
  shared memory <= the target's  else the launch fails
  tensor cores where tl.dot can use them: HMMA; HGMMA on sm_90 and UTCMMA on sm_100 for 64 rows or more
  LDGSTS or UTMALDG where a loop with num_stages > 1 multiplies what it loads
  more than 40 registers in a kernel of more than 3000 instructions: with fewer, ptxas gave up

columns:
  configuration, tile        kernel module and name; the constants BLOCK_*, without that prefix
  warps, stages              warps of 32 threads in a block; rounds of a loop in flight
  registers                  of 32 bits per thread; an SM has 65536, so 128 with 4 warps leave room for 4 blocks
  stack, LDL/STL             bytes of local memory per thread; instructions that load from it and store to it
  shared, of limit           bytes per block, and their share of what a block may use on the target
  tensor cores, asynchronous matrix instructions, and copies from global to shared memory
  instructions, barriers     in the code, each counted once however often a loop runs it; BAR halts the whole block
  seconds                    to compile; "cached" if Triton had compiled it before

examples:
  python -m bench.compiler.inspect                                  sm_80, 86, 89 and 90, every configuration
  python -m bench.compiler.inspect --target 90 --only 'mlp/.*_weight'  some kernels on one target
  python -m bench.compiler.inspect --core --target 80 --target 90   what `make slow` runs: every kernel once or twice
  python -m bench.compiler.inspect --target 90 --json out.json      with compile-time constants and expectations

Compiled kernels stay in Triton's cache, so that the next run reads them from there; --fresh compiles again.
"""


@dataclass
class Job:
    """One kernel to compile: its first launch, and every configuration that launches it."""

    launch: Any
    target: int
    configurations: list[str]  # "module/name"
    report: Any = None
    expected: Any = None
    findings: Any = None
    problems: list[str] = field(default_factory=list)

    @property
    def kernel(self) -> str:
        return self.launch.kernel.__name__

    @property
    def where(self) -> str:
        more = f" (+{len(self.configurations) - 1})" if len(self.configurations) > 1 else ""
        return f"sm_{self.target} {self.configurations[0]}{more} {self.kernel}"


def main(argv: Sequence[str] | None = None, shipped: Shipped | None = None) -> int:
    """The command line; ``shipped`` replaces the project's own configurations."""
    if os.environ.get("TRITON_INTERPRET"):  # it replaces kernels by Python functions at decoration
        raise RuntimeError("bench.compiler.inspect compiles: run it without TRITON_INTERPRET")
    if not hasattr(os, "fork"):
        return _refuse("wanted a system that forks processes, such as Linux, got one that does not")
    try:
        from bench.compiler import aot
    except ImportError as error:
        return _refuse(f"Triton cannot be imported: {error}")
    options = _parser(sorted(aot.SHARED_LIMIT)).parse_args(argv)
    try:
        aot.tools()
    except FileNotFoundError as error:
        return _refuse(str(error))
    problems: list[str] = []
    if shipped is None:
        shipped = _find_shipped(problems)
    targets = options.target or TARGETS
    jobs = _collect(shipped, targets, re.compile(options.only), problems)
    if options.core:
        jobs = _core(jobs)
    if not jobs and not problems:
        return _refuse(f"no kernel of module/configuration/kernel matches {options.only!r}")
    if options.fresh:
        aot.knobs.compilation.always_compile = True
    compile_jobs(jobs, options.jobs)
    problems += [f"{job.where}: {problem}" for job in jobs for problem in job.problems]
    _write(jobs, problems, options, aot.versions())
    return 1 if problems else 0


def _parser(targets: list[int]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compiler.inspect",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(map(str, targets))
    parser.add_argument(
        "--target",
        type=int,
        choices=targets,
        action="append",
        metavar="SM",
        help=f"compute capability, of {known}; may be repeated (default: {', '.join(map(str, TARGETS))})",
    )
    parser.add_argument(
        "--only",
        default="",
        type=pattern,
        metavar="PATTERN",
        help="regular expression, searched in module/configuration/kernel",
    )
    # not every system reports which CPUs this process may use
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=cores,
        metavar="N",
        help=f"processes at a time (default: {cores}, one per CPU)",
    )
    parser.add_argument(
        "--core", action="store_true", help="of each kernel, only the first configuration and the largest"
    )
    parser.add_argument("--fresh", action="store_true", help="compile even what Triton's cache holds, and time it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found to FILE")
    return parser


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from None
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _refuse(reason: str) -> int:
    print(f"bench.compiler.inspect: {reason}", file=sys.stderr)
    return 2


def _find_shipped(problems: list[str]) -> Shipped:
    """Kernel module -> its shipped configurations."""
    from bench.compiler.shipped import SHIPPED

    configurations: dict[str, Mapping[str, Callable[[], None]]] = {}
    for name, of_module in SHIPPED.items():
        try:
            configurations[name] = of_module()
        except Exception as error:
            problems.append(f"{name}: {_one_line(error)}")
    return configurations


def _collect(shipped: Shipped, targets: Sequence[int], only: re.Pattern[str], problems: list[str]) -> list[Job]:
    """Record the configurations' launches on each target; the same kernel, compiled the same way, is one job."""
    from bench.compiler import aot
    from stylenerf.kernels.base.launch import record_launches

    jobs: dict[tuple[Any, ...], Job] = {}
    for target in targets:
        for label, run in ((f"{module}/{name}", f) for module, fs in shipped.items() for name, f in fs.items()):
            try:
                with record_launches(target) as launches:
                    run()
                if not launches:
                    raise RuntimeError("launches no kernel")
                for launch in launches:
                    kernel = launch.kernel
                    if not only.search(f"{label}/{kernel.__name__}"):
                        continue
                    key = target, kernel.__module__, kernel.__name__, aot.specialization(launch, target)["key"]
                    job = jobs.setdefault(key, Job(launch, target, []))
                    if label not in job.configurations:
                        job.configurations.append(label)
            except Exception as error:
                if only.search(label):
                    problems.append(f"sm_{target} {label}: {_one_line(error)}")
    return list(jobs.values())


def core_jobs(targets: Sequence[int], only: re.Pattern[str]) -> list[Job]:
    """The jobs of ``--core``: of each shipped kernel that matches, the first configuration and the largest."""
    problems: list[str] = []
    jobs = _core(_collect(_find_shipped(problems), targets, only, problems))
    if problems:
        raise RuntimeError("; ".join(problems))
    return jobs


def _core(jobs: Sequence[Job]) -> list[Job]:
    """Per kernel, target and launching module: the first job, and that of the largest compile-time sizes."""
    from bench.compiler import aot

    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        module = job.configurations[0].partition("/")[0]
        groups.setdefault((job.target, module, job.launch.kernel.__module__, job.kernel), []).append(job)

    def size(job: Job) -> int:
        values = aot.constexprs(job.launch).values()
        return math.prod(value for value in values if isinstance(value, int) and value > 0)

    kept = {id(job) for group in groups.values() for job in (group[0], max(group, key=size))}
    return [job for job in jobs if id(job) in kept]


def compile_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Fill in reports and problems, and print progress."""
    from bench.compiler import aot

    begin = time.monotonic()
    results = run_forked([partial(aot.build, job.launch, job.target) for job in jobs], processes)
    for done, (i, result) in enumerate(results, start=1):
        job = jobs[i]
        if isinstance(result, str):
            job.problems = [result]
        else:
            job.report, job.expected, job.findings = result
            job.problems = aot.violations(job.report, job.expected) + job.findings.faults
        show_progress(sys.stderr, done, len(jobs), time.monotonic() - begin, job.where)


def run_forked(tasks: Sequence[Callable[[], Any]], processes: int) -> Iterator[tuple[int, Any]]:
    """(index, result) of ``tasks`` as they end, each in its own process; the result of a failed task is an error line.
    Forked, since recorded launches hold kernels and tensors; one process each, since a failed assertion of the compiler
    ends its process.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Any, tuple[int, Any, Any]] = {}  # key: the receiving end of its pipe
    while waiting or running:
        while waiting and len(running) < processes:
            i, task = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the child has ended
            child = context.Process(target=_child, args=(task, sender, log), daemon=True)
            child.start()
            sender.close()
            running[receiver] = i, child, log
        ready: Any
        for ready in wait(list(running)):
            i, child, log = running.pop(ready)
            with closing(ready), log:
                try:
                    result = ready.recv()
                except EOFError:
                    result = None
                child.join()
                if result is None:
                    log.seek(0)
                    said = _last_line(log.read().decode(errors="replace"))
                    result = f"the compiler ended with exit status {child.exitcode}: {said}"
            yield i, result


def _child(task: Callable[[], Any], sender: Any, log: Any) -> None:
    os.dup2(log.fileno(), 1)  # a failing ptxas prints the whole program there
    os.dup2(log.fileno(), 2)
    try:
        result = task()
    except Exception as error:
        result = f"does not compile: {_one_line(error)}"
    sender.send(result)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_last_line(str(error))}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def show_progress(out: TextIO, done: int, total: int, seconds: float, where: str) -> None:
    line = f"[{done:{len(str(total))}}/{total}] {seconds:4.0f} s  {where}"
    if out.isatty():
        out.write(f"\r{line[:100]:100}" + ("\n" if done == total else ""))
    elif done % 20 == 0 or done == total:
        out.write(line + "\n")
    out.flush()


HEADER = (
    *("configuration", "kernel", "tile", "warps", "stages", "registers", "stack", "LDL/STL", "shared", "of limit"),
    *("tensor cores", "asynchronous", "instructions", "barriers", "seconds"),
)


def _row(job: Job, limit: int) -> tuple[str, ...]:
    r = job.report
    more = f" (+{len(job.configurations) - 1})" if len(job.configurations) > 1 else ""
    tile = " ".join(f"{name[6:]}{value}" for name, value in r.constexprs.items() if name.startswith("BLOCK_"))
    return (
        job.configurations[0] + more,
        job.kernel,
        tile or "-",
        str(r.num_warps),
        str(r.num_stages),
        str(r.registers),
        str(r.stack),
        f"{r.local_loads}/{r.local_stores}",
        str(r.shared),
        f"{100 * r.shared / limit:.0f} %",
        _counted(HGMMA=r.hgmma, HMMA=r.hmma, UTCMMA=r.utcmma),
        _counted(LDGSTS=r.ldgsts, UTMALDG=r.utmaldg),
        str(r.instructions),
        str(r.barriers),
        "cached" if r.seconds is None else f"{r.seconds:.1f}",
    )


def _counted(**counts: int) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "-"


def tables(jobs: Sequence[Job]) -> str:
    """A table of compiled kernels per target, ordered by configuration."""
    from bench.compiler import aot

    parts = []
    for target in sorted({job.target for job in jobs}):
        limit = aot.SHARED_LIMIT[target]
        built = sorted(
            (j for j in jobs if j.target == target and j.report), key=lambda j: (j.configurations[0], j.kernel)
        )
        title = f"sm_{target}, {len(built)} kernels, {limit} bytes of shared memory"
        lines = _lines([HEADER, *(_row(job, limit) for job in built)])
        parts.append("\n".join([title, "", *lines]))
    return "\n\n".join(parts)


def _lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = [[c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows]
    return ["  ".join(row).rstrip() for row in aligned]


def _write(jobs: Sequence[Job], problems: Sequence[str], options: argparse.Namespace, versions: str) -> None:
    """Print tables, then problems, then a summary."""
    if options.json:
        options.json.write_text(json.dumps(_record(jobs, problems, versions), indent=1) + "\n")
    print(tables(jobs), end="\n\n")
    for problem in problems:
        print(problem)
    verdict = f"{len(problems)} outside the budget" if problems else "all within the budget"
    print(f"{versions}: {len(jobs)} kernels, {verdict}")


def _record(jobs: Sequence[Job], problems: Sequence[str], versions: str) -> dict[str, Any]:
    kernels = [
        {
            "kernel": job.kernel,
            "target": job.target,
            "configurations": job.configurations,
            "report": asdict(job.report) if job.report else None,
            "expected": asdict(job.expected) if job.expected else None,
            "findings": asdict(job.findings) if job.findings else None,
            "violations": job.problems,
        }
        for job in jobs
    ]
    return {"versions": versions, "kernels": kernels, "problems": list(problems)}


def _run() -> int:
    if os.environ.pop("TRITON_INTERPRET", None):
        module = sys.modules["__main__"].__spec__
        assert module is not None
        os.execv(sys.executable, [sys.executable, "-m", module.name, *sys.argv[1:]])
    return main()


if __name__ == "__main__":
    sys.exit(_run())
