"""The ray pass: hand-computed values, the same thing put together op by op, derivatives, errors."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.encode import encode_positions
from stylenerf.kernels.rays.importance import importance_sample
from stylenerf.kernels.rays.mlp import modulated_mlp
from stylenerf.kernels.rays.render import (
    FieldWeights,
    RayDraws,
    RayFeatures,
    RaySpan,
    depth_from_fraction,
    evaluate_field,
    render_points,
    render_rays,
)
from stylenerf.kernels.rays.span import contract_ref
from stylenerf.kernels.rays.volume import composite, volume_weights
from tests.inputs import (
    FIELD_CASES,
    GRADIENT_CASE,
    FieldCase,
    make_draws,
    make_field,
    make_fractions,
    make_points,
    make_rays,
)

SPAN = RaySpan(0.8, 1.2)
CLOSE = {"atol": 1e-11, "rtol": 1e-11}


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def constant_field(sigma: float, level: float) -> FieldWeights:
    """h = sqrt 2 level and density sigma, everywhere."""
    zero = torch.zeros(1, 6, dtype=torch.float64)
    return FieldWeights((zero,), (double(level),), double(0), double(sigma), num_freqs=1)


def field_by_ops(points: Tensor, field: FieldWeights) -> tuple[Tensor, Tensor]:
    """[..., D] -> hidden [..., H] and density, from the single ops, one image at a time."""
    hidden, density = [], []
    for b, p in enumerate(points):
        encoded = h = encode_positions(p.reshape(-1, p.shape[-1]), field.num_freqs)
        for i, (weight, bias) in enumerate(zip(field.weights, field.biases)):
            x = torch.cat([h, encoded], -1) if i in field.skips else h
            w, c = weight[b] if weight.ndim == 3 else weight, bias[b] if bias.ndim == 2 else bias
            h = modulated_mlp(x, [w], [c], gain=field.gain, negative_slope=field.negative_slope)
        v = field.density_weight[b] if field.density_weight.ndim == 2 else field.density_weight
        hidden.append(h.reshape(*p.shape[:-1], h.shape[-1]))
        density.append((h @ v + field.density_bias).reshape(p.shape[:-1]))
    return torch.stack(hidden), torch.stack(density)


def rays_by_ops(
    origins: Tensor, directions: Tensor, fractions: Tensor, field: FieldWeights, span: RaySpan, draws: RayDraws
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The pass as the paper tells it: sample, resample, concatenate, sort, gather, integrate."""

    def evaluate(fractions: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        points = origins[:, :, None] + depth_from_fraction(fractions, span)[..., None] * directions[:, :, None]
        if span.space == "contracted":
            far = points.norm(dim=-1, keepdim=True)
            points = torch.where(far > 1, points / far * (2 - 1 / far), points)
        if span.space == "radial":
            points = points - double(*span.centre)
            points = points * (span.far * points.norm(dim=-1, keepdim=True)) ** -0.5
        hidden, density = field_by_ops(points, field)
        return hidden, density if noise is None else density + noise

    def integrate(density: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
        norm = directions.norm(dim=-1) * span.density_scale
        return volume_weights(density, depth_from_fraction(fractions, span), ray_norm=norm, far_end=span.far_end)

    hidden, density = evaluate(fractions, draws.coarse_noise)
    weights, trans = integrate(density, fractions)
    if draws.fine_u is not None:
        edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
        fine = importance_sample(edges, weights[..., 1:-1], draws.fine_u)
        fine_hidden, fine_density = evaluate(fine, draws.fine_noise)
        fractions, order = torch.cat([fine, fractions], -1).sort(dim=-1)
        density = torch.cat([fine_density, density], -1).gather(-1, order)
        hidden = torch.cat([fine_hidden, hidden], 2)
        hidden = hidden.gather(2, order[..., None].expand_as(hidden))
        weights, trans = integrate(density, fractions)
    return hidden, weights, depth_from_fraction(fractions, span), fractions, density, trans


def test_field_hand_computed() -> None:
    # gamma(1/2, 0, 0) = (1, 0, 0, 0, 1, 1); 2 * 1 + 1 * 1 - 1 = 2 and -1 * 1 = -1; h = sqrt 2 (2, -0.2)
    weight = torch.tensor([[2.0, 0, 0, 0, 1, 0], [-1.0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    field = FieldWeights((weight,), (double(-1, 0),), double(1, 5), double(0.5), num_freqs=1)
    hidden, density = evaluate_field(double(0.5, 0, 0)[None, None], field)
    torch.testing.assert_close(hidden, math.sqrt(2) * double(2, -0.2)[None, None])
    assert density.item() == pytest.approx(math.sqrt(2) * (2 - 1) + 0.5)


def test_depths_hand_computed() -> None:
    half = double(0, 0.5, 1)
    # between 1 and 4: the mean; 1 / mean(1, 1/4); the root of 1 * 4
    for warp, middle in (("linear", 2.5), ("inverse", 1.6), ("log", 2.0)):
        got = depth_from_fraction(half, RaySpan(1, 4, warp))  # type: ignore[arg-type]
        torch.testing.assert_close(got, double(1, middle, 4))


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("fine", [0, 5])
@pytest.mark.parametrize("warp", ["linear", "inverse", "log"])
def test_fog_hand_computed(warp: Any, fine: int, scale: float) -> None:
    # through fog of density 2 along |d| = 3 from t = 1/2 to 1, exp(-2 * 3 * 1/2) of the light is left
    origins, directions = torch.zeros(1, 1, 3, dtype=torch.float64), double(1, 2, 2)[None, None]
    fractions = torch.linspace(0, 1, 4, dtype=torch.float64)[None, None]
    draws = RayDraws(torch.linspace(0.1, 0.9, fine, dtype=torch.float64)[None, None] if fine else None)
    span = RaySpan(0.5, 1.0, warp, density_scale=scale)
    out = render_rays(origins, directions, fractions, constant_field(2.0, 0.7), span, draws=draws)
    left = math.exp(-3 * scale)
    assert out.transmittance.item() == pytest.approx(left, abs=1e-8)
    assert out.hidden.item() == pytest.approx(math.sqrt(2) * 0.7 * (1 - left), abs=1e-8)
    assert out.weights.shape == (1, 1, 4 + fine) and (out.depths.diff(dim=-1) > 0).all()


def test_contraction_hand_computed() -> None:
    # |x| = 1/2 and 1 stay; |x| = 5 goes to 2 - 1/5 along its direction
    points = torch.tensor([[0.3, 0.4, 0], [0, 0.6, 0.8], [3, 4, 0], [0, 0, 0]], dtype=torch.float64)
    want = torch.tensor([[0.3, 0.4, 0], [0, 0.6, 0.8], [1.08, 1.44, 0], [0, 0, 0]], dtype=torch.float64)
    span = RaySpan(0.5, 6.0, space="contracted")
    torch.testing.assert_close(contract_ref(points.requires_grad_(), span), want)
    contract_ref(points, span).sum().backward()
    assert points.grad is not None and torch.isfinite(points.grad).all()


def test_radial_space_hand_computed() -> None:
    # x - c = (0, 0.36, 0.48), |x - c| = 0.6, far 2.4: divided by sqrt(1.44) = 1.2
    span = RaySpan(0.5, 2.4, "log", space="radial", centre=(1.0, 0.0, 0.0))
    points = torch.tensor([[1.0, 0.36, 0.48], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    want = torch.tensor([[0.0, 0.3, 0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(contract_ref(points, span), want)
    contract_ref(points, span).sum().backward()
    assert points.grad is not None and torch.isfinite(points.grad).all()


def test_opaque_end_takes_the_rest() -> None:
    out = render_points(
        torch.zeros(1, 1, 2, 3, dtype=torch.float64),
        double(0, 1)[None, None],
        constant_field(1.0, 0.5),
        far_end="opaque",
    )
    torch.testing.assert_close(out.weights[0, 0], double(1 - math.exp(-1), math.exp(-1)), atol=1e-9, rtol=0)
    assert out.hidden.item() == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("case", FIELD_CASES)
def test_field_equals_single_ops(case: str) -> None:
    points, field = make_points(FIELD_CASES[case]).flatten(1, 2), make_field(FIELD_CASES[case])
    torch.testing.assert_close(evaluate_field(points, field), field_by_ops(points, field), **CLOSE)


@pytest.mark.parametrize("end", ["open", "opaque"])
@pytest.mark.parametrize("case", FIELD_CASES)
def test_points_equal_single_ops(case: str, end: Any) -> None:
    shape = replace(FIELD_CASES[case], dims=4)
    points, depths, field = make_points(shape), make_fractions(shape), make_field(shape)
    noise = make_draws(shape).coarse_noise
    out = render_points(points, depths, field, far_end=end, noise=noise)
    hidden, density = field_by_ops(points, field)
    weights, trans = volume_weights(density + noise, depths, far_end=end)
    want = RayFeatures(composite(weights, hidden), weights, depths, depths, density + noise, trans, None)
    torch.testing.assert_close(out[:6], want[:6], **CLOSE)
    assert out.sample_hidden is None


PASSES = ["single", "noisy", "hierarchical", "hierarchical, noisy"]


def drawn(case: FieldCase, kind: str) -> RayDraws:
    draws = make_draws(case)
    if not kind.startswith("hierarchical"):
        draws = replace(draws, fine_u=None, fine_noise=None)
    return draws if kind.endswith("noisy") else replace(draws, coarse_noise=None, fine_noise=None)


SPANS = {
    "linear": SPAN,
    "inverse": RaySpan(0.5, 3.0, "inverse", "opaque", 2.0, "contracted"),
    "log": RaySpan(0.5, 3.0, "log", space="radial", centre=(0.1, 0.2, 0.9)),
}


@pytest.mark.parametrize("span", SPANS.values(), ids=list(SPANS))
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("case", FIELD_CASES)
def test_rays_equal_single_ops(case: str, kind: str, span: RaySpan) -> None:
    shape = FIELD_CASES[case]
    rays, field, draws = make_rays(shape), make_field(shape), drawn(shape, kind)
    out = render_rays(*rays, field, span, draws=draws)
    hidden, *rest = rays_by_ops(*rays, field, span, draws)
    torch.testing.assert_close(out.hidden, composite(rest[0], hidden), **CLOSE)
    torch.testing.assert_close(list(out[1:6]), rest, **CLOSE)
    assert out.sample_hidden is None


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("sample_rays", [1, 5])
def test_emitted_samples_add_up(kind: str, sample_rays: int) -> None:
    shape = FIELD_CASES["odd"]
    rays, field, draws = make_rays(shape), make_field(shape), drawn(shape, kind)
    whole = render_rays(*rays, field, SPAN, draws=draws)
    out = render_rays(*rays, field, SPAN, draws=draws, sample_rays=sample_rays)
    image = shape.rays - sample_rays
    assert out.sample_hidden is not None and out.hidden.shape[1] == image
    torch.testing.assert_close(out.hidden, whole.hidden[:, :image], **CLOSE)
    torch.testing.assert_close(composite(out.weights[:, image:], out.sample_hidden), whole.hidden[:, image:], **CLOSE)
    torch.testing.assert_close(out[1:6], whole[1:6], **CLOSE)
    # one by one and in depth order, not only in sum
    hidden = rays_by_ops(*rays, field, SPAN, draws)[0]
    torch.testing.assert_close(out.sample_hidden, hidden[:, image:], **CLOSE)


@pytest.mark.parametrize("sample_rays", [1, 5])
def test_emitted_points_add_up(sample_rays: int) -> None:
    shape = replace(FIELD_CASES["odd"], dims=4)
    points, depths, field = make_points(shape), make_fractions(shape), make_field(shape)
    whole = render_points(points, depths, field)
    out = render_points(points, depths, field, sample_rays=sample_rays)
    image = shape.rays - sample_rays
    assert out.sample_hidden is not None
    torch.testing.assert_close(out.hidden, whole.hidden[:, :image], **CLOSE)
    torch.testing.assert_close(composite(out.weights[:, image:], out.sample_hidden), whole.hidden[:, image:], **CLOSE)


def test_shared_weights_equal_repeated_ones() -> None:
    shape = FIELD_CASES["shared"]
    field, rays, draws = make_field(shape), make_rays(shape), make_draws(shape)
    repeated = replace(
        field,
        weights=tuple(w.expand(2, *w.shape) for w in field.weights),
        biases=tuple(b.expand(2, -1) for b in field.biases),
        density_weight=field.density_weight.expand(2, -1),
    )
    a, b = render_rays(*rays, field, SPAN, draws=draws), render_rays(*rays, repeated, SPAN, draws=draws)
    torch.testing.assert_close(a[:6], b[:6], **CLOSE)


def test_single_precision_stays_near() -> None:
    shape = FIELD_CASES["released"]
    shape = replace(shape, num_freqs=4)  # high octaves multiply the rounding of the position, in any implementation
    want = render_rays(*make_rays(shape), make_field(shape), SPAN)
    got = render_rays(*make_rays(shape, dtype=torch.float32), make_field(shape, dtype=torch.float32), SPAN)
    assert got.hidden.dtype == torch.float32
    torch.testing.assert_close(got.hidden.double(), want.hidden, atol=1e-4, rtol=1e-4)


def leaves(case: FieldCase) -> tuple[list[Tensor], Callable[..., FieldWeights]]:
    field = make_field(case)
    tensors = [*field.weights, *field.biases, field.density_weight, field.density_bias]

    def rebuild(*t: Tensor) -> FieldWeights:
        n = case.depth
        return replace(field, weights=t[:n], biases=t[n : 2 * n], density_weight=t[2 * n], density_bias=t[2 * n + 1])

    return [t.requires_grad_() for t in tensors], rebuild


def differentiable(out: RayFeatures) -> tuple[Tensor, ...]:
    return tuple(t for t in out if t is not None and t.requires_grad)


def assert_derivatives(run: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> None:
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("skips", [(), (1,)])
def test_field_derivatives_of_any_order(skips: tuple[int, ...]) -> None:
    case = replace(GRADIENT_CASE, skips=skips)
    parts, rebuild = leaves(case)
    points = make_points(case).flatten(1, 2)[:, :3].clone().requires_grad_()
    assert_derivatives(lambda p, *t: evaluate_field(p, rebuild(*t)), [points, *parts])


@pytest.mark.parametrize("sample_rays", [0, 1])
def test_points_derivatives_of_any_order(sample_rays: int) -> None:
    parts, rebuild = leaves(GRADIENT_CASE)
    inputs = [make_points(GRADIENT_CASE), make_fractions(GRADIENT_CASE), make_draws(GRADIENT_CASE).coarse_noise]

    def run(points: Tensor, depths: Tensor, noise: Tensor, *t: Tensor) -> tuple[Tensor, ...]:
        return differentiable(render_points(points, depths, rebuild(*t), noise=noise, sample_rays=sample_rays))

    assert_derivatives(run, [*(x.requires_grad_() for x in inputs), *parts])


@pytest.mark.parametrize(
    "kind, sample_rays", [("single", 0), ("noisy", 1), ("hierarchical", 0), ("hierarchical, noisy", 1)]
)
def test_rays_derivatives_of_any_order(kind: str, sample_rays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, rebuild = leaves(GRADIENT_CASE)
    rays, draws = make_rays(GRADIENT_CASE), drawn(GRADIENT_CASE, kind)
    field = rebuild(*parts)

    def run(origins: Tensor, directions: Tensor, fractions: Tensor, *t: Tensor) -> tuple[Tensor, ...]:
        return differentiable(
            render_rays(origins, directions, fractions, rebuild(*t), SPAN, draws=draws, sample_rays=sample_rays)
        )

    inputs = [*(x.requires_grad_() for x in rays), *parts]
    if draws.fine_u is not None:
        # finite differences would move the fine positions, which count as given: hold them where they are
        before = torch.autograd.grad(sum(t.square().sum() for t in run(*inputs)), inputs)
        fractions, weights = rays[2], rays_by_ops(*rays, field, SPAN, replace(draws, fine_u=None))[1]
        edges = (fractions[..., 1:] + fractions[..., :-1]) / 2
        fixed = importance_sample(edges, weights[..., 1:-1], draws.fine_u)
        monkeypatch.setattr("stylenerf.kernels.rays.render_ref.importance_sample_ref", lambda *_: fixed)
        after = torch.autograd.grad(sum(t.square().sum() for t in run(*inputs)), inputs)
        torch.testing.assert_close(before, after)
    assert_derivatives(run, inputs)


CASE = FIELD_CASES["odd"]
ORIGINS, DIRECTIONS, F = make_rays(CASE)
FIELD, DRAWS, POINTS = make_field(CASE), make_draws(CASE), make_points(CASE)


def render(field: FieldWeights = FIELD, span: RaySpan = SPAN, **changes: Any) -> RayFeatures:
    given = {"origins": ORIGINS, "directions": DIRECTIONS, "fractions": F, **changes}
    return render_rays(given.pop("origins"), given.pop("directions"), given.pop("fractions"), field, span, **given)


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "points": (ValueError, r"points must be \[B, N, D\], got 4 dims", lambda: evaluate_field(POINTS, FIELD)),
    "dims": (
        ValueError,
        r"weights\[0\] must be \[O, 24\]",
        lambda: evaluate_field(torch.zeros(2, 5, 4).double(), FIELD),
    ),
    "depths": (ValueError, r"depths must be \[B, R, S\] with S=5", lambda: render_points(POINTS, F[..., :4], FIELD)),
    "noise": (
        ValueError,
        r"noise must be \[B, R, S\] with R=5",
        lambda: render_points(POINTS, F, FIELD, noise=F[:, :4]),
    ),
    "noise dtype": (TypeError, "noise must be", lambda: render_points(POINTS, F, FIELD, noise=F.float())),
    "end": (ValueError, r"far_end must be one of", lambda: render_points(POINTS, F, FIELD, far_end="shut")),
    "sample_rays": (
        ValueError,
        "sample_rays must be between 0 and R=5, got 6",
        lambda: render_points(POINTS, F, FIELD, sample_rays=6),
    ),
    "sample_rays rays": (ValueError, "sample_rays must be between 0 and R=5, got -1", lambda: render(sample_rays=-1)),
    "origins": (ValueError, r"origins must be \[B, R, 3\]", lambda: render(origins=ORIGINS[..., :2])),
    "directions": (
        ValueError,
        r"directions must be \[B, R, 3\] with R=5",
        lambda: render(directions=DIRECTIONS[:, :4]),
    ),
    "fractions": (ValueError, r"fractions must be \[B, R, S\] with B=2", lambda: render(fractions=F[:1])),
    "coarse noise": (
        ValueError,
        r"draws.coarse_noise must be",
        lambda: render(draws=RayDraws(coarse_noise=F[..., :2])),
    ),
    "fine noise": (
        ValueError,
        r"draws.fine_noise must be \[B, R, F\] with F=4, got \[2, 5, 5\]",
        lambda: render(draws=replace(DRAWS, fine_noise=F)),
    ),
    "draw dtype": (TypeError, "draws.fine_u must be", lambda: render(draws=RayDraws(DRAWS.fine_u.float()))),
    "two samples": (
        ValueError,
        "fractions must have S >= 3 .* got S=2",
        lambda: render(fractions=F[..., :2], draws=RayDraws(DRAWS.fine_u)),
    ),
    "span": (
        ValueError,
        "span must have 0 < near < far, got near=1.2, far=0.8",
        lambda: render(span=RaySpan(1.2, 0.8)),
    ),
    "scale": (
        ValueError,
        "span.density_scale must be positive, got 0",
        lambda: render(span=replace(SPAN, density_scale=0)),
    ),
    "warp": (ValueError, "span.warp must be one of", lambda: render(span=replace(SPAN, warp="cubic"))),
    "space": (ValueError, "span.space must be one of", lambda: render(span=replace(SPAN, space="round"))),
    "far end": (ValueError, "span.far_end must be one of", lambda: render(span=replace(SPAN, far_end="shut"))),
    "half": (TypeError, "origins must be one of .* got torch.float16", lambda: render(origins=ORIGINS.half())),
    "mixed": (TypeError, "directions must be one of .*float64", lambda: render(directions=DIRECTIONS.float())),
    "biases": (
        ValueError,
        "as many biases as weights, got 3 and 2",
        lambda: render(replace(FIELD, biases=FIELD.biases[:2])),
    ),
    "head": (
        ValueError,
        r"field.density_weight must be \[7\] or \[2, 7\], got \[2, 6\]",
        lambda: render(replace(FIELD, density_weight=FIELD.density_weight[:, :6])),
    ),
    "head bias": (ValueError, "field.density_bias must be", lambda: render(replace(FIELD, density_bias=double(1, 2)))),
    "head dtype": (TypeError, "field.density_bias", lambda: render(replace(FIELD, density_bias=torch.zeros(1)))),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("op", ["evaluate_field", "render_points", "render_rays"])
def test_a_kernel_that_does_not_exist_is_refused(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenerf.kernels.base.dispatch.TRITON_OPS", frozenset())
    calls: dict[str, Callable[[], Any]] = {
        "evaluate_field": lambda: evaluate_field(POINTS.flatten(1, 2), FIELD, impl="triton"),
        "render_points": lambda: render_points(POINTS, F, FIELD, impl="triton"),
        "render_rays": lambda: render(impl="triton"),
    }
    with pytest.raises(RuntimeError, match=f"{op}: impl='triton' is not available"):
        calls[op]()
