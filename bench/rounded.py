"""Plain torch that rounds matrix operands where the kernels do: the reference of low-precision kernels.
Rounding moves some activations across leaky ReLU's kink, which changes gradients by percents against an unrounded
field, in any implementation. The difference from a form that rounds at the same points is the kernel's own error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from stylenerf.kernels.rays.mlp_ref import linear_ref
from stylenerf.kernels.rays.render import FieldWeights
from stylenerf.kernels.rays.render_ref import evaluate_field_ref

STORAGE = {"fp16": torch.float16, "bf16": torch.bfloat16}
GRADIENT_RANGE = 256.0  # float16 gradients are scaled to this magnitude by a power of two


def round_to(x: Tensor, precision: str) -> Tensor:
    """``x`` with the mantissa of an operand type, in its own dtype: to nearest; TF32 truncated, as tensor cores may."""
    if precision == "tf32":
        return (x.float().view(torch.int32) & ~0x1FFF).view(torch.float32).to(x.dtype)
    return x.float().to(STORAGE[precision]).to(x.dtype)


class _Operand(torch.autograd.Function):
    """Round in the forward; identity in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, precision: str) -> Tensor:
        return round_to(x, precision)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Gradient(torch.autograd.Function):
    """Identity in the forward; the backward rounds the gradient, float16 within its range."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, precision: str) -> Tensor:
        ctx.precision = precision
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        peak = grad.abs().amax() if ctx.precision == "fp16" and grad.numel() else grad.new_zeros(())
        scale = torch.where(peak > 0, torch.exp2(torch.floor(torch.log2(GRADIENT_RANGE / peak))), 1.0)
        return round_to(grad * scale, ctx.precision) / scale, None


@contextmanager
def rounded_operands(precision: str) -> Iterator[None]:
    """Context: plain forms of fields, ray passes and chains of layers round like kernels of this precision.
    They round the encoding, matrices with their gain, activations, and the gradients between layers, but not biases,
    the density head and the weighted sum, which the kernels hold in float32 or in two parts.
    """

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z = linear_ref(_Operand.apply(x, precision), _Operand.apply(weight, precision), bias)
        rounding: Tensor = _Gradient.apply(z, precision)
        return rounding

    def evaluate(points: Tensor, field: FieldWeights) -> tuple[Tensor, Tensor]:
        hidden = _Operand.apply(evaluate_field_ref(points, field)[0], precision)
        head = field.density_weight.expand(points.shape[0], -1)
        return hidden, (hidden @ head[..., None]).squeeze(-1) + field.density_bias

    with (
        patch("stylenerf.kernels.rays.mlp_ref.linear_ref", linear),
        patch("stylenerf.kernels.rays.render_ref.linear_ref", linear),
        patch("stylenerf.kernels.rays.render_ref.evaluate_field_ref", evaluate),
        patch("stylenerf.kernels.rays.render.evaluate_field_ref", evaluate),
    ):
        yield
