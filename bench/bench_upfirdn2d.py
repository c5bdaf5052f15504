"""FIR filtering with [1, 3, 3, 1]: blur, upsample by 2, downsample by 2."""

from functools import partial
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from bench import peers, shapes
from bench.gate import Args
from bench.harness import DTYPES, WITH_PEER, Measure, Subject
from bench.machine import DEVICE
from stylenerf.kernels import downsample2d, filter2d, setup_filter, upsample2d

Kind = Literal["blur", "up 2", "down 2"]
TAPS = 4
FUNCTIONS: dict[Kind, Any] = {"blur": filter2d, "up 2": upsample2d, "down 2": downsample2d}


class Case(NamedTuple):
    kind: Kind
    channels: int
    edge: int
    last: bool = False  # channels_last


CASES = {
    "blur 128 ch, 256 px": Case("blur", 128, 256),
    "blur 128 ch, 256 px, NHWC": Case("blur", 128, 256, last=True),
    "up 2, 3 ch, 512 px": Case("up 2", 3, 512),  # the image skip
    "up 2, 128 ch, 128 px": Case("up 2", 128, 128),
    "up 2, 128 ch, 128 px, NHWC": Case("up 2", 128, 128, last=True),
    "down 2, 128 ch, 256 px": Case("down 2", 128, 256),  # the discriminator
    "down 2, 128 ch, 256 px, NHWC": Case("down 2", 128, 256, last=True),
}


def image_and_filter(device: torch.device, seed: int, *, case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    (x,) = shapes.images(device, seed, channels=case.channels, edge=case.edge)
    layout = torch.channels_last if case.last else torch.contiguous_format
    x = x.detach().to(dtype).contiguous(memory_format=layout).requires_grad_()
    return x, setup_filter([1, 3, 3, 1], device=device)


def resample(args: Args, *, impl: Any, case: Case) -> tuple[Tensor, ...]:
    x, f = args
    y = FUNCTIONS[case.kind](x, f, impl=impl)
    return (y.permute(0, 2, 3, 1) if case.last else y,)  # so that the gradient arrives in the same memory format


def subject(shape: str, dtype: str) -> Subject:
    case = CASES[shape]
    # taps on pixels: 16 per output, 4 with up (the others fall on inserted zeros)
    outputs, taps = {
        "blur": (case.edge**2, TAPS**2),
        "up 2": ((2 * case.edge) ** 2, TAPS**2 // 4),
        "down 2": ((case.edge // 2) ** 2, TAPS**2),
    }[case.kind]
    flops = 2 * case.channels * outputs * taps  # a product and a sum per tap
    return Subject(
        op="upfirdn2d",
        shape=f"{shape}, {dtype}",
        ops=("upfirdn2d",),
        make=partial(image_and_filter, case=case, dtype=DTYPES[dtype]),
        run=partial(resample, case=case),
        flops=flops,
        flops_backward=flops,  # the transposed filter has as many terms
        linear=True,
        peer=peers.upfirdn2d(FUNCTIONS[case.kind].__name__, last=case.last),
    )


@pytest.mark.parametrize(("direction", "impl"), WITH_PEER)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CASES)
def test_upfirdn2d(measure: Measure, shape: str, direction: str, dtype: str, impl: str) -> None:
    if DEVICE.type == "cpu" and dtype != "fp32":
        pytest.skip("on a CPU filters and activations are timed in float32 only")
    measure(subject(shape, dtype), direction, impl)
