"""``stylenerf doctor``, and the self-test before training: a wrong kernel is found, named and replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch._library.custom_ops import OPDEFS

from stylenerf import kernels
from stylenerf.engine.command_line import main as cli
from stylenerf.engine.machine import facts as facts_module
from stylenerf.engine.machine import health
from stylenerf.engine.machine.selftest import CASES, Case, Verdict, examine, fault_of
from stylenerf.engine.training.trainer import Trainer, open_training_data
from stylenerf.kernels.base.choices import choosing, replaced
from stylenerf.kernels.base.dispatch import TRITON_OPS, resolve
from stylenerf.kernels.base.register import namespace
from tests.on_kernels import large_tiles
from tests.simulated_device import DEVICE, inner, simulated_device
from tests.sweeps import sweep
from tests.tiny import CPU, tiny_config

simulated = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one")
NAMED = {f"{case.op} by {case.function} in {case.format}": case for case in CASES}
QUICK = (
    "mean_square by mean_square in fp16",
    "composite by composite in fp32",
    "modulated_mlp by modulated_mlp in fp16",
)
SOUND = Verdict("composite", "triton", "", None)
WRONG = Verdict("mean_square", "ref", "failed its self-test", "output 0: error 9.0e-01, at most 1.0e-05")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with choosing({}):
        yield


@pytest.fixture
def composite_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel loses a hundredth of its output."""
    import_module("stylenerf.kernels.rays.composite_triton")
    op = OPDEFS[f"{namespace()}::composite"]
    body = op._init_fn
    monkeypatch.setattr(op, "_init_fn", lambda *args: body(*args) * 0.99)


@simulated
@pytest.mark.parametrize("case", sweep(NAMED, always=QUICK))
def test_sound_kernels_pass(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    large_tiles(monkeypatch)
    with simulated_device():
        assert fault_of(case, DEVICE) is None


@pytest.mark.parametrize("case", sweep(NAMED, always=("render_rays by render_rays in fp16",)))
def test_sound_plain_forms_pass(case: Case) -> None:
    assert fault_of(case, CPU) is None


def test_every_op_with_a_kernel_is_tested() -> None:
    assert {case.op for case in CASES} == TRITON_OPS


@simulated
@pytest.mark.usefixtures("composite_is_wrong")
def test_wrong_kernel_is_found_named_and_replaced() -> None:
    with simulated_device():
        wrong, sound = examine(DEVICE, ("composite", "mean_square"))
        assert wrong.op == "composite" and wrong.usable and wrong.form == "ref"
        assert wrong.fault is not None and wrong.fault.startswith("composite in fp32: output 0: error 1.0e-02")
        assert sound == Verdict("mean_square", "triton", "", None)
        w, f = torch.ones(1, 2, device=DEVICE), torch.ones(1, 2, 3, device=DEVICE)
        assert torch.equal(inner(kernels.composite(w, f)), torch.full((1, 3), 2.0))
        asked = kernels.composite(w, f, impl="triton")
        assert torch.equal(inner(asked), torch.full((1, 3), 1.98)), "what is asked for by name is obeyed"
    assert replaced() == ["composite"]


@simulated
@pytest.mark.usefixtures("composite_is_wrong")
def test_training_tests_once_warns_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health, "verdicts", lambda device: list(examine(device, ("composite",))))
    lines: list[str] = []
    with simulated_device():
        health.before_training(DEVICE, lines.append)
    assert lines[0].startswith("self-test:   each op once, as lazy:0 has not been tested yet")
    assert "the kernel of composite is wrong" in lines[1] and "stylenerf doctor --json" in lines[1]
    cfg = tiny_config()
    trainer = Trainer(cfg, open_training_data(cfg, print), tmp_path / "run", CPU, report=print, progress=False)
    trainer.stats.add("Loss/generator", 1.0)
    assert trainer._row(1.0)["Health/replaced_ops"] == 1
    with choosing({}, alone=True), simulated_device():
        again: list[str] = []
        health.before_training(DEVICE, again.append)
        assert again == lines[1:] and resolve("composite", "auto", torch.ones(1, device=DEVICE)) == "ref"
    with choosing({}, alone=True), simulated_device():
        monkeypatch.setattr(facts_module, "kernels_hash", lambda: "another")
        health.before_training(DEVICE, again.append)
        assert again[1:] == lines, "other kernels are tested again"


def test_on_a_cpu_training_tests_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(health, "verdicts")
    health.before_training(CPU, print)


def test_an_op_whose_process_dies_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, found = [], list[Verdict]()

    def child(device: torch.device, ops: list[str], failed: list[str], take: health.Take) -> str:
        asked.append((ops, failed))
        for op in ops[:2] if "bias_act" in ops else ops:
            take(Verdict(op, "triton", "", None))
        return "exit code -6, illegal memory access"

    monkeypatch.setattr(health, "_child", child)
    health._in_children(CPU, found.append)
    assert [v.op for v in found] == list(health.OPS)
    assert [v.op for v in found if v.fault is not None] == [health.OPS[2]]
    assert str(found[2].fault).endswith("ended: exit code -6, illegal memory access")
    assert asked[1] == (list(health.OPS[3:]), [health.OPS[2]])


@pytest.mark.slow
def test_another_process_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health, "OPS", ("mean_square", "composite"))
    monkeypatch.chdir(tmp_path)
    found: list[Verdict] = []
    health._in_children(CPU, found.append)
    assert [(v.op, v.why, v.fault) for v in found] == [(op, "no CUDA device", None) for op in health.OPS]
    with pytest.raises(RuntimeError, match="UserError: --device: wanted a device of this machine"):
        health._child(torch.device("xpu"), ["composite"], [], found.append)
    monkeypatch.setattr(health, "CHILD_LIMIT_S", 0.1)
    with pytest.raises(RuntimeError, match="exit code -9"):
        health._child(CPU, ["composite"], [], found.append)


@pytest.mark.parametrize("tested", [[SOUND], [SOUND, WRONG]], ids=["healthy", "unhealthy"])
def test_verb(tested: list[Verdict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(health, "verdicts", lambda device, done: tested)
    code = int(WRONG in tested)
    assert cli.main(["doctor", "--device", "cpu"]) == code
    text = capsys.readouterr().out
    assert "composite          triton  passed\n" in text and torch.__version__ in text
    assert ("FAILED:      mean_square: output 0: error 9.0e-01" in text) == (WRONG in tested)
    assert text.endswith("result:      not healthy\n" if code else "result:      healthy\n")
    assert cli.main(["doctor", "--device", "cpu", "--json"]) == code
    read = json.loads(capsys.readouterr().out)
    assert read["healthy"] == (not code) and read["ops"] == [v._asdict() for v in tested]


def test_problems_name_their_remedy() -> None:
    found = facts_module.facts(CPU)._replace(driver="575.1", cuda=None, capability="7.0", device="Old GPU")
    lines = facts_module.problems(found, CPU)
    assert len(lines) == 2 and all("remedy: " in line for line in lines)
