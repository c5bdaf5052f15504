"""The tail of a synthesis block as an op: forward in one launch, backward in a few."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..base.register import differentiable_gradients, register
from ..filters.upfirdn2d_triton import adjoint_padding, upfirdn2d
from .modulated_layer_triton import operand_name
from .refine_to_rgb_backward import launch_backward
from .refine_to_rgb_forward import Tail, launch_forward
from .refine_to_rgb_ref import refine_rows_ref, taps_for


def _refine_rows(
    x: Tensor, weight: Tensor, bias: Tensor, rgb_weight: Tensor, rgb_bias: Tensor, image: Tensor | None,
    enlarge: str | None, keep: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x [N, H, W, I] contiguous, weight [B, C, I] and rgb_weight [B, O, C] float32; y [N, H, W, C], or [0]."""
    how = Tail(gain, clamp, operand_name(x, allow_tf32))
    image = None if image is None else image.contiguous()
    packed = how.pack(weight, bias, rgb_weight, rgb_bias)
    return launch_forward(x.contiguous(), packed, image, enlarge, keep, how)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor, rgb_weight: Tensor, rgb_bias: Tensor, image: Tensor | None,
    enlarge: str | None, keep: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    N, H, W, _ = x.shape
    C, O = weight.shape[1], rgb_weight.shape[1]  # noqa: E741
    return x.new_empty((N, H, W, C) if keep else (0,)), x.new_empty(N, O, H, W, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.enlarge, ctx.keep, ctx.gain, ctx.clamp, ctx.allow_tf32 = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    nothing = (None,) * 5
    if torch.is_grad_enabled():
        plain = partial(refine_rows_ref, enlarge=ctx.enlarge, gain=ctx.gain, clamp=ctx.clamp)
        return *differentiable_gradients(plain, inputs, (grad_y if ctx.keep else None, grad_out)), *nothing
    x, weight, bias, rgb_weight, rgb_bias, _ = inputs
    x, grad_y = x.contiguous(), grad_y.contiguous() if ctx.keep and grad_y is not None else None
    if grad_out is None:
        grad_out = x.new_zeros(x.shape[0], rgb_bias.shape[0], *x.shape[1:3], dtype=torch.float32)
    grad_out = grad_out.contiguous()
    how = Tail(ctx.gain, ctx.clamp, operand_name(x, ctx.allow_tf32))
    packed = how.pack(weight, bias, rgb_weight, rgb_bias)
    need = ctx.needs_input_grad
    grads = launch_backward(grad_y, grad_out, x, packed, how, need_x=need[0], need_layer=need[1] or need[2])
    grad_bias = None if grads.bias is None else grads.bias.to(bias.dtype)
    grad_image = _shrunk(grad_out, ctx.enlarge) if need[5] else None
    return grads.x, grads.weight, grad_bias, grads.rgb_weight, grads.rgb_bias.to(rgb_bias.dtype), grad_image, *nothing


def _shrunk(grad: Tensor, enlarge: str | None) -> Tensor:
    """Gradient of the small image from that of the enlarged one."""
    if enlarge is None:
        return grad.clone()
    N, O, H, W = grad.shape  # noqa: E741
    if enlarge == "bilinear":
        size = [N, O, H // 2, W // 2]
        small: Tensor = torch.ops.aten.upsample_bilinear2d_backward(grad, [H, W], size, True)
        return small
    taps = taps_for(grad)
    up, down, pads = (2, 2), (1, 1), (2, 1, 2, 1)
    back = adjoint_padding((H // 2, W // 2), (H, W), taps, up, down, pads)
    small = upfirdn2d(grad, taps, down, up, back, True, 4.0)
    return small


refine_rows = register(_refine_rows, fake=_fake, save=_save, backward=_backward)
