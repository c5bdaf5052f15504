"""A radiance field's trunk as one kernel: encode, all layers, density; activations never leave the chip.

    a_0 = lrelu(W_s sin(2^i pi p) + W_c cos(2^i pi p) + b_0),  a_l = lrelu(W_l a_{l-1} + b_l),  sigma = <v, a_{L-1}> + c

The gain after each activation multiplies the weights and biases, since lrelu is homogeneous. A point costs 12 bytes in
and 4 (density) to 2 H (hidden features) out; the weights stream from L2 once per tile of points. The layer loop carries
the float32 accumulator and rounds it right before the product, which lets the compiler load weights asynchronously and
keep the left operand in registers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..base.launch import MOST_IN_SECOND, has_warp_group_products, launch
from ..base.operands import OPERANDS, dot, leaky_relu, sin_cos_pi, to_operand
from .span import RaySpan
from .types import FieldWeights

WIDTHS = (32, 64, 128, 256)  # other widths are padded with zeros, which is exact
MAX_ENCODED = 64  # octaves times coordinates
SPACES = {"plain": 0, "contracted": 1, "radial": 2}


class PackedField(NamedTuple):
    """A field in the kernels' format: float32, the gain folded in, widths padded to a supported H.

    Leading dims are B, or 1 where all images share the tensor.
    """

    first: Tensor  # [B, 2, H, P]: weights of the sines and of the cosines, column octave * D + coordinate
    rest: Tensor  # [B, L - 1, H, H] (out, in)
    bias: Tensor  # [B, L, H]
    head: Tensor  # [B, H] density
    head_bias: Tensor  # [1]


def unsupported(field: FieldWeights, dims: int, dtype: torch.dtype, count: int, batch: int = 1) -> str | None:
    """Why the kernels cannot evaluate this field at ``count`` points in each of ``batch`` images, or None."""
    if batch > MOST_IN_SECOND:
        return f"a batch of {batch} images (at most {MOST_IN_SECOND})"
    if dtype != torch.float32:
        return f"{dtype}"
    if field.skips:
        return "a field with skips"
    if not 0 <= field.negative_slope <= 1:
        return f"negative_slope {field.negative_slope} outside 0..1"
    if dims > 4 or dims * field.num_freqs > MAX_ENCODED:
        return f"{dims} coordinates with {field.num_freqs} octaves (at most 4, and {MAX_ENCODED} as a product)"
    width = max(weight.shape[-2] for weight in field.weights)
    if width > WIDTHS[-1]:
        return f"width {width} above {WIDTHS[-1]}"
    if count * padded_width(field) >= 2**31:
        return f"{count} samples per image of width {width} (offsets within an image have 32 bits)"
    return None


def padded_width(field: FieldWeights) -> int:
    width = max(weight.shape[-2] for weight in field.weights)
    return next(w for w in WIDTHS if w >= width)


def pack(field: FieldWeights, dims: int) -> PackedField:
    """Differentiable: gradients of the packed tensors flow back to the field's own."""
    H, F = padded_width(field), field.num_freqs
    P = max(16, triton.next_power_of_2(F * dims))
    weights = _one_batch(field.weights, 3)
    first = (weights[0] * field.gain).unflatten(-1, (F, 2, dims)).movedim(-2, 1).flatten(-2)  # [B, 2, O, F * D]
    first = _pad(first, H, P)
    rest = first.new_zeros(first.shape[0], 0, H, H)
    if len(weights) > 1:
        rest = torch.stack([_pad(w, H, H) for w in weights[1:]], dim=1) * field.gain
    bias = torch.stack([_pad(b, H) for b in _one_batch(field.biases, 2)], dim=1) * field.gain
    head = _pad(field.density_weight.reshape(-1, field.density_weight.shape[-1]), H)
    return PackedField(first.contiguous(), rest, bias, head.contiguous(), field.density_bias)


def unpack(packed: PackedField, num_freqs: int, dims: int, slope: float) -> FieldWeights:
    """The field at its padded width, for the plain form; differentiable."""
    first = packed.first[..., : num_freqs * dims].unflatten(-1, (num_freqs, dims))  # [B, 2, H, F, D]
    first = first.movedim(1, -2).flatten(-3)
    return FieldWeights(
        weights=(first, *packed.rest.unbind(1)),
        biases=packed.bias.unbind(1),
        density_weight=packed.head,
        density_bias=packed.head_bias,
        num_freqs=num_freqs,
        gain=1.0,
        negative_slope=slope,
    )


def _one_batch(tensors: Sequence[Tensor], ndim: int) -> list[Tensor]:
    """Broadcast to one leading dim: the number of images if any tensor has it, else 1."""
    tensors = [t if t.ndim == ndim else t[None] for t in tensors]
    batch = max(t.shape[0] for t in tensors) if all(t.shape[0] for t in tensors) else 0
    return [t.expand(batch, *t.shape[1:]) for t in tensors]


def _pad(t: Tensor, *sizes: int) -> Tensor:
    """Pad the last dims with zeros up to ``sizes``."""
    missing = [size - have for size, have in zip(sizes, t.shape[t.ndim - len(sizes) :])]
    if not any(missing):
        return t
    return torch.nn.functional.pad(t, [n for m in reversed(missing) for n in (0, m)])


def batch_stride(t: Tensor) -> int:
    """Stride between images; 0 for a tensor that all share."""
    return 0 if t.shape[0] == 1 else t.stride(0)


@triton.jit
def contract(x, y, z, far, centre_x, centre_y, centre_z, SPACE: tl.constexpr):
    """Contract a point as ``RaySpan.space`` says."""
    if SPACE == 1:
        norm = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1.0)
        scale = (2.0 - 1.0 / norm) / norm
        x, y, z = x * scale, y * scale, z * scale
    elif SPACE == 2:
        x, y, z = x - centre_x, y - centre_y, z - centre_z
        norm = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
        scale = 1.0 / tl.sqrt(far * norm)
        x, y, z = x * scale, y * scale, z * scale
    return x, y, z


@triton.jit
def coordinates(points_ptr, row, mask, D: tl.constexpr):
    """Rows of points [N, D] as four vectors; absent coordinates repeat the first."""
    x0 = tl.load(points_ptr + row * D, mask=mask, other=0.0)
    x1, x2, x3 = x0, x0, x0
    if D > 1:
        x1 = tl.load(points_ptr + row * D + 1, mask=mask, other=0.0)
    if D > 2:
        x2 = tl.load(points_ptr + row * D + 2, mask=mask, other=0.0)
    if D > 3:
        x3 = tl.load(points_ptr + row * D + 3, mask=mask, other=0.0)
    return x0, x1, x2, x3


@triton.jit
def along_rays(origins_ptr, directions_ptr, depths_ptr, ray, row, mask):
    """o + t d; the fourth coordinate is not used."""
    t = tl.load(depths_ptr + row, mask=mask, other=0.0)
    o, d = origins_ptr + ray * 3, directions_ptr + ray * 3
    x0 = tl.load(o, mask=mask, other=0.0) + t * tl.load(d, mask=mask, other=0.0)
    x1 = tl.load(o + 1, mask=mask, other=0.0) + t * tl.load(d + 1, mask=mask, other=0.0)
    x2 = tl.load(o + 2, mask=mask, other=0.0) + t * tl.load(d + 2, mask=mask, other=0.0)
    return x0, x1, x2, x0


@triton.jit
def octave_phase(x0, x1, x2, x3, D: tl.constexpr, P: tl.constexpr):
    """2^octave p of every column octave * D + coordinate, [M, P]; exact."""
    column = tl.arange(0, P)
    coordinate = (column % D)[None, :]
    p = tl.where(coordinate == 0, x0[:, None], x1[:, None])
    if D > 2:
        p = tl.where(coordinate == 2, x2[:, None], p)
    if D > 3:
        p = tl.where(coordinate == 3, x3[:, None], p)
    return p * tl.exp2((column // D).to(tl.float32))[None, :]


@triton.jit
def trunk(
    x0, x1, x2, x3,
    first_ptr, rest_ptr, bias_ptr, saved_ptr,
    offs_save, mask_save, plane, L, slope,
    D: tl.constexpr, P: tl.constexpr, H: tl.constexpr, SAVE: tl.constexpr,
    DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Activations a_{L-1} of M points in the operand type; with SAVE each earlier layer's are stored, a plane apart."""
    offs_h = tl.arange(0, H)
    offs_p = tl.arange(0, P)
    sin, cos = sin_cos_pi(octave_phase(x0, x1, x2, x3, D, P))
    offs_first = offs_h[None, :] * P + offs_p[:, None]  # [P, H], the encoding contiguous
    acc = tl.zeros([sin.shape[0], H], tl.float32)
    acc = dot(to_operand(sin, DT), tl.load(first_ptr + offs_first), acc, INPUT_PRECISION)
    acc = dot(to_operand(cos, DT), tl.load(first_ptr + H * P + offs_first), acc, INPUT_PRECISION)
    acc += tl.load(bias_ptr + offs_h)[None, :]
    offs_rest = offs_h[:, None] * H + offs_h[None, :]
    for layer in tl.range(1, L, num_stages=STAGES):
        weight = tl.trans(tl.load(rest_ptr + (layer - 1) * (H * H) + offs_rest))
        bias = tl.load(bias_ptr + layer * H + offs_h)
        a = to_operand(leaky_relu(acc, slope), DT)
        if SAVE:
            tl.store(saved_ptr + (layer - 1) * plane + offs_save, a, mask=mask_save)
        acc = dot(a, weight, tl.zeros([sin.shape[0], H], tl.float32), INPUT_PRECISION)
        acc += bias[None, :]
    return to_operand(leaky_relu(acc, slope), DT)


@triton.jit
def density(a, head_ptr, head_bias_ptr, H: tl.constexpr, DT: tl.constexpr):
    """<v, a> + c, [M] float32; in 16 bit as a product of 16 columns: v rounded, its rounding error, zeros."""
    head = tl.load(head_ptr + tl.arange(0, H))
    if tl.float32 == DT:
        return tl.sum(a * head[None, :], axis=1) + tl.load(head_bias_ptr)
    column = tl.arange(0, 16)[None, :]
    high = to_operand(head, DT)
    low = to_operand(head - high.to(tl.float32), DT)
    columns = tl.where(column == 0, high[:, None], tl.where(column == 1, low[:, None], 0.0)).to(DT)
    sigma = dot(a, columns, tl.zeros([a.shape[0], 16], tl.float32), "ieee")
    return tl.sum(sigma, axis=1) + tl.load(head_bias_ptr)


@triton.jit
def _field_kernel(
    hidden_ptr, density_ptr, dots_ptr,
    points_ptr, origins_ptr, directions_ptr, depths_ptr, grad_hidden_ptr,
    first_ptr, rest_ptr, bias_ptr, head_ptr, head_bias_ptr,
    stride_first_b, stride_rest_b, stride_bias_b, stride_head_b, plane,
    N, R, S, R_image, L, slope, far, centre_x, centre_y, centre_z,
    D: tl.constexpr, P: tl.constexpr, H: tl.constexpr, SPACE: tl.constexpr, FROM_RAYS: tl.constexpr,
    HIDDEN: tl.constexpr, DENSITY: tl.constexpr, DOTS: tl.constexpr,
    DT: tl.constexpr, INPUT_PRECISION: tl.constexpr, STAGES: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)  # image offsets in 64 bits, offsets within an image in 32
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_h = tl.arange(0, H)
    mask_m = offs_m < N
    if FROM_RAYS:
        x0, x1, x2, x3 = along_rays(
            origins_ptr + b * R * 3, directions_ptr + b * R * 3, depths_ptr + b * N, offs_m // S, offs_m, mask_m
        )
        x0, x1, x2 = contract(x0, x1, x2, far, centre_x, centre_y, centre_z, SPACE)
    else:
        x0, x1, x2, x3 = coordinates(points_ptr + b * N * D, offs_m, mask_m, D)
    if HIDDEN > 0:
        hidden_ptr += b * N * H
    offs_save = offs_m[:, None] * H + offs_h[None, :]
    a = trunk(
        x0, x1, x2, x3,
        first_ptr + b * stride_first_b, rest_ptr + b * stride_rest_b, bias_ptr + b * stride_bias_b, hidden_ptr,
        offs_save, mask_m[:, None], plane, L, slope,
        D, P, H, HIDDEN == 2, DT, INPUT_PRECISION, STAGES,
    )  # fmt: skip
    if HIDDEN == 2:
        tl.store(hidden_ptr + (L - 1) * plane + offs_save, a, mask=mask_m[:, None])
    elif HIDDEN == 1:
        tl.store(hidden_ptr + offs_save, a.to(hidden_ptr.dtype.element_ty), mask=mask_m[:, None])
    if DENSITY:
        sigma = density(a, head_ptr + b * stride_head_b, head_bias_ptr, H, DT)
        tl.store(density_ptr + b * N + offs_m, sigma, mask=mask_m)
    if DOTS:
        ray = offs_m // S
        offs_g = ray[:, None] * H + offs_h[None, :]
        grad = tl.load(grad_hidden_ptr + b * R_image * H + offs_g, mask=(mask_m & (ray < R_image))[:, None], other=0.0)
        tl.store(dots_ptr + b * N + offs_m, tl.sum(a.to(tl.float32) * grad, axis=1), mask=mask_m)


class Samples(NamedTuple):
    """Points of evaluation: [B, N, D], or depths [B, R, S] along rays [B, R, 3]."""

    points: Tensor | None
    origins: Tensor | None = None
    directions: Tensor | None = None
    depths: Tensor | None = None
    span: RaySpan = RaySpan(0.0, 1.0)

    @property
    def batch(self) -> int:
        t = self.points if self.points is not None else self.depths
        assert t is not None
        return t.shape[0]

    @property
    def dims(self) -> int:
        return 3 if self.points is None else self.points.shape[-1]

    @property
    def total(self) -> int:
        """Samples per image."""
        if self.points is not None:
            return self.points.shape[1]
        assert self.depths is not None
        return self.depths.shape[1] * self.depths.shape[2]

    @property
    def device(self) -> torch.device:
        t = self.points if self.points is not None else self.depths
        assert t is not None
        return t.device

    def arguments(self) -> dict[str, Any]:
        """Kernel arguments that describe the points."""
        rays = self.points is None
        return {
            "points_ptr": self.points,
            "origins_ptr": self.origins if rays else None,
            "directions_ptr": self.directions if rays else None,
            "depths_ptr": self.depths if rays else None,
            "FROM_RAYS": rays,
            "D": self.dims,
            "SPACE": SPACES[self.span.space] if rays else 0,
            "far": self.span.far,
            **dict(zip(("centre_x", "centre_y", "centre_z"), self.span.centre)),
        }


class Operand(NamedTuple):
    """A packed field with its matrices rounded to the operand type, once per pass."""

    first: Tensor
    rest: Tensor
    bias: Tensor
    head: Tensor
    head_bias: Tensor
    slope: float
    precision: str

    @classmethod
    def of(cls, packed: PackedField, slope: float, precision: str) -> "Operand":
        storage = OPERANDS[precision].storage
        return cls(packed.first.to(storage), packed.rest.to(storage), *packed[2:], slope, precision)

    @property
    def width(self) -> int:
        return self.bias.shape[2]

    @property
    def layers(self) -> int:
        return self.bias.shape[1]

    def image(self, start: int, stop: int) -> "Operand":
        """The weights of some of the images."""
        cut = [t if t.shape[0] == 1 else t[start:stop] for t in self[:4]]
        return self._replace(first=cut[0], rest=cut[1], bias=cut[2], head=cut[3])

    def arguments(self) -> dict[str, Any]:
        operands = OPERANDS[self.precision]
        return {
            "first_ptr": self.first,
            "rest_ptr": self.rest,
            "bias_ptr": self.bias,
            "head_ptr": self.head,
            "head_bias_ptr": self.head_bias,
            "stride_first_b": batch_stride(self.first),
            "stride_rest_b": batch_stride(self.rest),
            "stride_bias_b": batch_stride(self.bias),
            "stride_head_b": batch_stride(self.head),
            "L": self.layers,
            "slope": self.slope,
            "P": self.first.shape[3],
            "H": self.width,
            "DT": operands.triton,
            "INPUT_PRECISION": operands.input_precision,
        }


class RowTile(NamedTuple):
    rows: int
    num_warps: int
    stages: int


def chained(width: int, precision: str) -> bool:
    """Whether one kernel holds the whole trunk: two layers' weights and a tile of activations on the chip."""
    return width <= {"fp16": 128, "bf16": 128, "tf32": 64, "fp32": 32}[precision]


def field_tile(width: int, precision: str, device: torch.device, *, keep: bool) -> RowTile:
    """Points per program; ``keep`` for the form that stores every layer."""
    if OPERANDS[precision].storage == torch.float32:
        return RowTile(32 if precision == "fp32" else 64, 4 if width == 32 else 8, 2)
    if keep:
        return RowTile(64, 8 if width == 128 else 4, 2)
    # with products per warp, four warps on 128 rows of 64 columns or more run out of registers
    return RowTile(128, 4 if has_warp_group_products(device) or width == 32 else 8, 2)


def launch_field(
    samples: Samples,
    field: Operand,
    *,
    hidden: Tensor | None = None,
    density: Tensor | None = None,
    dots: Tensor | None = None,
    grad_hidden: Tensor | None = None,
) -> None:
    """Evaluate a ``chained`` field and fill the outputs given.

    Args:
        hidden: [B, N, H] of any float dtype, or [L, B, N, H] in the operand type for every layer's activations.
        density: [B, N] float32, raw.
        dots: [B, N] float32, <grad_hidden of the sample's ray, its hidden features>; zero beyond grad_hidden's rays.
        grad_hidden: [B, R_image, H] float32, contiguous.
    """
    every = hidden is not None and hidden.ndim == 4
    tile = field_tile(field.width, field.precision, samples.device, keep=every)
    depths = samples.depths
    launch(
        _field_kernel,
        (triton.cdiv(samples.total, tile.rows), samples.batch),
        hidden_ptr=hidden,
        density_ptr=density,
        dots_ptr=dots,
        grad_hidden_ptr=grad_hidden,
        plane=hidden.stride(0) if hidden is not None and every else 0,
        N=samples.total,
        R=1 if depths is None else depths.shape[1],
        S=1 if depths is None else depths.shape[2],
        R_image=0 if grad_hidden is None else grad_hidden.shape[1],
        HIDDEN=0 if hidden is None else 2 if every else 1,
        DENSITY=density is not None,
        DOTS=dots is not None,
        STAGES=tile.stages,
        BLOCK_M=tile.rows,
        num_warps=tile.num_warps,
        num_stages=tile.stages,
        **samples.arguments(),
        **field.arguments(),
    )
