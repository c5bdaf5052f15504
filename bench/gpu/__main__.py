"""The command line of ``python -m bench.gpu``."""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu.runner import Outcome, Runner
from bench.gpu.stages import ROOT, STAGES, Step, steps, waves
from bench.gpu.summary import Found, short_table, stage_file, summary, tuning_log

ABOUT = """\
Test, tune and time everything on a GPU, in one command and less than nine minutes.

Needs a CUDA device and torch, triton, numpy, pytest; what else is missing is named, and the steps that need it are
left out. Nothing is installed. The project runs from its checkout, by the interpreter that runs this.
"""
EXAMPLES = """\
Every step is a process with a time limit of its own, so that what fails or hangs costs its own results only. Steps that
take no times share the device at first; then one after the other runs alone. Whatever a step found is written at once:
when --deadline-s is over, the rest is left out and the results are complete up to there.

results, in --out: one JSON file per stage, summary.json, and tuning.md, a log with the predictions beside what was
measured, to be completed by decisions. bench.json can be printed again by `python -m bench.report`.

exit status: 0 if everything ran and every test passed (targets may be missed), 1 if not, 2 without a GPU or for a
command line that makes no sense, 130 if interrupted; results are written in any case but the third.

examples:
  python -m bench.gpu                                  everything, to bench/results/DATE-DEVICE/, or to $OUT if set
  python -m bench.gpu --dry-run                        what would run, on any machine
  python -m bench.gpu --only bench --only experiments  some stages
  python -m bench.gpu --deadline-s 240                 as much as four minutes allow, the most telling first
"""
PROBE = """\
import json, torch
cuda = torch.cuda.is_available()
name = torch.cuda.get_device_name() if cuda else None
print(json.dumps({"torch": torch.__version__, "cuda": cuda, "device": name}))
"""
WRITING_S = 5.0  # that must be left for the results


def main(argv: Sequence[str] | None = None, make: Callable[[int], list[Step]] = steps) -> int:
    """The command line; ``make`` gives the steps for a number of processors."""
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{name:12s} {about}" for name, about in STAGES.items()))
        return 0
    chosen = [step for step in make(os.cpu_count() or 1) if not options.only or step.stage in options.only]
    missing = absent(chosen)
    device = probe()
    if options.dry_run:
        _show_plan(chosen, missing, device)
        return 0
    if not device.get("cuda"):
        found = f"torch {device['torch']}" if device.get("torch") else "no torch"
        print(f"bench.gpu needs a GPU: wanted a CUDA device, got none ({found}); --dry-run shows what would run")
        return 2
    return _run(chosen, missing, options, str(device["device"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: $OUT, else bench/results/DATE-DEVICE)"
    )
    parser.add_argument(
        "--only", action="append", choices=STAGES, metavar="STAGE", help="run this stage only; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="name the stages and stop")
    parser.add_argument("--dry-run", action="store_true", help="print stages, steps and commands, and run nothing")
    parser.add_argument("--deadline-s", type=float, default=525.0, help="seconds for everything (default: %(default)g)")
    return parser


def probe() -> dict[str, Any]:
    """What torch sees, asked in a process of its own: this one keeps off the GPU."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, cwd=ROOT)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        found = {}
    return found


def absent(chosen: Sequence[Step]) -> list[str]:
    """Packages that some step needs and this interpreter does not have."""
    needed = dict.fromkeys(name for step in chosen for name in step.needs)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def lacking(step: Step, missing: Sequence[str]) -> str:
    """Why a step is left out, or nothing."""
    without = [name for name in step.needs if name in missing]
    return f"not installed: {', '.join(without)}" if without else ""


def _show_plan(chosen: Sequence[Step], missing: Sequence[str], device: dict[str, Any]) -> None:
    print(f"device: {device.get('device') or 'none, so nothing would run here'}")
    print(f"not installed: {', '.join(missing) or 'nothing that is needed'}")
    runner = Runner(Path("WORK"), 0.0, python=["python"])
    for number, wave in enumerate(waves(list(chosen)), start=1):
        print(f"\n{number}. {'together' if len(wave) > 1 else 'alone'}")
        for step in wave:
            reason = lacking(step, missing)
            print(
                f"  {step.stage}: {step.name}, at most {step.limit_s:.0f} s{f', left out ({reason})' if reason else ''}"
            )
            print(f"    {' '.join(runner.command(step))}")


def _run(chosen: Sequence[Step], missing: Sequence[str], options: argparse.Namespace, device: str) -> int:
    start = time.monotonic()
    out = options.out or Path(os.environ.get("OUT") or ROOT / "bench" / "results" / f"{date.today()}-{_slug(device)}")
    out.mkdir(parents=True, exist_ok=True)
    _say(f"{device}; results in {out}")
    if missing:
        _say(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        runner = Runner(Path(folder), start + options.deadline_s - WRITING_S, report=_say)
        for step in chosen:
            if reason := lacking(step, missing):
                runner.outcomes.append(Outcome(step.key, step.stage, step.name, "skipped", reason=reason))
        previous = signal.signal(signal.SIGTERM, _interrupt)
        interrupted = False
        try:
            for wave in waves([step for step in chosen if not lacking(step, missing)]):
                runner.wave(wave)
                write(out, runner.outcomes, time.monotonic() - start)
        except KeyboardInterrupt:
            interrupted = True
            _say("interrupted: what was found so far is written")
        finally:
            signal.signal(signal.SIGTERM, previous)
    write(out, runner.outcomes, time.monotonic() - start)
    _say(f"\n{short_table(Found(runner.outcomes))}\n\n{time.monotonic() - start:.0f} s; results in {out}")
    return 130 if interrupted else exit_status(runner.outcomes)


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def exit_status(outcomes: Sequence[Outcome]) -> int:
    bad = any(outcome.status in ("failed", "out of time") for outcome in outcomes)
    failed = any(line.get("outcome") in ("failed", "error", "crashed") for o in outcomes for line in o.lines)
    return 1 if bad or failed else 0


def write(out: Path, outcomes: Sequence[Outcome], seconds: float) -> None:
    """Every file, as far as the results go."""
    found, when = Found(outcomes), str(date.today())
    files = {f"{stage}.json": stage_file(stage, outcomes) for stage in STAGES if found.has(stage)}
    files["summary.json"] = summary(found, seconds, when)
    for name, content in files.items():
        _replace(out / name, json.dumps(content, indent=1, default=str) + "\n")
    _replace(out / "tuning.md", tuning_log(found, when))


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, whatever ends this process."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _slug(device: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
