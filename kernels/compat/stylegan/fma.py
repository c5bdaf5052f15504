"""StyleGAN's ``torch_utils.ops.fma``."""

import torch
from torch import Tensor

__all__ = ["fma"]


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, broadcast."""
    return torch.addcmul(c, a, b)
