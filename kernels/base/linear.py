"""Linear layers over the points of B images: product with bias and leaky ReLU, gradients of input, weight and bias.

    out = act(x W^T + b),   dx = (dz W) act'(x),   dW = dz^T x,   db = sum dz

Three products of any size; sides shorter than a tile are masked. A tile of rows stays with one program for the whole
sum, so activations are read once per tile of columns and the small weights come from L2. The weight gradient sums over
all points: each program keeps a tile of it in registers while it walks down its share of the rows, and the shares are
added in a fixed order, so the result is the same every time and on every device.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import compute_capability, launch
from .operands import OPERANDS, dot, expm1, leaky_relu, softplus, to_operand

PROGRAMS = 132  # per weight gradient; fixed, so that results do not depend on the device


class ProductTile(NamedTuple):
    """Rows and columns of the result, and terms of the sum, that a program holds at a time."""

    rows: int
    columns: int
    terms: int
    num_warps: int
    num_stages: int


@triton.jit
def as_operand(x, DT: tl.constexpr):
    """A loaded tile in the operand type; unchanged if it has that type, so that the product reads it in place."""
    if x.dtype == DT:
        return x
    return to_operand(x.to(tl.float32), DT)


@triton.jit
def _rows_kernel(
    out_ptr, x_ptr, weight_ptr, bias_ptr, gate_ptr, factor_ptr,
    stride_weight_b, stride_bias_b, N, K, C, tiles_n, tiles_c, slope, clamp,
    TURNED: tl.constexpr, BIAS: tl.constexpr, ACTIVATE: tl.constexpr, CLAMPED: tl.constexpr,
    GATED: tl.constexpr, SOFTPLUS: tl.constexpr, SCALED: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_C: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[n, c] = sum_k x[n, k] weight[c, k], or weight[k, c] if TURNED."""
    K = K // ALIGN_K * ALIGN_K  # a hint to the compiler: loads as wide as the size allows
    C = C // ALIGN_C * ALIGN_C
    pid = tl.program_id(0)
    pid_c = pid % tiles_c  # tiles of the same rows are consecutive: x is read from memory once, then from L2
    pid_n = pid // tiles_c % tiles_n
    b = (pid // tiles_c // tiles_n).to(tl.int64)
    first = pid_n.to(tl.int64) * BLOCK_N  # row offsets in 64 bits, offsets within a tile in 32
    offs_n, offs_k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_n, mask_c = first + offs_n < N, offs_c < C
    x_ptr += (b * N + first) * K
    weight_ptr += b * stride_weight_b
    acc = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        mask_k = k + offs_k < K
        x = tl.load(
            x_ptr + offs_n[:, None] * K + (k + offs_k)[None, :], mask=mask_n[:, None] & mask_k[None, :], other=0.0
        )
        if TURNED:
            offs_w = (k + offs_k)[:, None] * C + offs_c[None, :]
            weight = tl.load(weight_ptr + offs_w, mask=mask_k[:, None] & mask_c[None, :], other=0.0)
        else:
            offs_w = offs_c[:, None] * K + (k + offs_k)[None, :]
            weight = tl.trans(tl.load(weight_ptr + offs_w, mask=mask_c[:, None] & mask_k[None, :], other=0.0))
        acc = dot(as_operand(x, DT), weight, acc, INPUT_PRECISION)
    if BIAS:
        acc += tl.load(bias_ptr + b * stride_bias_b + offs_c, mask=mask_c, other=0.0)[None, :]
    if ACTIVATE:
        acc = softplus(acc) if SOFTPLUS else leaky_relu(acc, slope)
    if CLAMPED:
        acc = tl.where(acc > clamp, clamp, tl.where(acc < -clamp, -clamp, acc))  # lets NaN through
    offs = offs_n[:, None] * C + offs_c[None, :]
    mask = mask_n[:, None] & mask_c[None, :]
    base = (b * N + first) * C
    if GATED:
        gate = tl.load(gate_ptr + base + offs, mask=mask, other=0.0).to(tl.float32)
        acc = acc * (-expm1(-gate) if SOFTPLUS else tl.where(gate > 0, 1.0, slope))
    if SCALED:
        acc = acc * tl.load(factor_ptr)
    tl.store(out_ptr + base + offs, to_operand(acc, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _weight_kernel(
    grad_weight_ptr, grad_bias_ptr, grad_z_ptr, x_ptr, factor_ptr,
    stride_part, B, N, O, I, tiles_o, tiles_i, tiles_n,  # noqa: E741
    SCALED: tl.constexpr, ALIGN_O: tl.constexpr, ALIGN_I: tl.constexpr,
    DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    O = O // ALIGN_O * ALIGN_O  # noqa: E741
    I = I // ALIGN_I * ALIGN_I  # noqa: E741
    pid = tl.program_id(0)
    pid_i, pid_o = pid % tiles_i, pid // tiles_i % tiles_o
    image = pid // tiles_i // tiles_o
    share, b = image // B, (image % B).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N)
    offs_o = pid_o * BLOCK_O + tl.arange(0, BLOCK_O)
    offs_i = pid_i * BLOCK_I + tl.arange(0, BLOCK_I)
    mask_o, mask_i = offs_o < O, offs_i < I
    acc = tl.zeros([BLOCK_O, BLOCK_I], tl.float32)
    acc_bias = tl.zeros([BLOCK_O], tl.float32)
    for tile in tl.range(0, tiles_n, num_stages=STAGES):
        first = (share * tiles_n + tile).to(tl.int64) * BLOCK_N
        mask_n = (first + offs_n < N)[:, None]
        row = b * N + first
        grad_z = tl.load(
            grad_z_ptr + row * O + offs_n[:, None] * O + offs_o[None, :], mask=mask_n & mask_o[None, :], other=0.0
        )
        x = tl.load(x_ptr + row * I + offs_n[:, None] * I + offs_i[None, :], mask=mask_n & mask_i[None, :], other=0.0)
        acc = dot(tl.trans(as_operand(grad_z, DT)), as_operand(x, DT), acc, INPUT_PRECISION)
        acc_bias += tl.sum(grad_z.to(tl.float32), axis=0)
    if SCALED:
        factor = tl.load(factor_ptr)
        acc, acc_bias = acc * factor, acc_bias * factor
    offs = offs_o.to(tl.int64)[:, None] * I + offs_i[None, :]
    part = share.to(tl.int64) * stride_part
    tl.store(grad_weight_ptr + part + b * O * I + offs, acc, mask=mask_o[:, None] & mask_i[None, :])
    if pid_i == 0:
        tl.store(grad_bias_ptr + part + b * O + offs_o, acc_bias, mask=mask_o)


def _side(size: int, most: int, least: int = 16) -> int:
    """The least power of two that covers ``size``, at most ``most``; at least 16, the least side of tensor cores."""
    return max(least, min(triton.next_power_of_2(max(size, 1)), most))


def _align(size: int) -> int:
    """The largest power of two up to 16 that divides ``size``."""
    return max(min(size & -size, 16), 1)


def rows_tile(rows: int, terms: int, columns: int, x: torch.dtype, precision: str) -> ProductTile:
    """Tile of a product with an output row per input row; stages and registers fit every architecture from sm_80 on."""
    if precision == "fp32":  # no tensor cores: many registers
        return ProductTile(_side(rows, 64), _side(columns, 64), 16, 8, 2)
    wide = torch.float32 in (x, OPERANDS[precision].storage)
    block = _side(rows, 128)
    return ProductTile(block, _side(columns, 128), _side(terms, 32 if wide else 64), 8 if block == 128 else 4, 3)


def _stages(stages: int, x: Tensor, precision: str) -> int:
    """One where sm_90 would have the left operand in registers: see ``pending_operand`` of ``faults``."""
    converted = x.dtype != OPERANDS[precision].storage
    return 1 if converted and compute_capability(x.device) // 10 == 9 else stages


def weight_tile(out_width: int, in_width: int, wide: bool, precision: str) -> ProductTile:
    """Tile of a product that sums over the rows; ``wide`` if its inputs have four bytes per element."""
    if precision == "fp32":
        return ProductTile(_side(out_width, 64), _side(in_width, 64), 32, 8, 2)
    block_o, block_i = _side(out_width, 128), _side(in_width, 128)
    return ProductTile(block_o, block_i, 32 if wide else 64, 8 if block_o * block_i > 8192 else 4, 3)


def shares(batch: int, rows: int, tiles: int, block: int) -> tuple[int, int]:
    """(number of shares of an image's rows, blocks of rows per share); depends on sizes only."""
    blocks = triton.cdiv(rows, block)
    count = max(min(PROGRAMS // max(batch * tiles, 1), blocks), 1)
    per_share = triton.cdiv(blocks, count)
    return (triton.cdiv(blocks, per_share) if blocks else 1), per_share


def launch_linear(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    slope: float | None,
    precision: str,
    clamp: float | None = None,
    softplus: bool = False,
) -> None:
    """Fill out [B, N, O] with act(x weight^T + bias).

    Args:
        x: [B, N, I] any float type up to 32 bit; rounded to the operand type.
        weight: [B, O, I], or [1, O, I] shared by the images, operand type.
        bias: [B, O] or [1, O] float32, or None.
        slope: of the leaky ReLU, 0..1; None leaves the sum as it is.
        clamp: bound on the magnitude of the result, None = none.
        softplus: instead of the leaky ReLU, where ``slope`` is not None.
    """
    _launch_rows(out, x, weight, precision, bias=bias, slope=slope, clamp=clamp, softplus=softplus)


def launch_dgrad(
    grad_x: Tensor,
    grad_z: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    *,
    slope: float,
    precision: str,
    factor: Tensor | None = None,
    softplus: bool = False,
) -> None:
    """Fill grad_x [B, N, I] with (grad_z weight) times ``slope`` where the layer's input ``gate`` is not positive.

    Args:
        grad_z: [B, N, O] gradient of the layer's sum.  weight: as in the forward.
        gate: [B, N, I] the layer's input, activated; None if it comes from no activation.
        factor: [] float32 that multiplies the result, or None.
        softplus: ``gate`` comes from a softplus, whose derivative replaces ``slope``.
    """
    _launch_rows(
        grad_x, grad_z, weight, precision, turned=True, gate=gate, slope=slope, factor=factor, softplus=softplus
    )


def _launch_rows(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    precision: str,
    *,
    turned: bool = False,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    slope: float | None = None,
    clamp: float | None = None,
    factor: Tensor | None = None,
    softplus: bool = False,
) -> None:
    B, N, K = x.shape
    C = out.shape[2]
    tile = rows_tile(N, K, C, x.dtype, precision)
    tiles_n, tiles_c = triton.cdiv(N, tile.rows), triton.cdiv(C, tile.columns)
    stages = _stages(tile.num_stages, x, precision)
    assert out.is_contiguous(), "the kernel writes rows one after the other"
    launch(
        _rows_kernel,
        (B * tiles_n * tiles_c,),
        out_ptr=out,
        x_ptr=x.contiguous(),
        weight_ptr=weight,
        bias_ptr=bias,
        gate_ptr=None if gate is None else gate.contiguous(),
        factor_ptr=factor,
        stride_weight_b=_stride(weight),
        stride_bias_b=0 if bias is None else _stride(bias),
        N=N,
        K=K,
        C=C,
        tiles_n=tiles_n,
        tiles_c=tiles_c,
        slope=1.0 if slope is None else slope,
        clamp=0.0 if clamp is None else float(clamp),
        TURNED=turned,
        BIAS=bias is not None,
        ACTIVATE=not turned and slope is not None,
        CLAMPED=clamp is not None,
        GATED=gate is not None,
        SOFTPLUS=softplus,
        SCALED=factor is not None,
        ALIGN_K=_align(K),
        ALIGN_C=_align(C),
        DT=OPERANDS[precision].triton,
        INPUT_PRECISION=OPERANDS[precision].input_precision,
        STAGES=stages,
        BLOCK_N=tile.rows,
        BLOCK_C=tile.columns,
        BLOCK_K=tile.terms,
        num_warps=tile.num_warps,
        num_stages=stages,
    )


def launch_wgrad(grad_z: Tensor, x: Tensor, *, precision: str, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """grad_z^T x [B, O, I] and the sum of grad_z over the rows [B, O], float32, contiguous.

    Args:
        grad_z: [B, N, O] gradient of the layer's sum.  x: [B, N, I] the layer's input; float types up to 32 bit.
        factor: [] float32 that multiplies both, or None.
    """
    (B, N, O), I = grad_z.shape, x.shape[2]  # noqa: E741
    tile = weight_tile(O, I, torch.float32 in (grad_z.dtype, x.dtype), precision)
    tiles_o, tiles_i = triton.cdiv(O, tile.rows), max(triton.cdiv(I, tile.columns), 1)
    count, blocks = shares(B, N, tiles_o * tiles_i, tile.terms)
    part = torch.empty(count, B * O * (I + 1), dtype=torch.float32, device=x.device)
    launch(
        _weight_kernel,
        (count * B * tiles_o * tiles_i,),
        grad_weight_ptr=part,
        grad_bias_ptr=part[:, B * O * I :],
        grad_z_ptr=grad_z.contiguous(),
        x_ptr=x.contiguous(),
        factor_ptr=factor,
        stride_part=part.stride(0),
        B=B,
        N=N,
        O=O,
        I=I,
        tiles_o=tiles_o,
        tiles_i=tiles_i,
        tiles_n=blocks,
        SCALED=factor is not None,
        ALIGN_O=_align(O),
        ALIGN_I=_align(I),
        DT=OPERANDS[precision].triton,
        INPUT_PRECISION=OPERANDS[precision].input_precision,
        STAGES=tile.num_stages,
        BLOCK_N=tile.terms,
        BLOCK_O=tile.rows,
        BLOCK_I=tile.columns,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    whole = part[0] if count == 1 else part.sum(0)
    return whole[: B * O * I].view(B, O, I), whole[B * O * I :].view(B, O)


def _stride(t: Tensor) -> int:
    """Stride between images, 0 for a tensor that the images share."""
    assert t[0].is_contiguous() if t.shape[0] else True, "images apart, rows one after the other"
    return 0 if t.shape[0] == 1 else t.stride(0)
