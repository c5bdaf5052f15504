"""``stylenerf doctor``: what this machine is, and whether every op is right on it."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...machine.facts import Facts
    from ...machine.selftest import Verdict

HELP = """Check this machine: versions, the device, and every op against its definition in float64.

    stylenerf doctor                      of the GPU if there is one, else of the CPU
    stylenerf doctor --device cuda:1
    stylenerf doctor --json > doctor.json     to attach to a report

Each op is run as training runs it, at small odd shapes: outputs, every gradient and second order, in the formats that
it takes. "triton" is a kernel of this project, "plain" the same in torch's own ops, with the reason beside it. An op
that fails is replaced by its plain form when training starts, with a warning in the log and a count in stats.jsonl
(Health/replaced_ops). Training on a CUDA device runs the self-test by itself, once for a device and its versions.

Leaves with 0 if all is well, with 1 if something is wrong: an op that fails, or a version with a known fault.
"""

EXIT_UNHEALTHY = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Look, test, report; the exit code says whether all is well."""
    from ...device import pick_device
    from ...errors import UserError, one_line
    from ...machine.facts import avoided, facts, problems
    from ...machine.health import OPS, verdicts
    from ...machine.memory import remember
    from ...training.stats import ProgressBar

    device = pick_device(args.device)
    found = facts(device)
    with ProgressBar(len(OPS), "self-test", enabled=not args.no_progress and not args.json) as bar:
        try:
            tested = verdicts(device, lambda v: bar.update(1, v.op))
        except RuntimeError as error:
            raise UserError(f"--device: wanted a device that can be tested, got {device}: {one_line(error)}") from None
    if device.type != "cpu":
        remember(found.identity, faults={v.op: v.fault for v in tested if v.fault is not None})
    wrong = problems(found, device)
    healthy = not wrong and all(v.fault is None for v in tested)
    known = avoided(found)
    if args.json:
        print(json.dumps({**_as_json(found, tested, wrong, healthy), "known_faults": known}, indent=2, allow_nan=False))
    else:
        _print(found, tested, [*(f"KNOWN:       {line}" for line in known), *(f"WRONG:       {w}" for w in wrong)])
        print(f"result:      {'healthy' if healthy else 'not healthy'}")
    return 0 if healthy else EXIT_UNHEALTHY


def _as_json(found: "Facts", tested: list["Verdict"], wrong: list[str], healthy: bool) -> dict[str, Any]:
    ops = [v._asdict() for v in tested]
    return {"healthy": healthy, "machine": found._asdict(), "problems": wrong, "ops": ops}


def _print(found: "Facts", tested: list["Verdict"], remarks: list[str]) -> None:
    from ...machine.health import HOW_TO_REPORT

    memory = "" if found.memory_mib is None else f", {found.memory_mib} MiB, {found.free_mib} MiB free"
    capability = "" if found.capability is None else f", compute capability {found.capability}"
    print(f"system:      {found.system}, Python {found.python}")
    print(f"torch:       {found.torch}, CUDA {found.cuda or 'none'}, driver {found.driver or 'none'}")
    print(f"Triton:      {found.triton or 'not installed'}")
    print(f"device:      {found.device}{capability}{memory}")
    print(f"kernels:     {found.kernels} (hash of their sources)\n")
    print(f"{'op':18s} {'takes':7s} self-test")
    for v in tested:
        form = "plain" if v.form == "ref" else v.form
        print(f"{v.op:18s} {form:7s} {'passed' if v.fault is None else 'FAILED'}{f' ({v.why})' if v.why else ''}")
    print()
    for v in (v for v in tested if v.fault is not None):
        remedy = "plain torch takes its place" if v.usable else "plain torch is wrong too: the installation is broken"
        print(f"FAILED:      {v.op}: {v.fault}; {remedy}; {HOW_TO_REPORT}")
    for line in remarks:
        print(line)
