"""Runs steps as processes, each with a time limit, and collects their results. Nothing here touches a GPU."""

import contextlib
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.gpu.plan import ROOT, Step

TAIL = 3000  # characters of output that are kept of a step that failed
POLL_S = 0.1
GRACE_S = 20.0  # after Ctrl-C, to write what has been measured
LEAST_S = 5.0  # below that a step is not worth starting
VERDICTS = {"failure": "failed", "error": "failed", "skipped": "skipped"}  # of JUnit's XML
LOSSES = ("Loss/generator", "Loss/discriminator", "Loss/nerf_path", "Loss/r1")


@dataclass
class Outcome:
    """Outcome of a step. ``status``: "ok", "failed", "out of time", "interrupted" or "skipped".

    ``benchmarks`` and ``skipped`` are as pytest-benchmark's JSON has them in runs of bench/.
    """

    step: str
    status: str
    seconds: float = 0.0
    limit_s: float = 0.0
    command: str = ""
    exit_code: int | None = None
    tests: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    tail: str = ""

    def line(self) -> str:
        facts = [self.status, *(f"{count} {verdict}" for verdict, count in self.tests.items())]
        if self.benchmarks:
            facts.append(f"{len(self.benchmarks)} timed")
        return f"{self.step}: {', '.join(facts)}, {self.seconds:.0f} s"

    def last_words(self) -> str:
        return self.tail.split("\n")[-1][:160]


class Runner:
    """Runs steps until ``deadline``, a time of ``time.monotonic``; ``report`` receives lines of progress.
    :meth:`stop` may be called from a signal handler: it ends running steps and skips the remaining ones.
    """

    def __init__(self, deadline: float, jobs: int, report: Callable[[str], None] = print) -> None:
        self.deadline, self.jobs, self.report = deadline, jobs, report
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self, steps: Sequence[Step]) -> Iterator[Outcome]:
        """Yield outcomes as steps end; consecutive shared steps run ``jobs`` at a time, every other step alone."""
        for shared, group in groupby(steps, key=lambda step: step.shared):
            with ThreadPoolExecutor(self.jobs if shared else 1) as pool:
                futures = [pool.submit(self.step, step) for step in group]
                yield from (future.result() for future in as_completed(futures))

    def step(self, step: Step) -> Outcome:
        start = time.monotonic()
        left = self.deadline - start - GRACE_S
        if step.lacks:
            return Outcome(step.name, "skipped", tail=step.lacks)
        if self._stopped.is_set() or left < LEAST_S:
            return Outcome(step.name, "skipped", tail="interrupted" if self._stopped.is_set() else "no time left")
        limit_s = min(step.limit_s, left)
        self.report(f"{step.name} ... at most {limit_s:.0f} s")
        with tempfile.TemporaryDirectory(prefix="bench-gpu-", ignore_cleanup_errors=True) as folder:
            work = Path(folder)
            command = [part.replace("{work}", folder) for part in step.command]
            outcome = Outcome(step.name, "ok", limit_s=limit_s, command=shlex.join(command))
            outcome.status, outcome.exit_code = self._process(command, work / "log", start + limit_s)
            outcome.seconds = time.monotonic() - start
            collect(work, outcome)
            if outcome.status != "ok":
                outcome.tail = (work / "log").read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
        self.report(outcome.line())
        return outcome

    def _process(self, command: list[str], log: Path, until: float) -> tuple[str, int | None]:
        """(status, exit code)."""
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # kernels must be compiled
        environment["PYTHONUNBUFFERED"] = "1"  # unbuffered, so that a killed process loses no lines
        with open(log, "wb") as file:
            try:
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                           stderr=file, start_new_session=True)  # fmt: skip
            except OSError as error:
                file.write(f"{command[0]}: {error.strerror}\n".encode())
                return "failed", None
        try:
            while process.poll() is None:
                if self._stopped.wait(POLL_S):
                    return "interrupted", None
                if time.monotonic() >= until:
                    return "out of time", None
            return "ok" if process.returncode == 0 else "failed", process.returncode
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]", grace_s: float = GRACE_S) -> None:
    """End a process and its children: first by Ctrl-C, so that it can write its results, then by force."""
    if not hasattr(os, "killpg"):  # Windows has no process groups
        process.kill()
        return
    for sign, patience_s in ((signal.SIGINT, grace_s), (signal.SIGKILL, grace_s)):
        if process.poll() is not None and sign == signal.SIGINT:
            continue
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # OSError: the group is gone
            os.killpg(process.pid, sign)
            process.wait(patience_s)


def strict(value: Any) -> Any:
    """What JSON can hold: None in place of numbers that are not finite, which strict readers refuse."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def collect(work: Path, outcome: Outcome) -> None:
    """Add the files that a step wrote into its folder; absent or truncated files are ignored."""
    with contextlib.suppress(OSError, ElementTree.ParseError):
        for case in ElementTree.parse(work / "junit.xml").iter("testcase"):
            if case.get("name") is None:  # ended by Ctrl-C: neither passed nor failed
                continue
            said = next((child for child in case if child.tag in VERDICTS), None)
            verdict = "passed" if said is None else VERDICTS[said.tag]
            outcome.tests[verdict] = outcome.tests.get(verdict, 0) + 1
            if said is not None and verdict == "failed":
                message = str(said.get("message")).split("\n")[0][:160]
                outcome.failures[f"{case.get('classname')}.{case.get('name')}"] = message
    with contextlib.suppress(OSError, ValueError):
        results = json.loads((work / "bench.json").read_text(encoding="utf-8"))
        outcome.benchmarks = [{key: row[key] for key in ("name", "extra_info")} for row in results["benchmarks"]]
        outcome.skipped = results.get("skipped", {})
    with contextlib.suppress(OSError, ValueError):
        lines = (work / "run" / "stats.jsonl").read_text(encoding="utf-8").splitlines()
        outcome.training = training([json.loads(line) for line in lines if line.endswith("}")])
        if not outcome.training["finite"]:
            outcome.status = "failed"


def training(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Images per second (median), peak memory, losses, and whether every loss and gradient was finite."""
    trained = [row for row in rows if "Loss/generator" in row]
    # the first row includes one-time work: compilation, cuDNN's choices
    paces = [row["Time/sec_per_kimg"] for row in trained[1:] if row.get("Time/sec_per_kimg")]
    replaced = sum(value or 0 for row in trained for name, value in row.items() if name.endswith("_nonfinite"))
    losses = {name: [row[name] for row in trained if name in row] for name in LOSSES}
    return {
        "images": rows[-1].get("Progress/images", 0) if rows else 0,
        "images_per_s": 1000 / statistics.median(paces) if paces else None,
        "peak_mib": max((row["Memory/peak_mib"] for row in trained if row.get("Memory/peak_mib")), default=None),
        # non-finite numbers are null in the file
        "finite": bool(trained) and not replaced and not any(None in values for values in losses.values()),
        "losses": {name: [values[0], values[-1]] for name, values in losses.items() if values},
    }
