"""One recorded launch, compiled for an AMD GPU: what it takes. Compiled only: no AMD GPU has run these kernels."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from stylenerf.kernels.base.launch import Launch

WAVE = {"gfx942": 64, "gfx1100": 32, "gfx1201": 32}  # threads of a wavefront
SHARED_LIMIT = 65536  # bytes of local data share of a workgroup, on all of them
TILES = 80  # the compute capability whose tiles are taken: products by single wavefronts

_COUNTS = "vgpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size"
_FIELD = re.compile(rf"^\s*\.({_COUNTS}):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class AmdReport:
    """Resources of a compiled kernel; sizes in bytes."""

    kernel: str
    registers: int  # vector registers of a thread
    spills: int  # vector and scalar registers kept in memory
    private: int  # memory of a thread
    shared: int

    @property
    def problems(self) -> list[str]:
        """Why it would be slow, or not start."""
        problems = []
        if self.spills or self.private:
            problems.append(f"{self.spills} registers spill, {self.private} bytes of private memory")
        if self.shared > SHARED_LIMIT:
            problems.append(f"{self.shared} bytes of shared memory, there are {SHARED_LIMIT}")
        return problems


class _Driver:
    """A driver for a GPU that need not exist; launches nothing."""

    def __init__(self, arch: str) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("hip", self.arch, WAVE[self.arch])

    def get_current_device(self) -> str:
        return self.arch  # Triton caches bound kernels per device

    def get_current_stream(self, device: Any) -> int:
        return 0


@contextmanager
def _driver_for(arch: str) -> Iterator[None]:
    before = driver._active
    driver.set_active(_Driver(arch))
    try:
        yield
    finally:
        driver.set_active(before)


def build(launch: Launch, arch: str) -> AmdReport:
    """Compile ``launch`` for ``arch``, a key of ``WAVE``."""
    with _driver_for(arch):
        compiled = launch.kernel.warmup(
            grid=launch.grid, num_warps=launch.num_warps, num_stages=launch.num_stages, **launch.args
        )
    return parse(launch.kernel.__name__, compiled.asm["amdgcn"], compiled.metadata.shared)


def parse(kernel: str, assembly: str, shared: int) -> AmdReport:
    """Read the metadata at the end of the assembly."""
    fields = {name: int(value) for name, value in _FIELD.findall(assembly)}
    if "vgpr_count" not in fields:
        raise ValueError("the assembly has no .vgpr_count")
    spills = fields["vgpr_spill_count"] + fields["sgpr_spill_count"]
    return AmdReport(kernel, fields["vgpr_count"], spills, fields["private_segment_fixed_size"], shared)
