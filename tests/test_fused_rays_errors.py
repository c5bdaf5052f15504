"""The fused ray pass at the border of what it takes: refusals, strides, order, numbers that are none, portions."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays import render_backward as passes_backward
from stylenerf.kernels.rays.field_triton import padded_width
from stylenerf.kernels.rays.render import RayFeatures, evaluate_density, evaluate_field, render_points, render_rays
from tests.closeness import assert_each_no_worse_than_torch, assert_no_worse_than_torch
from tests.gradients import DEVICE, outputs_and_gradients
from tests.inputs import FieldCase, make_field
from tests.ray_runs import (
    OUTPUTS,
    SPANS,
    Kind,
    RayRun,
    assert_pass_matches,
    assert_rounded_pass_matches,
    field_of,
    fine_samples_at,
)
from tests.roundings import several_roundings
from tests.sweeps import slow

KINDS: tuple[Kind, ...] = ("single", "hierarchical", "points")
CASE = FieldCase(batch=2, rays=5, samples=5, fine=4, hidden=7, depth=2)
REFUSED: dict[str, tuple[str, FieldCase, torch.dtype]] = {
    "float64": ("torch.float64", CASE, torch.float64),
    "skips": ("a field with skips", replace(CASE, skips=(1,)), torch.float32),
    "width": ("width 300 above 256", replace(CASE, hidden=300), torch.float32),
    "slope": ("negative_slope 1.5 outside 0..1", replace(CASE, negative_slope=1.5), torch.float32),
    "octaves": ("3 coordinates with 22 octaves", replace(CASE, num_freqs=22), torch.float32),
}


@pytest.mark.parametrize("op", ["render_rays", "render_points", "evaluate_field", "evaluate_density"])
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_no_kernel_covers(name: str, op: str) -> None:
    reason, case, dtype = REFUSED[name]
    field = make_field(case, dtype=dtype, device=DEVICE)
    named = {n: t.to(dtype) for n, t in RayRun(CASE, "points" if op != "render_rays" else "single").inputs().items()}

    def call(impl: Any) -> Any:
        if op == "render_rays":
            rays = named["origins"], named["directions"], named["fractions"]
            return render_rays(*rays, field, SPANS["linear"], impl=impl)
        if op == "render_points":
            return render_points(named["points"], named["depths"], field, impl=impl)
        return {"evaluate_field": evaluate_field, "evaluate_density": evaluate_density}[op](
            named["points"].flatten(1, 2), field, impl=impl
        )

    with pytest.raises(RuntimeError, match=f"{op}: impl='triton' does not cover {reason}.*; use impl='ref'"):
        call("triton")
    # "auto" takes the plain form, on a GPU too
    torch.testing.assert_close(call("auto"), call("ref"), rtol=0, atol=0)


def run(**changes: Any) -> RayFeatures:
    """A hierarchical pass with some tensors changed."""
    whole = RayRun(CASE, "hierarchical")
    named = whole.inputs() | {"fine_u": whole.fine_u()}
    return whole.render("triton", "fp32", {name: changes.get(name, lambda t: t)(t) for name, t in named.items()})


# the same refusals as the plain form's, before anything is allocated or launched
BAD: dict[str, tuple[type[Exception], str, str, Any]] = {
    "origins": (ValueError, r"origins must be \[B, R, 3\]", "origins", lambda t: t[..., :2]),
    "directions": (ValueError, r"directions must be \[B, R, 3\] with R=5", "directions", lambda t: t[:, :4]),
    "fractions": (ValueError, r"fractions must be \[B, R, S\] with B=2", "fractions", lambda t: t[:1]),
    "two samples": (ValueError, "fractions must have S >= 3|coarse_noise must be", "fractions", lambda t: t[..., :2]),
    "coarse noise": (ValueError, "draws.coarse_noise must be", "coarse_noise", lambda t: t[..., :2]),
    "fine noise": (ValueError, r"draws.fine_noise must be \[B, R, F\]", "fine_noise", lambda t: t[..., :3]),
    "fine u": (ValueError, r"draws.fine_u must be|draws.fine_noise must be", "fine_u", lambda t: t[..., 0]),
    "half": (TypeError, "origins must be one of .* got torch.float16", "origins", lambda t: t.half()),
    "mixed": (TypeError, "directions must be one of .*float64", "directions", lambda t: t.double()),
    "mixed draws": (TypeError, "draws.fine_u must be", "fine_u", lambda t: t.double()),
    "mixed noise": (TypeError, "draws.fine_noise must be", "fine_noise", lambda t: t.bfloat16()),
    "mixed weight": (TypeError, r"weights\[0\]", "weights[1]", lambda t: t.double()),
    "mixed bias": (TypeError, r"biases\[0\]", "biases[0]", lambda t: t.half()),
    "mixed head": (TypeError, "field.density_weight must be", "density_weight", lambda t: t.double()),
    "head": (ValueError, "field.density_weight must be", "density_weight", lambda t: t[:, :6]),
    "head bias": (ValueError, "field.density_bias must be", "density_bias", lambda t: t.expand(2)),
    "weight": (ValueError, r"weights\[0\] must be \[O, 7\]", "weights[1]", lambda t: t[..., :6]),
    "bias": (ValueError, r"biases\[0\] must be", "biases[1]", lambda t: t[..., :6]),
    "fields": (ValueError, r"weights\[0\] must be", "weights[0]", lambda t: torch.cat([t, t])),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, arg, change = BAD[name]
    with pytest.raises(kind, match=text):
        run(**{arg: change})


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["origins", "fractions", "weights[1]", "fine_u"])
def test_no_pointer_into_another_memory(name: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"cpu tensor|same device"):
        run(**{name: lambda t: t.cpu()})


@pytest.mark.parametrize("op", ["render_rays", "render_points", "evaluate_field", "evaluate_density"])
def test_needs_a_gpu_or_the_interpreter(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    named = {n: t.cpu() for n, t in RayRun(CASE, "points" if op != "render_rays" else "single").inputs().items()}
    field = field_of(CASE, named)
    calls: dict[str, Any] = {
        "evaluate_field": lambda: evaluate_field(named["points"].flatten(1, 2), field, impl="triton"),
        "evaluate_density": lambda: evaluate_density(named["points"].flatten(1, 2), field, impl="triton"),
        "render_points": lambda: render_points(named["points"], named["depths"], field, impl="triton"),
        "render_rays": lambda: RayRun(CASE).render("triton", "fp16", named),
    }
    with pytest.raises(RuntimeError, match=f"{op}: impl='triton' needs CUDA tensors, got device cpu"):
        calls[op]()


@pytest.mark.parametrize("kind", KINDS)
def test_precision_is_one_of_four(kind: Kind) -> None:
    whole = RayRun(CASE, kind)
    with pytest.raises(ValueError, match=r"precision must be one of .*fp16.*got 'fp8'"):
        whole.render("triton", "fp8", whole.inputs())


def turned(t: Tensor) -> Tensor:
    """The same numbers, memory in another order."""
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t.repeat_interleave(2)[::2]


@pytest.mark.parametrize("hidden", [7, slow(40)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_strides(kind: Kind, hidden: int) -> None:
    whole = RayRun(replace(CASE, hidden=hidden, rays=3), kind, sample_rays=1)
    given_ = whole.inputs()
    strided = {name: turned(t) for name, t in given_.items()}
    assert all(t.numel() == 1 or not t.is_contiguous() for t in strided.values())
    want = outputs_and_gradients(whole.op("triton"), given_)
    got = outputs_and_gradients(whole.op("triton"), strided)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("hidden", [7, 40])
def test_fractions_out_of_order(hidden: int) -> None:
    whole = RayRun(replace(CASE, hidden=hidden), span=replace(SPANS["opaque"], density_scale=0.3), sample_rays=1)
    named = whole.inputs()
    named["fractions"] = named["fractions"][..., torch.tensor([3, 0, 4, 1, 2], device=DEVICE)]
    got = outputs_and_gradients(whole.op("triton"), named)
    plain = several_roundings(lambda: outputs_and_gradients(whole.op("ref"), named))
    exact = outputs_and_gradients(whole.op("ref"), named, torch.float64)
    assert_each_no_worse_than_torch(got, plain, exact)


BROKEN: tuple[tuple[Kind, str], ...] = (
    *(("single", name) for name in ("fractions", "origins", "coarse_noise")),
    *(("points", name) for name in ("points", "depths")),
    *(("hierarchical", name) for name in ("fractions", "directions", "coarse_noise", "fine_u", "fine_noise")),
)
SOME: tuple[tuple[Kind, str], ...] = (("single", "origins"), ("points", "depths"), ("hierarchical", "fractions"))
SIZES = {"one kernel": (7, 5), "layer by layer": (150, 5), "two passes": (7, 17)}  # width, coarse samples
SPOILT = [
    *((*broken, "one kernel", "fp16", torch.nan) for broken in BROKEN),
    *((*broken, "one kernel", "fp32", torch.nan) for broken in SOME),
    *((*broken, "one kernel", "fp16", torch.inf) for broken in SOME),
    *((*broken, "layer by layer", "fp16", torch.nan) for broken in SOME),
    *((*broken, "two passes", "fp16", torch.nan) for broken in SOME),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kind, name, size, precision, bad", SPOILT)
def test_no_number_spoils_its_own_ray_alone(kind: Kind, name: str, size: str, precision: str, bad: float) -> None:
    hidden, samples = SIZES[size]
    whole = RayRun(replace(CASE, batch=1, rays=3, hidden=hidden, depth=1, samples=samples), kind, sample_rays=1)
    clean = whole.inputs() | ({"fine_u": whole.fine_u()} if kind == "hierarchical" else {})
    broken = {n: t.detach().clone().requires_grad_() for n, t in clean.items()}
    with torch.no_grad():
        broken[name][0, 1].view(-1)[1] = bad
    want, got = (whole.render("triton", precision, named) for named in (clean, broken))
    others = torch.tensor([0, 2], device=DEVICE)
    image = {"hidden": others[:1], "sample_hidden": others[:0]}  # the last ray is sample_hidden
    for output, w, g in zip(OUTPUTS, want, got):
        assert w is not None and g is not None
        at = image.get(output, others)
        assert torch.equal(g[:, at], w[:, at]), output
    assert (
        got.sample_hidden is not None
        and want.sample_hidden is not None
        and torch.equal(got.sample_hidden, want.sample_hidden)
    )
    assert got.hidden[0, 1].isnan().all() and got.transmittance[0, 1].isnan()

    # the backward gets through, and what is common to all rays shows it
    outputs = [t for t in got if t is not None and t.requires_grad]
    grads = torch.autograd.grad(
        outputs, list(broken.values()), [torch.ones_like(o) for o in outputs], materialize_grads=True, allow_unused=True
    )
    found = dict(zip(broken, grads))
    assert not found["weights[0]"].isfinite().all()
    per_ray = [found[n] for n in ("origins", "directions", "fractions", "points", "depths") if n in found]
    assert all(g[:, others].isfinite().all() for g in per_ray)


@pytest.mark.parametrize("dense", [1e4, 1e8, 1e37])
@pytest.mark.parametrize("kind", KINDS)
def test_surfaces(kind: Kind, dense: float) -> None:
    # air, then a wall: the light that reaches the wall is no difference of two sums that hold the wall
    whole = RayRun(replace(CASE, samples=14), kind)
    named = whole.inputs()
    wall = torch.tensor([0.0, 0, 0, dense, 0, dense, 0, 0, 0, 0, dense, 0, 0, 0], device=DEVICE)
    named["coarse_noise"] = named["coarse_noise"] + wall
    out = whole.render("triton", "fp32", named)
    positions = whole.fine_positions(out.fractions) if kind == "hierarchical" else out.fractions
    with fine_samples_at(positions):
        plain = several_roundings(lambda: whole.render("ref", "fp32", named))
        exact = whole.render("ref", "fp32", {name: t.double() for name, t in named.items()})
        for name in ("weights", "transmittance"):
            same = (getattr(p, name) for p in plain)
            assert_no_worse_than_torch(name, getattr(out, name), same, getattr(exact, name))
    assert (exact.weights.amax(-1) > 0.3).all()


@pytest.mark.parametrize("rays_at_a_time, precision", [slow(0.5, "fp32"), (2, "fp16"), (7, "fp32")])
@pytest.mark.parametrize("kind", KINDS)
def test_portions_add_up(kind: Kind, rays_at_a_time: float, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several portions per image, the sample_hidden rays in some of them, or several images per portion."""
    whole = RayRun(replace(CASE, batch=3, rays=3), kind, SPANS["inverse"], sample_rays=1)
    samples = CASE.samples + (CASE.fine if kind == "hierarchical" else 0)
    ray_bytes = CASE.depth * samples * padded_width(make_field(CASE)) * (4 if precision == "fp32" else 2)
    monkeypatch.setattr(passes_backward, "WORKSPACE_BYTES", int(rays_at_a_time * ray_bytes))
    (assert_pass_matches if precision == "fp32" else assert_rounded_pass_matches)(whole, precision)


@pytest.mark.parametrize("kind", KINDS)
def test_portions_layer_by_layer(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RayRun(replace(CASE, rays=3, hidden=40, depth=1), kind, sample_rays=1)
    monkeypatch.setattr(passes_backward, "WORKSPACE_BYTES", 1)
    assert_pass_matches(whole)
