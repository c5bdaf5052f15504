"""Sum of squares: each program sums an equal share of the elements; the shares are added in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import launch
from ..base.register import register

BLOCK = 2048
PROGRAMS = 1056  # eight on each of 132 multiprocessors; fixed, so that the result does not depend on the device


@triton.jit
def _square_sum_kernel(part_ptr, x_ptr, count, rounds, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * rounds * BLOCK
    offs = tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for i in range(0, rounds):
        start = first + i * BLOCK
        x = tl.load(x_ptr + start + offs, mask=start + offs < count, other=0.0).to(tl.float32)
        acc += x * x
    tl.store(part_ptr + tl.program_id(0), tl.sum(acc, axis=0))


def _square_sum(x: Tensor) -> Tensor:
    """[] float32."""
    order = sorted(range(x.ndim), key=lambda d: x.stride(d), reverse=True)
    flat = x.permute(order).contiguous().view(-1)  # a copy only where x has gaps
    blocks = triton.cdiv(flat.numel(), BLOCK)
    rounds = max(triton.cdiv(blocks, PROGRAMS), 1)
    programs = triton.cdiv(blocks, rounds)
    part = torch.empty(programs, dtype=torch.float32, device=x.device)
    launch(
        _square_sum_kernel,
        (programs,),
        part_ptr=part,
        x_ptr=flat,
        count=flat.numel(),
        rounds=rounds,
        BLOCK=BLOCK,
    )
    return part.sum()


def _square_sum_fake(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float32)


square_sum = register(_square_sum, fake=_square_sum_fake)
