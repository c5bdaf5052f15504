"""Shipped configurations of ``kernels/rays``: the ray pass and its parts."""

from collections.abc import Callable
from functools import partial

import torch
import triton

from stylenerf.kernels.base.operands import OPERANDS
from stylenerf.kernels.rays.composite_triton import launch_composite, launch_composite_backward
from stylenerf.kernels.rays.encode_triton import launch_encode_backward, launch_encode_forward
from stylenerf.kernels.rays.field_backward import HeadGradients, launch_trunk_backward
from stylenerf.kernels.rays.field_triton import WIDTHS, Operand, PackedField, Samples, launch_field
from stylenerf.kernels.rays.hierarchical import launch_hierarchical
from stylenerf.kernels.rays.importance_triton import launch_importance
from stylenerf.kernels.rays.mlp_triton import _modulated_mlp, launch_chain_backward
from stylenerf.kernels.rays.single_pass import RayOutputs, launch_rays
from stylenerf.kernels.rays.span import RaySpan
from stylenerf.kernels.rays.volume_triton import launch_volume_backward, launch_volume_forward


def meta_field(batch: int, width: int, layers: int, dims: int, octaves: int) -> PackedField:
    """A field on the meta device, to record its launches."""
    P = max(16, triton.next_power_of_2(octaves * dims))
    with torch.device("meta"):
        return PackedField(
            torch.empty(batch, 2, width, P),
            torch.empty(batch, layers - 1, width, width),
            torch.empty(batch, layers, width),
            torch.empty(batch, width),
            torch.empty(1),
        )


def composite() -> dict[str, Callable[[], None]]:
    """Features of the released models in both dtypes, colours, depths, packed rays."""

    def run(samples: int | None, channels: int, weights_dtype: torch.dtype, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            weights = torch.empty((4096, samples) if samples else (4096 * 28,), dtype=weights_dtype)
            features = torch.empty(*weights.shape, channels, dtype=dtype)
            out = torch.empty(4096, channels, dtype=weights_dtype)
            offsets = None if samples else torch.empty(4097, dtype=torch.int64)
        launch_composite(weights, features, out, accumulate=dtype != weights_dtype, offsets=offsets)
        launch_composite_backward(out, weights, features, offsets)

    single, half = torch.float32, torch.float16
    wide = ((28, 128, single, single), (28, 128, single, half), (28, 128, half, half), (14, 256, single, half))
    narrow = ((48, 3, single, single), (28, 1, single, single))
    packed = ((None, 128, single, single), (None, 3, single, single))
    cases: tuple[tuple[int | None, int, torch.dtype, torch.dtype], ...] = (*wide, *narrow, *packed)
    return {
        f"composite S{s or ' packed'} C{c} {w}, {f}".replace("torch.", ""): partial(run, s, c, w, f)
        for s, c, w, f in cases
    }


def encode() -> dict[str, Callable[[], None]]:
    """Sample points of an FFHQ batch in every dtype, and of a background."""

    def run(dims: int, include_input: bool, dtype: torch.dtype) -> None:
        points = torch.empty(4096 * 28, dims, dtype=dtype, device="meta")
        out = launch_encode_forward(points, 10, include_input)
        launch_encode_backward(out, points, 10, include_input)

    single, half, brain = torch.float32, torch.float16, torch.bfloat16
    cases = [(3, False, single), (3, True, half), (3, False, brain), (4, False, single)]
    return {f"encode D{d} {dt}".replace("torch.", ""): partial(run, d, i, dt) for d, i, dt in cases}


def field_backward() -> dict[str, Callable[[], None]]:
    """A training step's backward, two images at a time."""

    def run(width: int, precision: str, need_points: bool, dims: int) -> None:
        field = Operand.of(meta_field(2, width, 8, dims, 10), 0.2, precision)
        with torch.device("meta"):
            rays, depths = torch.empty(2, 1280, 3), torch.empty(2, 1280, 28)
            points = torch.empty(2, 1280 * 28, 4) if dims == 4 else None
            every = torch.empty(8, 2, 1280 * 28, width, dtype=OPERANDS[precision].storage)
            grads = HeadGradients(torch.empty(2, 1024, width), depths, depths, torch.empty(2, 256, 28, width))
            samples = Samples(points, rays, rays, depths)
            launch_trunk_backward(samples, every, field, grads, need_points=need_points)

    cases = [(w, "fp16", p, 3) for w in (32, 64, 128) for p in (False, True)]
    cases += [(64, "fp16", False, 4), (128, "bf16", False, 3), (64, "tf32", True, 3), (32, "fp32", True, 3)]
    return {f"backward {w} {p} D{d}{' points' if q else ''}": partial(run, w, p, q, d) for w, p, q, d in cases}


def field() -> dict[str, Callable[[], None]]:
    """Density alone, hidden features and density, every layer with the dots of the backward."""

    def run(width: int, precision: str, mode: str) -> None:
        field = Operand.of(meta_field(2, width, 8, 3, 10), 0.2, precision)
        with torch.device("meta"):
            rays = torch.empty(2, 1280, 3)
            samples = Samples(None, rays, rays, torch.empty(2, 1280, 28))
            flat = torch.empty(2, 1280 * 28)
            every = torch.empty(8, 2, 1280 * 28, width, dtype=OPERANDS[precision].storage)
            grad = torch.empty(2, 1024, width)
            if mode == "keep":
                launch_field(samples, field, hidden=every, dots=flat, grad_hidden=grad)
            elif mode == "hidden":
                launch_field(samples, field, hidden=torch.empty(2, 1280 * 28, width), density=flat)
            else:
                launch_field(samples, field, density=flat)

    cases = [(w, "fp16", m) for w in WIDTHS[:3] for m in ("density", "hidden", "keep")]
    cases += [(128, "bf16", m) for m in ("hidden", "keep")]
    cases += [(w, p, m) for w, p in ((64, "tf32"), (32, "fp32")) for m in ("hidden", "keep")]
    return {f"field {w} {p} {m}": partial(run, w, p, m) for w, p, m in cases}


def hierarchical() -> dict[str, Callable[[], None]]:
    """FFHQ rays, as in inference and as in training."""

    def run(width: int, precision: str, train: bool) -> None:
        field = Operand.of(meta_field(2, width, 8, 3, 10), 0.2, precision)
        with torch.device("meta"):
            rays, line = torch.empty(2, 1280, 3), torch.empty(2, 1280, 14)
            samples = Samples(None, rays, rays, line)
            out = RayOutputs.empty(samples, width, (1280, 28), 256 if train else 0)
            noise = line if train else None
            launch_hierarchical(
                out, out.weights, torch.empty(2, 1280, 28, dtype=torch.int16), (rays, rays, line), (line, noise, noise),
                field, span=RaySpan(0.88, 1.12),
            )  # fmt: skip

    cases = [(w, "fp16", t) for w in (32, 64, 128) for t in (False, True)]
    cases += [(128, "bf16", True), (64, "tf32", True), (32, "fp32", True)]
    return {f"hierarchical {w} {p} {'train' if t else 'render'}": partial(run, w, p, t) for w, p, t in cases}


def importance() -> dict[str, Callable[[], None]]:
    """Fine samples of an FFHQ batch at the released models' counts, and the most edges."""

    def run(edges: int, count: int) -> None:
        with torch.device("meta"):
            line, u = torch.empty(4096, edges), torch.empty(4096, count)
            launch_importance(line, torch.empty(4096, edges - 1), u)

    return {f"importance E{e} N{n}": partial(run, e, n) for e, n in ((13, 14), (31, 32), (47, 48), (129, 128), (2, 5))}


def mlp() -> dict[str, Callable[[], None]]:
    """The trunk of the released fields and wide ones, and a softplus decoder; all gradients, on two images' points."""

    def run(encoded: int, width: int, precision: str, dtype: torch.dtype, softplus: bool = False) -> None:
        with torch.device("meta"):
            x = torch.empty(2, 1280 * 28, encoded, dtype=dtype)
            weights = [torch.empty(2, width, i, dtype=dtype) for i in (encoded, width, width)]
            biases = [torch.empty(2, width, dtype=dtype), *(torch.empty(1, width, dtype=dtype) for _ in range(2))]
            out = torch.empty(2, 1280 * 28, width, dtype=dtype)
        gain = 1.0 if softplus else 2.0**0.5
        _modulated_mlp(x, weights, biases, gain, 0.2, precision, softplus, softplus)
        launch_chain_backward(
            x,
            out,
            out,
            weights,
            biases,
            gain=gain,
            slope=0.2,
            softplus=softplus,
            linear_end=softplus,
            precision=precision,
            need_x=True,
            need_layers=[True] * 3,
        )

    cases = [(60, w, "fp16", torch.float32) for w in (64, 128, 256, 512)]
    cases += [(60, 256, "bf16", torch.bfloat16), (60, 128, "tf32", torch.float32), (60, 64, "fp32", torch.float32)]
    runs: dict[str, Callable[[], None]] = {f"mlp {i} to {w} {p}": partial(run, i, w, p, d) for i, w, p, d in cases}
    return runs | {f"mlp 32 to 64 softplus {p}": partial(run, 32, 64, p, torch.float32, True) for p in ("tf32", "fp32")}


def single_pass() -> dict[str, Callable[[], None]]:
    """FFHQ rays at every sample count with its own tile, with noise and rays that are not aggregated; a background."""

    def run(width: int, precision: str, count: int, dims: int) -> None:
        field = Operand.of(meta_field(2, width, 8, dims, 10), 0.2, precision)
        with torch.device("meta"):
            rays, depths = torch.empty(2, 1280, 3), torch.empty(2, 1280, count)
            points = torch.empty(2, 1280 * count, 4) if dims == 4 else None
            span = RaySpan(0.88, 1.12, far_end="opaque" if dims == 4 else "open")
            samples = Samples(points, rays, rays, depths, span)
            out = RayOutputs.empty(samples, width, (1280, count), 256)
            launch_rays(out, samples, depths, field, noise=torch.empty_like(depths))

    cases = [(w, "fp16", s, 3) for w in (32, 64, 128) for s in (14, 28, 48, 128)]
    cases += [(64, "fp16", 4, 4), (128, "bf16", 28, 3), (64, "tf32", 28, 3), (32, "fp32", 28, 3)]
    return {f"rays {w} {p} S{s} D{d}": partial(run, w, p, s, d) for w, p, s, d in cases}


def volume() -> dict[str, Callable[[], None]]:
    """An FFHQ batch at the sample counts of the released models, a long ray, packed rays."""

    def run(samples: int | None, opaque: bool, positions: bool) -> None:
        with torch.device("meta"):
            shape = (4096, samples) if samples else (4096 * 28,)
            density, norm = torch.empty(shape), torch.empty(4096)
            offsets = None if samples else torch.empty(4097, dtype=torch.int64)
        launch_volume_forward(density, density, norm, opaque, offsets)
        launch_volume_backward(density, density, norm, density, norm, opaque, positions, offsets)

    lengths: tuple[int | None, ...] = (4, 14, 28, 48, 128, 192, 300, None)
    return {f"weights S{s or ' packed'}": partial(run, s, s == 4, s != 14) for s in lengths}
