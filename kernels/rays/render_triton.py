"""The ray pass as torch ops, and the plain form as their backward under create_graph.

    field_values        points -> hidden features and density
    single_pass         samples at given depths -> aggregated features, weights, density, transmittance, sample features
    hierarchical_pass   the same, with fine samples drawn from the coarse weights
The backward saves the inputs and a few numbers per sample.
"""

from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..base.register import differentiable_gradients, register
from .field_backward import HeadGradients
from .field_triton import Operand, PackedField, Samples, unpack
from .render_backward import FieldSums, Grads, pass_backward, plain_pass, portions, trunk_backward
from .render_forward import Draws, Setting, evaluate, locate, render_hierarchical, render_single
from .render_ref import evaluate_field_ref
from .span import RaySpan, depth_from_fraction

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


def _field_values_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    *tensors, num_freqs, slope, precision, _keep_hidden = inputs
    ctx.save_for_backward(*tensors)
    ctx.setting = Setting(num_freqs, slope, precision)


def _plain_values(points: Tensor, *packed: Tensor, setting: Setting) -> Grads:
    field = unpack(PackedField(*packed), setting.num_freqs, points.shape[-1], setting.slope)
    return evaluate_field_ref(points, field)


def _field_values_backward(ctx: Any, grad_hidden: Tensor | None, grad_density: Tensor | None) -> Grads:
    points, *tensors = ctx.saved_tensors
    setting, nothing = ctx.setting, (None,) * 4
    if torch.is_grad_enabled():
        plain = partial(_plain_values, setting=setting)
        return *differentiable_gradients(plain, (points, *tensors), (grad_hidden, grad_density)), *nothing
    packed = PackedField(*tensors)
    field = Operand.of(packed, setting.slope, setting.precision)
    B, N, _ = points.shape
    sums = FieldSums(packed, B)
    need_points = ctx.needs_input_grad[0]
    grad_points = torch.empty_like(points) if need_points else None
    for images, rows in portions(B, N, field):
        at = images, rows
        part = points[at].contiguous()
        sample_hidden = None if grad_hidden is None else grad_hidden[at].unsqueeze(2).contiguous()
        density = points.new_zeros(part.shape[:2]) if grad_density is None else grad_density[at].contiguous()
        grads = HeadGradients(None, None, density.unsqueeze(2), sample_hidden)
        cut = field.image(images.start, images.stop)
        grad_field, grad_part = trunk_backward(Samples(part), cut, grads, None, need_points)
        sums.add(images, grad_field)
        if grad_points is not None and grad_part is not None:
            grad_points[at] = grad_part
    return grad_points, *sums.result(), *nothing


field_values = register(
    _field_values, fake=_field_values_fake, save=_field_values_save, backward=_field_values_backward
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


def _single_pass_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    _hidden, weights, density, *_ = output
    ctx.save_for_backward(*inputs[:-SETTINGS], weights, density)
    ctx.setting = Setting.of(*inputs[-SETTINGS:])


def _single_pass_backward(ctx: Any, *grads: Tensor | None) -> Grads:
    *inputs, weights, density = ctx.saved_tensors
    points, origins, directions, depths, _noise, *packed = inputs
    nothing = (None,) * SETTINGS
    if torch.is_grad_enabled():
        return *differentiable_gradients(partial(plain_pass, setting=ctx.setting), inputs, grads), *nothing
    need = ctx.needs_input_grad
    sigma, grad_field, positions, flow = pass_backward(
        locate(points, origins, directions, depths, ctx.setting.span), weights, density, PackedField(*packed), grads,
        ctx.setting, need_points=need[0] or (points is None and any(need[1:4])), need_positions=any(need[1:4]),
    )  # fmt: skip
    grad_points = flow.view_as(points) if flow is not None and points is not None else None
    return grad_points, *positions, sigma if need[4] else None, *grad_field, *nothing


single_pass = register(_single_pass, fake=_single_pass_fake, save=_single_pass_save, backward=_single_pass_backward)


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


def _hierarchical_pass_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    _hidden, weights, density, _transmittance, _sample_hidden, merged, order = output
    ctx.mark_non_differentiable(order)
    ctx.save_for_backward(*inputs[:-SETTINGS], weights, density, merged, order)
    ctx.setting = Setting.of(*inputs[-SETTINGS:])


def _plain_merged(
    origins: Tensor, directions: Tensor, fractions: Tensor, coarse_noise: Tensor | None, fine_noise: Tensor | None,
    *packed: Tensor, merged: Tensor, order: Tensor, setting: Setting,
) -> Grads:  # fmt: skip
    """The definition at the forward's fine samples."""
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


def _hierarchical_pass_backward(ctx: Any, *grads: Tensor | None) -> Grads:
    *inputs, weights, density, merged, order = ctx.saved_tensors
    origins, directions, fractions, fine_u, coarse_noise, fine_noise, *tensors = inputs
    order, nothing = order.long(), (None,) * SETTINGS
    if torch.is_grad_enabled():
        plain = partial(_plain_merged, merged=merged, order=order, setting=ctx.setting)
        taken = (origins, directions, fractions, coarse_noise, fine_noise, *tensors)
        o, d, f, *noise_and_field = differentiable_gradients(plain, taken, grads[:6])
        return o, d, f, None, *noise_and_field, *nothing
    need = ctx.needs_input_grad
    moving = any(need[:3])
    depths = depth_from_fraction(merged, ctx.setting.span)
    samples = locate(None, origins, directions, depths, ctx.setting.span)
    sigma, packed, positions, _ = pass_backward(
        samples, weights, density, PackedField(*tensors), grads[:5], ctx.setting,
        need_points=moving, need_positions=moving,
    )  # fmt: skip
    fine = fine_u.shape[2]
    grad_fractions = grad_coarse = grad_fine = None
    if need[4] or need[5]:
        noise = torch.empty_like(sigma).scatter_(-1, order, sigma)
        grad_fine, grad_coarse = noise[..., :fine], noise[..., fine:]
    if need[2]:
        with torch.enable_grad():
            at = merged.detach().requires_grad_()
            (along,) = torch.autograd.grad(depth_from_fraction(at, ctx.setting.span), at, positions[2])
        along = along if grads[5] is None else along + grads[5]
        grad_fractions = torch.empty_like(along).scatter_(-1, order, along)[..., fine:]
    of_noise = grad_coarse if need[4] else None, grad_fine if need[5] else None
    return *positions[:2], grad_fractions, None, *of_noise, *packed, *nothing


hierarchical_pass = register(
    _hierarchical_pass, fake=_hierarchical_pass_fake, save=_hierarchical_pass_save, backward=_hierarchical_pass_backward
)
