"""What the figures depend on: packages, device, how fast it copies, multiplies and reads from its caches.

``python -m bench.gpu.environment --lines FILE``
"""

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.gpu.lines import emit

PACKAGES = ("torch", "triton", "numpy", "pytest", "pytest-benchmark", "hypothesis", "pillow", "pyyaml")
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.current.sm,clocks.current.memory"
# what programs read in turn: the weights of a field, a set of images' worth, either side of an H100's L2, memory
WORKING_SETS_KIB = {"256 KiB": 256, "8 MiB": 2**13, "24 MiB": 24 * 2**10, "40 MiB": 40 * 2**10, "1 GiB": 2**20}


def packages() -> dict[str, str | None]:
    """Package -> installed version, None if absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def smi() -> str | None:
    """One line by nvidia-smi, which only reads here."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() or done.stderr.strip()


def properties() -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_properties(0)
    names = ("name", "multi_processor_count", "L2_cache_size", "total_memory", "major", "minor")
    return {name: getattr(found, name, None) for name in names}


def ceilings() -> dict[str, Any]:
    from bench.machine import ceilings as measured

    return dict(measured()._asdict())


def reads() -> dict[str, float]:
    """GB/s at which programs on every multiprocessor read buffers of several sizes, the first-level cache left out."""
    import torch

    from bench.gpu.probes import BLOCK, read
    from bench.gpu.timing import device_us

    programs = 8 * torch.cuda.get_device_properties(0).multi_processor_count
    out = torch.empty(programs, BLOCK, device="cuda")
    found = {}
    for name, kib in WORKING_SETS_KIB.items():
        x = torch.randn(kib * 256, device="cuda")
        read_bytes = read(out, x, 256)
        us, _ = device_us(partial(read, out, x, 256), calls=2, rounds=7)
        found[name] = read_bytes / us / 1e3
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.environment", description=__doc__)
    parser.add_argument("--lines", type=Path, required=True)
    path = parser.parse_args(argv).lines
    parts: dict[str, Callable[[], object]] = {
        "packages": packages,
        "smi": smi,
        "properties": properties,
        "ceilings": ceilings,
        "reads_GB_per_s": reads,
    }
    failed = 0
    for name, measure in parts.items():
        try:
            emit(path, name=name, value=measure())
        except Exception as error:  # the others' figures are worth having all the same
            failed += 1
            emit(path, name=name, error=f"{type(error).__name__}: {error}")
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
