"""Shipped configurations of ``kernels/base``: linear layers."""

from collections.abc import Callable
from functools import partial

import torch

from stylenerf.kernels.base.linear import launch_dgrad, launch_linear, launch_wgrad
from stylenerf.kernels.base.operands import OPERANDS


def linear() -> dict[str, Callable[[], None]]:
    """The layers of a trunk at every width, forward and backward, on a training step's points of two images."""

    def run(in_width: int, width: int, precision: str, dtype: torch.dtype | None) -> None:
        with torch.device("meta"):
            storage = OPERANDS[precision].storage
            x = torch.empty(2, 1280 * 28, in_width, dtype=dtype or storage)
            z = torch.empty(2, 1280 * 28, width, dtype=storage)
            weight, bias = torch.empty(2, width, in_width, dtype=storage), torch.empty(2, width)
            factor = torch.empty(())
            launch_linear(z, x, weight, bias, slope=0.2, precision=precision)
            launch_dgrad(x, z, weight, None if dtype else x, slope=0.2, precision=precision, factor=factor)
            launch_wgrad(z, x, precision=precision, factor=factor)

    cases: list[tuple[int, int, str, torch.dtype | None]] = [(w, w, "fp16", None) for w in (64, 128, 256, 512)]
    cases += [(60, 128, "fp16", torch.float32), (80, 64, "fp16", torch.float32), (256, 256, "bf16", None)]
    cases += [(128, 128, "tf32", None), (128, 128, "fp32", None), (7, 33, "fp16", torch.float16)]
    return {f"linear {i} to {o} {p}{' first' if d else ''}": partial(run, i, o, p, d) for i, o, p, d in cases}
