"""Feature upsampling: public layers rebuilt from the ops, both forms against each other, and what each part must do."""

import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.blocks.modulated_conv import modulated_conv
from stylenerf.kernels.blocks.upsample_features import UPSAMPLE_MODES, Adapter, upsample_features
from stylenerf.kernels.blocks.upsample_features_ref import corner_average
from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.upfirdn2d import filter2d, setup_filter
from tests.closeness import assert_relative
from tests.conftest import load_fixture

Form = Literal["commuted", "plain"]

FORMS: tuple[Form, ...] = ("commuted", "plain")
ADAPTED = ("nn_cat", "pixelshuffle", "bilinear_ada")
F1331 = setup_filter([1, 3, 3, 1])
LAYERS = [f"{mode}_k{k}_up2" for mode in ("nn_cat", "pixelshuffle", "bilinear", "default") for k in (1, 3)]
LAYERS += [f"{mode}_k1_up2" for mode in ("nn_cat_noblur", "pixelshuffle_noblur", "bilinear_ada", "nearest", "bicubic")]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_adapter(mode: str, C: int, D: int | None = None, dtype: torch.dtype = torch.float64) -> Adapter | None:
    if mode not in ADAPTED:
        return None
    D = D or max(C // 4, 1)
    wide = 4 * C if mode == "pixelshuffle" else C
    shapes = ((D, 2 * C if mode == "nn_cat" else C), (D,), (wide, D), (wide,))
    return Adapter(*(random(*shape, seed=i + 1, dtype=dtype) for i, shape in enumerate(shapes)))


def public_adapter(sd: dict[str, Tensor]) -> Adapter | None:
    if "adapter.0.weight" not in sd:
        return None
    w0, w1 = sd["adapter.0.weight"].flatten(1), sd["adapter.1.weight"].flatten(1)
    scaled = w0 / math.sqrt(w0.shape[1]), w1 / math.sqrt(w1.shape[1])
    return Adapter(scaled[0], sd["adapter.0.bias"], scaled[1], sd["adapter.1.bias"])


def public_layer(case: str, form: Form, conv: Any, *, gain: float = 1.0, up: bool = True, noise: float = 0) -> Tensor:
    """x / sqrt(a) -> modulated conv -> upsample and blur -> noise -> bias, leaky ReLU, gain, clamp."""
    units = load_fixture("units.npz")
    sd, x, w = units.state(f"synlayer/{case}/sd/"), units[f"synlayer/{case}/in0"], units[f"synlayer/{case}/in1"]
    mode = case.removeprefix("noise_").split("_k")[0].removesuffix("_up2").removesuffix("_noblur")
    learned = mode == "default" and up
    styles = w @ (sd["affine.weight"] / math.sqrt(w.shape[1])).t() + sd["affine.bias"]
    image_noise = sd["noise_const"] * noise if noise else None
    x = modulated_conv(
        x,
        sd["weight"],
        styles,
        input_gain=sd["w_avg"].rsqrt() if "w_avg" in sd else None,
        noise=image_noise if learned else None,
        up=2 if learned else 1,
        padding=sd["weight"].shape[-1] // 2,
        filter=F1331 if learned else None,
        flip_weight=not up,  # the public layers convolve where they enlarge and correlate elsewhere
        form=conv,
    )
    if up and not learned:
        blur = None if "noblur" in case else F1331
        x = upsample_features(x, mode=mode, adapter=public_adapter(sd), filter=blur, form=form)
        x = x if image_noise is None else x + image_noise
    clamp = None if case.startswith("noise") else 1.5 * gain  # as these fixtures were made
    return bias_act(x, sd["bias"], act="lrelu", gain=math.sqrt(2) * gain, clamp=clamp)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", LAYERS)
def test_public_layers(case: str, form: Form) -> None:
    want = load_fixture("units.npz").state(f"synlayer/{case}/")
    assert_relative("fused", public_layer(case, form, "weights"), want["out_fused"])
    assert_relative("unfused", public_layer(case, form, "activations"), want["out_unfused"])
    assert_relative("gain", public_layer(case, form, "auto", gain=math.sqrt(0.5)), want["out_gain"])
    assert_relative("skip_up", public_layer(case, form, "auto", up=False), want["out_skip_up"])


def test_public_layer_without_enlarging() -> None:
    want = load_fixture("units.npz").state("synlayer/plain_k3_up1/")
    assert_relative("fused", public_layer("plain_k3_up1", "commuted", "weights", up=False), want["out_fused"])
    assert_relative("unfused", public_layer("plain_k3_up1", "commuted", "activations", up=False), want["out_unfused"])


@pytest.mark.parametrize("noise, name", [(0.4, "const"), (0.0, "none")])
def test_public_layers_with_noise(noise: float, name: str) -> None:
    units = load_fixture("units.npz")
    for conv, fused in (("weights", 1), ("activations", 0)):
        got = public_layer("noise_default_up2", "commuted", conv, noise=noise)
        assert_relative("default", got, units[f"synlayer/noise_default_up2/out_{name}_fused{fused}"])
    got = public_layer("noise_nn_cat_up2", "commuted", "auto", noise=noise)
    assert_relative("nn_cat", got, units[f"synlayer/noise_nn_cat_up2/out_{name}"])


def test_corner_average_by_hand() -> None:
    # the new pixel at a corner is half of the pixel beyond it upwards or downwards plus half of the one sideways;
    # of [[1, 2], [3, 4]]: top left nothing lies outside (0), top right (0 + 2)/2, lower left (3 + 0)/2, (3 + 2)/2 ...
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    want = [[0.0, 1.0, 0.5, 0.0], [1.5, 2.5, 2.5, 2.0], [0.5, 2.5, 2.5, 1.0], [0.0, 2.0, 1.5, 0.0]]
    assert corner_average(x).tolist() == [[[[float(v) for v in row] for row in want]]]


@pytest.mark.parametrize("form", FORMS)
def test_nn_cat_by_hand(form: Form) -> None:
    # one pixel x = 2, so its corners are 0: hidden = 3*2 - 7 = -1 -> leaky ReLU -0.2, times sqrt 2; y = 2 + 5 h + 1
    one = torch.ones(1, 1)
    adapter = Adapter(torch.tensor([[3.0, 100.0]]), torch.tensor([-7.0]), 5 * one, torch.tensor([1.0]))
    y = upsample_features(torch.full((1, 1, 1, 1), 2.0), mode="nn_cat", adapter=adapter, form=form)
    assert_relative("hand", y, torch.full((1, 1, 2, 2), 3 - math.sqrt(2)), tol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_nearest_by_hand(form: Form) -> None:
    # a row [8, 16] of repeated pixels 8 8 16 16 under [1, 3, 3, 1]/8, two zeros left and one right of it:
    # (0 + 0 + 3*8 + 8)/8, (0 + 3*8 + 3*8 + 16)/8, (8 + 3*8 + 3*16 + 16)/8, (8 + 3*16 + 3*16 + 0)/8
    f = torch.tensor([[1.0, 3.0, 3.0, 1.0]]) / 8
    y = upsample_features(torch.tensor([[[[8.0, 16.0]]]]), mode="nearest", filter=f, form=form)
    assert y.tolist() == [[[[4.0, 8.0, 12.0, 13.0]] * 2]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_forms_agree(data: st.DataObject) -> None:
    draw = data.draw
    mode = draw(st.sampled_from(UPSAMPLE_MODES))
    filters = [None, F1331, setup_filter([1, 3, 3, 1], separable=True), random(4, 4, seed=7), random(3, 2, seed=8)]
    f = draw(st.sampled_from(filters))
    C, D = draw(st.sampled_from([1, 4, 6])), draw(st.integers(1, 3))
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x = random(draw(st.integers(1, 2)), C, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    adapter = make_adapter(mode, C, None if mode == "bilinear_ada" else D)
    plain = upsample_features(x, mode=mode, adapter=adapter, filter=f, form="plain")
    got = upsample_features(x.contiguous(memory_format=layout), mode=mode, adapter=adapter, filter=f)
    assert_relative(mode, got, plain, tol=1e-12)


@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_recorded_and_unrecorded_agree_and_nothing_is_overwritten(mode: str) -> None:
    x = random(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    adapter = make_adapter(mode, 8)
    before = [t.clone() for t in (x, *(adapter or ()))]
    lean = upsample_features(x, mode=mode, adapter=adapter, filter=F1331)
    recorded = upsample_features(x.clone().requires_grad_(), mode=mode, adapter=adapter, filter=F1331)
    assert_relative(mode, lean, recorded.detach(), tol=1e-13)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, *(adapter or ()))))
    assert lean.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_gradients(mode: str, form: Form) -> None:
    x = random(1, 4, 3, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = [w.requires_grad_() for w in make_adapter(mode, 4) or ()]

    def op(x: Tensor, *weights: Tensor) -> Tensor:
        return upsample_features(x, mode=mode, adapter=Adapter(*weights) if weights else None, filter=F1331, form=form)

    assert gradcheck(op, (x, *weights), fast_mode=True)
    assert gradgradcheck(op, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_constant_inside_the_border(mode: str) -> None:
    """Adapters of zero weight leave a constant image, plus their bias, both untouched by the blur inside."""
    adapter = make_adapter(mode, 4)
    if adapter is not None:
        adapter = adapter._replace(weight1=torch.zeros_like(adapter.weight1), bias1=torch.ones_like(adapter.bias1))
    y = upsample_features(torch.full((1, 4, 5, 6), 2.0).double(), mode=mode, adapter=adapter, filter=F1331)
    want = 2.0 if adapter is None else 3.0
    assert_relative(mode, y[..., 3:-3, 3:-3], torch.full_like(y[..., 3:-3, 3:-3], want), tol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle", "nearest"])
def test_shift_equivariant(mode: str, form: Form) -> None:
    adapter = make_adapter(mode, 4)
    x = random(1, 4, 12, 12)

    def op(x: Tensor) -> Tensor:
        return upsample_features(x, mode=mode, adapter=adapter, filter=F1331, form=form)

    moved = op(x.roll((1, -1), dims=(2, 3)))
    assert_relative(mode, moved[..., 6:-6, 6:-6], op(x).roll((2, -2), dims=(2, 3))[..., 6:-6, 6:-6], tol=1e-12)


def test_nearest_is_linear_and_blur_comes_last() -> None:
    x = random(2, 3, 4, 5)
    want = filter2d(F.interpolate(x, scale_factor=2, mode="nearest"), F1331)
    assert_relative("blur", upsample_features(x, mode="nearest", filter=F1331), want, tol=1e-12)
    assert_relative("linear", upsample_features(-2 * x, mode="nearest", filter=F1331), -2 * want, tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_dtypes(mode: str, dtype: torch.dtype) -> None:
    x, adapter = random(1, 8, 5, 4).to(dtype), make_adapter(mode, 8, dtype=torch.float32)
    if adapter is not None:
        adapter = Adapter(*(0.3 * w for w in adapter))
    y = upsample_features(x, mode=mode, adapter=adapter, filter=F1331)
    assert y.dtype == dtype
    exact = None if adapter is None else Adapter(*(w.double() for w in adapter))
    want = upsample_features(x.double(), mode=mode, adapter=exact, filter=F1331, form="plain")
    assert_relative(mode, y, want, tol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_empty_batch(mode: str, form: Form) -> None:
    y = upsample_features(torch.zeros(0, 4, 3, 2).double(), mode=mode, adapter=make_adapter(mode, 4), form=form)
    assert y.shape == (0, 4, 6, 4)


GOOD = make_adapter("nn_cat", 4)
assert GOOD is not None
BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "rank": ({"x": torch.zeros(4, 3, 3)}, ValueError, r"x must be \[N, C, H, W\], got 3 dims"),
    "dtype": ({"x": torch.zeros(1, 4, 3, 3).int()}, TypeError, "x must be one of .*, got torch.int32"),
    "no pixels": ({"x": torch.zeros(1, 4, 0, 3)}, ValueError, r"x must have at least one pixel, got \[1, 4, 0, 3\]"),
    "mode": ({"mode": "lanczos"}, ValueError, "mode must be one of .*'nn_cat'.*, got 'lanczos'"),
    "form": ({"form": "fused"}, ValueError, r"form must be one of \['commuted', 'plain'\], got 'fused'"),
    "missing": ({"adapter": None}, ValueError, "adapter must be given for mode 'nn_cat', got None"),
    "unwanted": ({"mode": "nearest"}, ValueError, "adapter must be None for mode 'nearest', got Adapter"),
    "weight0": (
        {"adapter": GOOD._replace(weight0=torch.zeros(1, 4))},
        ValueError,
        r"weight0 must be \[D, 8\] with 8=8",
    ),
    "bias0": ({"adapter": GOOD._replace(bias0=torch.zeros(2))}, ValueError, r"bias0 must be \[D\] with D=1, got \[2\]"),
    "weight1": (
        {"mode": "pixelshuffle", "adapter": GOOD._replace(weight0=torch.zeros(1, 4))},
        ValueError,
        "weight1 must",
    ),
    "bias1": ({"adapter": GOOD._replace(bias1=torch.zeros(5))}, ValueError, r"bias1 must be \[4\] with 4=4, got \[5\]"),
    "filter": ({"filter": torch.ones(1, 1, 1)}, ValueError, r"f must be \[k\] or \[kh, kw\]"),
    "impl": ({"impl": "triton"}, RuntimeError, "upsample_features: impl='triton'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict, type[Exception], str]) -> None:
    changed, error, text = bad
    with pytest.raises(error, match=text):
        upsample_features(**({"x": torch.zeros(1, 4, 3, 3), "mode": "nn_cat", "adapter": GOOD} | changed))
