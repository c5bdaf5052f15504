"""Bias, leaky ReLU, gain and clamp on upsampler features."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import peers, shapes
from bench.gate import Args
from bench.harness import DTYPES, WITH_PEER, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels import bias_act

CASES = {"256 ch, 128 px": (256, 128, 1), "64 ch, 512 px": (64, 512, 1), "64 ch, 512 px, NHWC": (64, 512, 3)}


def features_and_bias(
    device: torch.device, seed: int, *, channels: int, edge: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Features and bias of ``dtype``, with the channels along ``dim``."""
    x, bias = (t.detach().to(dtype) for t in shapes.biased(device, seed, channels=channels, edge=edge))
    return x.movedim(1, dim).contiguous().requires_grad_(), bias.requires_grad_()


def activate(args: Args, *, impl: Any, dim: int) -> tuple[Tensor, ...]:
    x, bias = args
    return (bias_act(x, bias, dim=dim, act="lrelu", clamp=256.0, impl=impl),)


def subject(shape: str, dtype: str) -> Subject:
    channels, edge, dim = CASES[shape]
    count = channels * edge**2
    return Subject(
        op="bias_act",
        shape=f"{shape}, {dtype}",
        ops=("bias_act",),
        make=partial(features_and_bias, channels=channels, edge=edge, dim=dim, dtype=DTYPES[dtype]),
        run=partial(activate, dim=dim),
        flops=5 * count,  # sum, slope, gain, two comparisons of the clamp
        flops_backward=4 * count,  # gate of the clamp, gain, slope, sum over pixels for the bias
        peer=peers.bias_act(dim=dim, act="lrelu", clamp=256.0),
    )


@pytest.mark.parametrize(("direction", "impl"), WITH_PEER)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES)
def test_bias_act(measure: Measure, shape: str, direction: str, dtype: str, impl: str) -> None:
    if DEVICE.type == "cpu" and dtype != "fp32":
        pytest.skip("on a CPU filters and activations are timed in float32 only")
    measure(subject(shape, dtype), direction, impl)
