"""The ray pass as torch ops, and the plain form as their backward under create_graph.

    field_values        points -> hidden features and density
    single_pass         samples at given depths -> aggregated features, weights, density, transmittance, sample features
    hierarchical_pass   the same, with fine samples drawn from the coarse weights
The backward saves the inputs and a few numbers per sample.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..base.register import Grads, register
from .field_backward import HeadGradients
from .field_triton import Operand, PackedField, Samples, unpack
from .render_backward import FieldSums, pass_backward, plain_pass, portions, trunk_backward
from .render_forward import Draws, Setting, evaluate, locate, render_hierarchical, render_single
from .render_ref import evaluate_field_ref
from .span import RaySpan, depth_from_fraction, slope_of_depth

SPAN_ARGUMENTS = len(fields(RaySpan))
SETTINGS = 4 + SPAN_ARGUMENTS  # fields of ``Setting.flat``


def _field_values(
    points: Tensor, first: Tensor, rest: Tensor, bias: Tensor, head: Tensor, head_bias: Tensor,
    num_freqs: int, slope: float, precision: str, keep_hidden: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    field = Operand.of(PackedField(first, rest, bias, head, head_bias), slope, precision)
    hidden, density = evaluate(Samples(points), field, keep_hidden)
    return points.new_empty(0) if hidden is None else hidden.float(), density


def _field_values_fake(
    points: Tensor, first: Tensor, rest: Tensor, bias: Tensor, head: Tensor, head_bias: Tensor,
    num_freqs: int, slope: float, precision: str, keep_hidden: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (*points.shape[:2], bias.shape[2]) if keep_hidden else (0,)
    return points.new_empty(shape), points.new_empty(points.shape[:2])


def _field_values_plain(inputs: Sequence[Any], _kept: Any) -> Grads:
    points, *packed, num_freqs, slope, _precision, keep_hidden = inputs
    hidden, density = evaluate_field_ref(points, unpack(PackedField(*packed), num_freqs, points.shape[-1], slope))
    return hidden if keep_hidden else None, density


def _field_values_backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, needs: Sequence[bool]) -> Grads:
    points, *tensors, _num_freqs, slope, precision, keep_hidden = inputs
    grad_hidden, grad_density = grads[0] if keep_hidden else None, grads[1]
    packed = PackedField(*tensors)
    field = Operand.of(packed, slope, precision)
    B, N, _ = points.shape
    sums = FieldSums(packed, B)
    need_points = needs[0]
    grad_points = torch.empty_like(points) if need_points else None
    for images, rows in portions(B, N, field):
        at = images, rows
        part = points[at].contiguous()
        sample_hidden = None if grad_hidden is None else grad_hidden[at].unsqueeze(2).contiguous()
        density = points.new_zeros(part.shape[:2]) if grad_density is None else grad_density[at].contiguous()
        flow = HeadGradients(None, None, density.unsqueeze(2), sample_hidden)
        cut = field.image(images.start, images.stop)
        grad_field, grad_part = trunk_backward(Samples(part), cut, flow, None, need_points)
        sums.add(images, grad_field)
        if grad_points is not None and grad_part is not None:
            grad_points[at] = grad_part
    return grad_points, *sums.result()


field_values = register(
    _field_values, fake=_field_values_fake, backward=_field_values_backward, plain=_field_values_plain
)


def _single_pass(
    points: Tensor | None, origins: Tensor | None, directions: Tensor | None, depths: Tensor, noise: Tensor | None,
    first: Tensor, rest: Tensor, bias: Tensor, head: Tensor, head_bias: Tensor,
    num_freqs: int, slope: float, precision: str, sample_rays: int,
    near: float, far: float, warp: str, far_end: str, density_scale: float, space: str, centre: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    setting = Setting.of(
        num_freqs, slope, precision, sample_rays, near, far, warp, far_end, density_scale, space, centre
    )
    field = Operand.of(PackedField(first, rest, bias, head, head_bias), slope, precision)
    samples = locate(points, origins, directions, depths, setting.span)
    return render_single(samples, depths, noise, field, setting)


def _rendered_like(depths: Tensor, samples: int, width: int, sample_rays: int) -> tuple[Tensor, ...]:
    B, R, _ = depths.shape
    new = depths.new_empty
    aggregated, apart = new(B, R - sample_rays, width), new(B, sample_rays, samples, width)
    return aggregated, new(B, R, samples), new(B, R, samples), new(B, R), apart


def _single_pass_fake(*args: Any) -> tuple[Tensor, ...]:
    _points, _origins, _directions, depths, _noise, _first, _rest, bias, *_, sample_rays = args[:-SPAN_ARGUMENTS]
    return _rendered_like(depths, depths.shape[2], bias.shape[2], sample_rays)


def _single_pass_plain(inputs: Sequence[Any], _kept: Any) -> Grads:
    return plain_pass(*inputs[:-SETTINGS], setting=Setting.of(*inputs[-SETTINGS:]))


def _single_pass_backward(
    grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[bool]
) -> Grads:
    points, origins, directions, depths, _noise, *packed = inputs[:-SETTINGS]
    (weights, density), setting, positions = kept, Setting.of(*inputs[-SETTINGS:]), any(needs[1:4])
    sigma, grad_field, moved, flow = pass_backward(
        locate(points, origins, directions, depths, setting.span), weights, density, PackedField(*packed), grads,
        setting, need_points=needs[0] or (points is None and positions), need_positions=positions,
    )  # fmt: skip
    grad_points = flow.view_as(points) if flow is not None and points is not None else None
    return grad_points, *moved, sigma, *grad_field


single_pass = register(
    _single_pass,
    fake=_single_pass_fake,
    backward=_single_pass_backward,
    plain=_single_pass_plain,
    keep=(1, 2),  # weights, density
)


def _hierarchical_pass(
    origins: Tensor, directions: Tensor, fractions: Tensor,
    fine_u: Tensor, coarse_noise: Tensor | None, fine_noise: Tensor | None,
    first: Tensor, rest: Tensor, bias: Tensor, head: Tensor, head_bias: Tensor,
    num_freqs: int, slope: float, precision: str, sample_rays: int,
    near: float, far: float, warp: str, far_end: str, density_scale: float, space: str, centre: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    setting = Setting.of(
        num_freqs, slope, precision, sample_rays, near, far, warp, far_end, density_scale, space, centre
    )
    field = Operand.of(PackedField(first, rest, bias, head, head_bias), slope, precision)
    draws = Draws(fine_u, coarse_noise, fine_noise)
    out, merged, order = render_hierarchical((origins, directions, fractions), draws, field, setting)
    return *out, merged, order


def _hierarchical_pass_fake(*args: Any) -> tuple[Tensor, ...]:
    _origins, _directions, fractions, fine_u, _, _, _first, _rest, bias, *_, sample_rays = args[:-SPAN_ARGUMENTS]
    samples = fractions.shape[2] + fine_u.shape[2]
    merged = fractions.new_empty(*fractions.shape[:2], samples)
    return *_rendered_like(fractions, samples, bias.shape[2], sample_rays), merged, merged.to(torch.int16)


def _hierarchical_pass_plain(inputs: Sequence[Any], kept: Sequence[Tensor]) -> Grads:
    """The definition at the forward's fine samples."""
    origins, directions, fractions, _fine_u, coarse_noise, fine_noise, *packed = inputs[:-SETTINGS]
    setting = Setting.of(*inputs[-SETTINGS:])
    merged, order = kept[2], kept[3].long()
    fine = order.shape[2] - fractions.shape[2]
    mine = fractions.gather(-1, (order - fine).clamp_min(0))
    merged = torch.where(order < fine, merged.detach(), mine)
    noise = None
    if coarse_noise is not None or fine_noise is not None:
        zero = torch.zeros_like(merged)
        parts = (
            zero[..., :fine] if fine_noise is None else fine_noise,
            zero[..., fine:] if coarse_noise is None else coarse_noise,
        )
        noise = torch.cat(parts, dim=-1).gather(-1, order)
    depths = depth_from_fraction(merged, setting.span)
    return *plain_pass(None, origins, directions, depths, noise, *packed, setting=setting), merged


def _hierarchical_pass_backward(
    grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[bool]
) -> Grads:
    weights, density, merged, order = kept
    origins, directions, _fractions, fine_u, _coarse_noise, _fine_noise, *tensors = inputs[:-SETTINGS]
    setting, order = Setting.of(*inputs[-SETTINGS:]), order.long()
    moving = any(needs[:3])
    depths = depth_from_fraction(merged, setting.span)
    samples = locate(None, origins, directions, depths, setting.span)
    sigma, packed, positions, _ = pass_backward(
        samples, weights, density, PackedField(*tensors), grads[:5], setting, need_points=moving, need_positions=moving
    )
    fine = fine_u.shape[2]
    grad_fractions = grad_coarse = grad_fine = None
    if needs[4] or needs[5]:
        noise = torch.empty_like(sigma).scatter_(-1, order, sigma)
        grad_fine, grad_coarse = noise[..., :fine], noise[..., fine:]
    if needs[2]:
        assert positions[2] is not None
        along = positions[2] * slope_of_depth(depths, setting.span)
        along = along if grads[5] is None else along + grads[5]
        grad_fractions = torch.empty_like(along).scatter_(-1, order, along)[..., fine:]
    return *positions[:2], grad_fractions, None, grad_coarse, grad_fine, *packed


hierarchical_pass = register(
    _hierarchical_pass,
    fake=_hierarchical_pass_fake,
    backward=_hierarchical_pass_backward,
    plain=_hierarchical_pass_plain,
    keep=(1, 2, 5, 6),  # weights, density, merged fractions, order
)
