"""Tuning: what is slow or wrong is not taken; choices survive a resume; another machine, hash or shape tunes again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS

from stylenerf import kernels
from stylenerf.engine.command_line import main as cli
from stylenerf.engine.machine import facts as facts_module
from stylenerf.engine.machine import prepare, tuning
from stylenerf.engine.training.checkpoint import read_checkpoint
from stylenerf.engine.training.config import Config
from stylenerf.engine.training.trainer import Trainer, open_training_data
from stylenerf.kernels.base import launch as launch_module
from stylenerf.kernels.base.autocast import under_autocast
from stylenerf.kernels.base.choices import choice, choices, choosing, key, record_offers
from stylenerf.kernels.base.launch import launch
from stylenerf.kernels.base.register import namespace
from tests.on_kernels import large_tiles
from tests.simulated_device import DEVICE, simulated_device
from tests.tiny import CPU, tiny_config

simulated = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one")
PAUSE_S = 0.02
KEY = ("mean_square", "float32", 2, 3)
TAKEN = [tuning.Choice(KEY, "ref", "triton", {"triton": 2.0, "ref": 1.0})]


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with choosing({}):
        yield


@under_autocast("others")
def doubled(x: Tensor, *, impl: Any = "auto") -> Tensor:
    """2 x, in several ways, the first of which is slow."""
    way = choice("doubled", x, ("slow", "wrong", "raises", "slower", "fast"))
    if way == "raises":
        raise RuntimeError("does not compile")
    time.sleep({"slow": PAUSE_S, "slower": 2 * PAUSE_S}.get(way, 0))
    return 3 * x if way == "wrong" else x + x


def sampled(*tensors: Tensor) -> list[tuning.Sample]:
    with tuning.sample_calls() as samples:
        for x in tensors:
            doubled(x)
    return list(samples.values())


def test_takes_the_fastest_that_is_right() -> None:
    x, y = torch.ones(2, 3, requires_grad=True), torch.ones(4)
    samples = sampled(x, y, x)
    assert [(s.count, s.with_grad) for s in samples] == [(2, True), (1, False)]
    decided = {c.key: c for c in tuning.tune(samples, CPU)}
    assert decided.keys() == {key("doubled", x), key("doubled", y)}
    for c in decided.values():
        assert c.way == "fast" and c.default == "slow"
        assert {way for way, s in c.seconds.items() if s == float("inf")} == {"wrong", "raises"}
    found = tuning.table(decided.values())
    assert tuning.from_rows(tuning.as_rows(found)) == found
    with choosing(found):
        assert choice("doubled", x, ("slow", "fast")) == "fast"
        assert choice("doubled", x, ("slow", "other")) == "slow", "what is no longer offered is not taken"


def test_costly_calls_come_first_and_the_rest_keeps_its_default() -> None:
    times = iter([0.0, *[1.0] * 4, *[2.0], *[99.0] * 20])
    (c,) = tuning.tune(sampled(torch.ones(2), *[torch.ones(3)] * 5), CPU, budget_s=3.0, clock=lambda: next(times))
    assert c.key == ("doubled", "float32", 3)


def test_large_tensors_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "KEPT", 10)
    x = (5 + 2 * torch.randn(8, 3, 4, 4)).to(memory_format=torch.channels_last).requires_grad_()
    (sample,) = sampled(x)
    kept, _ = tuning._placed((sample.args, sample.named), CPU)
    assert kept[0].stride() == x.stride() and kept[0].requires_grad and abs(float(kept[0].detach().mean()) - 5) < 1


def registered(module: str, name: str) -> Any:
    """A registered op, whose body a test may replace."""
    import_module(f"stylenerf.kernels.{module}")
    return OPDEFS[f"{namespace()}::{name}"]


@simulated
@pytest.mark.parametrize("slow", ["kernel", "plain"])
def test_kernel_against_plain_torch(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two made slow on purpose, the other is taken."""
    volume, op = import_module("stylenerf.kernels.rays.volume"), registered("rays.composite_triton", "composite")

    def delayed(body: Any) -> Any:
        return lambda *args: (time.sleep(0.2), body(*args))[1]

    if slow == "kernel":
        monkeypatch.setattr(op, "_init_fn", delayed(op._init_fn))
    else:
        monkeypatch.setattr(volume, "composite_ref", delayed(volume.composite_ref))
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    with simulated_device():
        w = torch.ones(1, 2, device=DEVICE)
        with tuning.sample_calls() as samples:
            kernels.composite(w, torch.ones(1, 2, 3, device=DEVICE))
        (c,) = tuning.tune(samples.values(), DEVICE)
        assert c.key == key("composite", w) and c.default == "triton"
        assert c.way == ("ref" if slow == "kernel" else "triton")


@simulated
def test_kernel_that_is_wrong_at_a_shape_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    op = registered("blocks.mean_square_triton", "square_sum")
    body = op._init_fn
    monkeypatch.setattr(op, "_init_fn", lambda x: body(x) * 2)
    monkeypatch.setattr(
        "stylenerf.kernels.blocks.mean_square.mean_square_ref", lambda x: (time.sleep(0.2), x.mean())[1]
    )
    with simulated_device():
        with tuning.sample_calls() as samples:
            kernels.mean_square(torch.ones(2, 3, device=DEVICE))
        (c,) = tuning.tune(samples.values(), DEVICE)
    assert c.way == "ref" and c.seconds["triton"] == float("inf") and c.seconds["ref"] >= 0.2


class Kernel:
    """Notes the warps of its launches."""

    __name__ = "kernel"

    def __init__(self) -> None:
        self.warps: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda **args: self.warps.append(args["num_warps"])


@pytest.mark.parametrize(("target", "free"), [(80, True), (120, True), (90, False), (100, False)])
def test_warps_are_offered_where_no_fault_is_known(target: int, free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "compute_capability", lambda device: target)
    kernel, out = Kernel(), torch.ones(2, 3)
    with record_offers() as offers:
        launch(kernel, (1,), out_ptr=out, C=5, num_warps=4)
    own = ("kernel(C=5)", "float32", 2, 3)
    assert offers == ({own: (4, 8)} if free else {})
    with choosing({own: 8}):
        launch(kernel, (1,), out_ptr=out, C=5, num_warps=4)
        launch(kernel, (1,), out_ptr=out, C=6, num_warps=4)
    assert kernel.warps == [4, 8 if free else 4, 4]


def prepared(cfg: Config, kept: Any = None, tuning: bool = True) -> tuple[Any, list[str]]:
    """Of the simulated device, in a process that has chosen nothing; what is kept, what was said."""
    lines: list[str] = []
    with choosing({}, alone=True), simulated_device():
        kept = prepare.choose_for(
            cfg, None, DEVICE, kept=kept, tuning=tuning, report=lines.append, progress=False,  # type: ignore[arg-type]
        )  # fmt: skip
        assert tuning or not choices()
        assert kept["choices"] == [[*k, way] for k, way in choices().items()]
    return kept, lines


@simulated
def test_choices_survive_a_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed: list[Config] = []
    monkeypatch.setattr(prepare, "before_training", lambda device, report: None)
    monkeypatch.setattr(prepare, "time_ways", lambda cfg, *_, **__: (timed.append(cfg), TAKEN)[1])
    cfg, cache = tiny_config(), tmp_path / "cache" / "stylenerf" / "machines.json"
    kept, lines = prepared(cfg)
    assert kept["choices"] == [[*KEY, "ref"]] and len(timed) == 1 and "has not been timed yet" in lines[0]
    assert prepared(cfg)[0] == kept and len(timed) == 1, "once for a machine and a configuration"
    assert prepared(cfg, tuning=False)[0]["choices"] == []

    data = open_training_data(cfg, print)
    trainer = Trainer(cfg, data, tmp_path / "run", CPU, report=print, progress=False, choices=kept)
    path = trainer.save()
    assert path is not None and (tmp_path / "run" / "choices.json").is_file()
    saved = read_checkpoint(path)[0]["choices"]
    cache.unlink()
    monkeypatch.delattr(prepare, "time_ways")
    assert prepared(cfg, kept=saved)[0] == kept, "whatever the cache holds"
    assert saved == kept


@simulated
@pytest.mark.parametrize("changed", ["hash", "shape", "broken cache"])
def test_tunes_again(changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed: list[Config] = []
    monkeypatch.setattr(prepare, "before_training", lambda device, report: None)
    monkeypatch.setattr(prepare, "time_ways", lambda cfg, *_, **__: (timed.append(cfg), TAKEN)[1])
    kept, _ = prepared(tiny_config())
    if changed == "hash":
        monkeypatch.setattr(facts_module, "kernels_hash", lambda: "another")
    elif changed == "broken cache":
        (tmp_path / "cache" / "stylenerf" / "machines.json").write_text("[{")
    cfg = tiny_config("train.micro_batch=4") if changed == "shape" else tiny_config()
    _, lines = prepared(cfg, kept=kept if changed == "hash" else None)
    assert len(timed) == 2
    assert (changed == "hash") == any("began on another machine" in line for line in lines)


def test_calls_of_a_step() -> None:
    cfg = tiny_config("train.batch=4")
    samples = prepare.calls_of(cfg, open_training_data(cfg, print), CPU)
    assert {"render_rays", "render_points", "upsample_block", "bias_act"} <= {s.op.__name__ for s in samples}
    assert any(s.with_grad for s in samples) and any(not s.with_grad for s in samples)
    run = tuning.prepare(next(s for s in samples if s.op.__name__ == "render_rays" and s.with_grad), CPU)
    assert all(x.isfinite().all() for x in run().outputs) and run().gradients


def test_on_a_cpu_there_is_nothing_to_tune(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--preset", "quickstart", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("error: --device: wanted a GPU")
    cfg = tiny_config()
    data = open_training_data(cfg, print)
    assert prepare.choose_for(cfg, data, CPU, kept=None, tuning=True, report=print) is None


@simulated
@pytest.mark.slow
def test_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of a whole step on the device that is simulated; three ops are checked and timed there."""
    large_tiles(monkeypatch)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(prepare, "moments", lambda cfg: [20])  # in the midst of growth
    cfg = tiny_config("train.batch=2")
    with simulated_device():
        samples = prepare.calls_of(cfg, open_training_data(cfg, print), DEVICE)
        some = {s.op.__name__: s for s in samples if s.op.__name__ in ("render_points", "mean_square", "bias_act")}
        decided = tuning.tune(some.values(), DEVICE, budget_s=1000)
    assert some.keys() == {c.key[0] for c in decided} == {"render_points", "mean_square", "bias_act"}
    assert all(min(c.seconds.values()) < float("inf") for c in decided)
    print(*decided, sep="\n")
