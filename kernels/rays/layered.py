"""A field's trunk layer by layer, for widths that no single kernel holds: encode into memory, then products.
Every layer reads and writes its activations in memory; nothing is fused across layers.
"""

import torch
from torch import Tensor

from ..base.linear import launch_dgrad, launch_linear, launch_wgrad
from ..base.operands import OPERANDS
from .encode_triton import launch_encode_backward, launch_encode_forward
from .field_backward import HeadGradients, backward_head, gradient_scale
from .field_triton import Operand, PackedField, Samples
from .span import contract_ref


def _points(samples: Samples) -> Tensor:
    """Contracted points of the samples, [B, N, D]."""
    if samples.points is not None:
        return samples.points
    assert samples.origins is not None and samples.directions is not None and samples.depths is not None
    points = samples.origins[:, :, None] + samples.depths[..., None] * samples.directions[:, :, None]
    return contract_ref(points, samples.span).flatten(1, 2)


def _octaves(field: Operand, dims: int) -> int:
    """Octaves that the packed columns hold; those beyond the field's own have zero weights."""
    return field.first.shape[3] // dims


def _first_weights(field: Operand, dims: int) -> Tensor:
    """Weights of the first layer for inputs in the order of ``encode_positions``, [B, H, 2 F D]."""
    octaves = _octaves(field, dims)
    columns = field.first[..., : octaves * dims].unflatten(-1, (octaves, dims))
    return columns.movedim(1, -2).flatten(-3).contiguous()


def _encoded(samples: Samples, field: Operand) -> Tensor:
    return launch_encode_forward(_points(samples), _octaves(field, samples.dims), False)


def evaluate_layered(samples: Samples, field: Operand) -> tuple[list[Tensor], Tensor]:
    """Every layer's activations [B, N, H] in the operand type, and the density [B, N]."""
    B, N, H = samples.batch, samples.total, field.width
    storage = OPERANDS[field.precision].storage
    x = _encoded(samples, field)
    activations = []
    for layer in range(field.layers):
        weight = _first_weights(field, samples.dims) if layer == 0 else field.rest[:, layer - 1]
        a = torch.empty(B, N, H, dtype=storage, device=samples.device)
        launch_linear(a, x, weight, field.bias[:, layer], slope=field.slope, precision=field.precision)
        activations.append(a)
        x = a
    # the density head in two columns, rounded value and rounding error, as in the single kernel
    high = field.head.to(storage)
    head = torch.stack([high, (field.head - high.float()).to(storage)], dim=1)
    sigma = torch.empty(B, N, 2, device=samples.device)
    launch_linear(sigma, x, head, sigma.new_zeros(1, 2), slope=None, precision=field.precision)
    return activations, sigma.sum(-1) + field.head_bias


def layered_backward(
    samples: Samples, activations: list[Tensor], field: Operand, grads: HeadGradients, need_points: bool
) -> tuple[PackedField, Tensor | None]:
    """As ``launch_trunk_backward``, from the activations of ``evaluate_layered``."""
    scale = gradient_scale(grads, field)
    grad_z = torch.empty_like(activations[-1])
    head, head_bias = backward_head(grad_z, activations[-1], field, grads, scale)
    B, N, H = grad_z.shape
    rest = torch.empty(B, field.layers - 1, H, H, device=grad_z.device)
    bias = torch.empty(B, field.layers, H, device=grad_z.device)
    for layer in range(field.layers - 1, 0, -1):
        below = activations[layer - 1]
        rest[:, layer - 1], bias[:, layer] = launch_wgrad(grad_z, below, precision=field.precision)
        grad = torch.empty_like(grad_z)
        launch_dgrad(grad, grad_z, field.rest[:, layer - 1], below, slope=field.slope, precision=field.precision)
        grad_z = grad
    columns, bias[:, 0] = launch_wgrad(grad_z, _encoded(samples, field), precision=field.precision)
    octaves, dims = _octaves(field, samples.dims), samples.dims
    first = torch.zeros(B, *field.first.shape[1:], device=grad_z.device)
    first[..., : octaves * dims] = columns.unflatten(-1, (octaves, 2, dims)).movedim(-2, 1).flatten(-2)
    points = None
    if need_points:
        flow = torch.empty(B, N, columns.shape[2], device=grad_z.device)
        launch_dgrad(flow, grad_z, _first_weights(field, dims), None, slope=field.slope, precision=field.precision)
        points = launch_encode_backward(flow / scale, _points(samples), octaves, False)
    return PackedField(first / scale, rest / scale, bias / scale, head, head_bias), points
