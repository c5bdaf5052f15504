"""Gates on the code of a compiled kernel, beside its budget: addresses in shared memory, registers that asynchronous
products still use, and the order of accesses to a program's scratch slot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.compiler import hazards, patterns, ptx, walk
from stylenerf.kernels.base.launch import Launch

SLOTS = ("slots_ptr", "scratch_ptr")  # pointers to memory that the threads of one program exchange data through


@dataclass
class Findings:
    """What the gates saw. ``faults``: a line each."""

    shared_accesses: int = 0  # checked, in the first and the last block
    unknown_accesses: int = 0  # whose address depends on data
    slot: bool = False  # uses a slot
    faults: list[str] = field(default_factory=list)


def check(
    launch: Launch, target: int, signature: Mapping[str, str], asm: Mapping[str, Any], listing: str, shared: int
) -> Findings:
    """Findings on ``launch``, compiled for ``target``.

    Args:
        signature: the runtime's types of the arguments by name, "constexpr" for those that are compiled in.
        asm: Triton's stages, of which "ttir" and "ptx" are read.  listing: nvdisasm's.  shared: bytes allocated.
    """
    code = ptx.parse(asm["ptx"])
    names = [name for name, kind in signature.items() if kind != "constexpr"]
    findings = Findings()
    slots = [i for i, name in enumerate(names) if name in SLOTS]
    if slots:
        findings.slot = True
        findings.faults += ptx.slot_faults(code, slots)
        if ".CONSTANT" in listing:
            findings.faults.append("loads through the read-only cache, and has a slot that it writes")
    for result in _walks(launch, code, names, shared):
        findings.shared_accesses += result.accesses
        findings.unknown_accesses += result.unknown
        findings.faults += [fault for fault in result.faults if fault not in findings.faults]
    if target // 10 == 9:
        findings.faults += hazards.overwritten(listing)
    turned = patterns.turned_products(asm["ttir"], target, launch.num_warps)
    chained = patterns.chained_accumulations(asm["ttir"], target, launch.num_warps, launch.num_stages)
    findings.faults += [f"turned_product: {line}" for line in turned]
    findings.faults += [f"chained_accumulation: {line}" for line in chained]
    return findings


def _walks(launch: Launch, code: ptx.Code, names: Sequence[str], shared: int) -> list[walk.Walk]:
    """Through the first and the last block of the grid; none if the kernel has no shared memory."""
    if not shared:
        return []
    parameters = {i: _number(launch.args.get(name), i) for i, name in enumerate(names)}
    first, last = (0,) * len(launch.grid), tuple(size - 1 for size in launch.grid)
    threads = 32 * launch.num_warps
    return [walk.walk(code, parameters, shared, threads, block, launch.grid) for block in dict.fromkeys((first, last))]


def _number(value: Any, index: int) -> int | None:
    """An argument as an integer; pointers are far apart, and other numbers unknown."""
    if isinstance(value, torch.Tensor):
        return (index + 1) << 40
    return int(value) if isinstance(value, int) else None
