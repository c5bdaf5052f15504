"""A 1x1 layer over pixels with weights per image: product, bias, leaky ReLU, gain and clamp in one launch.

The gain multiplies weights and bias, since lrelu is homogeneous. The backward reads the gate of activation and clamp
off the output; two products then give the gradients of x and of the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.gate import gradient_scale, launch_gate
from ..base.linear import launch_dgrad, launch_linear, launch_wgrad
from ..base.operands import OPERANDS
from ..base.register import Grads, register


def operand_name(x: Tensor, allow_tf32: bool) -> str:
    """Precision of the products for an image of this dtype."""
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(x.dtype, "tf32" if allow_tf32 else "fp32")


def _scaled(weight: Tensor, bias: Tensor | None, gain: float, precision: str) -> tuple[Tensor, Tensor | None]:
    shift = None if bias is None else (bias.float() * gain)[None]
    return (weight * gain).to(OPERANDS[precision].storage), shift


def _pointwise_layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float | None, gain: float, clamp: float | None,
    allow_tf32: bool,
) -> Tensor:  # fmt: skip
    """x [B, P, I], weight [B or 1, O, I] float32, bias [O]."""
    precision = operand_name(x, allow_tf32)
    out = torch.empty(*x.shape[:2], weight.shape[1], dtype=x.dtype, device=x.device)
    launch_linear(out, x, *_scaled(weight, bias, gain, precision), slope=slope, precision=precision, clamp=clamp)
    return out


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float | None, gain: float, clamp: float | None,
    allow_tf32: bool,
) -> Tensor:  # fmt: skip
    return x.new_empty(*x.shape[:2], weight.shape[1])


def _plain(inputs: Sequence[Any], _kept: Any) -> Tensor:
    x, weight, bias, slope, gain, clamp, _ = inputs
    y: Tensor = x.float() @ weight.transpose(1, 2)
    y = y if bias is None else y + bias.float()
    y = y if slope is None else torch.nn.functional.leaky_relu(y, slope)
    y = y * gain
    return (y if clamp is None else y.clamp(-clamp, clamp)).to(x.dtype)


def _backward(grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[bool]) -> Grads:
    (grad_out,), (x, weight, bias, slope, gain, clamp, allow_tf32), (out,) = grads, inputs, kept
    need_x, need_weight, need_bias = needs[:3]
    precision = operand_name(x, allow_tf32)
    scale = gradient_scale(grad_out, precision)
    grad_z = torch.empty(out.shape, dtype=OPERANDS[precision].storage, device=x.device)
    launch_gate(
        grad_z, grad_out, out, scale, slope=1.0 if slope is None else slope, precision=precision,
        clamp=clamp,
    )  # fmt: skip
    grad_x = grad_weight = grad_bias = None
    if need_x:
        grad_x = torch.empty_like(x)
        scaled, _ = _scaled(weight, None, gain, precision)
        launch_dgrad(grad_x, grad_z, scaled, None, slope=1.0, precision=precision, factor=1 / scale)
    if need_weight or need_bias:
        grad_weight, per_image = launch_wgrad(grad_z, x, precision=precision, factor=gain / scale)
        grad_weight = grad_weight if grad_weight.shape == weight.shape else grad_weight.sum(0, keepdim=True)
        grad_bias = per_image.sum(0).to(bias.dtype) if need_bias else None
    return grad_x, grad_weight, grad_bias


pointwise_layer = register(_pointwise_layer, fake=_fake, backward=_backward, plain=_plain, keep=(0,))
