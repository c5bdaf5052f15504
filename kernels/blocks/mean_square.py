"""mean(x^2) over a whole tensor, one number in float32: tracked by a layer's running magnitude. Reads x once."""

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes
from ..base.dispatch import Impl, resolve
from .mean_square_ref import mean_square_ref


@under_autocast("beside")
def mean_square(x: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Mean of the squares of all elements, accumulated in float32.

    Args:
        x: any shape, float64|float32|float16|bfloat16; dense tensors are read in place, in any memory format.
    Returns: [] float32; NaN for an empty tensor. Deterministic.
    Differentiable: no; the result carries no gradient.
    Raises: TypeError on dtype; RuntimeError if impl="triton" has no GPU or gets float64.
    Source: StyleGAN3 (arXiv 2106.12423), appendix F, where layers divide by the root of its running average.
    """
    check_dtypes(FLOATS, x=x)
    reason = "float64" if x.dtype == torch.float64 else None
    with torch.no_grad():
        if resolve("mean_square", impl, x, unsupported=reason) == "ref":
            return mean_square_ref(x)
        from . import mean_square_triton

        total: Tensor = mean_square_triton.square_sum(x)
        return total / x.numel()
