"""The command line of ``python -m bench.gpu``."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.gpu.plan import ROOT, Step, steps
from bench.gpu.runner import Outcome, Runner, strict
from bench.gpu.targets import NOT_MEASURED, judge
from bench.report import markdown

ABOUT = """\
Test and time everything on a GPU, and train for a moment, in one command.

Needs a CUDA device and what pyproject.toml lists under dependencies, with pytest. Nothing is installed. The project
runs from its checkout, by the interpreter that runs this.
"""
EPILOG = """\
Steps run in order of worth, each in a process with a time limit, so that a step that fails or hangs costs its own
results only. Tests share the device; every bench has it for itself. Results are written after every step: when the
time is over, or after Ctrl-C, they are complete up to there.

results: one JSON file with the environment and, for every step, outcome, seconds, verdicts of tests, figures of
benches, and the end of the output where it failed. `python -m bench.report FILE` prints its tables.

exit status: 0 if every step ran and passed (targets may be missed), 1 if not, 2 without a GPU or for a command line
that makes no sense, 130 if interrupted.

examples:
  python -m bench.gpu                        everything, to bench/results/TIME-DEVICE.json
  python -m bench.gpu --list                 the plan with the seconds that each step may take; on any machine
  python -m bench.gpu --only "bench rays"    some steps
  python -m bench.gpu --minutes 9            as much as nine minutes allow
  python -m bench.gpu --resume FILE          what FILE lacks: all that is not "ok" in it, on the same device and commit
"""
PROBE = """\
import json
from bench.machine import DEVICE, environment
print(json.dumps({"cuda": DEVICE.type == "cuda", **environment()}))
"""
PROBE_LIMIT_S = 120


def main(argv: Sequence[str] | None = None, plan: Callable[[], list[Step]] = steps) -> int:
    options = _parser().parse_args(argv)
    try:
        chosen = choose(plan(), options.only)
        if options.list:
            show(chosen)
            return 0
        environment = probe()
        done = resumed(options.resume, environment) if options.resume else {}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    device = "-".join("".join(c if c.isalnum() else " " for c in environment["device"].lower()).split())
    default = ROOT / "bench" / "results" / f"{datetime.now():%Y-%m-%d-%H%M}-{device}.json"
    return run(chosen, done, environment, options.resume or options.out or default, options.minutes * 60)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", "--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--only", action="append", metavar="TEXT", help="steps whose name contains it; may be repeated")
    parser.add_argument("--minutes", type=float, default=30.0, help="for everything (default: %(default)g)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="results (default: bench/results/TIME-DEVICE.json)")
    where.add_argument("--resume", type=Path, metavar="FILE", help="go on with the results of an earlier call")
    return parser


def choose(plan: Sequence[Step], only: Sequence[str] | None) -> list[Step]:
    for text in only or ():
        if not any(text in step.name for step in plan):
            raise ValueError(f"--only: wanted a part of a step's name (--list shows them), got {text!r}")
    return [step for step in plan if not only or any(text in step.name for text in only)]


def show(plan: Sequence[Step]) -> None:
    for number, step in enumerate(plan, start=1):
        how = f"{', beside others' if step.shared else ''}{f', not run: {step.lacks}' if step.lacks else ''}"
        print(f"{number:3d}. {step.name}, at most {step.limit_s:.0f} s{how}")
        print(f"     {shlex.join(step.command)}")


def probe() -> dict[str, Any]:
    """Device and versions, from another process, since this one uses no GPU. Raises: ValueError without one."""
    command, answer = [sys.executable, "-c", PROBE], {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PROBE_LIMIT_S, check=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        reason = f"torch {answer['torch']}"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.splitlines() or ["no answer"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PROBE_LIMIT_S} s"
    if not answer.pop("cuda", False):
        raise ValueError(f"GPU: wanted a CUDA device, got none ({reason}); --list shows what would run")
    return answer


def resumed(path: Path, environment: dict[str, Any]) -> dict[str, Outcome]:
    """Outcomes of an earlier call, by step. Raises: ValueError where it cannot be resumed here."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        earlier, outcomes = data["environment"], {step["step"]: Outcome(**step) for step in data["steps"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"--resume: wanted results of bench.gpu, got {path}: {error}") from None
    for name in ("device", "commit"):
        if earlier.get(name) != environment[name]:
            raise ValueError(f"--resume: wanted results with {name} {environment[name]}, got {earlier.get(name)}")
    return outcomes


def run(
    plan: Sequence[Step], outcomes: dict[str, Outcome], environment: dict[str, Any], path: Path, budget_s: float
) -> int:
    """Run the steps that are not "ok" yet; write results to ``path`` after every step. Returns: the exit status."""
    start = time.monotonic()
    left = [step for step in plan if step.name not in outcomes or outcomes[step.name].status != "ok"]
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{environment['device']}; results in {path}", flush=True)

    def report(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", flush=True)

    jobs = max(1, min(12, (os.cpu_count() or 1) * 3 // 4))  # tests compile, which takes a processor each
    runner, interrupted = Runner(start + budget_s, jobs, report), []

    def stop(number: int, frame: object) -> None:
        interrupted.append(number)
        runner.stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for outcome in runner.run(left):
            if outcome.status != "skipped" or outcome.step not in outcomes:  # keeps results of an earlier call
                outcomes[outcome.step] = outcome
            write(path, outcomes.values(), environment, time.monotonic() - start)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    print(f"\n{summary(list(outcomes.values()))}\n\n{time.monotonic() - start:.0f} s; results in {path}", flush=True)
    if interrupted:
        return 130
    return 0 if all(outcome.status == "ok" for outcome in outcomes.values()) else 1


def write(path: Path, outcomes: Iterable[Outcome], environment: dict[str, Any], seconds: float) -> None:
    """Write results atomically."""
    results = {"environment": environment, "seconds": seconds, "steps": [asdict(outcome) for outcome in outcomes]}
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(strict(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The final output: targets, verdicts, training, and failures."""
    rows = [row["extra_info"] for o in outcomes for row in o.benchmarks if "p50_ms" in row["extra_info"]]
    judged = judge(rows)
    known = [target for target in judged if target[-1] != NOT_MEASURED]
    lines = [*markdown(("target", "wanted", "measured", ""), known, 1), ""] if known else []
    lines.append(f"targets not measured: {len(judged) - len(known)} of {len(judged)}")
    counts = sum((Counter(outcome.tests) for outcome in outcomes), Counter())
    lines.append(f"tests and benches: {', '.join(f'{n} {verdict}' for verdict, n in counts.items()) or 'none ran'}")
    for training in (o.training for o in outcomes if o.training):
        pace, peak = (f"{training[name] or 0:.3g}" for name in ("images_per_s", "peak_mib"))
        finite = "finite" if training["finite"] else "NOT FINITE"
        lines.append(f"training: {training['images']} images, {pace} per second, peak {peak} MiB, losses {finite}")
    for outcome in outcomes:
        if outcome.status not in ("ok", "skipped"):
            lines.append(f"{outcome.status}: {outcome.step}: {outcome.last_words()}")
            lines += [f"  {name}: {message}" for name, message in outcome.failures.items()][:8]
    for reason in dict.fromkeys(o.tail for o in outcomes if o.status == "skipped"):
        names = (o.step for o in outcomes if (o.status, o.tail) == ("skipped", reason))
        lines.append(f"not run, {reason}: {', '.join(names)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
