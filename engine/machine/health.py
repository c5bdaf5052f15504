"""The self-test on the machine at hand: run once, remembered, and obeyed by every "auto"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from ...kernels.base.choices import choose
from ..errors import one_line
from .facts import facts
from .memory import recall, remember
from .selftest import CASES, Verdict, examine

CHILD_LIMIT_S = 120  # compiling included; a test takes seconds
OPS = tuple(dict.fromkeys(case.op for case in CASES))
PACKAGE = __name__.partition(".")[0]
HOW_TO_REPORT = "please report it with the output of `stylenerf doctor --json`"
Report = Callable[[str], None]
Take = Callable[[Verdict], None]


def before_training(device: torch.device, report: Report) -> None:
    """Test every op, unless this device, these versions and these kernels have been tested; name what failed, loudly.

    From then on "auto" takes the plain form of an op that failed.
    """
    if device.type == "cpu":
        return
    machine = facts(device).identity
    faults = recall(machine).get("faults")
    if faults is None:
        report(f"self-test:   each op once, as {machine['device']} has not been tested yet with these versions")
        try:
            faults = {v.op: v.fault for v in verdicts(device) if v.fault is not None}
        except RuntimeError as error:
            report(f"self-test:   not run: {one_line(error)}")
            return
        remember(machine, faults=faults)
    for op, fault in faults.items():
        report(f"WARNING:     the kernel of {op} is wrong on this machine and is replaced by plain torch, which is "
               f"slower ({fault}); {HOW_TO_REPORT}")  # fmt: skip
    choose({(op,): "ref" for op in faults})


def verdicts(device: torch.device, done: Callable[[Verdict], None] = lambda verdict: None) -> list[Verdict]:
    """Of every op on ``device``; this process takes the plain form of those that failed from then on.

    On a CUDA device another process tests, since a kernel that reads out of bounds ends the process that launched it.
    """
    found: list[Verdict] = []

    def take(verdict: Verdict) -> None:
        found.append(verdict)
        done(verdict)

    if device.type == "cuda":
        _in_children(device, take)
    else:
        for verdict in examine(device):
            take(verdict)
    choose({(v.op,): "ref" for v in found if v.fault is not None})
    return found


def _in_children(device: torch.device, take: Take) -> None:
    """One after the other, each with the ops that are left; an op during which one dies or hangs has failed."""
    left, failed = list(OPS), list[str]()

    def taken(verdict: Verdict) -> None:
        left.remove(verdict.op)
        failed.extend([verdict.op] if verdict.fault is not None else [])
        take(verdict)

    while left:
        end = _child(device, [*left], [*failed], taken)
        if left:
            taken(Verdict(left[0], "ref", "failed its self-test", f"the process that tested it ended: {end}"))


def _child(device: torch.device, ops: list[str], failed: list[str], take: Take) -> str:
    """Pass on the verdicts that a process reaches on ``ops``, in their order; returns how it ended.

    Those that ``failed`` take their plain form in it. Raises: RuntimeError if it cannot even begin.
    """
    command = [sys.executable, "-m", f"{PACKAGE}.engine.machine.child", str(device), ",".join(ops), ",".join(failed)]
    home = str(Path(sys.modules[PACKAGE].__path__[0]).parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "PYTHONPATH": path}
        ) as process,
    ):
        guard = threading.Timer(CHILD_LIMIT_S, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            begun = bool(process.stdout.readline())
            for line in process.stdout:
                take(Verdict(**json.loads(line)))
            code = process.wait()
        finally:
            guard.cancel()
            process.kill()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
    if not begun:
        raise RuntimeError(last or f"exit code {code}")
    return f"exit code {code}" + (f", {last}" if last else "")
