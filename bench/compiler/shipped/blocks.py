"""Shipped configurations of ``kernels/blocks``: layers and blocks of the upsampler."""

from collections.abc import Callable
from functools import partial

import torch

from stylenerf.kernels.base.gate import launch_gate
from stylenerf.kernels.blocks.mean_square_triton import _square_sum
from stylenerf.kernels.blocks.modulated_layer_triton import _pointwise_layer, operand_name
from stylenerf.kernels.blocks.refine_to_rgb_backward import launch_backward
from stylenerf.kernels.blocks.refine_to_rgb_forward import Tail
from stylenerf.kernels.blocks.refine_to_rgb_triton import _refine_rows
from stylenerf.kernels.blocks.upsample_block_backward import launch_combine_backward
from stylenerf.kernels.blocks.upsample_block_bilinear import _upsample_bilinear, launch_bilinear_backward
from stylenerf.kernels.blocks.upsample_block_forward import GAIN, PackedAdapter
from stylenerf.kernels.blocks.upsample_block_triton import _how, _upsample_combine, _upsample_whole
from stylenerf.kernels.blocks.upsample_block_whole import plan_whole


def mean_square() -> dict[str, Callable[[], None]]:
    """Features of a batch at the largest and the smallest stage."""

    def run(dtype: torch.dtype, *shape: int) -> None:
        _square_sum(torch.empty(shape, dtype=dtype, device="meta"))

    cases = [(torch.float16, 4, 32, 1024, 1024), (torch.float32, 4, 512, 64, 64), (torch.bfloat16, 4, 64, 512, 512)]
    return {f"mean_square {str(dt)[6:]} {list(shape)}": partial(run, dt, *shape) for dt, *shape in cases}


def modulated_layer() -> dict[str, Callable[[], None]]:
    """The second layer of every block from 128 to 1024 px, and a toRGB."""

    def run(channels: int, out: int, edge: int, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            x = torch.empty(4, edge * edge, channels, dtype=dtype)
            weight, bias = torch.empty(4, out, channels), torch.empty(out)
            y, scale = torch.empty(4, edge * edge, out, dtype=dtype), torch.empty(())
        _pointwise_layer(x, weight, bias, 0.2, 2**0.5, 256.0, True)
        precision = operand_name(x, True)
        launch_gate(torch.empty_like(y), y, y, scale, slope=0.2, precision=precision, clamp=256.0)

    stages = ((512, 64), (256, 128), (128, 256), (64, 512), (32, 1024))
    cases = [(c, o, edge, torch.float16) for c, edge in stages for o in (c, 3)]
    cases += [(512, 512, 64, torch.float32), (64, 64, 512, torch.bfloat16)]
    return {f"layer {c} to {o} at {edge} px {str(d)[6:]}": partial(run, c, o, edge, d) for c, o, edge, d in cases}


def refine_to_rgb() -> dict[str, Callable[[], None]]:
    """The tails that the kernels cover, forward and backward, of an inner block and of the last one."""

    def run(C: int, edge: int, dtype: torch.dtype, enlarge: str | None, keep: bool, allow_tf32: bool) -> None:
        with torch.device("meta"):
            x, image = torch.empty(4, edge, edge, C, dtype=dtype), torch.empty(4, 3, edge // 2, edge // 2)
            image = torch.empty(4, 3, edge, edge) if enlarge is None else image
            weight, bias = torch.empty(4, C, C), torch.empty(C)
            rgb_weight, rgb_bias = torch.empty(4, 3, C), torch.empty(3)
        y, out = _refine_rows(x, weight, bias, rgb_weight, rgb_bias, image, enlarge, keep, 2**0.5, 256.0, allow_tf32)
        how = Tail(2**0.5, 256.0, operand_name(x, allow_tf32))
        packed = how.pack(weight, bias, rgb_weight, rgb_bias)
        launch_backward(y if keep else None, out, x, packed, how, need_x=True, need_layer=True)

    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    stages = ((256, 128), (128, 256), (64, 512), (32, 1024))
    cases: list[tuple[int, int, torch.dtype, str | None, bool, bool]]
    cases = [(*stage, half, "fir", keep, False) for stage in stages for keep in (True, False)]
    cases += [(32, 1024, half, "bilinear", False, False), (32, 1024, half, None, True, False)]
    cases += [(64, 512, brain, "fir", True, False), (64, 512, single, "fir", False, False)]
    cases += [(32, 1024, single, "fir", True, False), (64, 512, single, "fir", True, True)]
    cases += [(32, 1024, single, "fir", False, True)]
    named: dict[str, Callable[[], None]] = {}
    for C, edge, dtype, enlarge, keep, tf32 in cases:
        notes = [f" {enlarge or 'no enlarging'}"] * (enlarge != "fir") + [" tf32"] * tf32 + [" last"] * (not keep)
        named[f"block {C} at {edge} px {str(dtype)[6:]}{''.join(notes)}"] = partial(
            run, C, edge, dtype, enlarge, keep, tf32
        )
    return named


def upsample_block_bilinear() -> dict[str, Callable[[], None]]:
    """One stage of each width class."""

    def run(channels: int, edge: int, dtype: torch.dtype) -> None:
        x, bias = torch.empty(2, edge, edge, channels, dtype=dtype, device="meta"), torch.empty(channels, device="meta")
        out = _upsample_bilinear(x, bias, 2**0.5, 256.0)
        launch_bilinear_backward(out, out, 2**0.5, 256.0)

    cases = [(32, 512, torch.float16), (512, 32, torch.float32), (128, 128, torch.bfloat16)]
    return {f"bilinear {c} to {2 * e} px {str(d)[6:]}": partial(run, c, e, d) for c, e, d in cases}


def upsample_block() -> dict[str, Callable[[], None]]:
    """The blocks of the released models, forward and backward, and the other modes and types."""

    def run(mode: str, C: int, edge: int, dtype: torch.dtype, blur: bool, noise: bool, allow_tf32: bool) -> None:
        with torch.device("meta"):
            D, phases = C // 4, 4 if mode == "pixelshuffle" else 1
            map = torch.empty(2, edge // 2, edge // 2, C + (D if mode == "pixelshuffle" else 2 * D), dtype=dtype)
            out = torch.empty(2, edge, edge, C, dtype=dtype)
            weight1, bias0, bias1 = torch.empty(phases * C, D), torch.empty(D), torch.empty(phases * C)
            bias, grain = torch.empty(C), torch.empty(1, edge, edge) if noise else None
        _upsample_combine(map, weight1, bias0, bias1, bias, grain, mode, blur, GAIN, 256.0, allow_tf32)
        how = _how(map, mode, blur, GAIN, 256.0, allow_tf32)
        adapter = PackedAdapter.of(weight1, bias0, bias1, how)
        launch_combine_backward(out, out, map[..., C:], adapter, noise, how)

    def run_whole(mode: str, I: int, C: int, edge: int, dtype: torch.dtype, blur: bool, noise: bool) -> None:  # noqa: E741
        with torch.device("meta"):
            D, phases = C // 4, 4 if mode == "pixelshuffle" else 1
            x = torch.empty(2, edge // 2, edge // 2, I, dtype=dtype)
            weight = torch.empty(2, C + (D if mode == "pixelshuffle" else 2 * D), I)
            weight1, bias0, bias1 = torch.empty(phases * C, D), torch.empty(D), torch.empty(phases * C)
            bias, grain = torch.empty(C), torch.empty(1, edge, edge) if noise else None
        how = _how(x, mode, blur, GAIN, 256.0, False)
        if plan_whole(x, C, D, how):
            out = _upsample_whole(x, weight, weight1, bias0, bias1, bias, grain, mode, blur, GAIN, 256.0, False)
            sums = x.new_empty(*x.shape[:3], weight.shape[1] - C)
            launch_combine_backward(out, out, sums, PackedAdapter.of(weight1, bias0, bias1, how), noise, how)
        else:
            run(mode, C, edge, dtype, blur, noise, False)

    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    stages = ((512, 64), (256, 128), (128, 256), (64, 512), (32, 1024))
    cases = [(mode, *stage, half, True, False, False) for stage in stages for mode in ("nn_cat", "pixelshuffle")]
    cases += [("nn_cat", 512, 64, single, True, False, tf32) for tf32 in (False, True)]
    cases += [("nn_cat", 64, 512, half, blur, True, False) for blur in (False, True)]
    cases += [("nn_cat", 128, 256, brain, True, False, False)]
    cases += [("pixelshuffle", 512, 64, single, True, True, False)]
    named: dict[str, Callable[[], None]] = {}
    for mode, C, edge, dtype, blur, noise, tf32 in cases:
        notes = [" tf32"] * tf32 + [" without blur"] * (not blur) + [" noise"] * noise
        name = f"{mode} {C} at {edge} px {str(dtype)[6:]}{''.join(notes)}"
        named[name] = partial(run, mode, C, edge, dtype, blur, noise, tf32)
    whole = [(mode, half, True, False) for mode in ("nn_cat", "pixelshuffle")]
    whole += [("nn_cat", half, True, True), ("nn_cat", half, False, True), ("nn_cat", brain, True, False)]
    for mode, dtype, blur, noise in whole:
        for I, C, edge in ((256, 128, 256), (128, 64, 512), (64, 32, 1024)):  # noqa: E741
            notes = [" without blur"] * (not blur) + [" noise"] * noise
            name = f"{mode} {I} to {C} at {edge} px {str(dtype)[6:]}{''.join(notes)}, one launch"
            named[name] = partial(run_whole, mode, I, C, edge, dtype, blur, noise)
    return named
