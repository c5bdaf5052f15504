"""The tail of a synthesis block in one launch: second layer, colours, and their sum with the enlarged image.

    y = clamp(gain lrelu(w x + b)),   image' = clamp(v y + b') + enlarge(image)

A program holds a run of pixels with all channels of y, so that the colours are a second product of numbers that are in
registers. The small image is read where it is needed: two rows and two columns of it lie around every pixel. Without
gradients and without a block behind, y is never written.

Bytes per pixel, for C channels of s bytes: forward C s for x, as much for y if it is kept, and 15 for the image. The
backward reads the gradient of the image and y, or x to make y again, and writes the gradient of the layer's sum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.refine_to_rgb import SLOPE, refine_rows_ref, taps_for
from .common import OPERANDS, differentiable_gradients, dot, launch, leaky_relu, register, to_operand
from .gate import scale_of
from .linear import launch_dgrad, launch_wgrad
from .modulated_layer import operand_name
from .upfirdn2d import adjoint_padding, upfirdn2d
from .upsample_block_forward import rounded

COLOURS = 4  # most that the kernels take
SIDE = 16  # of the product that makes colours: tensor cores take no less


@triton.jit
def _features(
    x_ptr, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
    I: tl.constexpr, C: tl.constexpr, CLAMPED: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """All channels of y for a run of pixels, operand type [BLOCK_M, BLOCK_C]; zero beyond C."""
    offs_k, offs_c = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_C)
    mask_c = offs_c < C
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for k in tl.range(0, I, BLOCK_K, num_stages=STAGES):
        mask_x, mask_w = mask_m[:, None], mask_c[None, :]
        if I % BLOCK_K != 0:
            mask_k = k + offs_k < I
            mask_x, mask_w = mask_x & mask_k[None, :], mask_w & mask_k[:, None]
        x = tl.load(x_ptr + offs_m[:, None] * I + (k + offs_k)[None, :], mask=mask_x, other=0.0)
        w = tl.load(weight_ptr + offs_c[None, :] * I + (k + offs_k)[:, None], mask=mask_w, other=0.0)
        acc = dot(x, w, acc, INPUT_PRECISION)
    acc += tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0)[None, :]
    acc = leaky_relu(acc, slope)
    if CLAMPED:
        acc = _clamped(acc, clamp)
    return to_operand(acc, DT)


@triton.jit
def _clamped(z, clamp):
    return tl.where(z > clamp, clamp, tl.where(z < -clamp, -clamp, z))  # lets NaN through


@triton.jit
def _colours(
    y, weight_ptr, bias_ptr, C: tl.constexpr, O: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    BLOCK_C: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """v y + b' [BLOCK_M, SIDE] float32, zero beyond O."""
    offs_c, offs_o = tl.arange(0, BLOCK_C), tl.arange(0, SIDE)
    mask = (offs_o < O)[None, :] & (offs_c < C)[:, None]
    weight = tl.load(weight_ptr + offs_o[None, :] * C + offs_c[:, None], mask=mask, other=0.0)
    z = dot(y, weight, tl.zeros([y.shape[0], SIDE], tl.float32), INPUT_PRECISION)
    return z + tl.load(bias_ptr + offs_o, mask=offs_o < O, other=0.0)[None, :]


@triton.jit
def _between(r, size, BILINEAR: tl.constexpr):
    """The row y of the small image that row r of the large one follows, and the weight of row y + 1.

    Either of the two may lie outside, where the image is zero.
    """
    if BILINEAR:  # corners aligned; reckoned in integers, so that the weight is rounded once only
        y = r * (size - 1) // (2 * size - 1)
        weight = (r * (size - 1) - y * (2 * size - 1)).to(tl.float32) / (2 * size - 1)
    else:  # the taps 1, 3, 3, 1 over 4, at every second pixel
        y = (r + 1) // 2 - 1
        weight = tl.where(r % 2 == 0, 0.75, 0.25)
    return y, weight


@triton.jit
def _enlarged(image_ptr, y, x, wy, wx, H, W, mask):
    """One colour of the small image between (y, x) and (y + 1, x + 1)."""
    up, down, left, right = mask & (y >= 0), mask & (y + 1 < H), x >= 0, x + 1 < W
    image_ptr += y * W + x
    top = (1.0 - wx) * tl.load(image_ptr, mask=up & left, other=0.0)
    top += wx * tl.load(image_ptr + 1, mask=up & right, other=0.0)
    bottom = (1.0 - wx) * tl.load(image_ptr + W, mask=down & left, other=0.0)
    bottom += wx * tl.load(image_ptr + W + 1, mask=down & right, other=0.0)
    return (1.0 - wy) * top + wy * bottom


@triton.jit
def _forward_kernel(
    y_ptr, out_ptr, x_ptr, weight_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr, image_ptr,
    repeat, P, H, W, tiles, slope, clamp,
    KEEP: tl.constexpr, IMAGE: tl.constexpr, TWICE: tl.constexpr, BILINEAR: tl.constexpr, CLAMPED: tl.constexpr,
    I: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * BLOCK_M  # whole images are stepped over in 64 bit, pixels of one fit 32
    offs_m, offs_c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    mask_m = first + offs_m < P
    weight_ptr += n // repeat * C * I
    rgb_weight_ptr += n // repeat * O * C
    y = _features(
        x_ptr + (n * P + first) * I, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
        I, C, CLAMPED, DT, INPUT_PRECISION, STAGES, BLOCK_M, BLOCK_K, BLOCK_C,
    )  # fmt: skip
    if KEEP:
        y_ptr += (n * P + first) * C
        tl.store(y_ptr + offs_m[:, None] * C + offs_c[None, :], y, mask=mask_m[:, None] & (offs_c < C)[None, :])
    rgb = _colours(y, rgb_weight_ptr, rgb_bias_ptr, C, O, INPUT_PRECISION, BLOCK_C, SIDE)
    if CLAMPED:
        rgb = _clamped(rgb, clamp)
    offs_p = first + offs_m
    offs_o = tl.arange(0, SIDE)[None, :]
    if TWICE:
        row, wy = _between(offs_p // W, H // 2, BILINEAR)
        column, wx = _between(offs_p % W, W // 2, BILINEAR)
    for o in tl.static_range(O):  # one colour at a time: a number per thread, neighbours side by side
        z = tl.sum(tl.where(offs_o == o, rgb, 0.0), axis=1)
        plane = n * O + o
        if TWICE:
            z += _enlarged(image_ptr + plane * (P // 4), row, column, wy, wx, H // 2, W // 2, mask_m)
        elif IMAGE:
            z += tl.load(image_ptr + plane * P + offs_p, mask=mask_m, other=0.0)
        tl.store(out_ptr + plane * P + offs_p, z, mask=mask_m)


@triton.jit
def _backward_kernel(
    grad_z_ptr, grad_rgb_weight_ptr, grad_rgb_bias_ptr, grad_y_ptr, grad_out_ptr,
    x_ptr, weight_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr, scale_ptr,
    repeat, P, tiles, slope, clamp, limit,
    GRAD_Y: tl.constexpr, CLAMPED: tl.constexpr,
    I: tl.constexpr, C: tl.constexpr, O: tl.constexpr, DT: tl.constexpr, INPUT_PRECISION: tl.constexpr,  # noqa: E741
    STAGES: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the layer's sum, times the scale, and a share of those of rgb's weight and bias."""
    n = (tl.program_id(0) // tiles).to(tl.int64)
    offs_m, offs_c, offs_o = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C), tl.arange(0, SIDE)
    mask_c, mask_o = offs_c < C, offs_o < O
    weight_ptr += n // repeat * C * I
    rgb_weight_ptr += n // repeat * O * C
    scale = tl.load(scale_ptr)
    first = tl.program_id(0) % tiles * BLOCK_M
    mask_m = first + offs_m < P
    row = n * P + first
    offs, mask = offs_m[:, None] * C + offs_c[None, :], mask_m[:, None] & mask_c[None, :]
    y = _features(
        x_ptr + row * I, weight_ptr, bias_ptr, offs_m, mask_m, slope, clamp,
        I, C, CLAMPED, DT, INPUT_PRECISION, STAGES, BLOCK_M, BLOCK_K, BLOCK_C,
    )  # fmt: skip
    grad_rgb = tl.zeros([BLOCK_M, SIDE], tl.float32)
    for o in tl.static_range(O):
        g = tl.load(grad_out_ptr + (n * O + o) * P + first + offs_m, mask=mask_m, other=0.0)
        grad_rgb = tl.where((offs_o == o)[None, :], g[:, None], grad_rgb)
    if CLAMPED:
        rgb = _colours(y, rgb_weight_ptr, rgb_bias_ptr, C, O, INPUT_PRECISION, BLOCK_C, SIDE)
        grad_rgb = tl.where(tl.abs(rgb) < clamp, grad_rgb, 0.0)
    part = tl.program_id(0).to(tl.int64) * O
    tl.store(grad_rgb_bias_ptr + part + offs_o, tl.sum(grad_rgb, axis=0), mask=mask_o)
    operand = to_operand(grad_rgb * scale, DT)
    grad_weight = dot(tl.trans(y), operand, tl.zeros([BLOCK_C, SIDE], tl.float32), INPUT_PRECISION) / scale
    offs_part = (part + offs_o)[None, :] * C + offs_c[:, None]
    tl.store(grad_rgb_weight_ptr + offs_part, grad_weight, mask=mask_o[None, :] & mask_c[:, None])
    rgb_weight = tl.load(
        rgb_weight_ptr + offs_o[:, None] * C + offs_c[None, :], mask=mask_o[:, None] & mask_c[None, :], other=0.0
    )
    grad = dot(operand, rgb_weight, tl.zeros([BLOCK_M, BLOCK_C], tl.float32), INPUT_PRECISION)
    if GRAD_Y:
        grad += tl.load(grad_y_ptr + row * C + offs, mask=mask, other=0.0).to(tl.float32) * scale
    out = y.to(tl.float32)
    grad = grad * tl.where(out > 0, 1.0, slope)
    if CLAMPED:
        grad = tl.where(tl.abs(out) < limit, grad, 0.0)
    tl.store(grad_z_ptr + row * C + offs, to_operand(grad, DT), mask=mask)


class _Tile(NamedTuple):
    """Pixels and input channels that a program holds at a time."""

    pixels: int
    terms: int
    num_warps: int
    num_stages: int


def covered(x: torch.dtype, I: int, C: int, O: int) -> bool:  # noqa: E741
    """Whether all channels of y and their gradients fit the registers of one program."""
    return max(I, C) <= (256 if x.itemsize == 2 else 64) and 1 <= O <= COLOURS


def _tile(C: int, I: int, precision: str, backward: bool) -> _Tile:  # noqa: E741
    width, terms = triton.next_power_of_2(C), max(triton.next_power_of_2(I), 16)
    if precision == "fp32":  # no tensor cores: many registers
        return _Tile(32 if width > 32 else 64, 16, 4, 2)
    if backward:
        return _Tile(32 if width > 128 else 64, min(terms, 32), 4 if width <= 64 else 8, 2)
    if width > 128:
        return _Tile(64, min(terms, 32), 8, 3)
    if precision == "tf32":
        return _Tile(128 if width <= 32 else 64, min(terms, 32), 4, 3)
    return _Tile(128, min(terms, 64), 4 if width <= 32 else 8, 3)


class Tail(NamedTuple):
    """What a launch is told beside tensors."""

    gain: float
    clamp: float | None
    precision: str

    def weights(self, weight: Tensor, bias: Tensor, rgb_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both weights in the operand type; the gain on weight and bias, lrelu being homogeneous."""
        storage = OPERANDS[self.precision].storage
        return (
            (weight * self.gain).to(storage).contiguous(),
            (bias.float() * self.gain).contiguous(),
            rgb_weight.to(storage).contiguous(),
        )


def _constants(x: Tensor, C: int, O: int, how: Tail, backward: bool) -> dict[str, Any]:  # noqa: E741
    I = x.shape[3]  # noqa: E741
    tile = _tile(C, I, how.precision, backward)
    return {
        "slope": SLOPE,
        "clamp": how.clamp or 0.0,
        "CLAMPED": how.clamp is not None,
        "I": I,
        "C": C,
        "O": O,
        "DT": OPERANDS[how.precision].triton,
        "INPUT_PRECISION": OPERANDS[how.precision].input_precision,
        "STAGES": tile.num_stages,
        "SIDE": SIDE,
        "BLOCK_M": tile.pixels,
        "BLOCK_K": tile.terms,
        "BLOCK_C": max(triton.next_power_of_2(C), SIDE),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def launch_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rgb_weight: Tensor,
    rgb_bias: Tensor,
    image: Tensor | None,
    enlarge: str | None,
    keep: bool,
    how: Tail,
) -> tuple[Tensor, Tensor]:
    """y [N, H, W, C], [0] unless it is to be kept, and the image [N, O, H, W].

    Args:
        x: [N, H, W, I], contiguous.  weight, bias, rgb_weight: by ``Tail.weights``, [B, C, I], [C], [B, O, C].
        rgb_bias: [O] float32.  image: float32, contiguous.
    """
    (N, H, W, _), (B, O, C) = x.shape, rgb_weight.shape  # noqa: E741
    y = torch.empty((N, H, W, C) if keep else (0,), dtype=x.dtype, device=x.device)
    out = torch.empty(N, O, H, W, dtype=torch.float32, device=x.device)
    constants = _constants(x, C, O, how, backward=False)
    tiles = triton.cdiv(H * W, constants["BLOCK_M"])
    launch(
        _forward_kernel,
        (N * tiles,),
        y_ptr=y if keep else None,
        out_ptr=out,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        rgb_weight_ptr=rgb_weight,
        rgb_bias_ptr=rgb_bias,
        image_ptr=image,
        repeat=N // max(B, 1),
        P=H * W,
        H=H,
        W=W,
        tiles=tiles,
        KEEP=keep,
        IMAGE=image is not None,
        TWICE=image is not None and enlarge is not None,
        BILINEAR=enlarge == "bilinear",
        **constants,
    )
    return y, out


class Gradients(NamedTuple):
    """What ``launch_backward`` finds."""

    sum: Tensor  # [N, H, W, C] operand type, times the scale
    rgb_weight: Tensor  # [B, O, C] float32
    rgb_bias: Tensor  # [O] float32


def launch_backward(
    grad_y: Tensor | None,
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rgb_weight: Tensor,
    rgb_bias: Tensor,
    scale: Tensor,
    how: Tail,
) -> Gradients:
    """Gradients of the layer's sum and of the colours' weights.

    Args:
        grad_y: [N, H, W, C], dtype of x, or None.  grad_out: [N, O, H, W] float32.  Both contiguous.
        scale: [] float32.  The others: as in the forward.
    """
    (N, H, W, _), (B, O, C) = x.shape, rgb_weight.shape  # noqa: E741
    constants = _constants(x, C, O, how, backward=True)
    tiles = triton.cdiv(H * W, constants["BLOCK_M"])
    grad_z = torch.empty(N, H, W, C, dtype=OPERANDS[how.precision].storage, device=x.device)
    part_weight = torch.empty(N * tiles, O, C, dtype=torch.float32, device=x.device)
    part_bias = torch.empty(N * tiles, O, dtype=torch.float32, device=x.device)
    launch(
        _backward_kernel,
        (N * tiles,),
        grad_z_ptr=grad_z,
        grad_rgb_weight_ptr=part_weight,
        grad_rgb_bias_ptr=part_bias,
        grad_y_ptr=grad_y,
        grad_out_ptr=grad_out,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        rgb_weight_ptr=rgb_weight,
        rgb_bias_ptr=rgb_bias,
        scale_ptr=scale,
        repeat=N // max(B, 1),
        P=H * W,
        tiles=tiles,
        limit=rounded(how.clamp, x.dtype),
        GRAD_Y=grad_y is not None,
        **constants,
    )
    return Gradients(grad_z, part_weight.view(B, N // max(B, 1) * tiles, O, C).sum(1), part_bias.sum(0))


def _scale(grad_y: Tensor | None, grad_out: Tensor, rgb_weight: Tensor, precision: str) -> Tensor:
    """[] float32: a power of two that brings gradients of y and of the colours into the range of float16, else 1."""
    if precision != "fp16" or grad_out.numel() == 0:
        return torch.ones((), dtype=torch.float32, device=grad_out.device)
    most = rgb_weight.abs().sum(1).amax().clamp(min=1.0)  # what a gradient of 1 in every colour makes of y's
    peak = most * torch.linalg.vector_norm(grad_out, torch.inf)
    if grad_y is not None:
        peak = peak + torch.linalg.vector_norm(grad_y, torch.inf, dtype=torch.float32)
    return scale_of(peak)


def _refine_rows(
    x: Tensor, weight: Tensor, bias: Tensor, rgb_weight: Tensor, rgb_bias: Tensor, image: Tensor | None,
    enlarge: str | None, keep: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x [N, H, W, I] contiguous, weight [B, C, I] and rgb_weight [B, O, C] float32; y [N, H, W, C], or [0]."""
    how = Tail(gain, clamp, operand_name(x, allow_tf32))
    w, b, v = how.weights(weight, bias, rgb_weight)
    image = None if image is None else image.contiguous()
    return launch_forward(x.contiguous(), w, b, v, rgb_bias.float().contiguous(), image, enlarge, keep, how)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor, rgb_weight: Tensor, rgb_bias: Tensor, image: Tensor | None,
    enlarge: str | None, keep: bool, gain: float, clamp: float | None, allow_tf32: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    N, H, W, _ = x.shape
    C, O = weight.shape[1], rgb_weight.shape[1]  # noqa: E741
    return x.new_empty((N, H, W, C) if keep else (0,)), x.new_empty(N, O, H, W, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.enlarge, ctx.keep, ctx.gain, ctx.clamp, ctx.allow_tf32 = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    nothing = (None,) * 5
    if torch.is_grad_enabled():
        plain = partial(refine_rows_ref, enlarge=ctx.enlarge, gain=ctx.gain, clamp=ctx.clamp)
        return *differentiable_gradients(plain, inputs, (grad_y if ctx.keep else None, grad_out)), *nothing
    x, weight, bias, rgb_weight, rgb_bias, _ = inputs
    (N, H, W, I), (B, O, C) = x.shape, rgb_weight.shape  # noqa: E741
    x, grad_y = x.contiguous(), grad_y.contiguous() if ctx.keep and grad_y is not None else None
    grad_out = x.new_zeros(N, O, H, W, dtype=torch.float32) if grad_out is None else grad_out.contiguous()
    how = Tail(ctx.gain, ctx.clamp, operand_name(x, ctx.allow_tf32))
    w, b, v = how.weights(weight, bias, rgb_weight)
    scale = _scale(grad_y, grad_out, rgb_weight, how.precision)
    grads = launch_backward(grad_y, grad_out, x, w, b, v, rgb_bias.float().contiguous(), scale, how)
    rows = B, N // max(B, 1) * H * W
    grad_x = grad_weight = grad_bias = grad_image = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.empty_like(x)
        launch_dgrad(
            grad_x.view(*rows, I), grads.sum.view(*rows, C), w, None, slope=1.0, precision=how.precision,
            factor=1 / scale,
        )  # fmt: skip
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        grad_weight, per_image = launch_wgrad(
            grads.sum.view(*rows, C), x.view(*rows, I), precision=how.precision, factor=ctx.gain / scale
        )
        grad_bias = per_image.sum(0).to(bias.dtype)
    if ctx.needs_input_grad[5]:
        grad_image = _shrunk(grad_out, ctx.enlarge)
    return grad_x, grad_weight, grad_bias, grads.rgb_weight, grads.rgb_bias.to(rgb_bias.dtype), grad_image, *nothing


def _shrunk(grad: Tensor, enlarge: str | None) -> Tensor:
    """The gradient of the small image, from that of the enlarged one."""
    if enlarge is None:
        return grad.clone()
    N, O, H, W = grad.shape  # noqa: E741
    if enlarge == "bilinear":
        size = [N, O, H // 2, W // 2]
        small: Tensor = torch.ops.aten.upsample_bilinear2d_backward(grad, [H, W], size, True)
        return small
    taps = taps_for(grad)
    up, down, pads = (2, 2), (1, 1), (2, 1, 2, 1)
    back = adjoint_padding((H // 2, W // 2), (H, W), taps, up, down, pads)
    small = upfirdn2d(grad, taps, down, up, back, True, 4.0)
    return small


refine_rows = register(_refine_rows, fake=_fake, save=_save, backward=_backward)


def shipped() -> dict[str, Callable[[], None]]:
    """The blocks that are covered, forward and backward, with a block behind them and as the last one."""

    def run(C: int, edge: int, dtype: torch.dtype, enlarge: str | None, keep: bool, allow_tf32: bool) -> None:
        with torch.device("meta"):
            x, image = torch.empty(4, edge, edge, C, dtype=dtype), torch.empty(4, 3, edge // 2, edge // 2)
            image = torch.empty(4, 3, edge, edge) if enlarge is None else image
            weight, bias = torch.empty(4, C, C), torch.empty(C)
            rgb_weight, rgb_bias, scale = torch.empty(4, 3, C), torch.empty(3), torch.empty(())
        y, out = _refine_rows(x, weight, bias, rgb_weight, rgb_bias, image, enlarge, keep, 2**0.5, 256.0, allow_tf32)
        how = Tail(2**0.5, 256.0, operand_name(x, allow_tf32))
        w, b, v = how.weights(weight, bias, rgb_weight)
        launch_backward(y if keep else None, out, x, w, b, v, rgb_bias, scale, how)

    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    stages = ((256, 128), (128, 256), (64, 512), (32, 1024))
    cases: list[tuple[int, int, torch.dtype, str | None, bool, bool]]
    cases = [(*stage, half, "fir", keep, False) for stage in stages for keep in (True, False)]
    cases += [(32, 1024, half, "bilinear", False, False), (32, 1024, half, None, True, False)]
    cases += [(64, 512, brain, "fir", True, False), (64, 512, single, "fir", False, False)]
    cases += [(32, 1024, single, "fir", True, False), (64, 512, single, "fir", True, True)]
    cases += [(32, 1024, single, "fir", False, True)]
    named: dict[str, Callable[[], None]] = {}
    for C, edge, dtype, enlarge, keep, tf32 in cases:
        notes = [f" {enlarge or 'no enlarging'}"] * (enlarge != "fir") + [" tf32"] * tf32 + [" last"] * (not keep)
        named[f"block {C} at {edge} px {str(dtype)[6:]}{''.join(notes)}"] = partial(
            run, C, edge, dtype, enlarge, keep, tf32
        )
    return named
