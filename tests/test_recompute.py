"""Blocks of the upsampler that are computed again in the backward: nothing changes but the memory."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.models.upsampler import BlockOptions, Upsampler
from tests.inputs import make_image, source
from tests.recomputed import (
    CONFIGS,
    assert_same,
    compare_pass,
    compare_path_length,
    inputs,
    loss_of,
    make,
    one_pass,
    results,
)
from tests.saved import SavedBytes
from tests.tiny import build, tiny_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_bit_for_bit(changes: dict[str, Any], dtype: torch.dtype) -> None:
    compare_pass(changes, dtype)


def test_image_and_path_before_one_backward() -> None:
    """The averages move once in either pass, and each pass divides by its own."""

    def run(recompute: bool) -> dict[str, Tensor]:
        net, given, rng = make(recompute, noise=True), inputs(), source(5)
        levels = one_pass(net, given, rng)
        samples = make_image((2, 4, 5, 3), seed=7), make_image((2, 3, 5, 3), seed=8)
        path = net(*samples, given[2], blocks=3, options=BlockOptions(enlarge=False))
        (loss_of(levels) + loss_of(path)).backward()
        return results(net, given, [*levels, *path], rng)

    start = make(False, noise=True).blocks["b16"].conv1.magnitude
    got = run(True)
    assert_same(got, run(False))
    assert not torch.equal(got["blocks.b16.conv1.magnitude"], start)


def test_the_average_moves_by_what_the_layer_read() -> None:
    net, given = make(True, magnitude_decay=0.75), inputs()
    before = net.blocks["b8"].conv0.magnitude.clone()
    loss_of(one_pass(net, given, source(5))).backward()
    torch.testing.assert_close(net.blocks["b8"].conv0.magnitude, 0.75 * before + 0.25 * given[0].square().mean())


@pytest.mark.parametrize("changes", [{"noise": True}, {"mode": "default", "kernel_size": 3}], ids=["nn_cat", "default"])
def test_path_length(changes: dict[str, Any]) -> None:
    compare_path_length(changes)


def test_backward_twice() -> None:
    net, given = make(True, noise=True), inputs()
    loss = loss_of(one_pass(net, given, source(5)))
    first = torch.autograd.grad(loss, given, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, given)))


def test_training_is_the_same_bit_for_bit() -> None:
    """Path length and R1 among the steps; from a state that was reached without it one can go on with it."""
    plain = build(tiny_config("generator.upsampler.noise=true"))
    plain.run()
    middle = copy.deepcopy(plain.state.state_dict())
    again = build(tiny_config("generator.upsampler.noise=true", "generator.upsampler.recompute=true"))
    assert again.state.generator.synthesis.upsampler.recompute
    again.run()
    assert_same(flat(again.state.state_dict()), flat(middle))
    again.state.load_state_dict(middle)
    for stepper in (plain, again):
        stepper.run()
    assert_same(flat(again.state.state_dict()), flat(plain.state.state_dict()))


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    """All numbers of nested dicts and lists by their path."""
    if isinstance(state, dict | list | tuple):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: t for key, value in pairs for path, t in flat(value, f"{name}.{key}").items()}
    return {} if state is None else {name: torch.as_tensor(state)}


def saved_bytes(net: Upsampler, given: list[Tensor]) -> int:
    with SavedBytes([*net.parameters(), *net.buffers()]) as saved:
        one_pass(net, given, source(5))
    return saved.count


def test_only_what_enters_a_block_is_saved() -> None:
    # features and image of every block, float32: 4, 8, 8 channels and 3 at 4, 8, 16 px, two images
    entering = 4 * 2 * sum((channels + 3) * edge**2 for channels, edge in ((4, 4), (8, 8), (8, 16)))
    assert saved_bytes(make(True), inputs()) == entering
    assert saved_bytes(make(False), inputs()) > 10 * entering


def test_nothing_is_computed_again_without_gradients() -> None:
    net, given = make(True), inputs()
    calls = []
    net.blocks["b8"].register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        one_pass(net, given, source(5))
    assert len(calls) == 1
    loss_of(one_pass(net, given, source(5))).backward()
    assert len(calls) == 3
