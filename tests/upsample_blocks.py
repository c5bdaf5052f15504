"""Calls of the upsample block by name: their inputs, and the op as a function of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylenerf.kernels.blocks.upsample_block import upsample_block
from stylenerf.kernels.blocks.upsample_block_ref import TAPS
from stylenerf.kernels.blocks.upsample_features import Adapter
from tests.gradients import DEVICE
from tests.inputs import source

Op = Callable[..., Tensor]

HALF = torch.float16


class Case(NamedTuple):
    mode: str = "nn_cat"
    shape: tuple[int, int, int, int] = (2, 6, 3, 5)  # of x
    channels: int = 8
    rows: int = 2  # of styles
    hidden: int | None = None  # C/4
    blur: bool = True
    bias: bool = True
    noise: tuple[int, ...] | None = None
    clamp: float | None = None
    kernel: int = 1


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Inputs of ``op``, all of ``dtype``."""
    g = source(0)
    C, D, (N, I, H, W) = case.channels, case.hidden or case.channels // 4, case.shape  # noqa: E741

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(DEVICE, dtype)

    rows = case.rows if N else 0
    inputs = {
        "x": normal(N, I, H, W),
        "weight": normal(C, I, case.kernel, case.kernel),
        "styles": 1 + normal(rows, I, scale=0.3),
    }
    if case.mode not in ("bilinear", "transposed"):
        both, phases = (2 * C, 1) if case.mode == "nn_cat" else (C, 4)
        inputs |= {"weight0": normal(D, both, scale=both**-0.5), "bias0": normal(D, scale=0.3)}
        inputs |= {"weight1": normal(phases * C, D, scale=D**-0.5), "bias1": normal(phases * C, scale=0.3)}
    inputs["input_gain"] = 0.7 + normal(scale=0.1)
    if case.bias:
        inputs["bias"] = normal(C, scale=0.3)
    if case.noise is not None:
        inputs["noise"] = normal(*case.noise)
    return inputs


def op(case: Case, impl: str) -> Op:
    """``upsample_block`` as a function of the inputs' values in order."""
    names = tuple(make(case))

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values))
        layers = [given.pop(name) for name in ("weight0", "bias0", "weight1", "bias1") if name in given]
        x, weight, styles = (given.pop(name) for name in ("x", "weight", "styles"))
        adapter = Adapter(*layers) if layers else None
        taps = TAPS if case.blur else None
        options: Any = given | {"clamp": case.clamp, "taps": taps, "impl": impl}
        return upsample_block(x, weight, styles, mode=case.mode, adapter=adapter, **options)

    return run
