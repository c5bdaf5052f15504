"""Derivatives of the fused ray pass beyond the first, what it keeps for them, and its registration with torch."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels import RaySpan
from stylenerf.kernels.rays import render_triton as render
from stylenerf.kernels.rays.field_triton import pack
from stylenerf.kernels.rays.render import evaluate_density, evaluate_field
from tests.closeness import assert_each_no_worse_than_torch, assert_relative
from tests.gradients import DEVICE, leaves
from tests.inputs import FieldCase, source
from tests.ray_runs import SPANS, Kind, RayRun, field_of, fine_samples_at, second_order
from tests.roundings import several_roundings

KINDS: tuple[Kind, ...] = ("single", "hierarchical", "points")
CASE = FieldCase(batch=2, rays=3, samples=5, fine=4, hidden=7, depth=3)
CASES: dict[str, RayRun] = {
    **{kind: RayRun(CASE, kind, SPANS["opaque"], sample_rays=1) for kind in KINDS},
    "shared field": RayRun(replace(CASE, per_image=False), "hierarchical", SPANS["inverse"], noise=False),
    "layer by layer": RayRun(replace(CASE, hidden=40), "hierarchical", SPANS["log"]),
    "two passes": RayRun(replace(CASE, samples=17), "hierarchical", sample_rays=3),
    "many samples": RayRun(replace(CASE, samples=130), "single", SPANS["inverse"]),
    "no rays": RayRun(replace(CASE, rays=0), "hierarchical"),
    "no images": RayRun(replace(CASE, batch=0), "points"),
}


def at_own_positions(run: RayRun, precision: str) -> Any:
    if run.kind != "hierarchical":
        return nullcontext()
    return fine_samples_at(run.fine_positions(run.render("triton", precision, run.inputs()).fractions))


# whatever the operands' precision: a graph of derivatives is the plain form's
@pytest.mark.parametrize("name, precision", [(n, "fp32") for n in CASES] + [(k, "fp16") for k in KINDS])
def test_second_order(name: str, precision: str) -> None:
    run = CASES[name]
    got = second_order(run, "triton", precision)
    with at_own_positions(run, precision):
        plain = several_roundings(lambda: second_order(run, "ref"))
        assert_each_no_worse_than_torch(got, plain, second_order(run, "ref", dtype=torch.float64))
    for key, one in next(iter(plain)).items():
        assert_relative(key, got[key], one, 1e-5)


def path_penalty(run: RayRun, impl: str, precision: str) -> dict[str, Tensor]:
    """Gradients of a path-length penalty: the style scales every matrix, the image is the features."""
    named = {name: t.requires_grad_() for name, t in run.inputs().items()}
    style = torch.ones(max(run.case.batch, 1), 1, 1, device=DEVICE, requires_grad=True)
    styled = named | {name: style * t for name, t in named.items() if name.startswith("weights")}
    image = run.render(impl, precision, styled).hidden
    noise = torch.randn(image.shape, generator=source(3)).to(image)
    (grad,) = torch.autograd.grad((image * noise).sum(), style, create_graph=True)
    penalty = (grad.square().sum((1, 2)).sqrt() - 0.3).square().sum()
    grads = torch.autograd.grad(penalty, list(named.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(named, grads))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_path_length_penalty(kind: Kind, precision: str) -> None:
    run = RayRun(CASE, kind, SPANS["opaque"])
    got = path_penalty(run, "triton", precision)
    with at_own_positions(run, precision):
        want = path_penalty(run, "ref", precision)
    assert any(w.abs().max() > 1e-3 for w in want.values())
    # the penalty's own value comes from the forward, in the operands' precision; its slope does not
    for name in want:
        assert_relative(name, got[name], want[name], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_first_order_is_the_same_with_a_graph(kind: Kind) -> None:
    run = RayRun(CASE, kind, SPANS["inverse"], sample_rays=1)

    def gradients(impl: str, dtype: torch.dtype | None = None, create_graph: bool = False) -> dict[str, Tensor]:
        named = leaves(run.inputs(), dtype)
        out = run.render(impl, "fp32", named)
        total = out.hidden.square().sum() + out.density.sum()
        how: dict[str, Any] = {"allow_unused": True, "materialize_grads": True, "create_graph": create_graph}
        return dict(zip(named, torch.autograd.grad(total, list(named.values()), **how)))

    got = [gradients("triton", create_graph=create_graph) for create_graph in (False, True)]
    with at_own_positions(run, "fp32"):
        plain, exact = several_roundings(lambda: gradients("ref")), gradients("ref", torch.float64)
        for either in got:
            assert_each_no_worse_than_torch(either, plain, exact)


def third_order(run: RayRun, impl: str) -> Tensor:
    named = {name: t.requires_grad_() for name, t in run.inputs().items()}
    x = named["origins" if run.kind != "points" else "points"]
    y = run.render(impl, "fp32", named).hidden.square().sum()
    for _ in range(2):
        (grad,) = torch.autograd.grad(y, x, create_graph=True)
        y = grad.square().sum()
    return torch.autograd.grad(y, named["weights[1]"])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_third_order(kind: Kind) -> None:
    run = RayRun(replace(CASE, num_freqs=1), kind)
    got = third_order(run, "triton")
    with at_own_positions(run, "fp32"):
        want = third_order(run, "ref")
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def penalty_of_density(case: FieldCase, impl: Any, whole: bool) -> dict[str, Tensor]:
    """The eikonal term of a density, and if ``whole`` of the features as well."""
    named = {name: t.requires_grad_() for name, t in RayRun(case, "points", noise=False).inputs().items()}
    points, field = named["points"].flatten(1, 2), field_of(case, named)
    if whole:
        hidden, density = evaluate_field(points, field, impl=impl, precision="fp16")
        density = density + hidden.sum(-1)
    else:
        density = evaluate_density(points, field, impl=impl, precision="fp16")
    (slope,) = torch.autograd.grad(density.sum(), points, create_graph=True)
    loss = (slope.norm(dim=-1) - 1).square().sum()
    del named["depths"]
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), materialize_grads=True, allow_unused=True)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("hidden", [7, 40])
def test_penalty_of_a_density(hidden: int, whole: bool) -> None:
    case = replace(CASE, hidden=hidden)
    got, want = (penalty_of_density(case, impl, whole) for impl in ("triton", "ref"))
    for name in want:
        assert_relative(name, got[name], want[name], 1e-5)


def op_arguments(kind: str) -> tuple[Any, tuple[Any, ...]]:
    """A registered op and what it is called with."""
    run = RayRun(CASE, "hierarchical" if kind == "hierarchical" else "single" if kind == "single" else "points")
    named = {name: t.requires_grad_() for name, t in run.inputs().items()}
    packed = tuple(t.detach().requires_grad_() for t in pack(field_of(CASE, named), 3))
    span = RaySpan(0.8, 1.2, "inverse", "opaque", space="contracted")
    setting = render.Setting(CASE.num_freqs, CASE.negative_slope, "fp16", 1, span).flat()
    if kind == "field":
        return render.field_values, (named["points"].detach().flatten(1, 2), *packed, *setting[:3], True)
    if kind == "density":
        return render.field_values, (named["points"].detach().flatten(1, 2), *packed, *setting[:3], False)
    if kind == "points":
        given = named["points"], None, None, named["depths"], None
        return render.single_pass, (*given, *packed, *setting)
    rays = named["origins"], named["directions"], named["fractions"]
    if kind == "single":
        return render.single_pass, (None, *rays, named["coarse_noise"], *packed, *setting)
    draws = run.fine_u(), named["coarse_noise"], None
    return render.hierarchical_pass, (*rays, *draws, *packed, *setting)


@pytest.mark.parametrize("kind", ["field", "density", "points", "single", "hierarchical"])
def test_registered_as_torch_wants_it(kind: str) -> None:
    op, args = op_arguments(kind)
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
