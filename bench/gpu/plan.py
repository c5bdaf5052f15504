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
SMOKE_S = 60
SMALL_PICTURES = ("monitor.swd_images=0", "monitor.depth_scenes=0", "monitor.grid_images=1", "monitor.turn_frames=1",
                  "monitor.batch=1")  # fmt: skip
# compute-sanitizer lies beside the compiler where it is not on the path
SANITIZER = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        command: the whole command line; "{work}" stands for a folder of the step's own.
        limit_s: seconds after which the process is ended.
        shared: it measures no time, so that other such steps may run beside it.
        lacks: what the machine lacks for it; such a step is not run, and listed with this reason.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    shared: bool = False
    lacks: str = ""


def pytest(*arguments: str) -> tuple[str, ...]:
    """A test run that writes its verdicts to junit.xml, and a traceback if it hangs."""
    options = ("-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=90", "--continue-on-collection-errors")
    return (sys.executable, "-m", "pytest", *options, "--junitxml={work}/junit.xml", *arguments)


def bench(name: str, limit_s: float, *arguments: str) -> Step:
    return Step(f"bench {name}", pytest("--benchmark-json={work}/bench.json", *arguments), limit_s)


def steps(which: Callable[[str], str | None] = shutil.which) -> list[Step]:
    return [*_smoke(which), *_tests(), *_sanitizers(which), *_timed()]


def _smoke(which: Callable[[str], str | None]) -> list[Step]:
    """A minute, side by side: every op once, a step of training, a capture, the backward that a compiler may break."""
    narrow = pytest("tests/test_fused_refine_to_rgb.py", "-k", "matches_the_plain_form and not wide and not many")
    return [
        Step(
            "smoke kernels", (sys.executable, "-m", "stylenerf", "doctor", "--device", "cuda", "--json"), SMOKE_S, True
        ),
        Step("smoke training", _training(0.004, *SMALL_PICTURES), SMOKE_S, True),
        Step("smoke capture", pytest("-m", "gpu", "tests/test_graphs.py", "-k", "replays or ray_pass"), SMOKE_S, True),
        _sanitizer(which, "smoke sanitizer", "memcheck", narrow, SMOKE_S),
    ]


def _tests() -> list[Step]:
    """A process per file, since each compiles its kernels and a crash loses the results of its file."""
    files = [f"tests/{path.name}" for path in sorted((ROOT / "tests").glob("test_fused_*.py"))]
    return [
        Step("tests marked gpu", pytest("-m", "gpu", "tests/"), 240, shared=True),
        *(Step(f"tests {Path(file).stem[5:]}", pytest(file), 200, shared=True) for file in files),
    ]


def _sanitizers(which: Callable[[str], str | None]) -> list[Step]:
    cases = pytest("tests/test_fused_rays.py", "-k", "matches_the_plain_form and (odd or three)")
    return [_sanitizer(which, f"sanitizer {tool}", tool, cases, 150) for tool in ("memcheck", "racecheck")]


def _sanitizer(
    which: Callable[[str], str | None], name: str, tool: str, command: tuple[str, ...], limit_s: float
) -> Step:
    """Without torch's memory pool, which would hide an access out of bounds."""
    program = next((path for path in map(which, SANITIZER) if path), None)
    options = ("--tool", tool, "--error-exitcode", "9")
    whole = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", program or SANITIZER[0], *options, *command)
    return Step(name, whole, limit_s, shared=True, lacks="" if program else f"no {SANITIZER[0]}")


def _timed() -> list[Step]:
    named = {GENERATOR, TRAINING, RAYS, TILES, *FILTERS, *BLOCKS}
    others = sorted({f"bench/{path.name}" for path in (ROOT / "bench").glob("bench_*.py")} - named)
    return [
        bench("generator 1024 px", 150, GENERATOR, "-k", "1024", *SHORT),
        bench("training 512 px", 120, TRAINING, "-k", "512", *SHORT),
        bench("rays", 240, RAYS, *SHORT),
        bench("filters forward", 90, *FILTERS, "-k", "fwd- and not compile", *QUICK),
        bench("blocks", 120, *BLOCKS, "-k", "not compile", *QUICK),
        Step("train quickstart", _training(2, "train.tick_kimg=0.2"), 90),
        Step("tune ffhq256", _tuning("ffhq256"), 240),
        bench("ray tiles", 150, TILES, "-m", "slow", *QUICK),
        bench("generator, other sizes", 100, GENERATOR, "-k", "not compile and not 1024", *SHORT),
        bench("training, other sizes", 120, TRAINING, "-k", "not 512", *SHORT),
        bench("filters backward", 90, *FILTERS, "-k", "bwd- and not compile", *QUICK),
        bench("other ops", 180, *others, "-k", "not compile", *QUICK),
    ]


def _tuning(preset: str) -> tuple[str, ...]:
    """What this device chooses between: a minute beside the step whose calls are timed, and whose kernels compile."""
    options = ("--preset", preset, "--data", "procedural", "--device", "cuda", "--no-progress")
    return (sys.executable, "-m", "stylenerf", "tune", *options)


def _training(total_kimg: float, *settings: str) -> tuple[str, ...]:
    overrides = (part for setting in (f"train.total_kimg={total_kimg:g}", *settings) for part in ("--set", setting))
    command = (sys.executable, "train.py", "--preset", "quickstart", "--device", "cuda", "--no-progress", "--no-tune")
    return (*command, "--out", "{work}/run", *overrides)
