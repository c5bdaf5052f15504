"""The ray pass as kernels with 16-bit operands: against fields that round at the same points, scaling, determinism."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays import hierarchical, single_pass
from tests.gradients import cotangents
from tests.inputs import FieldCase
from tests.ray_runs import BLUNT, SPANS, Kind, RayRun, assert_positions_follow, assert_rounded_pass_matches, tile_rays
from tests.sweeps import slow

KINDS: tuple[Kind, ...] = ("single", "hierarchical", "points")
HALF = ("fp16", "bf16")
CASE = FieldCase(batch=1, rays=3, samples=14, fine=14, hidden=32, depth=3, num_freqs=4)
WIDE = replace(CASE, negative_slope=BLUNT)
SMALL = FieldCase(hidden=7, depth=2)

CASES: dict[str, RayRun] = {
    "one": RayRun(FieldCase(batch=1, rays=1, samples=1, hidden=1, depth=1, num_freqs=1)),
    "odd": RayRun(sample_rays=2, span=SPANS["log"]),
    "narrow": RayRun(CASE, sample_rays=1),
    "shared field": RayRun(replace(CASE, batch=2, per_image=False), span=SPANS["inverse"], sample_rays=1, noise=False),
    "64 wide, released": RayRun(replace(WIDE, hidden=64, depth=8, num_freqs=10), "hierarchical", sample_rays=1),
    "128 wide": RayRun(replace(WIDE, hidden=128), "hierarchical", SPANS["opaque"], sample_rays=1),
    "128 wide, single": RayRun(replace(WIDE, hidden=128, samples=28, rays=2), sample_rays=1),
    "100 wide": RayRun(replace(WIDE, hidden=100), "points", SPANS["opaque"], sample_rays=2),
    "256 wide": RayRun(replace(WIDE, hidden=256, rays=1, samples=5, fine=3), "hierarchical", SPANS["log"]),
    "256 wide, single": RayRun(replace(WIDE, hidden=256, rays=2, samples=3), sample_rays=1),
    "129 wide": RayRun(replace(WIDE, hidden=129, rays=2, samples=3, dims=4), "points", SPANS["opaque"]),
    "background": RayRun(
        replace(CASE, dims=4, samples=4, rays=5, num_freqs=10), "points", SPANS["opaque"], sample_rays=2
    ),
    "ten layers": RayRun(replace(CASE, depth=10), span=SPANS["log"]),
    "relu": RayRun(replace(SMALL, gain=1.0, negative_slope=0.0), "hierarchical", SPANS["opaque"], sample_rays=2),
}
HIERARCHICAL = ((3, 1), (16, 16), (14, 7), (16, 17))
SINGLE = (2, 32, 48, 128, 130)


BRAIN = ("odd", "narrow", "64 wide, released", "128 wide", "256 wide, single", "relu")


@pytest.mark.parametrize("name, precision", [(n, "fp16") for n in CASES] + [slow(n, "bf16") for n in BRAIN])
def test_matches_a_rounded_field(name: str, precision: str) -> None:
    got = assert_rounded_pass_matches(CASES[name], precision)
    if CASES[name].kind == "hierarchical":
        assert_positions_follow(CASES[name], precision, got)


@pytest.mark.parametrize("samples", SINGLE)
def test_matches_with_samples(samples: int) -> None:
    case = replace(SMALL, batch=1, rays=3, samples=samples)
    assert_rounded_pass_matches(RayRun(case, span=SPANS["opaque"], sample_rays=1), "fp16")


@pytest.mark.parametrize("samples", HIERARCHICAL)
def test_matches_with_fine_samples(samples: tuple[int, int]) -> None:
    case = replace(SMALL, batch=1, rays=3, samples=samples[0], fine=samples[1])
    run = RayRun(case, "hierarchical", SPANS["opaque"], sample_rays=1)
    assert_positions_follow(run, "fp16", assert_rounded_pass_matches(run, "fp16"))


@pytest.mark.parametrize("kind, samples", [("single", 3), ("single", 9), ("hierarchical", 3)])
def test_matches_with_its_sums_turned(kind: Kind, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs without warp-group products."""
    for module in (single_pass, hierarchical):
        monkeypatch.setattr(module, "turned_sums", lambda device: True)
    case = replace(SMALL, batch=1, rays=3, samples=samples, fine=3)
    assert_rounded_pass_matches(RayRun(case, kind, sample_rays=1), "fp16")


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("kind, samples", [("single", 1), ("points", 14), ("hierarchical", 14)])
def test_matches_at_the_edge_of_a_tile(kind: Kind, samples: int, over: int) -> None:
    tile = tile_rays(kind, samples, "fp16")
    case = replace(SMALL, batch=1, rays=2 * tile + over, samples=samples, fine=3)
    assert_rounded_pass_matches(RayRun(case, kind, sample_rays=tile), "fp16")


@pytest.mark.parametrize("precision, bound", [("fp16", 1e-4), ("bf16", 2e-3)])
def test_fine_samples_are_near_the_plain_forms(precision: str, bound: float) -> None:
    run = RayRun(replace(CASE, rays=9), "hierarchical")
    got, want = run.results("triton", precision)["fractions"], run.results("ref", dtype=torch.float64)["fractions"]
    err = (run.fine_positions(got) - run.fine_positions(want)).abs()
    assert err.median() <= bound, err.median()


def scaled_gradients(run: RayRun, precision: str, impl: str, scale: float, bad: float | None = None) -> list[Tensor]:
    """Gradients for cotangents times ``scale``; with ``bad``, one of the features' is that."""
    named = {name: t.requires_grad_() for name, t in run.inputs().items()}
    outputs = list(run.op(impl, precision)(*named.values()))
    drawn = [scale * c for c in cotangents(outputs, torch.float32, 100)]
    if bad is not None:
        drawn[0].view(-1)[3] = bad
    return list(torch.autograd.grad(outputs, list(named.values()), drawn))


SCALES = (2.0**-100, 2.0**-20, 2.0**20, 2.0**90)


@pytest.mark.parametrize(
    "hidden, kind, scale",
    [(32, "single", s) for s in SCALES] + [(32, "hierarchical", SCALES[0]), (129, "points", SCALES[0])],
)
def test_gradients_of_any_magnitude(hidden: int, kind: Kind, scale: float) -> None:
    run = RayRun(replace(CASE, hidden=hidden, depth=2, rays=2, samples=3, fine=2), kind, sample_rays=1)
    want = scaled_gradients(run, "fp16", "triton", 1.0)
    got = scaled_gradients(run, "fp16", "triton", scale)
    # a power of two moves exponents and nothing else; what falls below float32 or float16 is small beside the rest
    for g, w in zip(got, want):
        torch.testing.assert_close(g / scale, w, rtol=1e-5, atol=1e-6 * w.abs().max().item())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    "hidden, bad, precision",
    [(32, bad, p) for p in HALF for bad in (torch.inf, -torch.inf, torch.nan)] + [(129, torch.inf, "fp16")],
)
def test_no_number_in_no_number_out(hidden: int, bad: float, precision: str) -> None:
    run = RayRun(replace(CASE, hidden=hidden, depth=2, rays=2, samples=3, fine=2))
    names = list(run.inputs())
    got = dict(zip(names, scaled_gradients(run, precision, "triton", 1.0, bad)))
    want = dict(zip(names, scaled_gradients(run, precision, "ref", 1.0, bad)))
    hushed = [n for n in names if not torch.isfinite(want[n]).all() and torch.isfinite(got[n]).all()]
    assert not hushed
    assert not torch.isfinite(got["weights[0]"]).all()


@pytest.mark.parametrize("precision", HALF)
def test_density_and_sums_are_not_rounded(precision: str) -> None:
    # constant features 1 and -0.5, exact in 16 bit: what is left is the head and the weights, kept in two parts
    case = FieldCase(batch=1, rays=4, samples=14, hidden=2, depth=1, num_freqs=1, gain=1.0, negative_slope=0.5)
    run = RayRun(case, noise=False)
    named = run.inputs() | {"weights[0]": torch.zeros(1, 2, 6), "biases[0]": torch.tensor([1.0, -1.0])}
    named |= {"density_weight": torch.tensor([3.1234567, 0.7654321]), "density_bias": torch.tensor([0.1])}
    out = run.render("triton", precision, {name: t.to(run.fine_u().device) for name, t in named.items()})
    limit = {"fp16": 1e-6, "bf16": 2e-5}[precision]  # 2^-22 and 2^-16 of 3
    assert (out.density - (3.1234567 - 0.5 * 0.7654321 + 0.1)).abs().max() <= limit
    want = out.opacity[..., None] * torch.tensor([1.0, -0.5], device=out.opacity.device)
    assert (out.hidden - want).abs().max() <= limit


@pytest.mark.slow
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "width, span", [*((w, s) for w in (7, 32, 64, 128) for s in SPANS), (200, "inverse"), (256, "log")]
)
def test_sweep(width: int, span: str, kind: Kind, precision: str) -> None:
    run = RayRun(replace(WIDE if width > 32 else CASE, batch=2, hidden=width), kind, SPANS[span], sample_rays=1)
    got = assert_rounded_pass_matches(run, precision)
    if kind == "hierarchical":
        assert_positions_follow(run, precision, got)
