"""One call of every public op of ``kernels``: the tensors of a batch of B, and what the op makes of them."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylenerf import kernels
from stylenerf.kernels import Adapter, ModulatedWeights, RaySpan
from tests.inputs import FieldCase, make_draws, make_field, make_points, make_rays, source

C = 4  # channels of the images, width of the points


class OpCall(NamedTuple):
    """``make(batch)``: positional and named arguments in float32; ``shapes(batch)``: of the results, in their order."""

    make: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
    shapes: Callable[[int], list[tuple[int, ...]]]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=source(seed), dtype=torch.float32)


def _image(batch: int) -> Tensor:
    return _normal(batch, C, 6, 6)


def _layer(batch: int, out: int = C, k: int = 1) -> tuple[Tensor, Tensor]:
    return _normal(out, C, k, k, seed=1), 1 + 0.1 * _normal(batch, C, seed=2)


def _samples(batch: int) -> tuple[Tensor, Tensor]:
    depths = torch.linspace(1, 2, 6, dtype=torch.float32).expand(batch, 3, 6)
    return 3 * _normal(batch, 3, 6), depths


def _field(batch: int) -> FieldCase:
    return FieldCase(batch=batch, rays=3, samples=5, fine=4)


def _rays(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    case, f32 = _field(batch), torch.float32
    return (*make_rays(case, dtype=f32), make_field(case, dtype=f32), RaySpan(0.5, 1.5)), {
        "draws": make_draws(case, dtype=f32)
    }


def _points(batch: int, flat: bool = False) -> tuple[Any, ...]:
    case, f32 = _field(batch), torch.float32
    points, field = make_points(case, dtype=f32), make_field(case, dtype=f32)
    if flat:
        return points[:, :, 0], field
    return points, torch.linspace(1, 2, 5, dtype=f32).expand(batch, 3, 5), field


def _adapter() -> Adapter:
    return Adapter(_normal(1, 2 * C, seed=3), _normal(1, seed=4), _normal(C, 1, seed=5), _normal(C, seed=6))


def _tail(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    layer, rgb = ModulatedWeights(*_layer(batch), _normal(C, seed=7)), ModulatedWeights(*_layer(batch, 3))
    return (_image(batch), layer, rgb, _normal(batch, 3, 3, 3, seed=8)), {}


_edges = torch.linspace(0, 1, 6, dtype=torch.float32)
_H = _field(1).hidden

OP_CALLS: dict[str, OpCall] = {
    "bias_act": OpCall(lambda b: ((_image(b), _normal(C)), {"act": "swish"}), lambda b: [(b, C, 6, 6)]),
    "composite": OpCall(lambda b: ((_samples(b)[0], _normal(b, 3, 6, 2)), {}), lambda b: [(b, 3, 2)]),
    "conv2d_resample": OpCall(
        lambda b: ((_image(b), _normal(5, C, 3, 3), kernels.setup_filter([1, 3, 3, 1])), {"up": 2, "padding": 1}),
        lambda b: [(b, 5, 12, 12)],
    ),
    "downsample2d": OpCall(
        lambda b: ((_image(b), kernels.setup_filter([1, 3, 3, 1])), {}), lambda b: [(b, C, 3, 3)]
    ),
    "encode_positions": OpCall(lambda b: ((_normal(b, 3),), {"num_freqs": 2}), lambda b: [(b, 12)]),
    "evaluate_density": OpCall(lambda b: (_points(b, flat=True), {}), lambda b: [(b, 3)]),
    "evaluate_field": OpCall(lambda b: (_points(b, flat=True), {}), lambda b: [(b, 3, _H), (b, 3)]),
    "filter2d": OpCall(lambda b: ((_image(b), kernels.setup_filter([1, 3, 3, 1])), {}), lambda b: [(b, C, 6, 6)]),
    "filtered_lrelu": OpCall(
        lambda b: ((_image(b), _normal(4, 4), None, _normal(C)), {"up": 2, "padding": [2, 1, 2, 1]}),
        lambda b: [(b, C, 12, 12)],
    ),
    "importance_sample": OpCall(
        lambda b: ((_edges.expand(b, 6), _normal(b, 5).abs(), _edges.expand(b, 6)), {}), lambda b: [(b, 6)]
    ),
    "mean_square": OpCall(lambda b: ((_image(b),), {}), lambda b: [()]),
    "modulate_weights": OpCall(lambda b: (_layer(b), {}), lambda b: [(b, C, C, 1, 1)]),
    "modulated_conv": OpCall(
        lambda b: ((_image(b), *_layer(b, k=3)), {"padding": 1, "bias": _normal(C)}), lambda b: [(b, C, 6, 6)]
    ),
    "modulated_layer": OpCall(
        lambda b: ((_image(b), *_layer(b)), {"bias": _normal(C), "noise": _normal(6, 6)}), lambda b: [(b, C, 6, 6)]
    ),
    "modulated_mlp": OpCall(
        lambda b: ((_normal(b, 7, C), [_normal(b, 5, C), _normal(5, 5)], [_normal(5), _normal(5)]), {}),
        lambda b: [(b, 7, 5)],
    ),
    "refine_to_rgb": OpCall(_tail, lambda b: [(b, C, 6, 6), (b, 3, 6, 6)]),
    "render_points": OpCall(
        lambda b: (_points(b), {}), lambda b: [(b, 3, _H), (b, 3, 5), (b, 3, 5), (b, 3, 5), (b, 3, 5), (b, 3)]
    ),
    "render_rays": OpCall(_rays, lambda b: [(b, 3, _H), (b, 3, 9), (b, 3, 9), (b, 3, 9), (b, 3, 9), (b, 3)]),
    "render_volume": OpCall(
        lambda b: ((*_samples(b), _normal(b, 3, 6, 2)), {}), lambda b: [(b, 3, 2), (b, 3, 6), (b, 3), (b, 3), (b, 3)]
    ),
    "upfirdn2d": OpCall(
        lambda b: ((_image(b), _normal(3, 3)), {"up": 2, "padding": 1}), lambda b: [(b, C, 12, 12)]
    ),
    "upsample2d": OpCall(lambda b: ((_image(b), kernels.setup_filter([1, 3, 3, 1])), {}), lambda b: [(b, C, 12, 12)]),
    "upsample_block": OpCall(
        lambda b: ((_image(b), *_layer(b)), {"mode": "nn_cat", "adapter": _adapter(), "bias": _normal(C)}),
        lambda b: [(b, C, 12, 12)],
    ),
    "upsample_features": OpCall(
        lambda b: ((_image(b),), {"mode": "nn_cat", "adapter": _adapter()}), lambda b: [(b, C, 12, 12)]
    ),
    "volume_weights": OpCall(lambda b: (_samples(b), {}), lambda b: [(b, 3, 6), (b, 3)]),
}  # fmt: skip


def results(out: Any) -> list[Tensor]:
    """The tensors of a result."""
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def change(value: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``f`` of each of its floating tensors, in its order."""
    if isinstance(value, Tensor):
        return f(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: change(v, f) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(v, f) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(change(v, f) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f_.name: change(getattr(value, f_.name), f) for f_ in fields(value)})
    return value


def leaves(value: Any) -> Iterator[Tensor]:
    """The floating tensors in ``value``."""
    held: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        held.append(t)
        return t

    change(value, keep)
    yield from held
