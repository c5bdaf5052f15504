"""Modulated convolution: the public numbers in both forms, a definition by loops over images, and half precision."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from stylenerf.kernels.blocks.modulated_conv import modulate_weights, modulated_conv
from stylenerf.kernels.filters.bias_act import bias_act
from stylenerf.kernels.filters.conv_resample import conv2d_resample
from stylenerf.kernels.filters.upfirdn2d import setup_filter
from tests.closeness import assert_relative
from tests.conftest import load_fixture

Form = Literal["auto", "weights", "activations"]

F1331 = setup_filter([1, 3, 3, 1])
FORMS: tuple[Form, ...] = ("weights", "activations", "auto")
PUBLIC = [f"k{k}_up1_dem{d}_fused{u}_flip1" for k in (1, 3) for d in (0, 1) for u in (0, 1)]
PUBLIC += [f"k{k}_up2_dem{d}_fused{u}_flip{p}" for k in (1, 3) for d in (0, 1) for u in (0, 1) for p in (0, 1)]
PUBLIC += [f"k{k}_{what}_fused{u}" for k in (1, 3) for what in ("noise", "half") for u in (0, 1)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", PUBLIC)
def test_public_numbers(case: str, form: Form) -> None:
    units = load_fixture("units.npz")
    x, k = units["modconv/x/v"], int(case[1])
    got = modulated_conv(
        x.half() if "half" in case else x,
        units[f"modconv/w{k}/v"],
        units["modconv/styles/v"],
        demodulate="dem0" not in case,
        noise=units[f"modconv/{case}/noise"] if "noise" in case else None,
        up=2 if "up2" in case else 1,
        padding=k // 2,
        filter=F1331,
        flip_weight="flip0" not in case,
        form=form,
    )
    # both of the public forms round to half after each step, elsewhere than the other
    assert_relative(case, got.float(), units[f"modconv/{case}/out"], tol=2e-3 if "half" in case else 1e-5)


@pytest.mark.parametrize("case, form", [("fused1", "weights"), ("fused0", "activations")])
@pytest.mark.parametrize("k", [1, 3])
def test_half_rounds_where_the_public_form_does(k: int, case: str, form: Form) -> None:
    units = load_fixture("units.npz")
    x, w, styles = units["modconv/x/v"].half(), units[f"modconv/w{k}/v"], units["modconv/styles/v"]
    got = modulated_conv(x, w, styles, padding=k // 2, form=form)
    assert_relative(case, got.float(), units[f"modconv/k{k}_half_{case}/out"], tol=5e-4)


def test_by_hand() -> None:
    # weights [3, 2] times styles [1, 2] = [3, 4], norm 5: [0.6, 0.8]; on x = [10, 20] that gives 6 + 16
    x = torch.tensor([10.0, 20.0]).reshape(1, 2, 1, 1)
    weight, styles = torch.tensor([3.0, 2.0]).reshape(1, 2, 1, 1), torch.tensor([[1.0, 2.0]])
    assert_relative("demodulated", modulated_conv(x, weight, styles), torch.full((1, 1, 1, 1), 22.0), tol=1e-6)
    both: dict[str, Any] = {"noise": torch.tensor(1.0), "bias": torch.tensor([2.0])}
    plain = modulated_conv(x, weight, styles, demodulate=False, input_gain=0.5, **both)
    assert plain.item() == 58.0  # (30 + 80) / 2 + 1 + 2


def test_modulate_weights_by_hand() -> None:
    weight, styles = torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    assert modulate_weights(weight, styles, demodulate=False).tolist() == [[[3.0, 4.0]], [[0.0, -2.0]]]
    assert_relative("unit", modulate_weights(weight, styles), torch.tensor([[[0.6, 0.8]], [[0.0, -1.0]]]), tol=1e-6)
    # eps counts under the root: 2 / sqrt(4 + 12)
    assert modulate_weights(weight, styles, eps=12.0)[1, 0, 1].item() == -0.5


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 2), (5,)], ids=str)
def test_modulated_weights_have_unit_norm(kernel: tuple[int, ...]) -> None:
    w = modulate_weights(random(4, 3, *kernel), random(2, 3, seed=1))
    assert w.shape == (2, 4, 3, *kernel)
    assert_relative("norm", w.flatten(2).square().sum(2), torch.ones(2, 4).double(), tol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_matches_definition(data: st.DataObject) -> None:
    draw = data.draw
    B, repeat, up = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    k = draw(st.sampled_from([1, 3]))
    options: dict[str, Any] = {
        "up": up,
        "padding": draw(st.sampled_from([k // 2, [1, 2]])),
        "flip_weight": draw(st.booleans()),
    }
    f = F1331 if up > 1 and draw(st.booleans()) else None
    demodulate, layout = draw(st.booleans()), draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x, weight, styles = random(B * repeat, 4, 5, 6), random(3, 4, k, k, seed=1), random(B, 4, seed=2)
    w = modulate_weights(weight, styles, demodulate=demodulate)
    images = [conv2d_resample(x[n : n + 1], w[n // repeat], f, **options) for n in range(B * repeat)]
    noise = random(B * repeat, 1, *images[0].shape[2:], seed=3)
    bias = random(3, seed=4)
    want = 0.7 * torch.cat(images) + noise + bias[:, None, None]
    options |= {"demodulate": demodulate, "noise": noise, "bias": bias, "input_gain": 0.7, "filter": f}
    for form in FORMS:
        got = modulated_conv(x.contiguous(memory_format=layout), weight, styles, form=form, **options)
        assert_relative(form, got, want, tol=1e-12)


def test_style_rows_repeat_blockwise() -> None:
    units = load_fixture("units.npz")
    sd = units.state("synlayer/repeat_styles_up1/sd/")
    x, w = units["synlayer/repeat_styles_up1/in0"], units["synlayer/repeat_styles_up1/in1"]
    styles = w @ (sd["affine.weight"] / w.shape[1] ** 0.5).t() + sd["affine.bias"]
    y = modulated_conv(x, sd["weight"], styles)
    y = bias_act(y, sd["bias"], act="lrelu")
    assert_relative("repeat", y, units["synlayer/repeat_styles_up1/out_y"])


@pytest.mark.parametrize("form", ["weights", "activations"])
@pytest.mark.parametrize("k, up", [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("B", [1, 2])
def test_gradients(form: Form, k: int, up: int, B: int) -> None:
    args = [random(2, 2, 3, 2), random(2, 2, k, k, seed=1), random(B, 2, seed=2), random(2, 1, 1, 1, seed=3)]
    args = [a.requires_grad_() for a in [*args, random(2, seed=4), torch.tensor(0.7, dtype=torch.float64)]]

    def op(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, gain: Tensor) -> Tensor:
        return modulated_conv(
            x,
            weight,
            styles,
            noise=noise,
            bias=bias,
            input_gain=gain,
            up=up,
            padding=k // 2,
            filter=F1331,
            form=form,
        )

    assert gradcheck(op, args, fast_mode=True)
    assert gradgradcheck(op, args, fast_mode=True)


@pytest.mark.parametrize("form", ["weights", "activations"])
def test_half_survives_large_weights_and_styles(form: Form) -> None:
    x = random(2, 8, 4, 4).half()
    weight, styles = 1e4 * random(8, 8, 1, 1, seed=1).float(), 1e4 * random(2, 8, seed=2).float()
    y = modulated_conv(x, weight, styles, form=form)
    want = modulated_conv(x.double(), weight.double(), styles.double())
    assert y.dtype == torch.float16
    assert_relative("half", y, want, tol=2e-2)


def test_bfloat16() -> None:
    x, weight, styles = random(2, 8, 4, 4).bfloat16(), random(8, 8, 1, 1, seed=1).float(), random(2, 8, seed=2).float()
    y = modulated_conv(x, weight, styles)
    assert y.dtype == torch.bfloat16
    assert_relative("bf16", y, modulated_conv(x.double(), weight.double(), styles.double()), tol=3e-2)


@pytest.mark.parametrize("B", [1, 2, 4])
def test_channels_last_stays_and_nothing_is_overwritten(B: int) -> None:
    x = random(4, 8, 3, 5).contiguous(memory_format=torch.channels_last)
    weight, styles = random(6, 8, 1, 1, seed=1), random(B, 8, seed=2)
    before = [t.clone() for t in (x, weight, styles)]
    y = modulated_conv(x, weight, styles)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert modulated_conv(x.contiguous(), weight, styles).is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(before, (x, weight, styles)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("B", [0, 1, 2])
@pytest.mark.parametrize("k, up", [(1, 1), (3, 2)])
def test_empty_batch(k: int, up: int, B: int, form: Form) -> None:
    x, weight, styles = torch.zeros(0, 2, 4, 5), torch.ones(3, 2, k, k), torch.ones(B, 2)
    y = modulated_conv(x, weight, styles, up=up, padding=k // 2, filter=F1331, form=form)
    assert y.shape == (0, 3, 4 * up, 5 * up)


BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "x rank": ({"x": torch.zeros(4, 2, 3)}, ValueError, r"x must be \[N, I, H, W\], got 3 dims"),
    "x channels": ({"x": torch.zeros(4, 5, 3, 3)}, ValueError, r"weight must be \[O, I, KH, KW\] with I=5"),
    "weight rank": ({"weight": torch.zeros(3, 2)}, ValueError, r"weight must be \[O, I, KH, KW\], got 2 dims"),
    "style width": ({"styles": torch.ones(2, 3)}, ValueError, r"styles must be \[B, I\] with I=2, got \[2, 3\]"),
    "style rank": ({"styles": torch.ones(2)}, ValueError, r"styles must be \[B, I\] with I=2, got \[2\]"),
    "style rows": ({"styles": torch.ones(3, 2)}, ValueError, r"B dividing the batch N=4, got \[3, 2\]"),
    "no rows": ({"styles": torch.ones(0, 2)}, ValueError, r"B dividing the batch N=4, got \[0, 2\]"),
    "style dtype": (
        {"styles": torch.ones(2, 2).double()},
        TypeError,
        "styles must be one of .*float32.*, got .*float64",
    ),
    "x dtype": ({"x": torch.zeros(4, 2, 3, 3).int()}, TypeError, "x must be one of .*, got torch.int32"),
    "form": ({"form": "fused"}, ValueError, r"form must be one of \['auto', 'weights', 'activations'\], got 'fused'"),
    "up": ({"up": 0}, ValueError, "up must be an integer >= 1, got 0"),
    "noise": (
        {"noise": torch.zeros(4, 1, 2, 3)},
        ValueError,
        r"noise must broadcast to the output \[4, 3, 3, 3\], got",
    ),
    "bias": ({"bias": torch.ones(2)}, ValueError, r"bias must be \[O\] with O=3, got \[2\]"),
    "gain": ({"input_gain": torch.ones(2)}, ValueError, r"input_gain must be one number, got \[2\]"),
    "kernel": ({"padding": -2}, ValueError, "padding must leave at least one pixel"),
    "filter": ({"filter": torch.ones(1, 1, 1)}, ValueError, r"f must be \[k\] or \[kh, kw\]"),
    "impl": ({"impl": "fast"}, ValueError, "modulated_conv: impl must be 'auto', 'triton' or 'ref', got 'fast'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict, type[Exception], str]) -> None:
    changed, error, text = bad
    good = {"x": torch.zeros(4, 2, 3, 3), "weight": torch.ones(3, 2, 1, 1), "styles": torch.ones(2, 2)}
    with pytest.raises(error, match=text):
        modulated_conv(**(good | changed))


def test_modulate_weights_refuses() -> None:
    with pytest.raises(ValueError, match=r"weight must be \[O, I, \*kernel\], got \[3\]"):
        modulate_weights(torch.ones(3), torch.ones(1, 3))
    with pytest.raises(TypeError, match="weight must be one of"):
        modulate_weights(torch.ones(3, 3).int(), torch.ones(1, 3))
