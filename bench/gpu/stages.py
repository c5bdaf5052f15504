"""What ``python -m bench.gpu`` runs: stages made of steps, each a process of its own with its own time limit."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_SHARDS = 12
# compute-sanitizer beside the compiler, where it is not on the path
SANITIZER = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        stage, name: its place in the results.
        argv: what follows the Python interpreter, or a whole command line if ``program``. "{lines}" stands for the file
            that it writes results to, "{lines:NAME}" for another step's, "{work}" for a folder of its own.
        limit_s: then it is ended.
        alone: it takes times, so nothing else may run beside it.
        tests: it is pytest with ``bench.gpu.plugin``, which can go on where it stopped.
        stall_s: pytest that has written no line for so long hangs.
        needs: packages without which it is left out.
        program: an executable to run Python with.
        extra: environment variables, of torch's.
    """

    stage: str
    name: str
    argv: tuple[str, ...]
    limit_s: float
    alone: bool = True
    tests: bool = False
    stall_s: float = 90.0
    needs: tuple[str, ...] = ()
    program: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.stage}-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"


STAGES = {
    "environment": "versions, the device, how fast it copies, multiplies and reads its caches",
    "tests": "the tests of every kernel on the device, and those marked gpu",
    "determinism": "the same call twice and a resumed run, bit for bit; compute-sanitizer on odd shapes",
    "bench": "whole images and training steps, filters, ray passes, every op, by pytest bench/; bytes counted",
    "experiments": "tiles, sine and cosine, fused or two passes, trunk backward, where the time goes",
    "train": "the quickstart for some seconds: losses, images per second, memory",
}
PYTEST_PACKAGES = ("torch", "triton", "numpy", "pytest")
BENCH_PACKAGES = (*PYTEST_PACKAGES, "pytest_benchmark")
MODEL_PACKAGES = ("torch", "triton", "numpy", "PIL", "yaml")
MODELS = ("bench/bench_generator.py", "bench/bench_train_step.py")
FILTERS = ("bench/bench_upfirdn2d.py", "bench/bench_bias_act.py")
BLOCKS = ("bench/bench_upsample_block.py", "bench/bench_modulated_layer.py", "bench/bench_refine_to_rgb.py")
QUICK = "--benchmark-max-time=0.1"
SHORT = ("--benchmark-max-time=0.3", "--benchmark-min-rounds=5")


def pytest(*args: str, quick: bool = False) -> tuple[str, ...]:
    """A run that writes lines; ``quick`` leaves benches untimed."""
    common = ("-m", "pytest", "-q", "-p", "bench.gpu.plugin", "-p", "no:cacheprovider", "--lines", "{lines}")
    return (*common, *(("--benchmark-disable",) if quick else ()), *args)


def module(name: str, *args: str) -> tuple[str, ...]:
    return ("-m", f"bench.gpu.{name}", *args, "--lines", "{lines}")


def marked_files(root: Path = ROOT) -> list[str]:
    """Test files with a test marked gpu, apart from those that run as a whole."""
    found = (path for path in sorted((root / "tests").glob("test_*.py")) if not path.name.startswith("test_fused_"))
    return [f"tests/{path.name}" for path in found if "mark.gpu" in path.read_text(encoding="utf-8")]


def fused_files(root: Path = ROOT) -> list[str]:
    return [f"tests/{path.name}" for path in sorted((root / "tests").glob("test_fused_*.py"))]


def shards(cpus: int) -> int:
    """Processes that share the kernels' tests: each compiles, which takes a processor; some are left for others."""
    return max(1, min(MAX_SHARDS, cpus * 3 // 4))


def steps(cpus: int, which: Callable[[str], str | None] = shutil.which, root: Path = ROOT) -> list[Step]:
    """Every step, in the order in which it would run alone: the most telling first, since time may run out."""
    first = Step("environment", "environment", module("environment"), 60, needs=("torch", "triton"))
    return [first, *_together(cpus, which, root), *_alone(root)]


def _together(cpus: int, which: Callable[[str], str | None], root: Path) -> list[Step]:
    """What takes no times, some of it compiling what is timed later."""
    parts = shards(cpus)
    found = [
        Step("tests", f"kernels {i}/{parts}", pytest(f"--shard={i}/{parts}", *fused_files(root)), 180,
             alone=False, tests=True, needs=PYTEST_PACKAGES)
        for i in range(1, parts + 1)
    ]  # fmt: skip
    return [
        *found,
        Step("tests", "marked gpu", pytest("-m", "gpu", *marked_files(root)), 120,
             alone=False, tests=True, needs=MODEL_PACKAGES + PYTEST_PACKAGES),
        Step("determinism", "repeat", module("checks", "repeat"), 90, alone=False, needs=BENCH_PACKAGES),
        Step("determinism", "resume", module("checks", "resume", "--work", "{work}"), 120,
             alone=False, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        *_sanitizer(which),
        Step("experiments", "compile", module("experiments", "compile"), 120, alone=False, needs=BENCH_PACKAGES),
        Step("bench", "compile", pytest("bench/bench_rays.py", "bench/bench_generator.py", "-k", "compile", quick=True),
             150, alone=False, tests=True, stall_s=150, needs=BENCH_PACKAGES),
        Step("bench", "compile, models", pytest(*MODELS, "-k", "triton and (1024 and generator or 512 and train_step)",
                                                quick=True),
             170, alone=False, tests=True, stall_s=150, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("bench", "compile, layers", pytest(*FILTERS, *BLOCKS, "-k", "triton", quick=True),
             150, alone=False, tests=True, stall_s=150, needs=BENCH_PACKAGES),
        Step("bench", "bytes", ("-m", "bench.compiler.moved", "--lines", "{lines}"), 170, alone=False,
             needs=BENCH_PACKAGES, extra={"TRITON_INTERPRET": "1"}),
    ]  # fmt: skip


def _alone(root: Path) -> list[Step]:
    """What takes times."""
    return [
        Step("bench", "generator", pytest("bench/bench_generator.py", "-k", "1024", *SHORT), 90,
             tests=True, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("bench", "training", pytest("bench/bench_train_step.py", "-k", "512", *SHORT), 70,
             tests=True, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("bench", "filters", pytest(*FILTERS, "-k", "fwd- and not compile", QUICK), 50,
             tests=True, needs=BENCH_PACKAGES),
        Step("bench", "rays", pytest("bench/bench_rays.py", *SHORT), 120,
             tests=True, stall_s=150, needs=BENCH_PACKAGES),
        Step("bench", "blocks", pytest(*BLOCKS, "-k", "not compile", QUICK), 60,
             tests=True, needs=BENCH_PACKAGES),
        Step("experiments", "tiles", module("experiments", "tiles", "--compiled", "{lines:experiments-compile}"), 70,
             needs=BENCH_PACKAGES),
        Step("train", "quickstart", module("training", "--work", "{work}", "--seconds", "30"), 65,
             needs=MODEL_PACKAGES),
        Step("experiments", "profile", module("experiments", "profile"), 60, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("experiments", "sincos", module("experiments", "sincos"), 30, needs=BENCH_PACKAGES),
        Step("experiments", "passes", module("experiments", "passes"), 45, needs=BENCH_PACKAGES),
        Step("experiments", "backward", module("experiments", "backward"), 45, needs=BENCH_PACKAGES),
        Step("bench", "models", pytest(*MODELS, "-k", "not compile and not 512 and not 1024", *SHORT), 80,
             tests=True, needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("bench", "largest",
             pytest(*MODELS, "-k", "generator and 512 and not compile or train_step and 1024", *SHORT), 80, tests=True,
             needs=BENCH_PACKAGES + MODEL_PACKAGES),
        Step("bench", "filters, backward", pytest(*FILTERS, "-k", "bwd- and not compile", QUICK), 50,
             tests=True, needs=BENCH_PACKAGES),
        Step("bench", "ops", pytest(*_ops(root), "-k", "not compile", "--benchmark-max-time=0.15"), 120,
             tests=True, needs=BENCH_PACKAGES),
    ]  # fmt: skip


def _ops(root: Path) -> list[str]:
    whole = {"bench/bench_rays.py", *MODELS, *FILTERS, *BLOCKS}
    files = [f"bench/{path.name}" for path in sorted((root / "bench").glob("bench_*.py"))]
    return [file for file in files if file not in whole]


def _sanitizer(which: Callable[[str], str | None]) -> list[Step]:
    program = next((found for name in SANITIZER if (found := which(name))), None)
    if program is None:
        return []
    argv = module("experiments", "odd")
    return [
        Step("determinism", tool, argv, 110, alone=False, needs=BENCH_PACKAGES,
             program=f"{program} --tool {tool} --error-exitcode 9", extra={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        for tool in ("memcheck", "racecheck")
    ]  # fmt: skip


def waves(chosen: list[Step]) -> list[list[Step]]:
    """Groups that run one after the other: first what must be known, then all that may share the device, then times."""
    first = [step for step in chosen if step.stage == "environment"]
    together = [step for step in chosen if not step.alone]
    alone = [step for step in chosen if step.alone and step.stage != "environment"]
    return [group for group in (first, together, *([step] for step in alone)) if group]
