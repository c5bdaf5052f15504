"""Derivatives of derivatives through every registered op: a backward that autograd cannot see through fails here."""

import pkgutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import stylenerf.kernels
from stylenerf.kernels.base.register import differentiable, namespace
from stylenerf.kernels.blocks.modulated_layer import modulated_layer
from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.bias_act_ref import bias_act_ref
from stylenerf.kernels.filters.upfirdn2d import upfirdn2d
from stylenerf.kernels.rays.encode import encode_positions
from stylenerf.kernels.rays.mlp import modulated_mlp
from stylenerf.kernels.rays.render import evaluate_field
from stylenerf.kernels.rays.volume import composite, volume_weights
from tests.closeness import assert_each_no_worse_than_torch
from tests.gradients import DEVICE, Op, cotangents, leaves
from tests.inputs import FieldCase, source
from tests.ray_runs import RayRun, field_of, fine_samples_at
from tests.roundings import several_roundings

CASE = FieldCase(batch=1, rays=2, samples=3, fine=2, hidden=3, depth=2, num_freqs=1)
MODULES = [import_module(m.name) for m in pkgutil.walk_packages(stylenerf.kernels.__path__, "stylenerf.kernels.")]

ROWS = import_module("stylenerf.kernels.blocks.refine_to_rgb_triton").refine_rows
COMBINE = import_module("stylenerf.kernels.blocks.upsample_block_triton").upsample_combine
MAP = import_module("stylenerf.kernels.blocks.upsample_block_triton").upsample_map
BILINEAR = import_module("stylenerf.kernels.blocks.upsample_block_bilinear").upsample_bilinear


class Way(NamedTuple):
    """A call that reaches a registered op, or does the same by the plain form, and the shapes of its arguments."""

    op: Callable[[str], Op]  # by impl
    shapes: dict[str, tuple[int, ...]]  # none for the passes of ``RUNS``, which bring their own


def bias_act_grad(impl: Any, x: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    y = bias_act(x, b, act="swish", impl=impl)
    return torch.autograd.grad(y, [x, b], cotangent, create_graph=True)


def combine(
    impl: str, map: Tensor, weight: Tensor, bias0: Tensor, bias1: Tensor, bias: Tensor, noise: Tensor
) -> Tensor:
    how: dict[str, Any] = {"mode": "nn_cat", "blur": True, "gain": 1.5, "clamp": 2.0}
    args = map, weight, bias0, bias1, bias, noise
    if impl == "ref":
        plain: Tensor = import_module("stylenerf.kernels.blocks.upsample_block_ref").upsample_combine_ref(*args, **how)
        return plain
    out: Tensor = COMBINE(*args, *how.values(), False)
    return out


def bilinear(impl: str, x: Tensor, bias: Tensor) -> Tensor:
    if impl == "triton":
        out: Tensor = BILINEAR(x, bias, 1.5, 2.0)
        return out
    y = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True)
    return bias_act_ref(y, bias, 1, "lrelu", 0.2, 1.5, 2.0, False).permute(0, 2, 3, 1)


def linear_map(impl: str, x: Tensor, weight: Tensor) -> Tensor:
    if impl == "triton":
        out: Tensor = MAP(x, weight, False)
        return out
    return x @ weight.transpose(1, 2)


def tail(impl: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """x, the layer's weight and bias, those of the colours, the image."""
    if impl == "triton":
        out: tuple[Tensor, ...] = ROWS(*tensors, "fir", True, 1.5, 2.0, False)
        return out
    plain: tuple[Tensor, ...] = import_module("stylenerf.kernels.blocks.refine_to_rgb_ref").refine_rows_ref(
        *tensors, "fir", 1.5, 2.0
    )
    return plain


def layer(impl: Any, x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    return modulated_layer(x, weight, styles, bias=bias, clamp=2.0, impl=impl)


def mlp(impl: Any, points: Tensor, w0: Tensor, w1: Tensor, b0: Tensor, b1: Tensor) -> Tensor:
    return modulated_mlp(points, [w0, w1], [b0, b1], precision="fp32", impl=impl)


def weights(impl: Any, density: Tensor, depths: Tensor, norm: Tensor) -> tuple[Tensor, ...]:
    return tuple(volume_weights(density, depths, ray_norm=norm, impl=impl))


def values(impl: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    named = dict(zip(FIELD_NAMES, tensors))
    return evaluate_field(named["points"].flatten(1, 2), field_of(CASE, named), precision="fp32", impl=impl)


def encoded(impl: Any, points: Tensor) -> Tensor:
    return encode_positions(points, 2, impl=impl)


def of(function: Any, **shapes: tuple[int, ...]) -> Way:
    return Way(lambda impl: partial(function, impl), shapes)


def filtered(impl: Any, x: Tensor, f: Tensor) -> Tensor:
    return upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), impl=impl)


def activated(impl: Any, x: Tensor, b: Tensor) -> Tensor:
    return bias_act(x, b, act="softplus", impl=impl)


def over(impl: Any, w: Tensor, f: Tensor) -> Tensor:
    return composite(w, f, impl=impl)


RUNS = {
    "field_values": RayRun(CASE, "points", noise=False),
    "hierarchical_pass": RayRun(CASE, "hierarchical", sample_rays=1),
    "single_pass": RayRun(CASE, sample_rays=1),
}
FIELD_NAMES = [name for name in RUNS["field_values"].inputs() if name != "depths"]
TABLE: dict[str, Way] = {
    "bias_act": of(activated, x=(2, 3, 4), b=(3,)),
    "bias_act_grad": of(bias_act_grad, x=(2, 3, 4), b=(3,), cotangent=(2, 3, 4)),
    "composite": of(over, w=(2, 5), f=(2, 5, 3)),
    "encode_positions": of(encoded, points=(4, 3)),
    "field_values": of(values),
    "hierarchical_pass": Way(RUNS["hierarchical_pass"].op, {}),
    "modulated_mlp": of(mlp, points=(2, 5, 4), w0=(2, 3, 4), w1=(3, 3), b0=(2, 3), b1=(3,)),
    "pointwise_layer": of(layer, x=(2, 4, 3, 3), weight=(3, 4, 1, 1), styles=(2, 4), bias=(3,)),
    "refine_rows": of(tail, x=(2, 2, 4, 4), w=(2, 5, 4), b=(5,), v=(2, 3, 5), c=(3,), image=(2, 3, 1, 2)),
    "single_pass": Way(RUNS["single_pass"].op, {}),
    "upfirdn2d": of(filtered, x=(2, 3, 4, 4), f=(4, 4)),
    "upsample_bilinear": of(bilinear, x=(1, 3, 3, 4), bias=(4,)),
    "upsample_combine": of(
        combine, map=(1, 3, 3, 12), weight=(8, 2), bias0=(2,), bias1=(8,), bias=(8,), noise=(1, 6, 6)
    ),
    "upsample_map": of(linear_map, x=(2, 5, 4), weight=(2, 3, 4)),
    "volume_weights": of(weights, density=(2, 5), depths=(2, 5), norm=(2,)),
}
CONSTANT = {"importance_sample", "square_sum"}  # without gradients: where fine samples fall, a running magnitude
COMPOSED = {"bias_act", "bias_act_grad", "upfirdn2d"}  # their backward consists of registered ops
NARROW = {"upsample_whole"}  # not in float32: test_fused_upsample_block_whole.py has its second order


def make(name: str) -> dict[str, Tensor]:
    g = source(11)
    if name in RUNS:
        return {arg: t for arg, t in RUNS[name].inputs().items() if (name, arg) != ("field_values", "depths")}
    drawn = {arg: torch.randn(shape, generator=g).to(DEVICE) for arg, shape in TABLE[name].shapes.items()}
    return drawn | ({"depths": drawn["depths"].sort(-1).values} if "depths" in drawn else {})


class Seen(TorchDispatchMode):
    """Collects the names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def double_backward(op: Op, inputs: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Derivatives of a random projection of the first gradients, in the inputs and in what flowed into the backward."""
    named = leaves(inputs, dtype)
    result = op(*named.values())
    outputs = [o for o in ([result] if isinstance(result, Tensor) else result) if o.requires_grad]
    drawn = [c.requires_grad_() for c in cotangents(outputs, torch.float32, 100)]
    grads = torch.autograd.grad(outputs, list(named.values()), drawn, create_graph=True)
    flow = {f"cotangent {i}": c for i, c in enumerate(drawn)}
    again = torch.autograd.grad(
        [g for g in grads if g.requires_grad],
        list((named | flow).values()),
        [c for c, g in zip(cotangents(list(grads), torch.float32, 200), grads) if g.requires_grad],
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(named | flow, again))


def test_every_op_is_in_the_table() -> None:
    prefix = f"{namespace()}::"
    known = {n.removeprefix(prefix).partition(".")[0] for n in torch._C._dispatch_get_all_op_names() if prefix in n}
    backwards = {f"{name}_backward" for name in differentiable - COMPOSED}
    assert known == differentiable | CONSTANT | backwards, "ops are registered by register and no other way"
    assert set(TABLE) | NARROW == differentiable, "an op with a backward needs a line in TABLE"


@pytest.mark.parametrize("name", TABLE)
def test_double_backward(name: str) -> None:
    way, inputs = TABLE[name], make(name)
    with Seen() as seen:
        got = double_backward(way.op("triton"), inputs)
    assert f"{namespace()}::{name}" in seen.names, f"the call in TABLE does not reach {name}"
    where = torch.zeros(())
    if name == "hierarchical_pass":
        where = RUNS[name].fine_positions(RUNS[name].render("triton", "fp32", inputs).fractions)
    with fine_samples_at(where):
        plain = several_roundings(lambda: double_backward(way.op("ref"), inputs))
        assert_each_no_worse_than_torch(got, plain, double_backward(way.op("ref"), inputs, torch.float64))
