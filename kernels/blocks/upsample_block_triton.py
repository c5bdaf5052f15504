"""An upsampling block as two launches: a product at low resolution gives the map, a second kernel computes the output
from it. A narrow layer takes one launch (``upsample_block_whole``).

The adapter's first layer commutes with the enlargement, so its weights are composed with the modulated ones, and one
product of C + 2D (nn_cat) or C + D (pixelshuffle) channels gives x and the terms of the hidden units. Torch composes
the weights, a product of two small matrices per image, and differentiates it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.linear import launch_dgrad, launch_linear, launch_wgrad
from ..base.operands import OPERANDS
from ..base.register import Grads, register
from .modulated_layer_triton import operand_name
from .upsample_block_backward import launch_combine_backward
from .upsample_block_bilinear import upsample_bilinear
from .upsample_block_forward import GAIN, Combine, PackedAdapter, launch_combine
from .upsample_block_ref import upsample_combine_ref
from .upsample_block_whole import launch_whole, plan_whole

OPTIONS = 5  # last inputs of ``upsample_combine`` and ``upsample_whole``: mode, blur, gain, clamp, allow_tf32


def upsample_block(
    x: Tensor,
    weight: Tensor | None,
    mode: str,
    adapter: Sequence[Tensor] | None,
    blur: bool,
    bias: Tensor,
    noise: Tensor | None,
    gain: float,
    clamp: float | None,
    allow_tf32: bool,
) -> Tensor:
    """[N, 2H, 2W, C].

    Args:
        x: [N, H, W, I], contiguous.  weight: [B, C, I] float32, N a multiple of B; None if x is the layer's output,
            C = I.
        adapter: weight0, bias0, weight1, bias1 of nn_cat or pixelshuffle; None for bilinear.
        blur, noise: False and None for bilinear; else noise is [N or 1, 2H, 2W] or None.
        bias: [C].
    """
    N, H, W, I = x.shape  # noqa: E741
    if adapter is None and weight is None:
        enlarged: Tensor = upsample_bilinear(x, bias, gain, clamp)
        return enlarged
    if weight is None:  # x itself beside the adapter's products
        weight = torch.eye(I, device=x.device)[None]
    B, C, _ = weight.shape
    if adapter is not None:
        first = adapter[0].float()
        products = [weight, first[:, :C] @ weight]
        if mode == "nn_cat":
            products.append(0.5 * first[:, C:] @ weight)
        weight = torch.cat(products, dim=1)
        _, bias0, weight1, bias1 = adapter
        inputs = (x, weight, weight1, bias0, bias1, bias, noise)
        if plan_whole(x, C, weight1.shape[1], _how(x, mode, blur, gain, clamp, allow_tf32)):
            whole: Tensor = upsample_whole(*inputs, mode, blur, gain, clamp, allow_tf32)
            return whole
    rows = upsample_map(x.view(B, N // max(B, 1) * H * W, I), weight, allow_tf32)
    map = rows.view(N, H, W, weight.shape[1])
    if adapter is None:
        out: Tensor = upsample_bilinear(map, bias, gain, clamp)
    else:
        out = upsample_combine(map, weight1, bias0, bias1, bias, noise, mode, blur, gain, clamp, allow_tf32)
    return out


def _upsample_map(x: Tensor, weight: Tensor, allow_tf32: bool) -> Tensor:
    """x [B, P, I] times weight [B, O, I] float32."""
    precision = operand_name(x, allow_tf32)
    out = torch.empty(*x.shape[:2], weight.shape[1], dtype=x.dtype, device=x.device)
    operand = weight.to(OPERANDS[precision].storage).contiguous()
    launch_linear(out, x, operand, None, slope=None, precision=precision)
    return out


def _map_fake(x: Tensor, weight: Tensor, allow_tf32: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[1])


def _map_plain(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.to(x.dtype).transpose(1, 2)


def _map_backward(grads: Sequence[Any], inputs: Sequence[Any], _kept: Any, needs: Sequence[bool]) -> Grads:
    (grad_out,), (x, weight, allow_tf32) = grads, inputs
    return _map_gradients(grad_out, x, weight, needs[0], needs[1], allow_tf32)


def _map_gradients(
    grad_out: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool, allow_tf32: bool
) -> tuple[Tensor | None, Tensor | None]:
    precision = operand_name(x, allow_tf32)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if need_x else None
    if grad_x is not None:
        operand = weight.to(OPERANDS[precision].storage).contiguous()
        launch_dgrad(grad_x, grad_out, operand, None, slope=1.0, precision=precision)
    grad_weight = launch_wgrad(grad_out, x, precision=precision)[0] if need_weight else None
    return grad_x, grad_weight


upsample_map = register(
    _upsample_map, fake=_map_fake, backward=_map_backward, plain=lambda inputs, _: _map_plain(*inputs[:2])
)


def _how(map: Tensor, mode: str, blur: bool, gain: float, clamp: float | None, allow_tf32: bool) -> Combine:
    return Combine(mode == "pixelshuffle", blur, gain, clamp, operand_name(map, allow_tf32))


def _upsample_combine(
    map: Tensor, weight1: Tensor, bias0: Tensor, bias1: Tensor, bias: Tensor, noise: Tensor | None,
    mode: str, blur: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    """map [N, H, W, C + 2D or C + D], noise [N or 1, 2H, 2W]."""
    how = _how(map, mode, blur, gain, clamp, allow_tf32)
    adapter = PackedAdapter.of(weight1, bias0, bias1, how)
    noise = None if noise is None else noise.contiguous()
    return launch_combine(map.contiguous(), adapter, bias.float().contiguous(), noise, how)


def _combine_fake(
    map: Tensor, weight1: Tensor, bias0: Tensor, bias1: Tensor, bias: Tensor, noise: Tensor | None,
    mode: str, blur: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    N, H, W, _ = map.shape
    return map.new_empty(N, 2 * H, 2 * W, bias.shape[0])


def _combine_backward(grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[bool]) -> Grads:
    (grad_out,), (map, *adapter), (out,) = grads, inputs[:-OPTIONS], kept
    how = _how(map, *inputs[-OPTIONS:])
    sums = map.contiguous()[..., out.shape[3] :]
    grad_map, grad_adapter = _adapter_gradients(grad_out, out, sums, adapter, needs[5], how)
    return grad_map, *grad_adapter


def _adapter_gradients(
    grad_out: Tensor, out: Tensor, sums: Tensor, inputs: Sequence[Any], needs_noise: bool, how: Combine
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Gradients of the map and of ``inputs`` (weight1, bias0, bias1, bias, noise), in their shapes and types."""
    weight1, bias0, bias1, bias, noise = inputs
    adapter = PackedAdapter.of(weight1, bias0, bias1, how)
    grads = launch_combine_backward(grad_out, out, sums, adapter, noise is not None and needs_noise, how)
    grad_noise = grads.noise
    if grad_noise is not None:
        grad_noise = (grad_noise.sum(0, keepdim=True) if noise.shape[0] == 1 else grad_noise).to(noise.dtype)
    return grads.map, (
        (grads.weight * GAIN).transpose(0, 1).reshape(weight1.shape).to(weight1.dtype),
        grads.bias_hidden.to(bias0.dtype),
        grads.bias_adapter.t().reshape(bias1.shape).to(bias1.dtype),
        grads.bias.to(bias.dtype),
        grad_noise,
    )


# the output gives the derivative of activation and clamp
upsample_combine = register(
    _upsample_combine,
    fake=_combine_fake,
    backward=_combine_backward,
    plain=lambda inputs, _: upsample_combine_ref(*inputs[:-1]),
    keep=(0,),
)


def _upsample_whole(
    x: Tensor, weight: Tensor, weight1: Tensor, bias0: Tensor, bias1: Tensor, bias: Tensor, noise: Tensor | None,
    mode: str, blur: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    """x [N, H, W, I], weight [B, C + 2D or C + D, I] float32, noise [N or 1, 2H, 2W]."""
    how = _how(x, mode, blur, gain, clamp, allow_tf32)
    plan = plan_whole(x, bias.shape[0], weight1.shape[1], how)
    assert plan is not None
    adapter = PackedAdapter.of(weight1, bias0, bias1, how)
    weight = weight.to(OPERANDS[how.precision].storage).contiguous()
    noise = None if noise is None else noise.contiguous()
    return launch_whole(x.contiguous(), weight, adapter, bias.float().contiguous(), noise, how, plan)


def _whole_fake(
    x: Tensor, weight: Tensor, weight1: Tensor, bias0: Tensor, bias1: Tensor, bias: Tensor, noise: Tensor | None,
    mode: str, blur: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    N, H, W, _ = x.shape
    return x.new_empty(N, 2 * H, 2 * W, bias.shape[0])


def _whole_plain(inputs: Sequence[Any], _kept: Any) -> Tensor:
    x, weight, *others, _ = inputs
    N, H, W, I = x.shape  # noqa: E741
    B, S, _ = weight.shape
    map = _map_plain(x.reshape(B, N // max(B, 1) * H * W, I), weight).reshape(N, H, W, S)
    return upsample_combine_ref(map, *others)


def _whole_backward(grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[bool]) -> Grads:
    """Recomputes the adapter's part of the map: an eighth of the output's size."""
    (grad_out,), (x, weight, *adapter), (out,) = grads, inputs[:-OPTIONS], kept
    how, allow_tf32 = _how(out, *inputs[-OPTIONS:]), inputs[-1]
    N, H, W, I = x.shape  # noqa: E741
    B, S, _ = weight.shape
    C = out.shape[3]
    rows = x.contiguous().view(B, N // max(B, 1) * H * W, I)
    sums = _upsample_map(rows, weight[:, C:], allow_tf32).view(N, H, W, S - C)
    grad_map, grad_adapter = _adapter_gradients(grad_out, out, sums, adapter, needs[6], how)
    grad_map = grad_map.view(*rows.shape[:2], S)
    grad_x, grad_weight = _map_gradients(grad_map, rows, weight, needs[0], needs[1], allow_tf32)
    return None if grad_x is None else grad_x.view(x.shape), grad_weight, *grad_adapter


upsample_whole = register(_upsample_whole, fake=_whole_fake, backward=_whole_backward, plain=_whole_plain, keep=(0,))
