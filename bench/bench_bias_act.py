"""Bias, leaky ReLU, gain and clamp on upsampler features."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, Measure, Subject
from kernels import bias_act

CASES = {"256 ch, 128 px": (256, 128, 1), "64 ch, 512 px": (64, 512, 1), "64 ch, 512 px, NHWC": (64, 512, 3)}


def features_and_bias(device: torch.device, seed: int, *, channels: int, edge: int, dim: int) -> tuple[Tensor, Tensor]:
    """Features with their channels along ``dim``."""
    x, bias = shapes.biased(device, seed, channels=channels, edge=edge)
    return x.detach().movedim(1, dim).contiguous().requires_grad_(), bias


def activate(args: Args, *, impl: Any, dim: int) -> tuple[Tensor, ...]:
    x, bias = args
    return (bias_act(x, bias, dim=dim, act="lrelu", clamp=256.0, impl=impl),)


def subject(shape: str) -> Subject:
    channels, edge, dim = CASES[shape]
    count = channels * edge**2
    return Subject(
        op="bias_act",
        shape=shape,
        ops=("bias_act",),
        make=partial(features_and_bias, channels=channels, edge=edge, dim=dim),
        run=partial(activate, dim=dim),
        flops=5 * count,  # sum, slope, gain, two comparisons of the clamp
        flops_backward=4 * count,  # gate of the clamp, gain, slope, sum over pixels for the bias
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_bias_act(measure: Measure, shape: str, direction: str, impl: str) -> None:
    measure(subject(shape), direction, impl)
