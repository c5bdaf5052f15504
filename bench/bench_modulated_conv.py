"""Modulated convolution in both forms: a weight per image, or scaled activations and one weight for all."""

from functools import partial
from typing import Any, Literal

import pytest
from torch import Tensor

from bench import peers, shapes
from bench.gate import Args
from bench.harness import DIRECTIONS, IMPLS, PEER, Measure, Subject
from stylenerf.kernels import modulated_conv

Form = Literal["weights", "activations"]
FORMS: tuple[Form, ...] = ("weights", "activations")
CASES = {  # batch, channels, edge, kernel
    "1x1, 256 ch, 128 px, batch 1": (1, 256, 128, 1),
    "1x1, 256 ch, 64 px, batch 4": (4, 256, 64, 1),
    "3x3, 256 ch, 64 px, batch 1": (1, 256, 64, 3),
    "3x3, 128 ch, 64 px, batch 4": (4, 128, 64, 3),
}


def convolve(args: Args, *, impl: Any, form: Form, kernel: int) -> tuple[Tensor, ...]:
    x, weight, styles = args
    return (modulated_conv(x, weight, styles, padding=kernel // 2, form=form, impl=impl),)


def subject(shape: str, form: Form) -> Subject:
    batch, channels, edge, kernel = CASES[shape]
    terms = batch * channels**2 * kernel**2 * edge**2
    return Subject(
        op="modulated_conv",
        shape=shape,
        ops=("modulated_conv",),
        make=partial(shapes.convolution, batch=batch, channels=channels, edge=edge, kernel=kernel),
        run=partial(convolve, form=form, kernel=kernel),
        flops=2 * terms,  # a product and a sum per weight and pixel; modulation (below 1 %) left out
        flops_backward=4 * terms,  # the gradients of input and weight
        form=form,
        plain=None if form == "weights" else partial(convolve, form="weights", kernel=kernel),
        peer=peers.modulated_conv(kernel, fused=form == "weights"),
    )


@pytest.mark.parametrize("impl", [*IMPLS, PEER])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", CASES)
def test_modulated_conv(measure: Measure, shape: str, direction: str, form: Form, impl: str) -> None:
    measure(subject(shape, form), direction, impl)
