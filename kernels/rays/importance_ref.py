"""Definition of importance_sample in plain torch."""

import torch
from torch import Tensor

PDF_FLOOR = 1e-5  # added to every weight, so that an empty ray is sampled evenly
CDF_FLOOR = 1e-5  # a bin with less probability than this is not interpolated


def importance_sample_ref(edges: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    pdf = weights + PDF_FLOOR
    pdf = pdf / pdf.sum(-1, keepdim=True)
    cdf = torch.cumsum(pdf, dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)  # [..., E]
    right = torch.searchsorted(cdf, u.contiguous(), right=False)
    low, high = (right - 1).clamp_min(0), right.clamp_max(cdf.shape[-1] - 1)
    cdf_low, cdf_high = cdf.gather(-1, low), cdf.gather(-1, high)
    step = cdf_high - cdf_low
    step = torch.where(step < CDF_FLOOR, torch.ones_like(step), step)
    edge_low = edges.gather(-1, low)
    return edge_low + (u - cdf_low) / step * (edges.gather(-1, high) - edge_low)
