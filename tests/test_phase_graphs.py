"""Rounds of training that are replayed: the numbers of a run without, whatever is recorded, or no replays at all.

A stand-in takes the place of a CUDA graph: it records a pass without leaving a trace, and replays by running it again
on the buffers that a graph would read and write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylenerf.engine.nests import mapped, tensors
from stylenerf.engine.training.phase_graphs import CudaRecorder, PassGraphs, graphs_for
from stylenerf.engine.training.step import Latents, Stepper
from tests.simulated_device import inner
from tests.tiny import build, tiny_config

STEADY = ("growth.enabled=false", "loss.style_mixing=0.5", "generator.mapping_layers=1")
Record = Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]]


class StandIn:
    """Records for the networks of a stepper; ``change`` is done to what a replay gives."""

    def __init__(self, stepper: Stepper, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.networks: list[nn.Module] = [stepper.state.generator, stepper.state.discriminator]
        self.change, self.recorded, self.replays = change, 0, 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        state = [b for net in self.networks for b in net.buffers()]
        state += [p.grad for net in self.networks for p in net.parameters() if p.grad is not None]
        before = [x.clone() for x in state]
        outputs = mapped(run(), lambda x: torch.full_like(x, torch.nan))  # a capture computes nothing
        for x, value in zip(state, before):
            x.copy_(value)
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            for to, x in zip(tensors(outputs), tensors(run())):
                to.copy_(self.change(x))

        return replay, outputs


def trained(steps: int, *overrides: str, record: Callable[[Stepper], Record] | None = None) -> tuple[Any, list[str]]:
    """Weights, buffers, moments and statistics after some steps; lines that were reported."""
    stepper, lines = build(tiny_config(*overrides)), list[str]()
    if record is not None:
        stepper.graphs = PassGraphs(record(stepper), lines.append)
    for _ in range(steps):
        stepper.run()
    state = stepper.state.state_dict()
    return [inner(x) for x in tensors_of(state)] + [torch.tensor(list(stepper.stats.summarise().values()))], lines


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [x for part in value.values() for x in tensors_of(part)]
    return [value] if isinstance(value, Tensor) else []


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_replays_give_the_numbers_of_the_passes() -> None:
    """Four steps: two rounds of every phase, with and without mixed styles."""
    made: list[StandIn] = []

    def record(stepper: Stepper) -> StandIn:
        made.append(StandIn(stepper))
        return made[0]

    plain, _ = trained(4, *STEADY)
    replayed, lines = trained(4, *STEADY, record=record)
    assert equal(plain, replayed) and not lines
    # of two rounds each: 4 steps of G and D, 2 of path length and R1; each phase is recorded once
    assert (made[0].recorded, made[0].replays) == (4, 2 * (4 + 4 + 2 + 2))


@pytest.mark.slow
def test_growth_records_anew_and_runs_what_is_blended() -> None:
    made: list[StandIn] = []

    def record(stepper: Stepper) -> StandIn:
        made.append(StandIn(stepper))
        return made[0]

    light = ("loss.path_length_weight=0", "loss.r1_gamma=0", "generator.mapping_layers=1")
    plain, _ = trained(9, *light)  # grown after image 28; 4 images a step
    replayed, lines = trained(9, *light, record=record)
    assert equal(plain, replayed) and not lines
    assert made[0].recorded == 4  # G and D, before growth and after it
    assert made[0].replays < 9 * 2 * 2


@pytest.mark.parametrize("fault", ["other numbers", "other gradients", "no capture"])
def test_without_graphs_where_they_fail(fault: str) -> None:
    def record(stepper: Stepper) -> Record:
        if fault == "other numbers":
            return StandIn(stepper, lambda x: x * (1 + 1e-6))
        if fault == "no capture":

            def refuse(run: Callable[[], Any]) -> Any:
                run()
                raise RuntimeError("operation not permitted\nwhen stream is capturing")

            return refuse
        real = StandIn(stepper)

        def twice(run: Callable[[], Any]) -> Any:
            replay, outputs = real(run)
            return lambda: (replay(), replay()), outputs

        return twice

    plain, _ = trained(1, *STEADY)
    found, lines = trained(1, *STEADY, record=record)
    assert equal(plain, found)
    reason = {"no capture": "operation not permitted when stream is capturing"}.get(fault)
    assert lines == [f"graphs:      off, generator: {reason or 'the replay gives other numbers'}"]


def test_nests() -> None:
    latents = Latents(torch.ones(2), None, 3, None, None, torch.zeros(1), None, None)  # type: ignore[arg-type]
    doubled = mapped({"a": (latents, 1), "b": None}, lambda x: 2 * x)
    assert doubled["a"][0].z.tolist() == [2, 2] and doubled["a"][0].cut == 3 and doubled["b"] is None
    assert [x.tolist() for x in tensors(doubled)] == [[2, 2], [0]]


@pytest.mark.parametrize(("device", "override", "line"), [
    ("cpu", "train.capture=true", None),
    ("cuda", "train.capture=false", None),
    ("cuda", "augment.mode=ada", "graphs:      off, augmentation draws within a round"),
    ("cuda", "generator.upsampler.noise=true", "graphs:      off, the upsampler's layers draw noise of their own"),
])  # fmt: skip
def test_where_there_are_no_graphs(device: str, override: str, line: str | None) -> None:
    lines: list[str] = []
    assert graphs_for(tiny_config(override), torch.device(device), lines.append) is None
    assert lines == ([] if line is None else [line])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_replays_training() -> None:
    from stylenerf.engine.training.stats import Accumulator
    from stylenerf.engine.training.step import TrainState
    from stylenerf.engine.training.trainer import open_training_data

    cfg, device, ends = tiny_config(*STEADY), torch.device("cuda"), []
    for graphs in (False, True):
        data, lines = open_training_data(cfg, print), list[str]()
        stepper = Stepper(cfg, data, TrainState.create(cfg, data.label_dim, device), Accumulator(), device)
        stepper.graphs = PassGraphs(CudaRecorder(device), lines.append) if graphs else None
        for _ in range(4):
            stepper.run()
        assert not lines
        ends.append(tensors_of(stepper.state.state_dict()))
    assert equal(*ends)
