"""Runs steps as processes: limits, hangs, crashes, and what each left behind. Nothing here touches a GPU."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu import lines
from bench.gpu.stages import ROOT, Step

TAIL = 3000  # characters of output that are kept
RESTARTS = 6  # of a test run that hung or lost its process
POLL_S = 0.25
GRACE_S = 3.0


@dataclass
class Outcome:
    """What became of a step."""

    step: str
    stage: str
    name: str
    status: str  # "ok", "failed", "out of time", "skipped"
    seconds: float = 0.0
    reason: str = ""
    command: str = ""
    exit_code: int | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    tail: str = ""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


class Runner:
    """Runs steps in ``work`` until ``deadline``, a time of ``clock``.

    Args:
        report: takes one line of progress.
        launch: Python and what else starts a step; tests replace it.
    """

    def __init__(
        self,
        work: Path,
        deadline: float,
        *,
        report: Callable[[str], None] = print,
        python: Sequence[str] = (sys.executable,),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.work, self.deadline, self.report, self.python, self.clock = work, deadline, report, list(python), clock
        self.start = clock()
        self.stopped = False
        self.outcomes: list[Outcome] = []  # of every step so far, in the order in which they ended
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def wave(self, steps: Sequence[Step]) -> list[Outcome]:
        """All at once; in the order given. An interruption ends them all."""
        with ThreadPoolExecutor(max_workers=len(steps)) as pool:
            try:
                return list(pool.map(self.step, steps))
            except BaseException:
                self.stop()  # before the pool waits for its threads
                raise

    def step(self, step: Step) -> Outcome:
        left = self.deadline - self.clock()
        if self.stopped or left < 5:
            return self._done(Outcome(step.key, step.stage, step.name, "skipped", reason="no time left"))
        limit_s = min(step.limit_s, left)
        argv = self.command(step)
        self.report(f"{self._clock()} {step.stage}: {step.name}")
        begin = self.clock()
        outcome = Outcome(step.key, step.stage, step.name, "ok", command=shlex.join(argv))
        ended, again = 0, True
        while again and ended <= RESTARTS:
            code, why = self._process(step, argv, limit_s - (self.clock() - begin))
            ended += 1
            again = step.tests and why != "limit" and not self.stopped and self._lost(step, code, why)
        outcome.seconds = self.clock() - begin
        outcome.exit_code = code
        outcome.lines = lines.read(self.lines_of(step.key))
        outcome.tail = _tail(self.work / f"{step.key}.log")
        if self.stopped:
            outcome.status, outcome.reason = "out of time", "interrupted"
        elif why == "limit":
            outcome.status, outcome.reason = "out of time", f"ended after {limit_s:.0f} s"
        elif why == "stalled":
            outcome.status, outcome.reason = "failed", f"no line for {step.stall_s:.0f} s"
        elif code != 0 and not (step.tests and code in (1, 2, 5)):  # failed tests are results, not a failed run
            outcome.status, outcome.reason = "failed", f"exit code {code}"
        return self._done(outcome)

    def command(self, step: Step) -> list[str]:
        argv = [self._fill(part, step) for part in step.argv]
        return [*shlex.split(step.program or ""), *self.python, *argv]

    def lines_of(self, key: str) -> Path:
        return self.work / f"{key}.jsonl"

    def stop(self) -> None:
        """End everything that runs; no step starts any more."""
        self.stopped = True
        with self._lock:
            running = list(self._running)
        for process in running:
            _kill(process)

    def _fill(self, part: str, step: Step) -> str:
        if part == "{work}":
            return str(self.work / step.key)
        if part == "{lines}":
            return str(self.lines_of(step.key))
        if part.startswith("{lines:"):
            return str(self.lines_of(part[len("{lines:") : -1]))
        return part

    def _process(self, step: Step, argv: list[str], limit_s: float) -> tuple[int | None, str]:
        """(exit code, "ended" | "limit" | "stalled")."""
        (self.work / step.key).mkdir(parents=True, exist_ok=True)
        # kernels are compiled, and output comes as it is written
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment |= {"PYTHONUNBUFFERED": "1", **step.extra}
        with open(self.work / f"{step.key}.log", "ab") as log:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        with self._lock:
            self._running.add(process)
        try:
            return self._watch(step, process, self.clock() + limit_s)
        finally:
            _kill(process)  # and what it started
            with self._lock:
                self._running.discard(process)

    def _watch(self, step: Step, process: subprocess.Popen[bytes], until: float) -> tuple[int | None, str]:
        written, seen = -1, self.clock()
        while process.poll() is None:
            now = self.clock()
            if now >= until or self.stopped:
                return None, "limit"
            path = self.lines_of(step.key)
            size = path.stat().st_size if path.exists() else 0
            if size != written:
                written, seen = size, now
            elif step.tests and now - seen > step.stall_s:
                return None, "stalled"
            time.sleep(POLL_S)
        return process.returncode, "ended"

    def _lost(self, step: Step, code: int | None, why: str) -> bool:
        """Note down the test that took the process with it; whether the rest is worth another process."""
        path = self.lines_of(step.key)
        found = lines.read(path)
        torn = lines.unfinished(found)
        reason = f"no line for {step.stall_s:.0f} s" if why == "stalled" else f"the process ended with exit code {code}"
        for name in torn:
            lines.emit(path, test=name, outcome="crashed", seconds=0.0, message=reason)
        return bool(torn) or "sticky" in (found[-1] if found else {})

    def _clock(self) -> str:
        return f"[{self.clock() - self.start:4.0f} s]"

    def _done(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        counts = tally(outcome.lines)
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or f"{len(outcome.lines)} results"
        status = f"{outcome.status}, {outcome.reason}" if outcome.reason else outcome.status
        self.report(f"{self._clock()}   {outcome.stage}: {outcome.name}: {status}, {told}, {outcome.seconds:.0f} s")
        return outcome


def tally(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Tests by outcome."""
    counts: dict[str, int] = {}
    for line in found:
        if "test" in line:
            counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
    return counts


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: ask first, since CUDA likes to be left in order."""
    if not hasattr(os, "killpg"):  # Windows has no groups of processes
        process.kill()
        return
    for sign, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-TAIL:] if path.exists() else ""
