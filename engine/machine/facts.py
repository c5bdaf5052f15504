"""What the machine and its installation are: versions, device, memory, and what is wrong with them."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from ... import kernels
from ...kernels.base.faults import known_faults, parse_version

DRIVER = Path("/proc/driver/nvidia/version")
OLDEST_TRITON = (3, 6)
OLDEST = (8, 0)  # compute capability that the kernels are compiled for in every test run
MIB = 2**20


class Facts(NamedTuple):
    """``capability`` is that of a CUDA device, such as 9.0; memory in MiB; None where unknown."""

    system: str
    python: str
    torch: str
    triton: str | None
    cuda: str | None
    driver: str | None
    device: str
    capability: str | None
    memory_mib: int | None
    free_mib: int | None
    kernels: str

    @property
    def identity(self) -> dict[str, str | None]:
        """What a result of the self-test, or a choice, holds for."""
        names = ("torch", "triton", "cuda", "driver", "device", "capability", "kernels")
        return {name: getattr(self, name) for name in names}


def facts(device: torch.device) -> Facts:
    """Of this process and ``device``."""
    name, capability, total, free = f"CPU ({platform.machine()})", None, None, None
    if device.type == "cuda":
        name, pair = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        capability = f"{pair[0]}.{pair[1]}"
        free, total = (count // MIB for count in torch.cuda.mem_get_info(device))
    elif device.type != "cpu":
        name = str(device)
    return Facts(
        platform.platform(), platform.python_version(), str(torch.__version__), installed("triton"), torch.version.cuda,
        _driver(), name, capability, total, free, kernels_hash(),
    )  # fmt: skip


def problems(found: Facts, device: torch.device) -> list[str]:
    """What is wrong with the installation, each with its remedy."""
    wrong = []
    if device.type == "cuda" and found.triton is None:
        wrong.append("Triton: not installed, so no kernel can run; remedy: pip install triton")
    if device.type == "cpu" and found.driver is not None and found.cuda is None:
        wrong.append("torch: has no CUDA, though there is an NVIDIA driver; remedy: a CUDA build, see pytorch.org")
    elif device.type == "cpu" and found.driver is not None and not torch.cuda.is_available():
        wrong.append(
            f"CUDA: the driver {found.driver} does not serve torch's CUDA {found.cuda}; remedy: a newer driver, or a "
            "torch build for an older CUDA"
        )
    if found.triton is not None and parse_version(found.triton) < OLDEST_TRITON:
        wrong.append(f"Triton: wanted 3.6 or newer, which the oldest torch allowed brings, got {found.triton}; remedy: "
                     "pip install -U torch")  # fmt: skip
    if found.capability is not None and tuple(map(int, found.capability.split("."))) < OLDEST:
        wrong.append(
            f"{found.device}: wanted compute capability 8.0 or newer, which the kernels are compiled for, "
            f"got {found.capability}; remedy: --device cpu, or another GPU"
        )
    return wrong


def avoided(found: Facts) -> list[str]:
    """Known faults of the compiler on this GPU, each with what the kernels do instead."""
    if found.triton is None or found.capability is None:
        return []
    major, minor = map(int, found.capability.split("."))
    faults = known_faults("triton", found.triton, 10 * major + minor)
    return [f"Triton {found.triton}: {f.name}, {f.symptom} ({f.source}); here: {f.instead}" for f in faults]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def kernels_hash() -> str:
    """Of the sources of every kernel and launcher: what is tested or timed holds for these alone."""
    folder, digest = Path(kernels.__path__[0]), hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _driver() -> str | None:
    """Version of the NVIDIA driver: the first word of the kernel module's description that looks like one."""
    try:
        words = DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), None)
