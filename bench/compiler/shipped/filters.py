"""Shipped configurations of ``kernels/filters``: filters and activations."""

from collections.abc import Callable
from functools import partial

import torch

from stylenerf.kernels.filters.bias_act_triton import PIECEWISE, _bias_act_grad, _keeps_y, launch_bias_act
from stylenerf.kernels.filters.upfirdn2d_triton import Pads, _upfirdn2d, adjoint_padding


def bias_act() -> dict[str, Callable[[], None]]:
    """Activations of the networks, in both memory formats; then every activation with its first two derivatives."""

    def run(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, act: str, clamp: float | None) -> None:
        with torch.device("meta"):
            x, b = torch.empty(shape, dtype=dtype), torch.empty(shape[1], dtype=dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        launch_bias_act(x, b, 1, act, 0.2, 1.4, clamp)
        bias = None if _keeps_y(act, 0.2) else b
        _bias_act_grad(x, x, bias, 1, act, 0.2, 1.4, clamp, 1, True)
        if act not in PIECEWISE:
            _bias_act_grad(x, x, bias, 1, act, 0.2, 1.4, clamp, 2, True)

    half, single, stage = torch.float16, torch.float32, (4, 64, 512, 512)
    smooth = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
    return {
        "lrelu NHWC fp16": partial(run, stage, half, True, "lrelu", 256.0),
        "lrelu NCHW fp16": partial(run, stage, half, False, "lrelu", 256.0),
        "lrelu NCHW fp32": partial(run, stage, single, False, "lrelu", None),
        "lrelu rows fp32": partial(run, (32, 512), single, False, "lrelu", None),
        "lrelu 4 px fp32": partial(run, (4, 512, 4, 4), single, False, "lrelu", None),
        "linear image fp32": partial(run, (4, 3, 512, 512), single, False, "linear", 256.0),
        "relu NHWC fp16": partial(run, stage, half, True, "relu", None),
        **{f"{act} NCHW fp32": partial(run, stage, single, False, act, None) for act in smooth},
    }


def upfirdn2d() -> dict[str, Callable[[], None]]:
    """[1, 3, 3, 1] as generators and discriminators use it, with its gradients; then longer filters, larger factors."""

    def run(
        taps: tuple[int, ...], up: int, down: int, padding: Pads,
        shape: tuple[int, int, int, int], dtype: torch.dtype, layout: torch.memory_format,
    ) -> None:  # fmt: skip
        with torch.device("meta"):
            x, f = torch.empty(shape, dtype=dtype, memory_format=layout), torch.empty(taps)
        ups, downs = (up, up), (down, down)
        y = _upfirdn2d(x, f, ups, downs, padding, False, 1.0)
        pads = adjoint_padding(shape[2:], y.shape[2:], f, ups, downs, padding)
        _upfirdn2d(y, f, downs, ups, pads, True, 1.0)

    kinds: dict[str, tuple[tuple[int, ...], int, int, Pads]] = {
        "blur 4x4": ((4, 4), 1, 1, (2, 1, 2, 1)),
        "up 2 4x4": ((4, 4), 2, 1, (2, 1, 2, 1)),
        "down 2 4x4": ((4, 4), 1, 2, (1, 1, 1, 1)),
        "blur 4+4": ((4,), 1, 1, (2, 1, 2, 1)),
        "blur 8x8": ((8, 8), 1, 1, (4, 3, 4, 3)),
        "up 2 8+8": ((8,), 2, 1, (4, 3, 4, 3)),
        "up 4 8x8": ((8, 8), 4, 1, (5, 2, 5, 2)),
        "up 2 12+12": ((12,), 2, 1, (10, 9, 10, 9)),  # StyleGAN3
        "up 4 24+24": ((24,), 4, 1, (22, 21, 22, 21)),
        "blur 32+32": ((32,), 1, 1, (16, 15, 16, 15)),
    }
    half, single, images, pixels = torch.float16, torch.float32, torch.contiguous_format, torch.channels_last
    stages = {
        "NHWC fp16": ((4, 64, 512, 512), half, pixels),
        "NCHW fp16": ((4, 64, 512, 512), half, images),
        "NHWC fp32": ((4, 512, 64, 64), single, pixels),
        "NCHW fp32": ((4, 3, 512, 512), single, images),
    }
    return {
        f"{kind} {stage}": partial(run, *kinds[kind], *stages[stage])
        for kind in kinds
        for stage in stages
        if "4x4" in kind or stage in ("NHWC fp16", "NCHW fp32")
    }
