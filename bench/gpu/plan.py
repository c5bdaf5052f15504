"""The steps of ``python -m bench.gpu``, most important first, since time may run out."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GENERATOR, TRAINING, RAYS = (f"bench/bench_{name}.py" for name in ("generator", "train_step", "rays"))
TILES = "bench/bench_ray_tiles.py"
FILTERS = ("bench/bench_upfirdn2d.py", "bench/bench_bias_act.py")
BLOCKS = ("bench/bench_upsample_block.py", "bench/bench_modulated_layer.py", "bench/bench_refine_to_rgb.py")
SHORT = ("--benchmark-max-time=0.3", "--benchmark-min-rounds=5")
QUICK = ("--benchmark-max-time=0.1",)
# compute-sanitizer lies beside the compiler where it is not on the path
SANITIZER = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        command: the whole command line; "{work}" stands for a folder of the step's own.
        limit_s: seconds after which the process is ended.
        shared: it measures no time, so that other such steps may run beside it.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    shared: bool = False


def pytest(*arguments: str) -> tuple[str, ...]:
    """A test run that writes its verdicts to junit.xml, and a traceback if it hangs."""
    options = ("-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=90", "--continue-on-collection-errors")
    return (sys.executable, "-m", "pytest", *options, "--junitxml={work}/junit.xml", *arguments)


def bench(name: str, limit_s: float, *arguments: str) -> Step:
    return Step(f"bench {name}", pytest("--benchmark-json={work}/bench.json", *arguments), limit_s)


def steps(which: Callable[[str], str | None] = shutil.which) -> list[Step]:
    return [*_tests(), *_sanitizers(which), *_timed()]


def _tests() -> list[Step]:
    """A process per file, since each compiles its kernels and a crash loses the results of its file."""
    files = [f"tests/{path.name}" for path in sorted((ROOT / "tests").glob("test_fused_*.py"))]
    return [
        Step("tests marked gpu", pytest("-m", "gpu", "tests/"), 240, shared=True),
        *(Step(f"tests {Path(file).stem[5:]}", pytest(file), 200, shared=True) for file in files),
    ]


def _sanitizers(which: Callable[[str], str | None]) -> list[Step]:
    program = next((path for name in SANITIZER if (path := which(name))), None)
    # separate allocations, since torch's memory pool would hide an access out of bounds; odd shapes
    cases = pytest("tests/test_fused_rays.py", "-k", "matches_the_plain_form and (odd or three)")
    return [
        Step(f"sanitizer {tool}", ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", program, "--tool", tool,
                                   "--error-exitcode", "9", *cases), 150, shared=True)
        for tool in ("memcheck", "racecheck") if program
    ]  # fmt: skip


def _timed() -> list[Step]:
    named = {GENERATOR, TRAINING, RAYS, TILES, *FILTERS, *BLOCKS}
    others = sorted({f"bench/{path.name}" for path in (ROOT / "bench").glob("bench_*.py")} - named)
    return [
        bench("generator 1024 px", 150, GENERATOR, "-k", "1024", *SHORT),
        bench("training 512 px", 120, TRAINING, "-k", "512", *SHORT),
        bench("rays", 240, RAYS, *SHORT),
        bench("filters forward", 90, *FILTERS, "-k", "fwd- and not compile", *QUICK),
        bench("blocks", 120, *BLOCKS, "-k", "not compile", *QUICK),
        Step("train quickstart", _training(), 90),
        bench("ray tiles", 150, TILES, "-m", "slow", *QUICK),
        bench("generator, other sizes", 100, GENERATOR, "-k", "not compile and not 1024", *SHORT),
        bench("training, other sizes", 120, TRAINING, "-k", "not 512", *SHORT),
        bench("filters backward", 90, *FILTERS, "-k", "bwd- and not compile", *QUICK),
        bench("other ops", 180, *others, "-k", "not compile", *QUICK),
    ]


def _training() -> tuple[str, ...]:
    settings = ("train.total_kimg=2", "train.tick_kimg=0.2")
    overrides = (part for setting in settings for part in ("--set", setting))
    command = (sys.executable, "train.py", "--preset", "quickstart", "--device", "cuda", "--no-progress")
    return (*command, "--out", "{work}/run", *overrides)
