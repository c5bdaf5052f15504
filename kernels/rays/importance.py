"""Inverse-CDF sampling: draw positions along a ray from the weights of earlier samples.

Reads 2 S numbers per ray and writes as many as it draws (NeRF, section 5.2).
"""

import torch
from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_dtypes
from ..base.dispatch import Impl, resolve
from .importance_ref import importance_sample_ref


@under_autocast("all")
def importance_sample(edges: Tensor, weights: Tensor, u: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Positions at which the cumulative distribution of ``weights`` over the bins takes the values ``u``.

    pdf_k = (w_k + 1e-5) / sum, cdf its running sum; x(u) = e_k + (u - cdf_k) / (cdf_{k+1} - cdf_k) (e_{k+1} - e_k) with
    the first k whose cdf_{k+1} >= u; a step below 1e-5 counts as 1.

    Args:
        edges: [..., E] float32|float64, ascending bin edges.
        weights: [..., E-1] same dtype, not negative; need not sum to 1.
        u: [..., N] same dtype, in [0, 1]; ascending u give ascending positions.
    Returns: [..., N] positions between the first and the last edge.
    Differentiable: no; the result carries no gradient.
    Raises: ValueError on shapes, TypeError on dtypes, RuntimeError if impl="triton" has no GPU or gets float64 or more
        than 129 edges.
    Source: NeRF, section 5.2.
    """
    check_dtypes(FLOATS[:2], edges=edges)
    check_dtypes((edges.dtype,), weights=weights, u=u)
    if edges.ndim < 1 or edges.shape[-1] < 2 or weights.shape != (*edges.shape[:-1], edges.shape[-1] - 1):
        raise ValueError(
            f"weights must be {[*edges.shape[:-1], edges.shape[-1] - 1]} (E >= 2), got {list(weights.shape)}"
        )
    if u.shape[:-1] != edges.shape[:-1]:
        raise ValueError(f"u must be {[*edges.shape[:-1], 'N']}, got {list(u.shape)}")
    unsupported = None
    if edges.dtype == torch.float64:
        unsupported = "float64"
    elif edges.shape[-1] > 129:
        unsupported = f"{edges.shape[-1]} edges, at most 129"
    with torch.no_grad():
        if resolve("importance_sample", impl, edges, unsupported=unsupported) == "triton":
            from . import importance_triton

            return importance_triton.importance_sample(edges, weights, u)
        return importance_sample_ref(edges, weights, u)
