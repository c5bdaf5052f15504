"""The ray pass: encode -> modulated MLP -> density -> composite -> aggregate, along B x R rays with S samples each.

Early aggregation (StyleNeRF eq. 5-6): the linear colour and feature heads commute with the weighted sum, so the pass
returns the aggregated *hidden* features sum_i w_i h_i and the heads run once per ray instead of once per sample; their
biases are then multiplied by sum_i w_i. Fused, a ray reads 3 + 3 + S numbers and writes H + 2 S; the plain form also
writes and reads every sample's encoding and every layer's activations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import check_choice, check_dtypes, check_shapes
from ..base.dispatch import PRECISIONS, Impl, Precision, may_launch, resolve
from .mlp import check_layers
from .render_ref import evaluate_field_ref, render_points_ref, render_rays_ref
from .span import RaySpan, contract_ref, depth_from_fraction
from .types import FieldWeights, RayDraws, RayFeatures

__all__ = [
    "FieldWeights",
    "RayDraws",
    "RayFeatures",
    "RaySpan",
    "contract",
    "depth_from_fraction",
    "evaluate_density",
    "evaluate_field",
    "render_points",
    "render_rays",
]

DTYPES = (torch.float32, torch.float64)


def contract(points: Tensor, span: RaySpan) -> Tensor:
    """World ``points`` [..., 3] contracted as ``span.space`` says; differentiable to any order."""
    return contract_ref(points, span)


@under_autocast("all")
def evaluate_field(
    points: Tensor, field: FieldWeights, *, precision: Precision = "fp16", impl: Impl = "auto"
) -> tuple[Tensor, Tensor]:
    """Hidden features and raw density of a field at points.

    h = trunk(gamma(p)), sigma = <v, h> + c, see :class:`FieldWeights`.

    Args:
        points: [B, N, D] float32|float64, D = 3 or 4.
        field: modulated weights of the same dtype.
        precision: of the matrix operands, see :func:`render_rays`.
    Returns: hidden [B, N, H] and density [B, N].
    Differentiable: any order.
    Raises: ValueError on shapes, TypeError on dtypes, RuntimeError where impl="triton" does not cover the case.
    Source: StyleNeRF, eq. 3.
    """
    if _values_by_kernel("evaluate_field", points, field, precision, impl):
        return _values(points, field, precision, True)
    return evaluate_field_ref(points, field)


@under_autocast("all")
def evaluate_density(
    points: Tensor, field: FieldWeights, *, precision: Precision = "fp16", impl: Impl = "auto"
) -> Tensor:
    """Raw density [B, N] of a field at points [B, N, D]; as :func:`evaluate_field`, without writing the features."""
    if _values_by_kernel("evaluate_density", points, field, precision, impl):
        return _values(points, field, precision, False)[1]
    return evaluate_field_ref(points, field)[1]


def _values_by_kernel(op: str, points: Tensor, field: FieldWeights, precision: Precision, impl: Impl) -> bool:
    check_shapes(points=(points, "B N D"))
    check_choice("precision", precision, PRECISIONS)
    _check_field(points.shape[0], points.shape[-1], field, points=points)
    _, N, D = points.shape
    return resolve(op, impl, points, unsupported=_unsupported(impl, field, points, D, N)) == "triton"


def _values(points: Tensor, field: FieldWeights, precision: Precision, keep_hidden: bool) -> tuple[Tensor, Tensor]:
    from . import field_triton, render_triton

    packed = field_triton.pack(field, points.shape[-1])
    hidden, density = render_triton.field_values(
        points.contiguous(), *packed, field.num_freqs, field.negative_slope, precision, keep_hidden
    )
    return hidden[..., : field.width] if keep_hidden else hidden, density


def _unsupported(impl: Impl, field: FieldWeights, x: Tensor, dims: int, count: int) -> str | None:
    """Why no kernel covers ``count`` points per image like ``x``, or None; called only where Triton could run."""
    if impl == "ref" or not may_launch(x):
        return None
    from . import field_triton

    reason: str | None = field_triton.unsupported(field, dims, x.dtype, count, x.shape[0])
    return reason


@under_autocast("all")
def render_points(
    points: Tensor,
    depths: Tensor,
    field: FieldWeights,
    *,
    far_end: str = "opaque",
    noise: Tensor | None = None,
    sample_rays: int = 0,
    precision: Precision = "fp16",
    impl: Impl = "auto",
) -> RayFeatures:
    """Composite a field over samples whose points are given: one pass, no resampling.

    w = volume_weights(sigma, depths), hidden = sum_i w_i h_i. Renders a background in inverse depth, whose points are
    4-D and whose intervals are not distances.

    Args:
        points: [B, R, S, D] float32|float64.
        depths: [B, R, S] ascending, in the unit of the density's intervals.
        far_end: "opaque" or "open", see :func:`kernels.volume_weights`.
        noise: [B, R, S] added to the raw density, or None.
        sample_rays: the last ``sample_rays`` rays return each sample's hidden features instead of their sum.
        precision: of the matrix operands, see :func:`render_rays`.
    Returns: :class:`RayFeatures`; ``fractions`` are the depths.
    Differentiable: any order.
    Raises: ValueError on shapes or options, TypeError on dtypes, RuntimeError where impl="triton" does not cover the
        case. A NaN affects only its own ray.
    Source: StyleNeRF, eq. 4-6; NeRF++.
    """
    drawn = _tensors(noise=noise)
    check_shapes(
        points=(points, "B R S D"), depths=(depths, "B R S"), **{name: (t, "B R S") for name, t in drawn.items()}
    )
    check_choice("far_end", far_end, ("open", "opaque"))
    _check_sample_rays(sample_rays, points.shape[1])
    _check_field(points.shape[0], points.shape[-1], field, points=points, depths=depths, **drawn)
    check_choice("precision", precision, PRECISIONS)
    _, R, S, D = points.shape
    if resolve("render_points", impl, points, unsupported=_unsupported(impl, field, points, D, R * S)) == "ref":
        return render_points_ref(points, depths, field, far_end == "opaque", noise, sample_rays)
    from . import field_triton, render_triton

    span = RaySpan(0.0, 1.0, far_end=far_end)  # type: ignore[arg-type]
    setting = render_triton.Setting(field.num_freqs, field.negative_slope, precision, sample_rays, span)
    out = render_triton.single_pass(
        points.contiguous(), None, None, depths.contiguous(), _contiguous(noise), *field_triton.pack(field, D),
        *setting.flat(),
    )  # fmt: skip
    return _features(out, depths, depths, field.width)


@under_autocast("all")
def render_rays(
    origins: Tensor,
    directions: Tensor,
    fractions: Tensor,
    field: FieldWeights,
    span: RaySpan,
    *,
    draws: RayDraws | None = None,
    sample_rays: int = 0,
    precision: Precision = "fp16",
    impl: Impl = "auto",
) -> RayFeatures:
    """Sample a field along rays and aggregate its hidden features.

    Points are o + t d with t from ``fractions`` by ``span``, contracted as ``span.space`` says. With ``draws.fine_u``
    the pass is hierarchical: the coarse weights define a distribution over the mid-points, fine positions are drawn
    from it, both sets are merged in depth order and weighted again; the sum includes all samples.

    Args:
        origins, directions: [B, R, 3] float32|float64; directions need not be normalised, intervals count |d|.
        fractions: [B, R, S] ascending in 0..1.
        field: modulated weights of the same dtype.
        span: near, far, warp and far end.
        draws: fine positions and density noise, all optional.
        sample_rays: the last ``sample_rays`` rays return each sample's hidden features instead of their sum.
        precision: of the matrix operands of the kernels: "fp16" (default; as accurate as "tf32"), "bf16", "tf32" or
            "fp32". Everything else is float32. The plain form ignores it.
    Returns: :class:`RayFeatures`.
    Differentiable: any order in field, origins, directions, fractions and noise; fine positions carry no gradient. A
        backward under create_graph runs the plain form at the forward's sample positions.
    Raises: ValueError on shapes or options, TypeError on dtypes, RuntimeError where impl="triton" does not cover the
        case: float64, fields with skips or wider than 256. Fractions out of order give the plain form's result in a
        single pass and an undefined one in a hierarchical pass. A NaN affects only its own ray.
    Source: StyleNeRF, eq. 3-6; NeRF, section 5.2.
    """
    draws = draws or RayDraws()
    drawn = _tensors(
        **{"draws.coarse_noise": draws.coarse_noise, "draws.fine_u": draws.fine_u, "draws.fine_noise": draws.fine_noise}
    )
    check_shapes(
        origins=(origins, "B R 3"),
        directions=(directions, "B R 3"),
        fractions=(fractions, "B R S"),
        **{name: (t, "B R S" if name == "draws.coarse_noise" else "B R F") for name, t in drawn.items()},
    )
    if draws.fine_u is not None and fractions.shape[-1] < 3:
        raise ValueError(f"fractions must have S >= 3 for a hierarchical pass, got S={fractions.shape[-1]}")
    if not 0 < span.near < span.far:
        raise ValueError(f"span must have 0 < near < far, got near={span.near}, far={span.far}")
    if not span.density_scale > 0:
        raise ValueError(f"span.density_scale must be positive, got {span.density_scale}")
    check_choice("span.warp", span.warp, ("linear", "inverse", "log"))
    check_choice("span.space", span.space, ("plain", "contracted", "radial"))
    check_choice("span.far_end", span.far_end, ("open", "opaque"))
    _check_sample_rays(sample_rays, origins.shape[1])
    _check_field(origins.shape[0], 3, field, origins=origins, directions=directions, fractions=fractions, **drawn)
    check_choice("precision", precision, PRECISIONS)
    samples = fractions.shape[2] + (0 if draws.fine_u is None else draws.fine_u.shape[2])
    reason = _unsupported(impl, field, origins, 3, origins.shape[1] * samples)
    if resolve("render_rays", impl, origins, unsupported=reason) == "ref":
        return render_rays_ref(origins, directions, fractions, field, span, draws, sample_rays)
    return _rays_by_kernels(origins, directions, fractions, field, span, draws, sample_rays, precision)


def _rays_by_kernels(
    origins: Tensor,
    directions: Tensor,
    fractions: Tensor,
    field: FieldWeights,
    span: RaySpan,
    draws: RayDraws,
    sample_rays: int,
    precision: Precision,
) -> RayFeatures:
    from . import field_triton, render_triton

    packed = field_triton.pack(field, 3)
    setting = render_triton.Setting(field.num_freqs, field.negative_slope, precision, sample_rays, span)
    origins, directions, noise = origins.contiguous(), directions.contiguous(), _contiguous(draws.coarse_noise)
    fine_noise = _contiguous(draws.fine_noise)
    if draws.fine_u is None:
        depths = depth_from_fraction(fractions, span).contiguous()
        out = render_triton.single_pass(None, origins, directions, depths, noise, *packed, *setting.flat())
        return _features(out, depths, fractions, field.width)
    *out, merged, _order = render_triton.hierarchical_pass(
        origins, directions, fractions.contiguous(), draws.fine_u.detach().contiguous(), noise, fine_noise,
        *packed, *setting.flat(),
    )  # fmt: skip
    return _features(out, depth_from_fraction(merged, span), merged, field.width)


def _features(out: Sequence[Tensor], depths: Tensor, fractions: Tensor, width: int) -> RayFeatures:
    """The outputs of an op, without the padding of the field's width."""
    hidden, weights, density, transmittance, sample_hidden = out
    kept = sample_hidden[..., :width] if sample_hidden.shape[1] else None
    return RayFeatures(hidden[..., :width], weights, depths, fractions, density, transmittance, kept)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _tensors(**args: Tensor | None) -> dict[str, Tensor]:
    return {name: t for name, t in args.items() if t is not None}


def _check_sample_rays(sample_rays: int, rays: int) -> None:
    if not 0 <= sample_rays <= rays:
        raise ValueError(f"sample_rays must be between 0 and R={rays}, got {sample_rays}")


def _check_field(batch: int, dims: int, field: FieldWeights, **inputs: Tensor) -> None:
    """Check that the field fits points of ``dims`` coordinates and that all dtypes are that of the first input."""
    arg, x = next(iter(inputs.items()))
    check_dtypes(DTYPES, **{arg: x})
    heads = {"field.density_weight": field.density_weight, "field.density_bias": field.density_bias}
    check_dtypes((x.dtype,), **inputs, **heads)
    if not field.weights or len(field.weights) != len(field.biases):
        raise ValueError(f"field must have as many biases as weights, got {len(field.weights)} and {len(field.biases)}")
    encoded = width = 2 * field.num_freqs * dims
    for i, (weight, bias) in enumerate(zip(field.weights, field.biases)):
        width = check_layers(batch, width + (encoded if i in field.skips else 0), [weight], [bias], x)
    if field.density_weight.shape not in ((width,), (1, width), (batch, width)):
        wanted = f"[{width}] or [{batch}, {width}]"
        raise ValueError(f"field.density_weight must be {wanted}, got {list(field.density_weight.shape)}")
    check_shapes(**{"field.density_bias": (field.density_bias, "1")})
