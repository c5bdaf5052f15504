"""One training step, phase by phase, as the engine runs it; the images come from the cache after the first call.

A step is G main with the NeRF path, then D main; at intervals also path length and R1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pytest

from bench.harness import Measure, dispatched, skip_reason
from bench.machine import DEVICE
from stylenerf.engine.data import Dataset
from stylenerf.engine.training.config import Config, load_config
from stylenerf.engine.training.stats import Accumulator
from stylenerf.engine.training.step import Stepper, TrainState
from stylenerf.engine.training.trainer import open_training_data

OPS = ("render_rays", "render_points", "upsample_block", "refine_to_rgb", "bias_act", "conv2d_resample")
WITHOUT_PATH = "G without NeRF path"  # the cost of the NeRF path is the difference to G main
PHASES: dict[str, Callable[[Stepper], None]] = {
    "G main": lambda stepper: stepper._generator_main(),
    "path length": lambda stepper: stepper._path_length(),
    "D main": lambda stepper: stepper._discriminator_main(),
    "R1": lambda stepper: stepper._r1(),
    WITHOUT_PATH: lambda stepper: stepper._generator_main(),
}
IMPLS = ("ref", "triton")


@dataclass(frozen=True)
class Case:
    """A preset with overrides, and seconds per phase of the public implementation in the same configuration."""

    preset: str
    overrides: tuple[str, ...] = ()
    public_s: dict[str, float] | None = None


def ffhq(resolution: int, batch: int, *more: str, scenes: int = 16) -> tuple[str, ...]:
    """FFHQ's networks on procedural scenes, all blocks active, one round per step."""
    return (
        f"generator.resolution={resolution}",
        "growth.enabled=false",
        f"train.batch={batch}",
        f"train.micro_batch={batch}",
        "data.path=procedural",
        "data.mirror=false",
        f"data.scenes={scenes}",
        *more,
    )


CASES = {
    "quickstart 64 px, batch 4": Case("quickstart", ("growth.enabled=false", "train.reuse_fakes=false")),
    "FFHQ 64 px, batch 4": Case(
        "ffhq256",
        ffhq(64, 4, "train.precision=fp32", scenes=64),
        {"G main": 12.4, "path length": 3.8, "D main": 2.9, "R1": 2.0},
    ),
    "FFHQ 512 px, batch 8": Case("ffhq512", ffhq(512, 8)),
    "FFHQ 256 px, batch 8": Case("ffhq256", ffhq(256, 8)),
    "FFHQ 1024 px, batch 4": Case("ffhq1024", ffhq(1024, 4, scenes=8)),
}
PUBLIC_NOTE = (
    "its figures were measured elsewhere: a 2-core CPU, 2 threads, +-30 %; they compare with such a machine only"
)
SLOW = {"FFHQ 64 px, batch 4"}
ON_CPU = {"quickstart 64 px, batch 4", "FFHQ 64 px, batch 4"}


def phases(shape: str) -> list[str]:
    return [phase for phase in PHASES if phase != "path length" or CASES[shape].preset != "quickstart"]  # off there


STEPS = [
    pytest.param(shape, impl, phase, marks=[pytest.mark.slow] if shape in SLOW else [])
    for shape in CASES
    for impl in IMPLS
    for phase in phases(shape)
]


def configuration(shape: str, phase: str) -> Config:
    case = CASES[shape]
    alone = ["loss.nerf_path_weight=0"] if phase == WITHOUT_PATH else []
    return load_config(case.preset, None, [*case.overrides, *alone])


def every(cfg: Config, phase: str) -> int | None:
    """Interval of a phase in steps; None if it is not part of a step."""
    if phase == WITHOUT_PATH:
        return None
    return {"path length": cfg.loss.path_length_interval, "R1": cfg.loss.r1_interval}.get(phase, 1)


@lru_cache(maxsize=1)
def networks(shape: str) -> tuple[Dataset, TrainState]:
    """Cached across phases and implementations: building takes longer than a phase on a GPU."""
    cfg = configuration(shape, "G main")
    data = open_training_data(cfg, report=lambda message: None)
    return data, TrainState.create(cfg, data.label_dim, DEVICE)


def prepare(shape: str, phase: str, impl: str = "triton") -> Callable[[], Stepper]:
    stepper = Stepper(configuration(shape, phase), *networks(shape), Accumulator(), DEVICE)

    def run() -> Stepper:
        with dispatched(impl):
            PHASES[phase](stepper)
        return stepper

    return run


def check(result: object) -> None:
    """Check that losses are finite and that no gradient was sanitised."""
    assert isinstance(result, Stepper)
    means = result.stats.summarise()
    assert all(value == value and abs(value) < 1e6 for value in means.values()), f"statistics: got {means}"
    replaced = {name: value for name, value in means.items() if name.endswith("_nonfinite") and value}
    assert not replaced, f"gradients: not finite, {replaced}"


@pytest.mark.parametrize(("shape", "impl", "phase"), STEPS)
def test_train_step(measure: Measure, shape: str, impl: str, phase: str) -> None:
    reason = skip_reason(OPS, impl)
    if reason:
        pytest.skip(reason)
    if DEVICE.type == "cpu" and shape not in ON_CPU:
        pytest.skip("on a CPU steps are timed at 64 px: at 512 px one takes minutes")
    case, cfg = CASES[shape], configuration(shape, phase)
    facts: dict[str, Any] = {"batch": cfg.train.batch, "every": every(cfg, phase), "precision": cfg.train.precision}
    if case.public_s is not None and phase in case.public_s:
        facts |= {"public_implementation_s": case.public_s[phase], "public_implementation_note": PUBLIC_NOTE}
    measure.model(
        partial(prepare, shape, phase, impl),
        check,
        op="train step",
        direction=phase,
        shape=shape,
        impl=impl,
        baseline=impl == "ref",
        **facts,
    )
