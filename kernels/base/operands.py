"""Formats of matrix operands, and the device functions that every kernel may use."""

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.target_info import is_cuda

# Triton decides at decoration whether kernels are compiled or interpreted, so this is constant within a process.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
PI = tl.constexpr(3.141592653589793)
ROUND_TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds a float32 to an integer


class Operands(NamedTuple):
    """Type and product mode of matrix operands; accumulators are always float32."""

    storage: torch.dtype
    triton: tl.dtype
    input_precision: str


OPERANDS: dict[str, Operands] = {
    "fp16": Operands(torch.float16, tl.float16, "ieee"),
    "bf16": Operands(torch.bfloat16, tl.bfloat16, "ieee"),
    "tf32": Operands(torch.float32, tl.float32, "tf32"),
    "fp32": Operands(torch.float32, tl.float32, "ieee"),
}


@triton.jit
def dot(a, b, acc, INPUT_PRECISION: tl.constexpr):
    """acc + a @ b in float32."""
    if INTERPRETED and a.dtype == tl.bfloat16:  # the interpreter stores bfloat16 as integers and would multiply those
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc, input_precision=INPUT_PRECISION)


@triton.jit
def to_operand(x, DT: tl.constexpr):
    """Round a float32 tile to the operand type, to nearest also where the interpreter would truncate."""
    if INTERPRETED and tl.bfloat16 == DT:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DT)


@triton.jit
def leaky_relu(z, slope):
    """max(z, slope z), for slopes from 0 to 1."""
    return tl.maximum(z, slope * z)


@triton.jit
def expm1(v):
    """exp(v) - 1 for v <= 0, without cancellation near zero."""
    series = 1 + v / 2 * (1 + v / 3 * (1 + v / 4 * (1 + v / 5 * (1 + v / 6 * (1 + v / 7)))))
    return tl.where(v > -0.35, v * series, tl.exp(v) - 1.0)


@triton.jit
def softplus(v):
    """max(v, 0) + log(1 + z) with z = exp(-|v|) in 0 .. 1, the logarithm as 2 artanh(z / (2 + z))."""
    z = tl.exp(-tl.abs(v))
    s = z / (2.0 + z)
    u = s * s
    series = 1 + u * (1 / 3 + u * (1 / 5 + u * (1 / 7 + u * (1 / 9 + u * (1 / 11 + u * (1 / 13 + u / 15))))))
    return tl.where(v < 0, 0.0, v) + 2.0 * s * series


@triton.jit
def sin_cos_pi(t):
    """sin(pi t), cos(pi t) of a float32 tile, error below 1e-6: t is reduced to [-1, 1] exactly, then one MUFU each.

    Other targets than CUDA have no such instruction under this name: they take Triton's own functions.
    """
    period = (0.5 * t + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
    angle = tl.fma(period, -2.0, t) * PI
    if not INTERPRETED and is_cuda():
        return libdevice.fast_sinf(angle), libdevice.fast_cosf(angle)
    return tl.sin(angle), tl.cos(angle)
