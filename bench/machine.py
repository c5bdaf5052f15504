"""Environment of the figures: device, versions, commit; ceilings of copies and products; peak memory."""

import functools
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stylenerf.engine.training.stats import peak_memory_mib

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHILD_LIMIT_S = 600
Prepare = Callable[[], Callable[[], object]]  # builds the inputs and returns the function to run


class Ceilings(NamedTuple):
    """Ceilings of the device: memory copies, and matrix products of several types."""

    copy_GB_per_s: float
    matmul_GFLOP_per_s: float  # float32, with TF32 only if torch is set so
    matmul_bf16_GFLOP_per_s: float | None  # None where not measured: on a CPU
    matmul_tf32_GFLOP_per_s: float | None = None

    def matmul(self, precision: str | None) -> float:
        """The ceiling of products with operands of this precision; by default float32's."""
        sixteen_bit = precision in ("fp16", "bf16")
        ceiling = self.matmul_bf16_GFLOP_per_s if sixteen_bit else None
        ceiling = self.matmul_tf32_GFLOP_per_s if precision == "tf32" else ceiling
        return ceiling or self.matmul_GFLOP_per_s


class Peak(NamedTuple):
    """Memory in MiB: at its peak during a call, and before it with the inputs in place."""

    total_mib: float
    before_mib: float


@functools.cache
def environment() -> dict[str, str | int | None]:
    """Current device, threads, versions and commit."""
    facts: dict[str, str | int | None] = {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _installed("triton"),
        "commit": commit(),
    }
    if DEVICE.type == "cuda":
        tf32 = {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}
        facts["tf32"] = ", ".join(name for name, on in tf32.items() if on) or "off"
    return facts


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} CPUs"


def commit() -> str | None:
    """The checked-out commit, "+" if files differ from it; None outside a git checkout."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sync() -> None:
    """Wait for the device; no-op on a CPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


@functools.cache
def ceilings() -> Ceilings:
    """Measured once per run, before the first bench."""
    big = DEVICE.type == "cuda"
    count = 2 ** (28 if big else 26)  # 1 GiB or 256 MiB: larger than any cache
    source, target = torch.randn(count, device=DEVICE), torch.empty(count, device=DEVICE)
    copy_s = _best_s(lambda: target.copy_(source))
    bytes_moved = 2 * 4 * count  # read once, written once
    return Ceilings(
        bytes_moved / copy_s / 1e9,
        _matmul_GFLOP_per_s(8192 if big else 2048, torch.float32),
        _matmul_GFLOP_per_s(8192, torch.bfloat16) if big else None,
        _tf32_GFLOP_per_s() if big else None,
    )


def _tf32_GFLOP_per_s() -> float:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return _matmul_GFLOP_per_s(8192, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _matmul_GFLOP_per_s(edge: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(edge, edge, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * edge**3 / _best_s(lambda: a @ b) / 1e9  # a product and a sum per term


def _best_s(run: Callable[[], object], rounds: int = 7) -> float:
    """The fastest of several runs: a ceiling is what the device can do, not what it does on average."""
    seconds = []
    for _ in range(rounds):
        sync()
        start = time.perf_counter()
        run()
        sync()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_memory(prepare: Prepare) -> Peak:
    """Memory of one call. CUDA: torch's allocations; CPU: resident memory of a fresh process with Python and torch."""
    if DEVICE.type == "cuda":
        run = prepare()
        before = torch.cuda.memory_allocated(DEVICE) / 2**20
        torch.cuda.reset_peak_memory_stats(DEVICE)
        run()
        sync()
        return Peak(peak_memory_mib(DEVICE) or 0.0, before)
    # A server that has imported torch but never run it: its forks are cheap, start small, and have no dead threads.
    # Windows has none and spawns.
    servers = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if servers else "spawn")
    if servers:
        context.set_forkserver_preload(["torch"])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(prepare, torch.get_num_threads(), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(CHILD_LIMIT_S):
            raise RuntimeError(f"peak memory: wanted an answer within {CHILD_LIMIT_S} s, got none")
        return Peak(*ours.recv())
    except EOFError:
        child.join()
        raise RuntimeError(f"peak memory: wanted a figure, got exit code {child.exitcode} from the child") from None
    finally:
        child.kill()
        child.join()


def _child(prepare: Prepare, threads: int, answer: Connection) -> None:
    torch.set_num_threads(threads)
    run = prepare()
    before = _resident_mib()
    run()
    answer.send((peak_memory_mib() or 0.0, before))


def _resident_mib() -> float:
    """Current resident memory of this process; its peak where /proc is absent."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory_mib() or 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
