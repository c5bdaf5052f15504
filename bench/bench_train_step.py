"""One training step, phase by phase, as the engine runs it; the images come from the cache after the first call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from bench.harness import Measure
from bench.machine import DEVICE
from engine.config import load_config
from engine.stats import Accumulator
from engine.step import Stepper, TrainState
from engine.trainer import open_training_data

PHASES: dict[str, Callable[[Stepper], None]] = {
    "G main": lambda stepper: stepper._generator_main(),
    "path length": lambda stepper: stepper._path_length(),
    "D main": lambda stepper: stepper._discriminator_main(),
    "R1": lambda stepper: stepper._r1(),
}


@dataclass(frozen=True)
class Case:
    """A preset with overrides, and seconds per phase of the public implementation in the same configuration."""

    preset: str
    overrides: tuple[str, ...] = ()
    public_s: dict[str, float] | None = None


SMALL_FFHQ = (
    "generator.resolution=64",
    "growth.enabled=false",
    "train.batch=4",
    "train.micro_batch=4",
    "train.precision=fp32",
    "data.path=procedural",
    "data.mirror=false",
    "data.scenes=64",
)
CASES = {
    "quickstart 64 px, batch 8": Case("quickstart"),
    "FFHQ 64 px, batch 4": Case("ffhq256", SMALL_FFHQ, {"G main": 12.4, "path length": 3.8, "D main": 2.9, "R1": 2.0}),
}
PUBLIC_NOTE = (
    "its figures were measured elsewhere: a 2-core CPU, 2 threads, +-30 %; they compare with such a machine only"
)
SLOW = {"FFHQ 64 px, batch 4"}
STEPS = [
    pytest.param(shape, phase, marks=[pytest.mark.slow] if shape in SLOW else [])
    for shape, case in CASES.items()
    for phase in PHASES
    if phase != "path length" or case.preset != "quickstart"  # the quickstart has none
]


def prepare(shape: str, phase: str) -> Callable[[], Stepper]:
    case = CASES[shape]
    cfg = load_config(case.preset, None, list(case.overrides))
    data = open_training_data(cfg, report=lambda message: None)
    stepper = Stepper(cfg, data, TrainState.create(cfg, data.label_dim, DEVICE), Accumulator(), DEVICE)

    def run() -> Stepper:
        PHASES[phase](stepper)
        return stepper

    return run


def check(result: object) -> None:
    """Losses are finite and no gradient had to be replaced."""
    assert isinstance(result, Stepper)
    means = result.stats.summarise()
    assert all(value == value and abs(value) < 1e6 for value in means.values()), f"statistics: got {means}"
    replaced = {name: value for name, value in means.items() if name.endswith("_nonfinite") and value}
    assert not replaced, f"gradients: not finite, {replaced}"


@pytest.mark.parametrize(("shape", "phase"), STEPS)
def test_train_step(measure: Measure, shape: str, phase: str) -> None:
    public = CASES[shape].public_s
    facts = (
        {} if public is None else {"public_implementation_s": public[phase], "public_implementation_note": PUBLIC_NOTE}
    )
    measure.model(partial(prepare, shape, phase), check, op="train step", direction=phase, shape=shape, **facts)
