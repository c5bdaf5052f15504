"""Kernels that measure the device rather than compute anything."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stylenerf.kernels.base.launch import launch
from stylenerf.kernels.base.operands import sin_cos_pi

BLOCK = 4096


@triton.jit
def _read_kernel(out_ptr, x_ptr, blocks, rounds, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums BLOCK numbers at a time, round and round through a buffer of ``blocks``, past the first-level cache."""
    pid = tl.program_id(0)
    offs = tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for i in range(0, rounds):
        acc += tl.load(x_ptr + ((pid * 7 + i) % blocks) * BLOCK + offs, cache_modifier=".cg")
    tl.store(out_ptr + pid * BLOCK + offs, acc)


def read(out: Tensor, x: Tensor, rounds: int) -> int:
    """Every program reads ``rounds`` blocks of x [n BLOCK]; out [programs, BLOCK]. Returns: bytes read."""
    programs = out.shape[0]
    launch(
        _read_kernel,
        (programs,),
        out_ptr=out,
        x_ptr=x,
        blocks=x.numel() // BLOCK,
        rounds=rounds,
        BLOCK=BLOCK,
        num_warps=8,
    )
    return programs * rounds * BLOCK * x.element_size()


@triton.jit
def _sin_cos_kernel(sin_ptr, cos_ptr, t_ptr, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < count
    sin, cos = sin_cos_pi(tl.load(t_ptr + offs, mask=mask, other=0.0))
    tl.store(sin_ptr + offs, sin, mask=mask)
    tl.store(cos_ptr + offs, cos, mask=mask)


def sin_cos(t: Tensor) -> tuple[Tensor, Tensor]:
    """sin(pi t), cos(pi t) as the kernels compute them, of a flat float32 tensor."""
    sin, cos = torch.empty_like(t), torch.empty_like(t)
    args: dict[str, Any] = {"sin_ptr": sin, "cos_ptr": cos, "t_ptr": t, "count": t.numel(), "BLOCK": 1024}
    launch(_sin_cos_kernel, (triton.cdiv(t.numel(), 1024),), **args)
    return sin, cos


def sin_cos_error(t: Tensor) -> float:
    """Largest absolute error of either against float64."""
    sin, cos = sin_cos(t)
    exact = torch.pi * torch.remainder(t.double(), 2.0)  # float32 is a multiple of its last bit: exact
    return max((sin.double() - exact.sin()).abs().max().item(), (cos.double() - exact.cos()).abs().max().item())
