"""Gradients before their matrix products: the gate of activation and clamp, and scaling into the range of float16."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .operands import OPERANDS, expm1, to_operand

GRADIENT_EXPONENT = 8  # float16 gradients are scaled to 2^8: headroom of 2^8 above, 2^22 below
BLOCK = 1024


@triton.jit
def _gate_kernel(
    grad_z_ptr, grad_out_ptr, out_ptr, scale_ptr, count, slope, clamp,
    SOFTPLUS: tl.constexpr, CLAMPED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < count
    grad = tl.load(grad_out_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    out = tl.load(out_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    grad = grad * (-expm1(-out) if SOFTPLUS else tl.where(out > 0, 1.0, slope)) * tl.load(scale_ptr)
    if CLAMPED:
        grad = tl.where((out >= clamp) | (out <= -clamp), 0.0, grad)
    tl.store(grad_z_ptr + offs, to_operand(grad, DT), mask=mask)


def launch_gate(
    grad_z: Tensor,
    grad_out: Tensor,
    out: Tensor,
    scale: Tensor,
    *,
    slope: float,
    precision: str,
    clamp: float | None = None,
    softplus: bool = False,
) -> None:
    """Fill grad_z, operand type, with grad_out times ``scale`` [] times the derivative of the activation and clamp.
    It is read off their output ``out``: 1 - exp(-out) for ``softplus``, else ``slope`` where ``out`` is not positive; 0
    where it is at the clamp.
    """
    launch(
        _gate_kernel,
        (triton.cdiv(grad_z.numel(), BLOCK),),
        grad_z_ptr=grad_z,
        grad_out_ptr=grad_out,
        out_ptr=out,
        scale_ptr=scale,
        count=grad_z.numel(),
        slope=slope,
        clamp=0.0 if clamp is None else float(clamp),
        SOFTPLUS=softplus,
        CLAMPED=clamp is not None,
        DT=OPERANDS[precision].triton,
        BLOCK=BLOCK,
    )


def gradient_scale(grad: Tensor, precision: str) -> Tensor:
    """[] float32: a power of two that brings float16 gradients into range, else 1. No device sync."""
    if precision != "fp16" or grad.numel() == 0:
        return torch.ones((), dtype=torch.float32, device=grad.device)
    return scale_of(torch.linalg.vector_norm(grad, torch.inf, dtype=torch.float32))


def scale_of(peak: Tensor) -> Tensor:
    """The power of two that scales the magnitude ``peak`` [] to 2^8; 1 for zero, infinity and NaN."""
    exponent = (GRADIENT_EXPONENT - torch.frexp(peak).exponent).clamp(max=126)  # so that its inverse is a float32, too
    return torch.where(torch.isfinite(peak) & (peak > 0), torch.exp2(exponent.float()), 1.0)
