"""Recorded layers and blocks of the upsampler, and their comparison with ours."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from stylenerf.models.config import UpsamplerConfig
from stylenerf.models.upsampler import BlockOptions, SynthesisBlock, SynthesisLayer
from tests.closeness import assert_relative
from tests.conftest import load_fixture

SIZES = (
    "nn_cat_k1", "nn_cat_k3", "nn_cat_noblur_k1", "pixelshuffle_k1", "pixelshuffle_k3", "pixelshuffle_noblur_k1",
    "bilinear_k1", "bilinear_k3", "bilinear_ada_k1", "nearest_k1", "bicubic_k1", "default_k1", "default_k3",
)  # fmt: skip
LAYERS = [f"{size}_up2" for size in SIZES]
NOISY = {
    "noise_default_up2": ("out_const_fused1", "out_const_fused0", "out_none_fused1", "out_none_fused0"),
    "noise_nn_cat_up2": ("out_const", "out_none"),
}
BLOCKS = ("skip_nn_cat", "skip_pixelshuffle", "skip_bilinear_all", "skip_default", "resnet_default")
PLAIN = BlockOptions()
W_DIM = 10


def load(module: nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    named = {n.replace("w_avg", "magnitude"): v for n, v in state.items() if not n.endswith("resample_filter")}
    module.load_state_dict({name: value.reshape(own[name].shape) for name, value in named.items()})


def layer(case: str, **changes: Any) -> tuple[SynthesisLayer, Tensor, Tensor]:
    """A layer of the reference numbers; its case names mode, kernel and factor."""
    f = load_fixture("units.npz")
    state = f.state(f"synlayer/{case}/sd/")
    kernel = state["weight"].shape[-1]
    mode = case.removesuffix("_up2").removesuffix(f"_k{kernel}").removeprefix("noise_")
    cfg = UpsamplerConfig(
        mode=mode if case.endswith("up2") else "nn_cat",
        kernel_size=kernel,
        clamp=1.5,
        magnitude_decay=0.999 if "w_avg" in state else None,
        noise="noise_strength" in state,
    )
    out = SynthesisLayer(6, 8, W_DIM, 12, replace(cfg, **changes), up=case.endswith("up2"))
    load(out, state)
    return out.eval(), f[f"synlayer/{case}/in0"], f[f"synlayer/{case}/in1"]


def compare_layer(case: str) -> None:
    f = load_fixture("units.npz")
    net, x, w = layer(case)
    got = net(x, w, PLAIN)
    for form in ("fused", "unfused"):
        assert_relative(form, got, f[f"synlayer/{case}/out_{form}"])
    if case != "plain_k3_up1":
        assert_relative("gain", net(x, w, PLAIN, gain=math.sqrt(0.5)), f[f"synlayer/{case}/out_gain"])
        path = net(x, w, BlockOptions(enlarge=False))
        assert_relative("skip_up", path, f[f"synlayer/{case}/out_skip_up"])


def compare_noise(case: str, output: str) -> None:
    f = load_fixture("units.npz")
    net, x, w = layer(case, clamp=None)
    got = net(x, w, BlockOptions(noise="const" if "const" in output else "none"))
    assert_relative(output, got, f[f"synlayer/{case}/{output}"])


def compare_magnitude() -> None:
    f = load_fixture("units.npz")
    net = SynthesisLayer(6, 8, W_DIM, 12, UpsamplerConfig(clamp=None), up=True)
    load(net, f.state("synlayer/train_ema/sd/"))
    got = net.train()(f["synlayer/train_ema/in0"], f["synlayer/train_ema/in1"], PLAIN)
    assert_relative("out", got, f["synlayer/train_ema/out"])
    assert_relative("magnitude", net.magnitude, f["synlayer/train_ema/w_avg_after"])


def compare_repeated_styles() -> None:
    f = load_fixture("units.npz")
    net, x, w = layer("repeat_styles_up1", clamp=None)
    assert_relative("out", net(x, w, PLAIN), f["synlayer/repeat_styles_up1/out_y"])


def compare_block(case: str) -> None:
    f = load_fixture("units.npz")
    architecture, mode = case.split("_", 1)
    state = f.state(f"synblock/{case}/sd/")
    cfg = UpsamplerConfig(mode=mode, kernel_size=state["conv0.weight"].shape[-1], architecture=architecture, clamp=None)  # type: ignore[arg-type]
    block = SynthesisBlock(6, 8, W_DIM, 12, cfg, is_last=True)
    load(block, state)
    image = f[f"synblock/{case}/img"] if architecture == "skip" else None
    x, rgb = block.eval()(f[f"synblock/{case}/x"], image, f[f"synblock/{case}/ws"], PLAIN)
    assert_relative("x", x, f[f"synblock/{case}/x_out"])
    assert_relative("image", rgb, f[f"synblock/{case}/img_out"])
