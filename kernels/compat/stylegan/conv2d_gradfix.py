"""StyleGAN's ``torch_utils.ops.conv2d_gradfix``: torch's own convolutions, which are differentiable to any order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]

enabled = True  # may be set; changes nothing
weight_gradients_disabled = False


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Backward passes in here leave out the gradients of convolution weights."""
    global weight_gradients_disabled
    before = weight_gradients_disabled
    weight_gradients_disabled = before or disable
    try:
        yield
    finally:
        weight_gradients_disabled = before


class _Weight(torch.autograd.Function):
    """A tensor as it is, without a gradient where :func:`no_weight_gradients` says so."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return w.view_as(w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        return None if weight_gradients_disabled else grad


def heed(w: Tensor) -> Tensor:
    """``w`` as the weight of a convolution, its gradient subject to :func:`no_weight_gradients`."""
    out: Tensor = _Weight.apply(w) if w.requires_grad and torch.is_grad_enabled() else w
    return out


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    return F.conv2d(input, heed(weight), bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    return F.conv_transpose2d(input, heed(weight), bias, stride, padding, output_padding, groups, dilation)
