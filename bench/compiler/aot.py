"""One recorded launch, compiled ahead of time: its resources, and whether they keep the budget.
Triton binds and specialises the arguments with the same code as in a launch; only the driver is replaced, which would
ask a GPU for its compute capability. Hence no GPU is needed, and Triton's rules are not duplicated.
"""

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bench.compiler import gates
from bench.compiler.ttir import Expectations, expectations
from stylenerf.kernels.base.launch import Launch

# Bytes of shared memory that one block may use, by compute capability.
SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) ")


@dataclass(frozen=True)
class Report:
    """Resources of a compiled kernel. Sizes in bytes; instructions counted in the code, not as executed."""

    kernel: str
    target: int  # 80 for sm_80
    num_warps: int
    num_stages: int
    constexprs: dict[str, Any]
    registers: int  # per thread
    stack: int
    shared: int
    local_loads: int = 0  # LDL
    local_stores: int = 0  # STL
    instructions: int = 0
    barriers: int = 0  # BAR, of the whole block
    hmma: int = 0  # product by one warp
    hgmma: int = 0  # product by a group of four warps (sm_90)
    utcmma: int = 0  # product started by one thread (sm_100)
    ldgsts: int = 0  # asynchronous copy to shared memory, by threads
    utmaldg: int = 0  # and by the copy engine
    seconds: float | None = None  # to compile; None if Triton's cache had it


class _Driver:
    """A driver for a GPU that need not exist; launches nothing."""

    def __init__(self, target: int) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.target, 32)

    def get_current_device(self) -> int:
        return self.target  # Triton caches bound kernels per device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _driver_for(target: int) -> Iterator[None]:
    before = driver._active
    driver.set_active(_Driver(target))
    try:
        yield
    finally:
        driver.set_active(before)


def _warmup(launch: Launch) -> Any:
    return launch.kernel.warmup(
        grid=launch.grid, num_warps=launch.num_warps, num_stages=launch.num_stages, **launch.args
    )


def specialization(launch: Launch, target: int) -> dict[str, Any]:
    """The runtime's specialisation of ``launch``: Triton's own ``key``, ``signature``, ``constants``, ``configs``..."""
    bound: list[dict[str, Any]] = []

    def instead_of_compiling(**event: Any) -> bool:
        bound.append(event["compile"])
        return True

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = instead_of_compiling
    try:
        with _driver_for(target):
            _warmup(launch)
    finally:
        knobs.runtime.jit_cache_hook = before
    return bound[0]


class _Lowered(Exception):
    """Ends a compilation after its first stage."""


def lower(launch: Launch, target: int) -> str:
    """The Triton IR of ``launch``, its functions inlined; nothing is compiled further, nothing is cached."""

    def hook(*args: Any) -> tuple[str, str] | None:
        if not args:  # asked for what it adds to the key of the cache
            return "first stage only", "first stage only"
        stages = args[1]
        first = stages["ttir"]

        def stop(source: Any, metadata: Any) -> None:
            raise _Lowered(str(first(source, metadata)))

        stages["ttir"] = stop
        return None

    before = knobs.runtime.add_stages_inspection_hook
    knobs.runtime.add_stages_inspection_hook = hook
    try:
        with _driver_for(target):
            _warmup(launch)
    except _Lowered as lowered:
        return str(lowered)
    finally:
        knobs.runtime.add_stages_inspection_hook = before
    raise RuntimeError("the compiler has no stage named ttir")


def build(launch: Launch, target: int) -> tuple[Report, Expectations, gates.Findings]:
    """Compile ``launch`` for compute capability ``target`` and read the result."""
    signature = specialization(launch, target)["signature"]  # before the runtime has the kernel
    seconds: list[float | None] = []

    def on_compiled(**event: Any) -> None:
        seconds.append(None if event["cache_hit"] else event["times"].total / 1e6)

    before = knobs.compilation.listener
    knobs.compilation.listener = on_compiled
    try:
        with _driver_for(target):
            compiled = _warmup(launch)
    finally:
        knobs.compilation.listener = before
    resources, code = disassemble(compiled.asm["cubin"])
    registers, stack = parse_resources(resources)
    report = Report(
        kernel=launch.kernel.__name__,
        target=target,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        constexprs=constexprs(launch),
        registers=registers,
        stack=stack,
        shared=compiled.metadata.shared,
        seconds=seconds[0] if seconds else None,
        **count_instructions(code),
    )
    findings = gates.check(launch, target, signature, compiled.asm, code, compiled.metadata.shared)
    return report, expectations(compiled.asm["ttir"], target, launch.num_warps, launch.num_stages), findings


def constexprs(launch: Launch) -> dict[str, Any]:
    """Compile-time arguments by name, as plain values."""
    values = {}
    for param in launch.kernel.params:
        if param.is_constexpr:
            value = launch.args.get(param.name, param.default)
            value = getattr(value, "value", value)
            values[param.name] = value if isinstance(value, int | float | str | None) else str(value)
    return values


def tools() -> tuple[str, str]:
    """Paths of cuobjdump and nvdisasm, which Triton's wheels contain."""
    try:
        return knobs.nvidia.cuobjdump.path, knobs.nvidia.nvdisasm.path
    except RuntimeError as error:
        raise FileNotFoundError(f"{error}; Triton's wheels hold it in backends/nvidia/bin") from error


def disassemble(cubin: bytes) -> tuple[str, str]:
    """cuobjdump's report of the resources, and nvdisasm's listing."""
    cuobjdump, nvdisasm = tools()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        with open(path, "wb") as file:
            file.write(cubin)
        commands = [cuobjdump, "--dump-resource-usage", path], [nvdisasm, "-c", path]
        resources, code = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return resources, code


def parse_resources(text: str) -> tuple[int, int]:
    """Registers per thread and bytes of stack; the maximum over a kernel and its device functions."""
    usage = [(int(registers), int(stack)) for registers, stack in _RESOURCES.findall(text)]
    if not usage:
        raise ValueError(f"cuobjdump: no line with REG and STACK in {text!r}")
    return max(r for r, _ in usage), max(s for _, s in usage)


def count_instructions(listing: str) -> dict[str, int]:
    """The counts of :class:`Report` from nvdisasm's listing."""
    families = Counter(_INSTRUCTION.findall(listing))

    def count(pattern: str) -> int:
        return sum(n for family, n in families.items() if re.fullmatch(pattern, family))

    return {
        "local_loads": count("LDL"),
        "local_stores": count("STL"),
        "instructions": families.total() - count("NOP"),
        "barriers": count("BAR"),
        "hmma": count("[A-Z]MMA"),
        "hgmma": count("[A-Z]GMMA"),
        "utcmma": count("UTC[A-Z]MMA"),
        "ldgsts": count("LDGSTS"),
        "utmaldg": count("UTMALDG"),
    }


def violations(report: Report, expected: Expectations) -> list[str]:
    """Violations of the budget in ``report``, a line each; empty if there are none."""
    violations = []
    if report.stack or report.local_loads or report.local_stores:
        local = f"{report.stack} bytes of stack, {report.local_loads} LDL, {report.local_stores} STL"
        violations.append(f"{local}, wanted 0: registers spill, or a function needs an array (tl.sin)")
    limit = SHARED_LIMIT[report.target]
    if report.shared > limit:
        violations.append(f"{report.shared} bytes of shared memory, sm_{report.target} has {limit}: it cannot launch")
    if report.registers > 255:
        violations.append(f"{report.registers} registers, a thread has 255 at most")
    if report.registers <= 40 and report.instructions > 3000:
        violations.append(f"{report.registers} registers for {report.instructions} instructions: ptxas gave up on it")
    counts = {"HMMA": report.hmma, "HGMMA": report.hgmma, "UTCMMA": report.utcmma}
    if expected.tensor_cores is not None and not counts[expected.tensor_cores]:
        others = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "none at all"
        violations.append(f"no {expected.tensor_cores} for its tl.dot, has {others}")
    if expected.asynchronous and not report.ldgsts + report.utmaldg:
        violations.append("no LDGSTS or UTMALDG: the loop waits for what it loads and multiplies")
    return violations


def versions() -> str:
    """Versions of Triton and its assemblers, on which the figures depend."""
    assemblers = f"ptxas {knobs.nvidia.ptxas.version}, from sm_100 on {knobs.nvidia.ptxas_blackwell.version}"
    return f"Triton {triton.__version__}, {assemblers}"
