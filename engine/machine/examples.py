"""One small call of every public op: arguments from a seed, for self-tests and for the tests of the project."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...kernels import Adapter, FieldWeights, ModulatedWeights, RayDraws, RaySpan, setup_filter
from ..nests import mapped, tensors

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named
RAYS, SAMPLES, FINE, OCTAVES = 3, 5, 4, 3
TAPS = [1.0, 3.0, 3.0, 1.0]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def _uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def _image(b: int, c: int) -> Tensor:
    return _normal(b, c, 6, 6)


def _layer(b: int, c: int, out: int, k: int = 1) -> tuple[Tensor, Tensor]:
    return _normal(out, c, k, k, seed=1), 1 + 0.1 * _normal(b, c, seed=2)


def _adapter(c: int) -> Adapter:
    d = c // 4
    return Adapter(_normal(d, 2 * c, seed=3), _normal(d, seed=4), _normal(c, d, seed=5), _normal(c, seed=6))


def _tail(b: int, c: int) -> tuple[Any, ...]:
    layer, rgb = ModulatedWeights(*_layer(b, c, c), _normal(c, seed=7)), ModulatedWeights(*_layer(b, c, 3))
    return _image(b, c), layer, rgb, _normal(b, 3, 3, 3, seed=8)


def _samples(b: int) -> tuple[Tensor, Tensor]:
    return 3 * _normal(b, RAYS, 6), torch.linspace(1, 2, 6, dtype=torch.float32).expand(b, RAYS, 6)


def _ascending(b: int, count: int, seed: int) -> Tensor:
    """[b, RAYS, count] in 0..1, never equal."""
    return (torch.arange(count, dtype=torch.float32) + 0.1 + 0.8 * _uniform(b, RAYS, count, seed=seed)) / count


def _field(b: int, c: int) -> FieldWeights:
    """A trunk of three layers of ``c`` features, each as large as its input, and density of both signs."""
    widths = (6 * OCTAVES, c, c)
    return FieldWeights(
        weights=tuple(_normal(b, c, width, seed=i) / width**0.5 for i, width in enumerate(widths)),
        biases=tuple(0.3 * _normal(*((b,) if i == 0 else ()), c, seed=10 + i) for i in range(3)),
        density_weight=4 * _normal(b, c, seed=20) / c**0.5,
        density_bias=_normal(1, seed=21),
        num_freqs=OCTAVES,
    )


def _points(b: int, *count: int) -> Tensor:
    return 2 * _uniform(b, *count, 3, seed=30) - 1


def _rays(b: int, c: int) -> tuple[Any, ...]:
    """Origins near (0, 0, 1), directions down -z and not normalised."""
    ahead, noise = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float32), 0.3 * _normal(2, b, RAYS, 3, seed=31)
    return ahead + noise[0], noise[1] - ahead, _ascending(b, SAMPLES, 32), _field(b, c), RaySpan(0.5, 1.5)


def _draws(b: int) -> RayDraws:
    noise = _normal(b, RAYS, SAMPLES, seed=34), _normal(b, RAYS, FINE, seed=35)
    return RayDraws(_uniform(b, RAYS, FINE, seed=33), *noise)


_edges = torch.linspace(0, 1, 6, dtype=torch.float32)

# public op -> its arguments for a batch of b, with c channels or features; float32, on the CPU
EXAMPLES: dict[str, Callable[[int, int], Arguments]] = {
    "bias_act": lambda b, c: ((_image(b, c), _normal(c)), {"act": "swish"}),
    "composite": lambda b, c: ((_samples(b)[0], _normal(b, RAYS, 6, c)), {}),
    "conv2d_resample": lambda b, c: (
        (_image(b, c), _normal(5, c, 3, 3), setup_filter(TAPS)),
        {"up": 2, "padding": 1},
    ),
    "downsample2d": lambda b, c: ((_image(b, c), setup_filter(TAPS)), {}),
    "encode_positions": lambda b, c: ((_normal(b, 3),), {"num_freqs": 2}),
    "evaluate_density": lambda b, c: ((_points(b, RAYS), _field(b, c)), {}),
    "evaluate_field": lambda b, c: ((_points(b, RAYS), _field(b, c)), {}),
    "filter2d": lambda b, c: ((_image(b, c), setup_filter(TAPS)), {}),
    "filtered_lrelu": lambda b, c: (
        (_image(b, c), _normal(4, 4), None, _normal(c)),
        {"up": 2, "padding": [2, 1, 2, 1]},
    ),
    "importance_sample": lambda b, c: ((_edges.expand(b, 6), _normal(b, 5).abs(), _edges.expand(b, 6)), {}),
    "mean_square": lambda b, c: ((_image(b, c),), {}),
    "modulate_weights": lambda b, c: (_layer(b, c, c), {}),
    "modulated_conv": lambda b, c: ((_image(b, c), *_layer(b, c, c, k=3)), {"padding": 1, "bias": _normal(c)}),
    "modulated_layer": lambda b, c: ((_image(b, c), *_layer(b, c, c)), {"bias": _normal(c), "noise": _normal(6, 6)}),
    "modulated_mlp": lambda b, c: (
        (_normal(b, 7, c), [_normal(b, 5, c), _normal(5, 5)], [_normal(5), _normal(5)]),
        {},
    ),
    "refine_to_rgb": lambda b, c: (_tail(b, c), {}),
    "render_points": lambda b, c: (
        (
            _points(b, RAYS, SAMPLES),
            torch.linspace(1, 2, SAMPLES, dtype=torch.float32).expand(b, RAYS, SAMPLES),
            _field(b, c),
        ),
        {},
    ),
    "render_rays": lambda b, c: (_rays(b, c), {"draws": _draws(b)}),
    "render_volume": lambda b, c: ((*_samples(b), _normal(b, RAYS, 6, c)), {}),
    "upfirdn2d": lambda b, c: ((_image(b, c), _normal(3, 3)), {"up": 2, "padding": 1}),
    "upsample2d": lambda b, c: ((_image(b, c), setup_filter(TAPS)), {}),
    "upsample_block": lambda b, c: (
        (_image(b, c), *_layer(b, c, c)),
        {"mode": "nn_cat", "adapter": _adapter(c), "bias": _normal(c)},
    ),
    "upsample_features": lambda b, c: ((_image(b, c),), {"mode": "nn_cat", "adapter": _adapter(c)}),
    "volume_weights": lambda b, c: (_samples(b), {}),
}


def results(out: Any) -> list[Tensor]:
    """The tensors of a result."""
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def change(value: Any, f: Callable[[Any], Any], also: type = Tensor) -> Any:
    """``value`` with ``f`` of each of its floating tensors, in its order, and of what is of the type ``also``."""
    return mapped(value, lambda x: x if isinstance(x, Tensor) and not x.is_floating_point() else f(x), also)


def leaves(value: Any) -> list[Tensor]:
    """The floating tensors in ``value``."""
    return [t for t in tensors(value) if t.is_floating_point()]
