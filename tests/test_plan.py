"""Plans of a training step: memory as a counted run on a CPU takes it, and what is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from stylenerf.engine.command_line.main import main
from stylenerf.engine.errors import UserError
from stylenerf.engine.planning import fit, step_plan
from stylenerf.engine.planning.counting import CUDA_GRANULE, Count
from stylenerf.engine.planning.gpus import GIB, GPUS, Gpu, memory_of
from stylenerf.engine.planning.stand_in import GPU, Pictures, by_phase, one_round, stand_in, stepper_of
from stylenerf.engine.planning.step_plan import Phase, StepPlan, last_shown, plan_step
from stylenerf.engine.training.config import Config, load_config
from stylenerf.models.generator import Generator
from tests.conftest import ROOT
from tests.sweeps import sweep
from tests.tiny import CPU, tiny_config, write_tiny

LIGHT = ("loss.path_length_weight=0", "loss.nerf_path_weight=0", "loss.style_mixing=0", "generator.mapping_layers=1")
SIZES = {
    "16 px, fewer losses": ("train.batch=2", *LIGHT),
    "16 px": ("train.batch=2",),
    "32 px": ("train.batch=2", "generator.resolution=32", "discriminator.fp16_levels=0"),
    "64 px": ("generator.resolution=64", "generator.features=16", "train.micro_batch=4"),
}
NEAR = 0.1


def allocated(cfg: Config) -> dict[str, int]:
    """Peak bytes of each phase of a real step on the CPU, as torch's allocator reports them to its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        stepper = stepper_of(one_round(cfg), Pictures(CPU), CPU, last_shown(cfg))
        for optimiser in (stepper.state.generator_optimiser, stepper.state.discriminator_optimiser):
            for p in (p for group in optimiser.param_groups for p in group["params"]):
                p.grad = torch.zeros_like(p)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        def around(name: str, phase: Callable[[], Any]) -> None:
            with record_function(f"phase {name}"):
                phase()

        by_phase(stepper, around)
    spans, sizes = {}, []

    def walk(events: Any) -> Iterator[Any]:
        for event in events:
            yield event
            yield from walk(event.children)

    for event in walk(profiler.profiler.kineto_results.experimental_event_tree()):  # type: ignore[union-attr]
        if event.name.startswith("phase "):
            spans[event.name.removeprefix("phase ")] = event.start_time_ns, event.end_time_ns
        elif event.name == "[memory]":
            extra = event.extra_fields
            sizes.append((event.start_time_ns, extra.total_allocated, extra.alloc_size))
    _, total, first = min(sizes)
    return {name: max(n for at, n, _ in sizes if a <= at <= b) - total + first for name, (a, b) in spans.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", sweep(list(SIZES), always=["16 px, fewer losses"]))
def test_memory_is_what_a_run_on_the_cpu_allocates(size: str) -> None:
    cfg = tiny_config(*SIZES[size])
    real, plan = allocated(cfg), plan_step(cfg, device=CPU)
    assert [phase.name for phase in plan.phases] == list(real)
    assert abs(plan.peak / max(real.values()) - 1) < NEAR
    for phase in plan.phases:
        assert abs(phase.peak / real[phase.name] - 1) < NEAR, phase.name


@pytest.fixture(scope="module")
def tiny() -> StepPlan:
    return plan_step(tiny_config(*LIGHT[2:]))


def test_networks(tiny: StepPlan) -> None:
    """An allocation is a multiple of 512 bytes; Adam keeps two moments and a count for each parameter."""

    def rounded(*tensors: torch.Tensor) -> int:
        return sum(-(-t.numel() * t.element_size() // CUDA_GRANULE) * CUDA_GRANULE for t in tensors)

    g = Generator(tiny.cfg.generator)
    assert tiny.networks["moving average"] == rounded(*g.parameters(), *g.buffers())
    assert tiny.networks["optimisers"] >= 2 * rounded(*g.parameters())


def test_parts_are_the_peak(tiny: StepPlan) -> None:
    for phase in tiny.phases:
        assert sum(phase.parts.values()) == phase.peak
        assert phase.parts["parameters"] and phase.parts["optimisers"] and phase.parts["moving average"]


def test_phases(tiny: StepPlan) -> None:
    names = [phase.name for phase in tiny.phases]
    assert names == ["generator_main", "path_length", "discriminator_main", "r1", "update_ema"]
    assert any("workspace of" in part for phase in tiny.phases for part in phase.parts)
    assert all(phase.kernels for phase in tiny.phases[:-1])


@pytest.mark.slow
def test_rounds(tiny: StepPlan) -> None:
    """A second round finds the gradients of the first, and repeats everything but the update."""
    one, two = (plan_step(cfg, work=True).phases[0] for cfg in (one_round(tiny.cfg), tiny.cfg))
    assert one.moved and one.single_flop and one.torch_ops
    assert two.parts["gradients"] > one.parts["gradients"]
    assert one.single_flop * 2 == two.single_flop and one.kernels < two.kernels <= 2 * one.kernels


def test_fakes_that_are_kept() -> None:
    cfg = tiny_config("train.reuse_fakes=true", "train.batch=8")
    assert step_plan.fakes_kept(cfg) == 6 * 3 * 16 * 16 * 4 and step_plan.fakes_kept(one_round(cfg)) == 0


def test_what_is_held_counts_and_what_is_freed_does_not() -> None:
    with stand_in(GPU) as launches, Count(launches) as count:
        x = torch.empty(1000, device=GPU, requires_grad=True)
        y = x.exp()  # its backward needs it
        z = y.sum()
        del y
        assert count.live == 8004
        z.backward()
        assert x.grad is not None
        del z
        assert count.live == 8000 and count.counts.peak >= 12000
        count.begin("next")
        del x
        assert count.live == 0 and count.counts.peak == 8000


def planned_by_size(monkeypatch: pytest.MonkeyPatch, each: int, recomputed: int) -> list[int]:
    """Replaces planning by ``each`` bytes an image, or ``recomputed``; returns the sizes that are planned."""
    asked = []

    def plan(cfg: Config, **other: Any) -> StepPlan:
        size = cfg.train.micro_batch * (recomputed if cfg.generator.upsampler.recompute else each)
        asked.append(cfg.train.micro_batch)
        return StepPlan(cfg, {}, (Phase("r1", size, step_plan.Counter(), 0, 0, 0, 0, 0),), 0.0)

    monkeypatch.setattr(fit, "plan_step", plan)
    return asked


def test_micro_batches_that_a_configuration_allows() -> None:
    """Divisors of the batch, which the groups of the discriminator divide."""
    assert fit.micro_batches(load_config("ffhq256", None, ["train.batch=24"])) == [1, 2, 3, 4, 8, 12, 24]


@pytest.mark.parametrize(("gib", "want"), [(2.0, None), (2.2, 1), (9.8, 8), (9.7, 4), (1000, 64)])
def test_largest_micro_batch(gib: float, want: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image takes 1 GiB here, and 1.1 GiB with what is set aside, beside 1 GiB."""
    asked = planned_by_size(monkeypatch, GIB, GIB)
    plan = fit.largest_micro_batch(load_config("ffhq256", None, []), int(gib * GIB))
    assert (None if plan is None else plan.cfg.train.micro_batch) == want
    assert len(asked) <= 3


def told(free: float, monkeypatch: pytest.MonkeyPatch, recomputed: float = 1) -> list[str]:
    planned_by_size(monkeypatch, GIB, int(recomputed * GIB))
    lines: list[str] = []
    fit.judge(load_config("ffhq256", None, []), int(free * GIB), 80 * GIB, 0, lines.append)
    return lines


def test_training_that_fits_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(79, monkeypatch)
    assert line == "memory:      8.0 GiB at the peak of a step (predicted), 79.0 of 80.0 GiB free"


def test_training_that_is_tight_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(9, monkeypatch)
    assert line.endswith("9.0 of 80.0 GiB free: tight; predicted to fit: --set train.micro_batch=4")


@pytest.mark.parametrize(("free", "recomputed", "way"), [
    (6, 1, "predicted to fit: --set train.micro_batch=4"),
    (1.9, 0.1, "predicted to fit: --set generator.upsampler.recompute=true --set train.micro_batch=8"),
    (1.9, 1, "no train.micro_batch of this configuration would fit"),
])  # fmt: skip
def test_training_that_does_not_fit_is_refused(
    free: float, recomputed: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = f"memory: wanted 8.0 GiB for a step with train.micro_batch=8, got {free:.1f} of 80.0 GiB free; {way}"
    with pytest.raises(UserError, match=re.escape(wanted)):
        told(free, monkeypatch, recomputed)


def test_a_failed_prediction_keeps_nobody_from_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(fit, "plan_step", fails)
    lines: list[str] = []
    fit.judge(tiny_config(), GIB, GIB, 0, lines.append)
    assert lines == ["memory:      not predicted: no kernel"]


def test_a_cpu_is_not_judged() -> None:
    fit.check_fits(tiny_config(), CPU, 0, pytest.fail)


def test_least_milliseconds() -> None:
    """1 GB at 1000 GB/s is 1 ms; 2e12 operations at 1e15 a second and 1e11 at 1e14 are 3 ms."""
    gpu = Gpu(24, 1000, 1000, 100)
    phase = Phase("r1", 0, step_plan.Counter(), 10**9, 0, 0, 0, 0)
    assert gpu.least_ms(phase) == pytest.approx(1)
    assert gpu.least_ms(replace(phase, half_flop=2 * 10**12, single_flop=10**11)) == pytest.approx(3)


def test_sizes_of_memory() -> None:
    assert [memory_of(text) for text in ("24GiB", "24 GB", "512MiB", "24")] == [
        24 * GIB,
        24 * 10**9,
        GIB // 2,
        24 * GIB,
    ]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--gpu", "voodoo2"], f"--gpu: wanted one of {', '.join(GPUS)}, got 'voodoo2'"),
    (["--gpu-memory", "much"], "--gpu-memory: wanted a size such as 24GiB, got 'much'"),
    (["--gpu-memory", "0GiB"], "--gpu-memory: wanted a size such as 24GiB, got '0GiB'"),
    ([], "--preset, --config: wanted exactly one of the two"),
    (["--preset", "a", "--preset", "b"], "--preset: wanted one (several with --table), got a, b"),
    (["--preset", "quickstart", "--device", "cpu", "--gpu", "h100"], "--device cpu: wanted no --gpu"),
    (["--table", "--json"], "--table: wanted no other option but --preset, got one"),
])  # fmt: skip
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def tiny_file(tmp_path: Any, tiny: StepPlan, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny configuration, whose plan is ready at every size."""

    def ready(cfg: Config, **how: Any) -> StepPlan:
        return replace(tiny, cfg=cfg, phases=tuple(replace(phase, moved=10**9) for phase in tiny.phases))

    monkeypatch.setattr(step_plan, "plan_step", ready)
    monkeypatch.setattr(fit, "plan_step", ready)
    return str(write_tiny(tmp_path / "tiny.yaml"))


def test_prints(tiny_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", tiny_file, "--gpu", "rtx4090", "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("24 GiB: train.micro_batch=4 is the largest that fits\n")
    for text in ("path length, 1 in 2", "r1, 1 in 3", "ms on rtx4090", "at the peak: ", "Predicted, not measured."):
        assert text in out


def test_nothing_fits(tiny_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", tiny_file, "--gpu-memory", "1MiB", "--no-progress"]) == 2
    assert "no train.micro_batch fits" in capsys.readouterr().out


def test_json(tiny_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", tiny_file, "--device", "cpu", "--json", "--no-progress"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["predicted"] and found["gpu"] is None and found["precision"] == "fp32"
    assert found["peak_bytes"] == max(phase["peak_bytes"] for phase in found["phases"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "engine/training/presets").glob("*.yaml")))
def test_table_of_the_readme(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--table", "--preset", preset, "--no-progress"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row in (ROOT / "README.md").read_text().splitlines()
