"""Passes of a field along rays by name: their inputs, the public call, and the plain forms to hold it against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from stylenerf.kernels.rays.hierarchical import SLOTS, hierarchical_tile
from stylenerf.kernels.rays.importance_ref import importance_sample_ref
from stylenerf.kernels.rays.render import FieldWeights, RayDraws, RayFeatures, RaySpan, render_points, render_rays
from stylenerf.kernels.rays.single_pass import ray_tile
from tests.closeness import assert_each_no_worse_than_torch
from tests.gradients import DEVICE, cotangents, leaves, outputs_and_gradients
from tests.inputs import FIELD_CASES, FieldCase, make_draws, make_field, make_fractions, make_points, make_rays
from tests.rounded import rounded_field
from tests.roundings import several_roundings

# every warp, space and far end, and units of density of their own
SPANS = {
    "linear": RaySpan(0.8, 1.2),
    "opaque": RaySpan(0.8, 1.2, far_end="opaque"),
    "inverse": RaySpan(0.5, 3.0, "inverse", "opaque", 2.0, "contracted"),
    "log": RaySpan(0.5, 3.0, "log", "open", 0.5, "radial", (0.1, 0.2, 0.9)),
}
OUTPUTS = ("hidden", "weights", "depths", "fractions", "density", "transmittance", "sample_hidden")
# what an activation moves by that rounds the other way than in float64
ULP = {"fp16": 2.0**-10, "bf16": 2.0**-7}
# Such a step may be just enough to pass leaky ReLU's corner. Of the many activations of wide fields some always do, so
# there the corner is blunt: a gate that is wrong altogether still shows.
BLUNT = 0.9

Kind = Literal["single", "hierarchical", "points"]
Results = dict[str, Tensor]


@dataclass(frozen=True)
class RayRun:
    """One pass: the field, its rays, and the options of the call."""

    case: FieldCase = FIELD_CASES["odd"]
    kind: Kind = "single"
    span: RaySpan = SPANS["linear"]
    sample_rays: int = 0
    noise: bool = True

    def inputs(self) -> dict[str, Tensor]:
        """Everything that may have a gradient, float32."""
        make: dict[str, Any] = {"dtype": torch.float32, "device": DEVICE}
        named = field_tensors(make_field(self.case, **make))
        if self.kind == "points":
            named |= {"points": make_points(self.case, **make), "depths": make_fractions(self.case, **make)}
        else:
            named |= dict(zip(("origins", "directions", "fractions"), make_rays(self.case, **make)))
        draws = make_draws(self.case, **make)
        if self.noise and draws.coarse_noise is not None and draws.fine_noise is not None:
            named["coarse_noise"] = draws.coarse_noise
            if self.kind == "hierarchical":
                named["fine_noise"] = draws.fine_noise
        return named

    def fine_u(self) -> Tensor:
        u = make_draws(self.case, dtype=torch.float32, device=DEVICE).fine_u
        assert u is not None
        return u

    def render(self, impl: str, precision: str, named: dict[str, Tensor], **changes: Any) -> RayFeatures:
        """The public function on tensors named as in :meth:`inputs`."""
        how: dict[str, Any] = {"sample_rays": self.sample_rays, "impl": impl, "precision": precision, **changes}
        field, noise = field_of(self.case, named), named.get("coarse_noise")
        if self.kind == "points":
            return render_points(named["points"], named["depths"], field, far_end=self.span.far_end, noise=noise, **how)
        fine_u = None
        if self.kind == "hierarchical":
            fine_u = named["fine_u"] if "fine_u" in named else self.fine_u().to(named["origins"].dtype)
        draws = RayDraws(fine_u, noise, named.get("fine_noise"))
        rays = named["origins"], named["directions"], named["fractions"]
        return render_rays(*rays, field, self.span, draws=draws, **how)

    def op(self, impl: str, precision: str = "fp32") -> Callable[..., tuple[Tensor, ...]]:
        """The pass as a function of the inputs' values; returns what there is of ``OUTPUTS``."""
        names, draws = list(self.inputs()), [self.fine_u()] if self.kind == "hierarchical" else []

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            named = dict(zip([*names, "fine_u"], [*tensors, *(u.to(tensors[0].dtype) for u in draws)]))
            return tuple(t for t in self.render(impl, precision, named) if t is not None)

        return run

    def results(self, impl: str, precision: str = "fp32", dtype: torch.dtype | None = None) -> Results:
        """Outputs by name, and every gradient for random cotangents on all of them."""
        found = outputs_and_gradients(self.op(impl, precision), self.inputs(), dtype)
        return {OUTPUTS[int(n.split()[1])] if n.startswith("output") else n: t for n, t in found.items()}

    def fine_positions(self, fractions: Tensor) -> Tensor:
        """Where the fine samples are, in the order of ``fine_u``, from the merged fractions [B, R, S + F].

        What is no coarse fraction is a fine one, and a larger u never falls nearer.
        """
        coarse, u = self.inputs()["fractions"], self.fine_u()
        mine = (fractions[..., None] == coarse[..., None, :]).any(-1)
        assert (mine.sum(-1) == coarse.shape[-1]).all(), "the merged fractions hold every coarse one once"
        return torch.empty_like(u, dtype=fractions.dtype).scatter_(-1, u.argsort(-1), fractions[~mine].view(u.shape))


def field_tensors(field: FieldWeights) -> dict[str, Tensor]:
    named = {f"weights[{i}]": w for i, w in enumerate(field.weights)}
    named |= {f"biases[{i}]": b for i, b in enumerate(field.biases)}
    return named | {"density_weight": field.density_weight, "density_bias": field.density_bias}


def field_of(case: FieldCase, named: dict[str, Tensor]) -> FieldWeights:
    layers = range(case.depth)
    return FieldWeights(
        tuple(named[f"weights[{i}]"] for i in layers),
        tuple(named[f"biases[{i}]"] for i in layers),
        named["density_weight"],
        named["density_bias"],
        num_freqs=case.num_freqs,
        gain=case.gain,
        negative_slope=case.negative_slope,
    )


@contextmanager
def fine_samples_at(positions: Tensor) -> Iterator[None]:
    """Let the plain form put its fine samples there, whatever its weights."""
    with patch("stylenerf.kernels.rays.render_ref.importance_sample_ref", lambda edges, weights, u: positions.to(u)):
        yield


def assert_pass_matches(run: RayRun, precision: str = "fp32") -> Results:
    """Outputs and every gradient are as near to the plain form in float64 as the plain form in float32 is.

    A hierarchical pass is held against the plain form at the kernel's own fine positions. Where these fall is steep in
    the weights, and has tests of its own.
    """
    got = run.results("triton", precision)
    with fine_samples_at(run.fine_positions(got["fractions"])) if run.kind == "hierarchical" else nullcontext():
        plain = several_roundings(lambda: run.results("ref"))
        assert_each_no_worse_than_torch(got, plain, run.results("ref", dtype=torch.float64))
    return got


def assert_rounded_pass_matches(run: RayRun, precision: str) -> Results:
    """As :func:`assert_pass_matches` for 16-bit operands, against a field that rounds where the kernel rounds.

    The allowance is what plain torch errs that rounds gradients between layers, too.
    """
    got = run.results("triton", precision)
    with fine_samples_at(run.fine_positions(got["fractions"])) if run.kind == "hierarchical" else nullcontext():
        unrounded = run.results("ref", dtype=torch.float64)
        with rounded_field(precision, gradients=False):
            exact = run.results("ref", dtype=torch.float64)
        with rounded_field(precision, gradients=True):
            plain = several_roundings(lambda: run.results("ref"))
            assert_each_no_worse_than_torch(got, plain, exact, floor=ULP[precision])
            assert_each_no_worse_than_torch(got, plain, unrounded, floor=ULP[precision])
    return got


def assert_positions_follow(run: RayRun, precision: str, got: Results) -> None:
    """Fine samples are where importance sampling puts them for the kernel's own coarse weights."""
    named = {name: t for name, t in run.inputs().items() if name != "fine_noise"}
    coarse = replace(run, kind="single", sample_rays=0).render("triton", precision, named)
    fractions, weights = coarse.fractions.double(), coarse.weights[..., 1:-1].double()
    edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
    want = importance_sample_ref(edges, weights, run.fine_u().double())
    err = (run.fine_positions(got["fractions"]).double() - want).abs()
    # the CDF is rounded to 1e-7, and a bin's share of it, at least 1e-5, is stretched to the bin's width
    assert err.median() <= 1e-7 and err.max() <= 0.01 * edges.diff(dim=-1).max(), (err.median(), err.max())


def second_order(run: RayRun, impl: str, precision: str = "fp32", dtype: torch.dtype | None = None) -> Results:
    """Gradients of a random projection of the first gradients."""
    named, single = leaves(run.inputs(), dtype), torch.float32
    outputs = list(run.op(impl, precision)(*named.values()))
    grads = torch.autograd.grad(outputs, list(named.values()), cotangents(outputs, single, 100), create_graph=True)
    grads = [g for g in grads if g.requires_grad]
    drawn = cotangents(grads, single, 200)
    again = torch.autograd.grad(grads, list(named.values()), drawn, allow_unused=True, materialize_grads=True)
    return dict(zip(named, again))


def tile_rays(kind: Kind, samples: int, precision: str = "fp32") -> int:
    """Rays of one program."""
    if kind == "hierarchical":
        return hierarchical_tile(32, precision, DEVICE).rows // SLOTS
    return ray_tile(32, samples, precision, DEVICE).rows // max(4, 1 << (samples - 1).bit_length())
