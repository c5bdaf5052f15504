"""Kernels that must not pass ``python -m bench.compiler.inspect``, and one that must.

``python -m tests.bad_kernels`` takes the options of ``bench.compiler.inspect``.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl

from bench.compiler import inspect
from stylenerf.kernels.base.launch import launch


@triton.jit
def _product_kernel(
    out_ptr,
    a_ptr,
    b_ptr,
    stride_a,
    stride_b,
    D,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    offs_m, offs_n, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for d in range(0, D, BLOCK_D):
        a = tl.load(a_ptr + (offs_m[:, None] * D + d + offs_d[None, :]) * stride_a)
        b = tl.load(b_ptr + ((d + offs_d[:, None]) * BLOCK_N + offs_n[None, :]) * stride_b)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    tl.store(out_ptr + offs_m[:, None] * BLOCK_N + offs_n[None, :], acc)


@triton.jit
def _sine_kernel(out_ptr, x_ptr, BLOCK_N: tl.constexpr):
    offs_n = tl.arange(0, BLOCK_N)
    tl.store(out_ptr + offs_n, tl.sin(tl.load(x_ptr + offs_n)))


@triton.jit
def _shapes_kernel(out_ptr, BLOCK_N: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, BLOCK_N), tl.zeros((2 * BLOCK_N,), tl.float32))


@triton.jit
def _slot_kernel(out_ptr, slots_ptr, x_ptr, BARRIER: tl.constexpr, BLOCK_N: tl.constexpr):
    """Reverses x through a slot."""
    offs_n = tl.arange(0, BLOCK_N)
    tl.store(slots_ptr + offs_n, tl.load(x_ptr + offs_n))
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + offs_n, tl.load(slots_ptr + BLOCK_N - 1 - offs_n))


@triton.jit
def _turned_kernel(out_ptr, x_ptr, BLOCK_N: tl.constexpr):
    """(x x)^T x"""
    offs = tl.arange(0, BLOCK_N)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    x = tl.load(x_ptr + offs)
    square = tl.dot(x, x).to(x.dtype)
    tl.store(out_ptr + offs, tl.dot(tl.trans(square), x))


def _product(
    dtype: torch.dtype, precision: str, block: tuple[int, int, int], *, stride: int = 1, num_stages: int = 2
) -> None:
    m, n, d = block
    with torch.device("meta"):
        out, a, b = torch.empty(m, n), torch.empty(m, 512, dtype=dtype), torch.empty(512, n, dtype=dtype)
    launch(
        _product_kernel,
        (1,),
        out_ptr=out,
        a_ptr=a,
        b_ptr=b,
        stride_a=stride,
        stride_b=stride,
        D=512,
        PRECISION=precision,
        BLOCK_M=m,
        BLOCK_N=n,
        BLOCK_D=d,
        num_stages=num_stages,
    )


def _sine() -> None:
    x = torch.empty(128, device="meta")
    launch(_sine_kernel, (1,), out_ptr=x, x_ptr=x, BLOCK_N=128)


def _slot(barrier: bool) -> None:
    x = torch.empty(128, device="meta")
    launch(_slot_kernel, (1,), out_ptr=x, slots_ptr=x, x_ptr=x, BARRIER=barrier, BLOCK_N=128)


def _turned() -> None:
    x = torch.empty(64, 64, dtype=torch.float16, device="meta")
    launch(_turned_kernel, (1,), out_ptr=torch.empty(64, 64, device="meta"), x_ptr=x, BLOCK_N=64)


def _wrong_shapes() -> None:
    launch(_shapes_kernel, (1,), out_ptr=torch.empty(128, device="meta"), BLOCK_N=64)


def _refused() -> None:
    raise ValueError("block must be [M, N, D]")


def shipped() -> dict[str, Callable[[], None]]:
    """One fault each, but for "good" and "gates slot"."""
    half, single = torch.float16, torch.float32
    return {
        "good": partial(_product, half, "ieee", (64, 64, 64)),
        "spills": partial(_product, half, "ieee", (128, 256, 32)),
        "too much shared": partial(_product, single, "tf32", (64, 128, 128), num_stages=4),
        "strided": partial(_product, half, "ieee", (64, 64, 64), stride=16),
        "sine": _sine,
        "wrong shapes": _wrong_shapes,
        "empty": partial(launch, _sine_kernel, (0,)),
        "refused": _refused,
        "gates slot": partial(_slot, True),
        "gates slot without barrier": partial(_slot, False),
        "gates turned": _turned,
    }


if __name__ == "__main__":
    sys.exit(inspect.main(shipped={"bad": shipped()}))
