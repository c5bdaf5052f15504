"""A layer of StyleGAN3: bias, upsampling by 2, leaky ReLU, downsampling by 2, filters of 12 taps."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import peers, shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, PEER, Measure, Subject
from stylenerf.kernels import filtered_lrelu, setup_filter

TAPS = 12
PADDING = TAPS - 1  # on each side: preserves the size
OPTIONS: dict[str, Any] = {"up": 2, "down": 2, "padding": PADDING, "clamp": 256.0}
CASES = {"512 ch, 36 px": (512, 36), "256 ch, 148 px": (256, 148)}


def features(device: torch.device, seed: int, *, channels: int, edge: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, bias, a separable low-pass filter."""
    return *shapes.biased(device, seed, channels=channels, edge=edge), setup_filter(
        torch.hann_window(TAPS + 2)[1:-1], device
    )


def activate(args: Args, *, impl: Any) -> tuple[Tensor, ...]:
    x, bias, f = args
    return (filtered_lrelu(x, f, f, bias, **OPTIONS, impl=impl),)


def subject(shape: str) -> Subject:
    channels, edge = CASES[shape]
    large = 2 * edge + 2 * PADDING - TAPS + 1
    # along x, then along y; up meets half of the taps, the rest meet inserted zeros
    taps = TAPS // 2 * large * (edge + large) + TAPS * edge * (large + edge)
    flops = channels * (edge**2 + 2 * taps + 4 * large**2)  # bias; a product and a sum per tap; slope, gain, clamp
    return Subject(
        op="filtered_lrelu",
        shape=shape,
        ops=("filtered_lrelu",),
        make=partial(features, channels=channels, edge=edge),
        run=activate,
        flops=flops,
        flops_backward=flops,
        peer=peers.filtered_lrelu(**OPTIONS),
    )


@pytest.mark.parametrize("impl", [*IMPLS, PEER])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_filtered_lrelu(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
