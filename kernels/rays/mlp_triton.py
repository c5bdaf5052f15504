"""A chain of modulated layers of any width: h <- lrelu(gain (W h + b)) or softplus, a launch per layer and direction.

Activations between layers are stored in the operand type, half the bytes of float32; without gradients two buffers
alternate. The backward recomputes them from the input, then iterates over the layers from last to first with two
launches each. Float16 gradients are scaled into range by a power of two; the last product of each kind divides by it in
float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.gate import gradient_scale, launch_gate
from ..base.linear import launch_dgrad, launch_linear, launch_wgrad
from ..base.operands import OPERANDS
from ..base.register import register
from .mlp_ref import modulated_mlp_ref


def pack(
    weights: Sequence[Tensor], biases: Sequence[Tensor], gain: float, linear_end: bool, precision: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights in the operand type and biases in float32, times the gain unless linear; all of a kind in one pass."""

    def scaled(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        counts = [t.numel() for t in tensors]
        flat = torch.cat([t.reshape(-1) for t in tensors]).float()
        flat[: sum(counts[:-1] if linear_end else counts)].mul_(gain)
        return [part.view(t.shape) for part, t in zip(flat.to(dtype).split(counts), tensors)]

    return scaled(weights, OPERANDS[precision].storage), scaled(biases, torch.float32)


def launch_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    slope: float | None,
    softplus: bool,
    precision: str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Activations [B, N, O] of a packed layer, by default in the operand type."""
    shape = (*x.shape[:2], weight.shape[1])
    out = torch.empty(shape, dtype=dtype or OPERANDS[precision].storage, device=x.device)
    launch_linear(out, x, weight, bias, slope=slope, precision=precision, softplus=softplus)
    return out


def launch_chain_backward(
    x: Tensor,
    out: Tensor,
    grad_out: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    gain: float,
    slope: float,
    softplus: bool,
    linear_end: bool,
    precision: str,
    need_x: bool,
    need_layers: Sequence[bool],
) -> tuple[Tensor | None, list[tuple[Tensor, Tensor] | None]]:
    """Gradients of x, and per layer of weight and bias, float32, per image unless all images share both.

    ``need_layers`` says which layers need gradients; the loop stops where no earlier layer needs any.
    """
    packed, shifts = pack(weights, biases, gain, linear_end, precision)
    inputs = [x]  # of every layer
    for weight, bias in zip(packed[:-1], shifts[:-1]):
        inputs.append(launch_layer(inputs[-1], weight, bias, slope=slope, softplus=softplus, precision=precision))
    scale = gradient_scale(grad_out, precision)
    unscale, unscale_layer = 1 / scale, gain / scale
    grad_z = torch.empty(out.shape, dtype=OPERANDS[precision].storage, device=x.device)
    launch_gate(
        grad_z,
        grad_out.contiguous(),
        out.contiguous(),
        scale,
        slope=1.0 if linear_end else slope,
        precision=precision,
        softplus=softplus and not linear_end,
    )
    grads: list[tuple[Tensor, Tensor] | None] = [None] * len(packed)
    for i in reversed(range(len(packed))):
        gate = inputs.pop()
        if need_layers[i]:
            shared = packed[i].shape[0] == shifts[i].shape[0] == 1
            rows = [t.flatten(0, 1)[None] if shared else t for t in (grad_z, gate)]
            linear = linear_end and i == len(packed) - 1
            grads[i] = launch_wgrad(*rows, precision=precision, factor=unscale if linear else unscale_layer)
        if i == 0 and need_x:
            grad_x = torch.empty_like(x)
            launch_dgrad(grad_x, grad_z, packed[0], None, slope=slope, precision=precision, factor=unscale)
            return grad_x, grads
        if not (need_x or any(need_layers[:i])):
            break
        grad_z, behind = torch.empty_like(gate), grad_z
        launch_dgrad(grad_z, behind, packed[i], gate, slope=slope, precision=precision, softplus=softplus)
    return None, grads


def _modulated_mlp(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    gain: float,
    negative_slope: float,
    precision: str,
    softplus: bool,
    linear_end: bool,
) -> Tensor:
    """x [B, N, D], weights [B or 1, O, I] and biases [B or 1, O] of one dtype, at least one layer."""
    packed, shifts = pack(weights, biases, gain, linear_end, precision)
    hidden = x
    for weight, bias in zip(packed[:-1], shifts[:-1]):
        hidden = launch_layer(hidden, weight, bias, slope=negative_slope, softplus=softplus, precision=precision)
    slope = None if linear_end else negative_slope
    return launch_layer(
        hidden, packed[-1], shifts[-1], slope=slope, softplus=softplus, precision=precision, dtype=x.dtype
    )


def _fake(x: Tensor, weights: list[Tensor], *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weights[-1].shape[1])


def _backward(grads: Sequence[Any], inputs: Sequence[Any], kept: Sequence[Any], needs: Sequence[Any]) -> Sequence[Any]:
    (grad_out,), (x, weights, biases, gain, slope, precision, softplus, linear_end), (out,) = grads, inputs, kept
    need_x, need_weights, need_biases = needs[:3]
    grad_x, pairs = launch_chain_backward(
        x.contiguous(),
        out,
        grad_out,
        weights,
        biases,
        gain=gain,
        slope=slope,
        softplus=softplus,
        linear_end=linear_end,
        precision=precision,
        need_x=need_x,
        need_layers=[w or b for w, b in zip(need_weights, need_biases)],
    )
    grad_weights = [_like(w, None if pair is None else pair[0]) for w, pair in zip(weights, pairs)]
    grad_biases = [_like(b, None if pair is None else pair[1]) for b, pair in zip(biases, pairs)]
    return grad_x, grad_weights, grad_biases


def _like(parameter: Tensor, grad: Tensor | None) -> Tensor | None:
    """The gradient summed over the images that share ``parameter``, in its dtype."""
    if grad is None:
        return None
    return (grad if grad.shape[0] == parameter.shape[0] else grad.sum(0, keepdim=True)).to(parameter.dtype)


def _plain(inputs: Sequence[Any], _kept: Any) -> Tensor:
    x, weights, biases, gain, slope, _precision, softplus, linear_end = inputs
    return modulated_mlp_ref(x, weights, biases, gain, slope, softplus, linear_end)


# the output determines the activation's derivative
modulated_mlp = register(_modulated_mlp, fake=_fake, backward=_backward, plain=_plain, keep=(0,))
