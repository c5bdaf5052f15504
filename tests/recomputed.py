"""Passes of the upsampler with blocks recomputed in the backward and without: what each leaves behind."""

from typing import Any

import torch
from torch import Tensor

from stylenerf.engine.training.losses import path_length
from stylenerf.models.config import UpsamplerConfig
from stylenerf.models.upsampler import BlockOptions, Upsampler
from tests.inputs import make_image, seeded, source

W_DIM = 6
CONFIGS: dict[str, dict[str, Any]] = {
    "as released": {},
    "noise": {"noise": True},
    "pixelshuffle, no average": {"mode": "pixelshuffle", "magnitude_decay": None, "noise": True},
    "transposed 3x3": {"mode": "default", "kernel_size": 3, "noise": True},
    "resnet": {"architecture": "resnet", "mode": "bilinear"},
    "orig": {"architecture": "orig", "image_skip": False},
}


def make(recompute: bool, **changes: Any) -> Upsampler:
    cfg = UpsamplerConfig(**{"channel_base": 128, "channel_max": 8, "recompute": recompute} | changes)
    return seeded(lambda: Upsampler(4, W_DIM, (8, 16, 32), cfg)).train()


def inputs() -> list[Tensor]:
    """Features, image, ws."""
    ws = torch.randn(2, 7, W_DIM, generator=source(3))
    return [t.requires_grad_() for t in (make_image((2, 4, 4, 4)), make_image((2, 3, 4, 4), seed=1), ws)]


def loss_of(levels: list[Tensor]) -> Tensor:
    drawn = source(9)
    return sum(((level * torch.randn(level.shape, generator=drawn)).mean() for level in levels), torch.zeros(()))


def one_pass(net: Upsampler, given: list[Tensor], rng: torch.Generator, **options: Any) -> list[Tensor]:
    return net(*given, blocks=3, options=BlockOptions(noise="random", generator=rng), **options)


def results(net: Upsampler, given: list[Tensor], levels: list[Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Everything that a pass and its backward leave behind, the random state among it."""
    found = {f"level {i}": level.detach() for i, level in enumerate(levels)}
    found |= {f"gradient of input {i}": t.grad for i, t in enumerate(given) if t.grad is not None}
    found |= {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found | dict(net.named_buffers()) | {"random state": rng.get_state()}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys() and len(want) > 20
    assert not [name for name in want if not torch.equal(got[name], want[name])]


def compare_pass(changes: dict[str, Any], dtype: torch.dtype) -> None:
    def run(recompute: bool) -> dict[str, Tensor]:
        net, given, rng = make(recompute, **changes), inputs(), source(5)
        levels = one_pass(net, given, rng, fine_dtype=dtype)
        loss_of(levels).backward()
        return results(net, given, levels, rng)

    assert_same(run(True), run(False))


def compare_path_length(changes: dict[str, Any]) -> None:
    def run(recompute: bool) -> dict[str, Tensor]:
        net, given, rng = make(recompute, **changes), inputs(), source(5)
        levels = one_pass(net, given, rng)
        noise = make_image((2, 3, 32, 32), seed=4)
        path_length(levels[-1], given[2], noise, torch.zeros([])).penalty.mean().backward()
        return results(net, given, levels, rng)

    assert_same(run(True), run(False))
