"""The ray benches: counted operations, pinned samples, and a gate that tells right kernels from wrong ones."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import bench_evaluate_field, bench_modulated_mlp, bench_ray_tiles, bench_rays, gate, harness, machine
from bench.bench_rays import Variant
from bench.flops import FlopCounter
from bench.ray_cases import RayCase, make, placed, render, render_plain
from bench.rounded import round_to, rounded_operands
from stylenerf.kernels import FieldWeights, modulated_mlp
from stylenerf.kernels.base.launch import record_launches
from stylenerf.kernels.rays.field_triton import RowTile
from stylenerf.kernels.rays.hierarchical import hierarchical_tile
from stylenerf.kernels.rays.single_pass import ray_tile
from tests.gradients import DEVICE
from tests.sweeps import slow

HIERARCHICAL = RayCase(2, rays=4, samples=6, fine=5, width=32, depth=2, octaves=4)
CASES = {
    "hierarchical": HIERARCHICAL,
    "single": replace(HIERARCHICAL, fine=0),
    "training": replace(HIERARCHICAL, sample_rays=1, noise=True),
    "background": replace(HIERARCHICAL, fine=0, points=True, dims=4),
}
interpreted = pytest.mark.skipif(
    not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"), reason="kernels cannot run here"
)


def call(case: RayCase, impl: str = "ref", precision: str = "fp32") -> gate.Call:
    return partial(render, case=case, impl=impl, precision=precision)


@pytest.mark.parametrize("name", CASES)
def test_counted_operations_are_those_that_run(name: str) -> None:
    case = CASES[name]
    forward, backward = case.flops()
    args = make(torch.device("cpu"), 0, case=case)
    with FlopCounter() as once:
        gate.forward(call(case), args)
    with FlopCounter() as both:
        gate.backward(call(case), args)
    assert once.total == pytest.approx(forward, rel=0.02)
    assert both.total == pytest.approx(forward + backward, rel=0.02)


def test_counted_operations_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_evaluate_field.CASES, "tiny", ("evaluate_field", 12))
    subject = bench_evaluate_field.subject("tiny")
    args = subject.make(torch.device("cpu"), 0)
    with FlopCounter() as both:
        gate.backward(harness.eager_call(subject.run, "ref"), args)
    assert both.total == pytest.approx(subject.flops + subject.flops_backward, rel=0.01)


def test_work_of_an_ffhq_image() -> None:
    forward, backward = RayCase(1, fine=14).flops()
    # per sample 60 * 128 + 7 * 128^2 + 128 weights and 128 summed features, 28 672 samples, two operations each
    assert forward == 2 * 28672 * (60 * 128 + 7 * 128**2 + 128 + 128)
    assert backward == 2 * forward - 2 * 28672 * 60 * 128


@pytest.mark.parametrize("name", ["hierarchical", "training"])
def test_pinned_samples_give_the_pass_itself(name: str) -> None:
    case = CASES[name]
    args = gate.to_double(make(torch.device("cpu"), 0, case=case))
    want = gate.backward(call(case), args)
    got = gate.backward(call(case), placed(args, want[3]))
    assert max(gate.relative_errors(got, want)) < 1e-12


@pytest.mark.parametrize(
    ("x", "precision", "rounded"),
    [
        (1 + 2.0**-11, "fp16", 1.0),  # halfway goes to even
        (1 + 3 * 2.0**-11, "fp16", 1 + 2.0**-9),
        (1 + 2.0**-8, "bf16", 1.0),
        (1 + 1.9 * 2.0**-10, "tf32", 1 + 2.0**-10),  # cut off
        (-1 - 1.9 * 2.0**-10, "tf32", -1 - 2.0**-10),
        (70000.0, "fp16", float("inf")),
    ],
)
def test_rounding(x: float, precision: str, rounded: float) -> None:
    got = round_to(torch.tensor(x, dtype=torch.float64), precision)
    assert got.dtype == torch.float64 and got.item() == rounded


def test_rounded_chain_by_hand() -> None:
    x, w = torch.tensor([[[1 + 2.0**-11]]], dtype=torch.float64), torch.tensor([[3.0 + 2.0**-9]], dtype=torch.float64)
    with rounded_operands("fp16"):
        out = modulated_mlp(x, [w], [torch.zeros(1, dtype=torch.float64)], gain=1.0, impl="ref")
    assert out.item() == 3.0 + 2.0**-9  # x is rounded to 1; 3 + 2^-9 is a float16
    assert modulated_mlp(x, [w], [0 * w[0]], gain=1.0, impl="ref").item() != out.item()  # as before outside


def test_rounded_gradients_are_scaled_into_range() -> None:
    x = torch.full((1, 2, 1), 1.0, dtype=torch.float64)
    w = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    with rounded_operands("fp16"):
        out = modulated_mlp(x, [w], [torch.zeros(1, dtype=torch.float64)], gain=1.0, impl="ref")
    grad = torch.tensor([[[1e-9], [1e-9 * (1 + 2.0**-12)]]], dtype=torch.float64)
    (got,) = torch.autograd.grad(out, w, grad)
    assert got.item() == pytest.approx(2e-9, rel=5e-4) and got.item() != 0.0  # 1e-9 is no float16 by itself


def slightly_off(call: gate.Call, args: gate.Args) -> tuple[Tensor, ...]:
    hidden, *rest = call(args)
    return hidden * 1.01, *rest


def wrong_gradient(call: gate.Call, args: gate.Args) -> tuple[Tensor, ...]:
    hidden, *rest = call(args)
    return hidden.detach() * 0.1 + hidden * 0.9, *rest


def wrong_positions(call: gate.Call, args: gate.Args) -> tuple[Tensor, ...]:
    origins, directions, fractions, field, draws = args
    return call((origins, directions, fractions, field, replace(draws, fine_u=draws.fine_u**2)))


@interpreted
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_kernels_pass_the_gate(name: str, precision: str) -> None:
    case = CASES[name]
    args = make(DEVICE, 0, case=case)
    how: dict[str, Any] = {"both": True, "precision": precision, "pin": case.pin}
    assert gate.check(call(case, "triton", precision), call(case), args, **how) < gate.COST.get(precision, 0.02)


@interpreted
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (slightly_off, "tensor 0 of 10: error 1.*e-02, wanted at most"),
        (wrong_gradient, "tensor [0-9] of 10: error [0-9.]+e-0[12], wanted at most"),
        (wrong_positions, "positions 0 of 1: error"),
    ],
)
def test_wrong_kernels_do_not(wrong: Callable[..., Any], match: str, precision: str) -> None:
    args = make(DEVICE, 0, case=HIERARCHICAL)
    how: dict[str, Any] = {"both": True, "precision": precision, "pin": HIERARCHICAL.pin}
    with pytest.raises(AssertionError, match=match):
        gate.check(partial(wrong, call(HIERARCHICAL, "triton", precision)), call(HIERARCHICAL), args, **how)


@interpreted
def test_the_twin_is_checked_tightly(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = replace(bench_rays._subject("twin", HIERARCHICAL, "fp32"))
    monkeypatch.setattr(harness, "DEVICE", DEVICE)
    harness.check_twin(twin, both=False)

    def run(args: gate.Args, *, impl: Any) -> tuple[Tensor, ...]:
        hidden, *rest = twin.run(args, impl=impl)
        return hidden * (1.0002 if impl == "triton" else 1.0), *rest

    with pytest.raises(AssertionError, match=r"twin: tensor 0 of 4: error 2.*e-04"):
        harness.check_twin(replace(twin, run=run), both=False)


def test_every_low_precision_ray_bench_has_a_twin_that_one_kernel_holds() -> None:
    fused = pytest.importorskip("stylenerf.kernels.rays.field_triton")
    twins = {shape: bench_rays.subject(shape, "fp16").twin for shape in bench_rays.CASES}
    for shape, case in bench_rays.CASES.items():
        twin = twins[shape]
        assert twin is not None and twin.precision == "fp32"
        field = twin.make(torch.device("cpu"), 0)[-2]
        assert isinstance(field, FieldWeights)
        assert fused.chained(field.width, "fp32") == fused.chained(case.width, "fp16")
    assert bench_rays.subject("32x32 rays, 28 samples, batch 1").twin is None


@interpreted
def test_a_tile_is_used_and_then_forgotten() -> None:
    case = RayCase(2, rays=5, samples=20, width=32, depth=2, octaves=3)

    def tile() -> tuple[int, int, int]:
        with torch.no_grad(), record_launches(90) as launches:
            call(case, "triton", "fp16")(make(DEVICE, 0, case=case))
        (launch,) = launches
        return launch.args["BLOCK_R"] * launch.args["BLOCK_S"], launch.num_warps, launch.num_stages

    before = tile()
    with bench_ray_tiles.chosen("single_pass.ray_tile", RowTile(64, 8, 3)):
        assert tile() == (64, 8, 3)
    assert tile() == before != (64, 8, 3)


def test_shipped_tiles_are_those_that_lead_the_bench() -> None:
    device = torch.device("cpu")  # stands for sm_90
    shipped = {
        bench_ray_tiles.SINGLE: ray_tile(128, 28, "fp16", device),
        bench_ray_tiles.HIERARCHICAL: hierarchical_tile(128, "fp16", device),
    }
    assert all(tuple(tile) == bench_ray_tiles.TILES[shape][0] for shape, tile in shipped.items())


def test_labels() -> None:
    subject = bench_rays.subject("FFHQ 32x32 rays, 14+14 samples, batch 1", "fp16")
    assert [subject.label(i) for i in ("ref", "compile", "triton", "graph")] == [
        "ref",
        "compile",
        "triton fp16",
        "triton fp16 graph",
    ]
    assert bench_modulated_mlp.subject(next(iter(bench_modulated_mlp.CASES))).label("triton") == "triton fp16"


def test_variants() -> None:
    assert [str(v) for v in bench_rays.variants(bench_rays.EVERY_PRECISION, "fwd")] == [
        "ref", "compile", "triton fp16", "triton bf16", "triton tf32", "triton fp32", "graph fp16",
    ]  # fmt: skip
    assert Variant("graph", "fp16") not in bench_rays.variants("32x32 rays, 28 samples, batch 1", "fwd")
    assert bench_rays.ON_CPU | bench_rays.COMPILED | {bench_rays.EVERY_PRECISION} <= set(bench_rays.CASES)
    assert bench_rays.CAPTURED["fwd"] | bench_rays.CAPTURED["fwd+bwd"] <= set(bench_rays.CASES)


def test_shares_are_of_the_right_ceiling() -> None:
    best = machine.Ceilings(1.0, 50.0, 800.0, 400.0)
    assert [best.matmul(p) for p in (None, "fp32", "tf32", "fp16", "bf16")] == [50.0, 50.0, 400.0, 800.0, 800.0]
    assert machine.Ceilings(1.0, 50.0, None).matmul("fp16") == 50.0


def test_leaves_can_be_replaced() -> None:
    args = make(torch.device("cpu"), 0, case=HIERARCHICAL)
    values = [t.detach() + 1 for t in gate.leaves(args)]
    changed = gate.with_leaves(args, values)
    assert changed[0] is args[0] and changed[3].num_freqs == 4
    assert all(torch.equal(a + 1, b) for a, b in zip(gate.leaves(args), gate.tensors(changed[3]), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [slow("training"), "background"])
def test_what_is_compiled_is_the_plain_pass_in_one_graph(name: str) -> None:
    case = CASES[name]
    args = make(torch.device("cpu"), 0, case=case)
    plain = partial(render_plain, impl="ref", case=case)
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True, dynamic=False)
    want = gate.backward(call(case), args)
    assert all(torch.equal(a, b) for a, b in zip(gate.backward(plain, args), want, strict=True))
    assert max(gate.relative_errors(gate.backward(compiled, args), gate.to_double(want))) < 1e-4
