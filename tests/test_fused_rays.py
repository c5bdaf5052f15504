"""The ray pass as kernels, float32 operands: every output and gradient at each mode, width, sample count and tail."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.kernels.rays.render import FieldWeights, RayDraws, RaySpan, render_rays
from tests.closeness import assert_each_no_worse_than_torch
from tests.gradients import DEVICE, cotangents, outputs_and_gradients
from tests.inputs import FIELD_CASES, FieldCase
from tests.ray_runs import OUTPUTS, SPANS, Kind, RayRun, assert_pass_matches, assert_positions_follow, tile_rays
from tests.roundings import several_roundings
from tests.sweeps import slow, sweep

KINDS: tuple[Kind, ...] = ("single", "hierarchical", "points")
RELEASED = replace(FIELD_CASES["released"], rays=3)
SMALL = FieldCase(hidden=7, depth=2)  # for cases that are about rays, not about the field
BACKGROUND = FieldCase(dims=4, samples=4, rays=9, depth=4, num_freqs=10)
SLOPES = {"relu": 0.0, "linear": 1.0}

CASES: dict[str, RayRun] = {
    "one": RayRun(FieldCase(batch=1, rays=1, samples=1, hidden=1, depth=1, num_freqs=1)),
    "odd": RayRun(sample_rays=2),
    "three images": RayRun(FieldCase(batch=3, rays=3), span=SPANS["log"], sample_rays=1),
    "shared field": RayRun(FieldCase(per_image=False), span=SPANS["opaque"], noise=False),
    "shared field, width 40": RayRun(FieldCase(per_image=False, rays=2, hidden=40), "hierarchical"),
    "one image of a batch of fields": RayRun(FieldCase(batch=1), span=SPANS["inverse"], sample_rays=5),
    "released": RayRun(replace(RELEASED, samples=28), sample_rays=1),
    "released, hierarchical": RayRun(RELEASED, "hierarchical", sample_rays=1),
    "released, no noise": RayRun(RELEASED, "hierarchical", noise=False),
    "ten layers": RayRun(replace(SMALL, depth=10), span=SPANS["log"]),
    "ten layers, hierarchical": RayRun(replace(SMALL, depth=10), "hierarchical", SPANS["opaque"], sample_rays=3),
    "all rays keep their samples": RayRun(replace(SMALL, rays=3), "hierarchical", sample_rays=3),
    "twelve octaves": RayRun(replace(SMALL, num_freqs=12)),
    "background": RayRun(BACKGROUND, "points", SPANS["opaque"], sample_rays=2),
    "background, open": RayRun(replace(BACKGROUND, depth=1), "points", noise=False),
    "background, twelve octaves": RayRun(replace(BACKGROUND, num_freqs=12, hidden=32), "points", sample_rays=9),
    "background, all columns": RayRun(replace(BACKGROUND, num_freqs=16, depth=2), "points", SPANS["opaque"]),
    "three-dimensional points": RayRun(FieldCase(rays=3), "points", SPANS["opaque"], sample_rays=1),
}
RARE = {"ten layers, hierarchical", "released", "released, no noise", "shared field, width 40"}
# 32 and narrower in one kernel, the others layer by layer
WIDTHS: dict[int, Kind] = {
    1: "hierarchical",
    7: "points",
    32: "single",
    33: "single",
    64: "hierarchical",
    100: "points",
}
HIERARCHICAL = (
    (3, 1),
    (14, 14),
    (16, 16),
    (14, 7),
    (7, 14),
    (16, 17),
    (48, 48),
)  # 17 is one too many for a single kernel
SINGLE = (1, 2, 5, 14, 32, 48, 128, 130)  # 128 is the most in a single kernel


@pytest.mark.parametrize("name", sweep(list(CASES), always=CASES.keys() - RARE))
def test_matches_the_plain_form(name: str) -> None:
    got = assert_pass_matches(CASES[name])
    if CASES[name].kind == "hierarchical":
        assert_positions_follow(CASES[name], "fp32", got)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_matches_along_every_span(kind: Kind, span: str) -> None:
    run = RayRun(replace(SMALL, rays=3), kind, SPANS[span], sample_rays=1)
    got = assert_pass_matches(run)
    if kind == "hierarchical":
        assert_positions_follow(run, "fp32", got)


@pytest.mark.parametrize("width", WIDTHS)
def test_matches_at_width(width: int) -> None:
    assert_pass_matches(RayRun(FieldCase(rays=2, samples=4, hidden=width, depth=2), WIDTHS[width], sample_rays=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [100, 128, 200, 256])
def test_matches_at_large_width(width: int, kind: Kind) -> None:
    assert_pass_matches(RayRun(FieldCase(rays=2, samples=4, hidden=width, depth=2), kind, sample_rays=1))


@pytest.mark.parametrize("name", SLOPES)
def test_matches_with_slope(name: str) -> None:
    assert_pass_matches(
        RayRun(replace(SMALL, gain=1.0, negative_slope=SLOPES[name]), span=SPANS["opaque"], sample_rays=1)
    )


@pytest.mark.parametrize("samples", SINGLE)
def test_matches_with_samples(samples: int) -> None:
    run = RayRun(replace(SMALL, batch=1, rays=3, samples=samples), span=SPANS["opaque"], sample_rays=1)
    assert_pass_matches(run)


@pytest.mark.parametrize("samples", HIERARCHICAL)
def test_matches_with_fine_samples(samples: tuple[int, int]) -> None:
    coarse, fine = samples
    run = RayRun(
        replace(SMALL, batch=1, rays=3, samples=coarse, fine=fine), "hierarchical", SPANS["opaque"], sample_rays=1
    )
    got = assert_pass_matches(run)
    assert_positions_follow(run, "fp32", got)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("kind, samples", [("single", 3), ("points", 7), ("hierarchical", 5)])
def test_matches_at_the_edge_of_a_tile(kind: Kind, samples: int, over: int) -> None:
    tile = tile_rays(kind, samples)
    rays = 2 * tile + over
    assert_pass_matches(RayRun(replace(SMALL, batch=1, rays=rays, samples=samples), kind, sample_rays=rays - tile))


@pytest.mark.parametrize("over", [-1, 1])
@pytest.mark.parametrize("kind", ["single", "hierarchical"])
def test_matches_where_a_tile_is_partly_emitted(kind: Kind, over: int) -> None:
    tile = tile_rays(kind, 14)
    run = RayRun(replace(SMALL, batch=1, rays=2 * tile, samples=14), kind, sample_rays=tile + over)
    assert_pass_matches(run)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    span=st.sampled_from(list(SPANS)),
    rays=st.integers(1, 4),
    sample_hidden=st.integers(0, 2),
    samples=st.integers(3, 20),
    fine=st.integers(1, 18),
    hidden=st.integers(1, 34),
    depth=st.integers(1, 4),
    num_freqs=st.integers(1, 6),
    per_image=st.booleans(),
    noise=st.booleans(),
)
def test_matches_at_any_size(kind: Kind, span: str, sample_hidden: int, noise: bool, **shape: Any) -> None:
    case = FieldCase(dims=4 if kind == "points" else 3, **shape)
    assert_pass_matches(RayRun(case, kind, SPANS[span], min(sample_hidden, case.rays), noise))


@pytest.mark.parametrize("batch, rays", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("hidden", [7, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_nothing_out(kind: Kind, hidden: int, batch: int, rays: int) -> None:
    run = RayRun(FieldCase(batch=batch, rays=rays, hidden=hidden, per_image=batch > 0), kind, sample_rays=rays // 2)
    got, want = run.results("triton"), run.results("ref")
    assert {name: t.shape for name, t in got.items()} == {name: t.shape for name, t in want.items()}
    # no ray, no gradient: zeros, not what stood in memory
    assert all(torch.equal(got[name], want[name]) for name in want if name.startswith("gradient"))


# depths and fractions of given points are an input, handed through
@pytest.mark.parametrize("output, kind", [
    (output, kind) for output in OUTPUTS for kind in KINDS if kind != "points" or output not in ("depths", "fractions")
])  # fmt: skip
def test_one_output_alone(output: str, kind: Kind) -> None:
    run = RayRun(replace(SMALL, batch=1, rays=2, samples=3, fine=2), kind, SPANS["inverse"], sample_rays=1)

    def pick(impl: str) -> Any:
        return lambda *args: run.op(impl)(*args)[OUTPUTS.index(output)]

    got = outputs_and_gradients(pick("triton"), run.inputs())
    plain = several_roundings(lambda: outputs_and_gradients(pick("ref"), run.inputs()))
    exact = outputs_and_gradients(pick("ref"), run.inputs(), torch.float64)
    assert_each_no_worse_than_torch(got, plain, exact)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [7, slow(40)])
def test_gradients_of_some_inputs_alone(hidden: int, kind: Kind) -> None:
    run = RayRun(FieldCase(batch=1, rays=2, samples=3, fine=2, hidden=hidden, depth=2), kind, sample_rays=1)
    inputs = run.inputs()
    drawn = cotangents(list(run.op("ref")(*inputs.values())), torch.float32, 7)

    def gradients(*needed: str) -> list[Tensor]:
        named = {name: t.detach().requires_grad_(name in needed) for name, t in inputs.items()}
        pairs = [(o, c) for o, c in zip(run.op("triton")(*named.values()), drawn) if o.requires_grad]
        outputs, grads = zip(*pairs)
        return list(torch.autograd.grad(outputs, [named[name] for name in needed], grads))

    every = dict(zip(inputs, gradients(*inputs)))
    one_of_each = (("weights[0]",), ("density_bias",), ("coarse_noise",), tuple(inputs)[-3:-1], tuple(inputs)[:5])
    got = [gradients(*needed) for needed in one_of_each]
    assert all(torch.equal(g, every[n]) for names, grads in zip(one_of_each, got) for n, g in zip(names, grads))


@pytest.mark.parametrize("kind, hidden", [*((kind, 32) for kind in KINDS), ("single", 129)])
def test_same_gradients_every_time(kind: Kind, hidden: int) -> None:
    run = RayRun(FieldCase(rays=3, hidden=hidden, depth=2), kind, sample_rays=1)
    one, other = run.results("triton", "fp16"), run.results("triton", "fp16")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("span", list(SPANS))
def test_fine_samples_are_near_the_plain_forms(span: str) -> None:
    run = RayRun(replace(RELEASED, num_freqs=4), "hierarchical", SPANS[span])
    got, want = (
        run.results(impl, dtype=dtype)["fractions"] for impl, dtype in (("triton", None), ("ref", torch.float64))
    )
    err = (run.fine_positions(got) - run.fine_positions(want)).abs()
    assert err.median() <= 1e-6, err.median()


@pytest.mark.parametrize("fine", [4, 17])
def test_fine_positions_hand_computed(fine: int) -> None:
    # five fractions; edges 1/8, 3/8, 5/8, 7/8. On a ray of length 1 and with density 0 but for the noise, the inner
    # weights are 1 - exp(-x) = 1/100, then nearly all that is left. A floor of 1e-5 is nothing beside these two: u = 0,
    # 1/200, 1/100 and 101/200 fall on the first edge, amid the first bin, on the second edge and amid the second bin
    noise = 4 * torch.tensor([-1.0, -math.log(0.99), 50, 0, 0])
    u, zero = torch.tensor([0, 0.005, 0.01, 0.505]).repeat(5)[:fine], torch.zeros(1, device=DEVICE)
    field = FieldWeights((zero.expand(1, 6),), (zero,), zero, zero, num_freqs=1)
    rays = torch.tensor([[[0.0, 0, 0]]]), torch.tensor([[[0.0, 0, 1]]]), torch.linspace(0, 1, 5)[None, None]
    draws = RayDraws(u[None, None].to(DEVICE), noise[None, None].to(DEVICE))
    out = render_rays(*(t.to(DEVICE) for t in rays), field, RaySpan(1.0, 2.0), draws=draws, impl="triton")
    want = torch.tensor([0.125, 0.25, 0.375, 0.5]).repeat(5)[:fine]
    want = torch.cat([want, rays[2][0, 0]]).sort().values
    torch.testing.assert_close(out.fractions[0, 0].cpu(), want, rtol=0, atol=1e-3)  # 1e-5 / 1e-2 of a bin


SWEPT = ((0, True, True), (1, False, False), (3, True, False))  # sample_hidden rays, noise, a field per image


@pytest.mark.slow
@pytest.mark.parametrize("sample_rays, noise, per_image", SWEPT)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 7, 32, 64])
def test_sweep_of_widths(width: int, kind: Kind, span: str, sample_rays: int, noise: bool, per_image: bool) -> None:
    case = FieldCase(rays=3, samples=4, fine=3, hidden=width, depth=2, per_image=per_image)
    assert_pass_matches(RayRun(case, kind, SPANS[span], sample_rays, noise))


@pytest.mark.slow
@pytest.mark.parametrize("num_freqs", [1, 10, 12])
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 10])
@pytest.mark.parametrize("kind, dims", [("single", 3), ("points", 4)])
def test_sweep_of_depths(kind: Kind, dims: int, depth: int, num_freqs: int) -> None:
    case = FieldCase(rays=3, hidden=32, depth=depth, dims=dims, num_freqs=num_freqs)
    assert_pass_matches(RayRun(case, kind, SPANS["opaque"], sample_rays=1))


@pytest.mark.slow
@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("samples", [*SINGLE, 28])
@pytest.mark.parametrize("kind", ["single", "points"])
def test_sweep_of_samples(kind: Kind, samples: int, over: int) -> None:
    rays = 2 * tile_rays(kind, samples) + over
    case = replace(SMALL, rays=rays, samples=samples)
    assert_pass_matches(RayRun(case, kind, SPANS["opaque"], sample_rays=rays // 2))


@pytest.mark.slow
@pytest.mark.parametrize("rays", [1, 3, 4, 5])
@pytest.mark.parametrize("samples", [*HIERARCHICAL, (128, 3)])
def test_sweep_of_fine_samples(samples: tuple[int, int], rays: int) -> None:
    case = replace(SMALL, rays=rays, samples=samples[0], fine=samples[1])
    run = RayRun(case, "hierarchical", SPANS["opaque"], sample_rays=rays // 2)
    assert_positions_follow(run, "fp32", assert_pass_matches(run))
