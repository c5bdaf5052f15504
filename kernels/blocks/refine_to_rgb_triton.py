"""The tail of a synthesis block as an op: forward in one launch, backward in a few."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.register import Grads, register
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


def _plain(inputs: Sequence[Any], _kept: Any) -> tuple[Tensor | None, Tensor]:
    x, weight, bias, rgb_weight, rgb_bias, image, enlarge, keep, gain, clamp, _ = inputs
    y, out = refine_rows_ref(x, weight, bias, rgb_weight, rgb_bias, image, enlarge, gain, clamp)
    return y if keep else None, out


def _backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, needs: Sequence[bool]) -> Grads:
    grad_y, grad_out = grads
    x, weight, bias, rgb_weight, rgb_bias, _, enlarge, keep, gain, clamp, allow_tf32 = inputs
    x, grad_y = x.contiguous(), grad_y if keep else None
    if grad_out is None:
        grad_out = x.new_zeros(x.shape[0], rgb_bias.shape[0], *x.shape[1:3], dtype=torch.float32)
    how = Tail(gain, clamp, operand_name(x, allow_tf32))
    packed = how.pack(weight, bias, rgb_weight, rgb_bias)
    found = launch_backward(grad_y, grad_out, x, packed, how, need_x=needs[0], need_layer=needs[1] or needs[2])
    grad_bias = None if found.bias is None else found.bias.to(bias.dtype)
    grad_image = _shrunk(grad_out, enlarge) if needs[5] else None
    return found.x, found.weight, grad_bias, found.rgb_weight, found.rgb_bias.to(rgb_bias.dtype), grad_image


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


refine_rows = register(_refine_rows, fake=_fake, backward=_backward, plain=_plain)
