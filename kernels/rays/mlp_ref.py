"""Definition of modulated_mlp in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def modulated_mlp_ref(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gain: float,
    negative_slope: float,
    softplus: bool = False,
    linear_end: bool = False,
) -> Tensor:
    """``softplus`` instead of leaky ReLU; ``linear_end``: neither activation nor gain after the last layer."""
    # gain * lrelu(z) = lrelu(gain * z) for gain > 0: scaling the small operands saves a pass over the activations
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        if linear_end and i == len(weights) - 1:
            return linear_ref(x, weight, bias)
        x = linear_ref(x, weight * gain, bias * gain)
        if softplus:
            x = torch.nn.functional.softplus(x)
            continue
        # in place is safe at every order: leaky ReLU's derivative depends on the sign of its output
        x = torch.nn.functional.leaky_relu(x, negative_slope, inplace=True)
    return x


def linear_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, N, I], weight [O, I] or [B, O, I], bias [O] or [B, O] -> [B, N, O]."""
    batch = x.shape[0]
    weight = weight.expand(batch, *weight.shape[-2:])
    bias = bias.expand(batch, bias.shape[-1])
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
