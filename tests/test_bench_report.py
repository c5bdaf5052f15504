"""The bench suite's own promises: its table, its gate, its counts, its memory figures, a run from end to end."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import bench_modulated_conv, bench_modulated_mlp, gate, harness, machine, ray_cases, report, shapes
from bench.flops import FlopCounter
from stylenerf.kernels.base import dispatch
from tests.conftest import ROOT

CPU = torch.device("cpu")

# pytest-benchmark times nothing in what it takes for a worker of pytest-xdist
ALONE = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}


def row(**changes: Any) -> dict[str, Any]:
    facts = {"op": "blur", "shape": "3 ch", "direction": "fwd", "impl": "ref", "baseline": True}
    times = {"p20_ms": 3.0, "p50_ms": 4.0, "p80_ms": 123.4}
    rates = {"GB_per_s": 2.5, "GFLOP_per_s": 0.0213, "share_copy": 0.25, "share_matmul": 0.001}
    place = {"device": "abacus", "threads": 2, "torch": "2.13", "triton": None, "commit": "0123456789ab"}
    best = {"ceiling_copy_GB_per_s": 10.0, "ceiling_matmul_GFLOP_per_s": 100.0}
    memory = {"peak_mib": 300.4, "peak_before_mib": 260.0, "error": 2e-7}
    return {**facts, **times, **rates, **place, **best, **memory, **changes}


def write(path: pathlib.Path, rows: list[dict[str, Any]], **more: Any) -> pathlib.Path:
    path.write_text(json.dumps({"benchmarks": [{"extra_info": r} for r in rows], **more}))
    return path


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(), row(impl="triton", baseline=False, p50_ms=1.6), row(op="lens", baseline=False, error=None)]
    path = write(tmp_path / "r.json", rows, skipped={"no GPU": ["blur[a-b]", "blur[c]", "warp[d]"]})
    assert report.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "Measured on abacus, 2 threads, torch 2.13, no triton, commit 0123456789ab." in text
    assert "copy 10 GB/s, float32 products 100 GFLOP/s." in text
    plain = ["3 / 4 / 123", "1.00", "2.5", "25 %", "0.0213", "0 %", "300 (+40)", "2e-07"]
    assert cells(text, "blur | 3 ch  | fwd       | ref")[4:] == plain
    assert cells(text, "blur | 3 ch  | fwd       | triton")[4:6] == ["3 / 1.6 / 123", "2.50"]  # 4 / 1.6
    assert cells(text, "lens")[5] == "" and cells(text, "lens")[-1] == ""  # no reference, no error: no figure
    assert "* no GPU: blur (2), warp (1)" in text
    assert "public implementation" not in text


def test_an_interrupted_run_is_shown_as_far_as_it_came(tmp_path: pathlib.Path) -> None:
    """pytest-benchmark notes down the bench that Ctrl-C ended too, without what our harness adds at its end."""
    whole, cut = {"name": "test_blur[a]", "extra_info": row()}, {"name": "test_lens[b]", "extra_info": {}}
    (tmp_path / "r.json").write_text(json.dumps({"benchmarks": [whole, cut], "skipped": {"no GPU": ["warp[c]"]}}))
    text = report.render(*report.load(tmp_path / "r.json"))
    assert cells(text, "blur")[4] == "3 / 4 / 123"
    assert "* no GPU: warp (1)\n* interrupted before it was timed to the end: lens (1)" in text


INTERRUPTED = """
import signal
def test_whole(measure):
    measure.benchmark.pedantic(lambda: None, rounds=2)
    measure.benchmark.extra_info.update({row})
def test_cut(measure):
    calls = iter(range(9))
    measure.benchmark.pedantic(lambda: next(calls) < 5 or signal.raise_signal(signal.SIGINT), rounds=9)
"""


@pytest.mark.slow
def test_results_of_a_run_that_ctrl_c_ended_are_readable(tmp_path: pathlib.Path) -> None:
    bench, results = tmp_path / "bench_interrupted.py", tmp_path / "r.json"
    bench.write_text(INTERRUPTED.replace("{row}", repr(row())))
    plugins = ["-p", "no:cacheprovider", "-p", "bench.conftest"]
    python = [sys.executable, "-m", "pytest", *plugins, str(bench), f"--benchmark-json={results}"]
    done = subprocess.run(python, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    rows, skipped = report.load(results)
    assert rows == [row()]
    assert skipped == {"interrupted before it was timed to the end": ["cut"]}


def test_steps_of_a_gpu_run_share_a_table(tmp_path: pathlib.Path) -> None:
    parts = [("blur", "a[1]"), ("lens", "b[1]")]
    steps = [{"benchmarks": [{"name": op, "extra_info": row(op=op)}], "skipped": {"no GPU": [n]}} for op, n in parts]
    (tmp_path / "r.json").write_text(json.dumps({"environment": {}, "steps": steps}))
    text = report.render(*report.load(tmp_path / "r.json"))
    assert cells(text, "blur") and cells(text, "lens") and "* no GPU: a (1), b (1)" in text


def test_speed_up_stays_in_its_group() -> None:
    base = row(p50_ms=8.0)
    for key in ("op", "shape", "direction"):
        assert report.speed_up(row(baseline=False, **{key: "other"}), [base]) is None
    assert report.speed_up(row(baseline=False), [base]) == 2.0


def test_beside_the_public_implementation() -> None:
    text = report.render([row(p50_ms=500.0, public_implementation_s=1.25, public_implementation_note="elsewhere")], {})
    assert "Beside the public implementation (elsewhere):" in text
    assert cells(text, "blur 3 ch fwd")[1:4] == ["0.5", "1.25", "2.50"]


def test_machines_are_named_apart() -> None:
    text = report.render([row(), row(device="slide rule")], {})
    assert "Measured on abacus," in text and "Measured on slide rule," in text


def test_nothing_timed_says_why() -> None:
    assert report.render([], {"no time": ["a"]}).splitlines() == [
        "Nothing was timed.",
        "",
        "Not timed:",
        "",
        "* no time: a (1)",
    ]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "No such file"),
        ("{", "something that is no JSON"),
        ("[]", "JSON without 'benchmarks'"),
        ('{"benchmarks": [{"name": "test_x", "extra_info": {}}]}', "benches without p50_ms"),
    ],
)
def test_bad_results_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], content: str | None, got: str
) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    assert report.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"{path}: wanted") and got in error


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1234"), (12.345, "12.3"), (0.01234, "0.0123"), (0, "0"), (None, "")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert report._number(value) == text


def square(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0].square(),)


def product(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0] * args[0],)


def inaccurate(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0].square() * 1.00001,)


def half_gradient(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0] * args[0].detach(),)


def not_finite(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0].square() / 0 * 0,)


def cropped(args: gate.Args) -> tuple[Tensor, ...]:
    return (args[0][1:].square(),)


def leaf() -> gate.Args:
    return (shapes.Draw(CPU, 0).normal(50, leaf=True),)


def test_gate_lets_equal_forms_pass() -> None:
    assert gate.check(product, square, leaf(), both=True, exact_form=True) < 1e-6
    assert gate.check(square, square, leaf(), both=True, exact_form=True) < 1e-6


@pytest.mark.parametrize(
    ("call", "both", "exact_form", "match"),
    [
        (inaccurate, False, True, "form: differs by 1.0e-05 in float64, wanted at most 1e-10"),
        (inaccurate, False, False, "tensor 0 of 1: error 1.0e-05, wanted at most 1.*e-06"),
        (half_gradient, True, False, "tensor 1 of 2: error 5.0e-01"),
        (not_finite, False, False, "tensor 0 of 1: error inf"),
        (cropped, False, False, r"output must be \[50\], got \[49\]"),
    ],
)
def test_gate_stops(call: gate.Call, both: bool, exact_form: bool, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        gate.check(call, square, leaf(), both=both, exact_form=exact_form)


def test_gate_stops_a_broken_reference() -> None:
    def coarse(args: gate.Args) -> tuple[Tensor, ...]:
        return (args[0].round() if args[0].dtype == torch.float32 else args[0],)

    with pytest.raises(AssertionError, match="reference: float32 differs from float64 by"):
        gate.check(coarse, coarse, leaf(), both=False, exact_form=True)


def test_double_inputs_keep_their_values_and_leaves() -> None:
    args = ray_cases.make(CPU, 0, case=ray_cases.RayCase(1, rays=2, samples=3, fine=3))
    double = gate.to_double(args)
    assert type(double[3]) is type(args[3]) and len(gate.leaves(double)) == len(gate.leaves(args)) == 18
    for a, b in zip(gate.tensors(args), gate.tensors(double), strict=True):
        assert b.dtype == torch.float64 and torch.equal(a.double(), b)


@pytest.mark.parametrize(
    ("one_call_s", "budget_s", "least", "rounds", "calls"),
    [(0.1, 1.0, 5, 10, 1), (0.5, 1.0, 5, 5, 1), (2.0, 1.0, 5, 3, 1), (1e-5, 1.0, 5, 50, 10), (2.0, 0.01, 1, 1, 1)],
)
def test_rounds(one_call_s: float, budget_s: float, least: int, rounds: int, calls: int) -> None:
    assert harness.plan_rounds(one_call_s, budget_s, least, shortest_s=1e-4) == (rounds, calls)


@pytest.mark.parametrize(
    ("impl", "known", "device", "reason"),
    [
        ("ref", (), "cpu", None),
        ("triton", ("a",), "cuda", "no Triton kernel for it"),  # b is missing
        ("triton", ("a", "b"), "cpu", "needs a CUDA device"),
        ("triton", ("a", "b"), "cuda", None),
        ("graph", ("a", "b"), "cpu", "needs a CUDA device"),
        ("graph", ("a",), "cuda", "no Triton kernel for it"),
        ("compile", (), "cpu", "only the most telling row of each op"),
        ("compile", (), "cuda", None),
    ],
)
def test_skips_have_reasons(
    monkeypatch: pytest.MonkeyPatch, impl: str, known: tuple[str, ...], device: str, reason: str | None
) -> None:
    monkeypatch.setattr(dispatch, "TRITON_OPS", frozenset(known))
    monkeypatch.setattr(harness, "DEVICE", torch.device(device))
    got = harness.skip_reason(("a", "b"), impl)
    assert got is None if reason is None else got is not None and reason in got


def test_minimal_bytes() -> None:
    args = (torch.zeros(10, requires_grad=True), torch.zeros(3, dtype=torch.float64))
    out = (torch.zeros(4),)
    forward = 40 + 24 + 16
    assert harness.minimal_bytes(args, out, both=False) == forward
    assert harness.minimal_bytes(args, out, both=True) == 2 * forward + 40
    assert harness.minimal_bytes(args, out, both=True, linear=True) == forward + 16 + 40


@pytest.mark.parametrize(("impl", "kernels"), [("ref", False), ("compile", False), ("triton", True), ("graph", True)])
def test_models_take_the_forms_they_are_asked_for(impl: str, kernels: bool) -> None:
    before = dispatch.TRITON_OPS
    with harness.dispatched(impl):
        assert ("upsample_block" in dispatch.TRITON_OPS) == kernels
    assert dispatch.TRITON_OPS is before


def test_whole_steps_are_put_together() -> None:
    def phase(name: str, ms: float, every: int | None, impl: str = "ref") -> dict[str, Any]:
        facts = {"op": "train step", "shape": "tiny", "batch": 8, "impl": impl, "baseline": impl == "ref"}
        return row(**facts, direction=name, p50_ms=ms, every=every, GB_per_s=None, share_copy=None)

    plain = [
        phase("G main", 20, 1),
        phase("D main", 10, 1),
        phase("R1", 32, 16),
        phase("G without NeRF path", 15, None),
    ]
    fast = [{**r, "impl": "triton", "baseline": False, "p50_ms": r["p50_ms"] / 2, "peak_mib": 100.0} for r in plain]
    text = report.render([*plain, *fast[:3]], {})
    assert cells(text, "tiny     | ref") == ["tiny", "ref", "250", "1.00", "4.20", "5", "300"]  # 8 in 20 + 10 + 2 ms
    text = report.render([*plain, *fast], {})
    assert cells(text, "tiny     | triton") == ["tiny", "triton", "500", "2.00", "4.20", "2.5", "100"]


def test_images_per_second_have_a_table() -> None:
    rows = [
        row(images=16, images_per_s=4.0),
        row(images=16, images_per_s=8.0, impl="graph", baseline=False, p50_ms=2.0),
    ]
    assert cells(report.render(rows, {}), "3 ch      | graph") == ["3 ch", "graph", "8", "2.00", "300 (+40)"]


TINY: dict[str, tuple[Any, Any, Callable[[], harness.Subject]]] = {
    "modulated_mlp": (bench_modulated_mlp, 48, lambda: bench_modulated_mlp.subject("tiny")),
    "modulated_conv": (bench_modulated_conv, (2, 8, 6, 1), lambda: bench_modulated_conv.subject("tiny", "weights")),
}


@pytest.mark.parametrize("name", TINY)
def test_counted_operations_are_those_that_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, case, build = TINY[name]
    monkeypatch.setitem(module.CASES, "tiny", case)
    subject = build()
    check_count(subject)


def check_count(subject: harness.Subject) -> None:
    call = harness.eager_call(subject.run, "ref")
    args = subject.make(CPU, 0)
    with FlopCounter() as forward:
        gate.forward(call, args)
    assert forward.total == pytest.approx(subject.flops, rel=0.01)
    with FlopCounter() as both:
        gate.backward(call, args)
    assert both.total == pytest.approx(subject.flops + subject.flops_backward, rel=0.02)


def allocate(mib: int) -> Callable[[], object]:
    return partial(torch.ones, mib * 2**18)  # float32


def fail() -> Callable[[], object]:
    raise SystemExit(3)


@pytest.mark.slow
def test_peak_memory_is_that_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DEVICE", CPU)
    large, small = (machine.peak_memory(partial(allocate, mib)) for mib in (256, 16))
    assert 256 <= large.total_mib - large.before_mib < 300
    assert 16 <= small.total_mib - small.before_mib < 60
    with pytest.raises(RuntimeError, match="peak memory: wanted a figure, got exit code 3 from the child"):
        machine.peak_memory(fail)


@pytest.mark.slow
def test_runs_from_end_to_end(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.json"
    short = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2", f"--benchmark-json={path}"]
    files = ["bench/bench_importance_sample.py", "bench/bench_rays.py", "-k", "importance"]
    python = [sys.executable, "-m"]
    run = partial(subprocess.run, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=300)
    done = run([*python, "pytest", "-p", "no:cacheprovider", *files, *short])
    assert done.returncode == 0, done.stdout + done.stderr
    (measured,) = [b["extra_info"] for b in json.loads(path.read_text())["benchmarks"] if b["params"]["impl"] == "ref"]
    facts = {"commit", "torch", "triton", "threads", "device", "peak_mib", "bytes", "flops", "share_copy", "rounds"}
    assert facts <= set(measured) and measured["p20_ms"] <= measured["p50_ms"] <= measured["p80_ms"]
    printed = run([*python, "bench.report", str(path)])
    assert printed.returncode == 0, printed.stderr
    table = printed.stdout.strip()
    assert "| importance_sample |" in table and "* not selected by -m 'not slow' -k 'importance': rays" in table
    assert table in done.stdout
    if not torch.cuda.is_available():
        assert "* triton: this version has no Triton kernel for it: importance_sample (1)" in table or (
            "* triton: needs a CUDA device, this machine has none: importance_sample (1)" in table
        )
