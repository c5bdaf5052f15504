"""Bias, activation, gain and clamp in one call: y = clamp(gain * act(x + b), -c, c).

Bytes moved: x once, y once; backward: the gradient and one of x and y once, the gradient of x once.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes, fixed
from ..base.dispatch import Impl, resolve
from .bias_act_ref import bias_act_ref


class Activation(NamedTuple):
    """Defaults of an activation: slope or shape ``alpha``, and the ``gain`` that preserves unit variance."""

    alpha: float
    gain: float


ACTIVATIONS = {
    "linear": Activation(0.0, 1.0),
    "relu": Activation(0.0, math.sqrt(2)),
    "lrelu": Activation(0.2, math.sqrt(2)),
    "tanh": Activation(0.0, 1.0),
    "sigmoid": Activation(0.0, 1.0),
    "elu": Activation(0.0, 1.0),
    "selu": Activation(0.0, 1.0),
    "softplus": Activation(0.0, 1.0),
    "swish": Activation(0.0, math.sqrt(2)),
}


@under_autocast("beside")
def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    inplace: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """Add a bias, apply an activation, scale, clamp.

    Args:
        x:     any shape with at least one dim, float64|float32|float16|bfloat16.
        b:     [x.shape[dim]] or None; cast to the dtype of x, by the kernel to float32, in which it computes.
        dim:   the dim of x along which b lies.
        act:   one of linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish.
        alpha: slope of lrelu below zero, 0.2 where None; the others ignore it.
        gain:  factor after the activation; where None sqrt 2 for relu, lrelu and swish, else 1.
        clamp: bound on the magnitude after the gain; None or a negative number = no bound.
        inplace: allow overwriting x where no gradient is recorded.
    Returns: shape, dtype and memory format of x; x itself where the op is the identity.
    Differentiable: any order in x and b. For linear, relu and lrelu the kernel saves y, not x; values that round to the
        bound then count as clamped.
    Raises: ValueError on act, dim and shape of b; TypeError on dtype; RuntimeError if impl="triton" has no GPU or gets
        float64.
    Source: StyleGAN2 (arXiv 1912.04958); same argument meaning as its public function of that name.
    """
    check_dtypes(FLOATS, x=x)
    check_choice("act", act, tuple(ACTIVATIONS))
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim must be a dim of x with {x.ndim} dims, got {dim}")
        dim %= x.ndim
        if b.ndim != 1 or fixed(b.shape[0]) != fixed(x.shape[dim]):
            raise ValueError(f"b must be [{x.shape[dim]}], the size of dim {dim} of x, got {list(b.shape)}")
        check_dtypes(FLOATS, b=b)
    default = ACTIVATIONS[act]
    alpha = default.alpha if alpha is None else alpha
    gain = default.gain if gain is None else gain
    clamp = None if clamp is None or clamp < 0 else clamp
    unsupported = "float64" if x.dtype == torch.float64 else None
    if resolve("bias_act", impl, x, unsupported=unsupported) == "triton":
        from . import bias_act_triton

        return bias_act_triton.bias_act(x, b, dim, act, alpha, gain, clamp, inplace)
    return bias_act_ref(x, b, dim, act, alpha, gain, clamp, inplace)
