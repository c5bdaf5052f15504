"""Second layer, colours and image in one kernel: against the plain form in float64, rounding, borders, refusals."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import stylenerf.models.upsampler
from stylenerf.kernels.blocks import refine_to_rgb_backward
from stylenerf.kernels.blocks.modulated_conv import modulate_weights
from stylenerf.kernels.blocks.modulated_layer import modulated_layer
from stylenerf.kernels.blocks.refine_to_rgb import ModulatedWeights, refine_to_rgb
from stylenerf.kernels.blocks.refine_to_rgb_ref import enlarge_ref
from stylenerf.kernels.blocks.refine_to_rgb_triton import refine_rows
from stylenerf.kernels.filters.upfirdn2d import setup_filter, upsample2d
from stylenerf.models.camera import Camera
from stylenerf.models.generator import RenderOptions
from stylenerf.models.official import generator_from_official
from tests.closeness import assert_image_close, assert_relative
from tests.conftest import load_fixture
from tests.gradients import DEVICE, assert_derivatives_match, assert_kernel_matches, outputs_and_gradients
from tests.inputs import source

Op = Callable[..., tuple[Tensor, ...]]
HALF = torch.float16


class Case(NamedTuple):
    shape: tuple[int, int, int, int] = (2, 6, 4, 6)  # of x
    channels: int = 5
    rows: int = 2  # of styles
    colours: int = 3
    enlarge: Any = "fir"
    image: bool = True
    bias: bool = True
    clamp: float | None = None
    keep: bool = True


CASES = {
    "smallest": Case(shape=(1, 1, 2, 2), channels=1, rows=1),
    "odd, bounded": Case(clamp=0.7),
    "two rows of styles for four images, bounded, last": Case(shape=(4, 5, 2, 4), channels=7, clamp=0.7, keep=False),
    "one pixel more than a tile": Case(shape=(1, 3, 1, 65), channels=16, rows=1, enlarge=None),
    "a row more than a tile": Case(shape=(1, 2, 34, 2), channels=4, rows=1),
    "33 channels": Case(shape=(1, 17, 2, 2), channels=33, rows=1, keep=False),
    "64 channels": Case(shape=(1, 64, 4, 2), channels=64, rows=1),
    "without image or bias": Case(image=False, bias=False),
    "one colour": Case(colours=1, keep=False),
    "an image as large": Case(shape=(1, 6, 3, 5), rows=1, enlarge=None, clamp=0.7),
    "bilinear": Case(enlarge="bilinear", clamp=0.7),
    "bilinear, one row": Case(shape=(1, 3, 2, 10), rows=1, enlarge="bilinear", keep=False),
    "no images": Case(shape=(0, 6, 4, 6), rows=0),
    "no images, last, bounded": Case(shape=(0, 6, 4, 6), rows=0, clamp=0.7, keep=False),
    "too wide for one kernel": Case(shape=(1, 6, 2, 4), channels=65, rows=1, clamp=0.7),
    "too many colours for one kernel": Case(colours=5, enlarge="bilinear"),
}


def make(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Inputs of ``op``; all but the image of ``dtype``."""
    g = source(0)
    (N, I, H, W), C, O = case.shape, case.channels, case.colours  # noqa: E741

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(DEVICE, dtype)

    inputs = {"x": normal(N, I, H, W), "weight": normal(C, I, 1, 1), "styles": 1 + normal(case.rows, I, scale=0.3)}
    inputs |= {"rgb_weight": normal(O, C, 1, 1), "rgb_styles": C**-0.5 * (1 + normal(case.rows, C, scale=0.3))}
    inputs["input_gain"] = 0.7 + normal(scale=0.1)
    if case.bias:
        inputs |= {"bias": normal(C, scale=0.3), "rgb_bias": normal(O, scale=0.3)}
    if case.image:
        size = (H, W) if case.enlarge is None else (H // 2, W // 2)
        inputs["image"] = normal(N, O, *size).float()
    return inputs


def op(case: Case, impl: Any) -> Op:
    """``refine_to_rgb`` as a function of the inputs' values in order."""
    names = tuple(make(case))

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, values))
        layer = ModulatedWeights(given["weight"], given["styles"], given.get("bias"), given["input_gain"])
        rgb = ModulatedWeights(given["rgb_weight"], given["rgb_styles"], given.get("rgb_bias"))
        y, image = refine_to_rgb(
            given["x"], layer, rgb, given.get("image"),
            enlarge=case.enlarge, clamp=case.clamp, keep=case.keep, impl=impl,
        )  # fmt: skip
        assert (y is None) == (not case.keep)
        return (image,) if y is None else (y, image)

    return run


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_the_plain_form(case: Case) -> None:
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case))


@settings(max_examples=4, deadline=None)
@given(
    enlarge=st.sampled_from(["fir", "bilinear", None]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    channels=st.integers(1, 9),
    keep=st.booleans(),
)
def test_matches_at_any_size(enlarge: Any, size: tuple[int, int], channels: int, keep: bool) -> None:
    case = Case((1, 3, 2 * size[0], 2 * size[1]), channels, rows=1, enlarge=enlarge, keep=keep)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case))


class Rounded:
    """The kernel's arithmetic in float64, rounded where it rounds; derivatives as if nothing was rounded.

    Which way the activation goes is read off ``out``, the features that the kernel found.
    """

    def __init__(self, dtype: torch.dtype, out: Tensor) -> None:
        self.dtype, self.out = dtype, out

    def to(self, x: Tensor) -> Tensor:
        return x + (x.to(self.dtype).double() - x).detach()

    def __call__(
        self, x: Tensor, weight: Tensor, styles: Tensor, rgb_weight: Tensor, rgb_styles: Tensor, input_gain: Tensor,
        bias: Tensor, rgb_bias: Tensor, image: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        w = self.to(modulate_weights(weight[..., 0, 0], styles) * input_gain * 2**0.5)
        v = self.to(modulate_weights(rgb_weight[..., 0, 0], rgb_styles, demodulate=False))
        y = torch.einsum("noi,nihw->nohw", w, x) + 2**0.5 * bias[:, None, None]
        y = self.to(torch.where(self.out > 0, y, 0.2 * y))
        rgb = torch.einsum("noi,nihw->nohw", v, y) + rgb_bias[:, None, None]
        return y, rgb + enlarge_ref(image, "fir")


@pytest.mark.parametrize("channels, dtype", [(5, HALF), (20, torch.bfloat16), (130, HALF)], ids=str)
def test_rounds_where_it_says(channels: int, dtype: torch.dtype) -> None:
    """To within three roundings of the largest number."""
    inputs = make(Case(shape=(1, 6, 4, 6), channels=channels, rows=1), dtype)
    got = outputs_and_gradients(op(Case(), "triton"), inputs)
    exact = Rounded(dtype, got["output 0"])
    want = outputs_and_gradients(exact, {name: x.double() for name, x in inputs.items()})
    for name in want:
        assert_relative(name, got[name], want[name], tol=3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("programs, channels", [(2, 20), (264, 20), (264, 66)])
def test_half_precision_is_no_worse_than_torch(monkeypatch: pytest.MonkeyPatch, programs: int, channels: int) -> None:
    """Gradients in one pass by few programs or many, and in several passes."""
    monkeypatch.setattr(refine_to_rgb_backward, "PROGRAMS", programs)
    case = Case(shape=(2, 20, 14, 10), channels=channels, clamp=1.5, keep=False)
    assert_kernel_matches(op(case, "triton"), op(case, "ref"), make(case, HALF))


def test_hand_computed() -> None:
    """x = 1 -> features 2 lrelu(1) = 2 in either channel; colours 2 + 2 * 2 + 0.5, and 3/4 of 4/4 of the image's pixel.

    Of the four pixels that an image of one becomes, each lies half outside along both axes: 0.75^2 of it.
    """
    one = torch.ones(1, 1, 2, 2, device=DEVICE)
    layer = ModulatedWeights(torch.ones(2, 1, 1, 1, device=DEVICE), torch.ones(1, 1, device=DEVICE))
    rgb = ModulatedWeights(
        torch.tensor([1.0, 2.0], device=DEVICE).reshape(1, 2, 1, 1), torch.ones(1, 2, device=DEVICE),
        torch.tensor([0.5], device=DEVICE),
    )  # fmt: skip
    y, image = refine_to_rgb(one, layer, rgb, 16 * one[:, :, :1, :1], gain=2.0, impl="triton")
    assert y is not None
    torch.testing.assert_close(y, torch.full((1, 2, 2, 2), 2.0, device=DEVICE))
    torch.testing.assert_close(image, torch.full((1, 1, 2, 2), 6.5 + 9.0, device=DEVICE))


@pytest.mark.parametrize("keep", [True, False])
def test_no_gradient_where_a_value_has_reached_its_bound(keep: bool) -> None:
    bound = 181.0193  # 181.0 in float16, which is less
    case = Case(shape=(1, 1, 2, 2), channels=4, rows=1, clamp=bound, keep=keep, image=False)
    inputs = make(case, HALF)
    inputs["bias"] += 1000.0
    inputs["rgb_bias"] += 1000.0
    got = outputs_and_gradients(op(case, "triton"), inputs)
    image = got.pop(f"output {int(keep)}")
    torch.testing.assert_close(image, torch.full_like(image, bound))
    assert not any(grad.any() for name, grad in got.items() if name != "output 0")


@pytest.mark.parametrize("output, power", [("features", -24), ("image", -40), ("image", 12)])
def test_float16_gradients_of_any_size(output: str, power: int) -> None:
    """Powers of two come through exactly."""
    inputs = make(Case())
    inputs["x"] = inputs["x"].to(HALF)
    layer = [inputs[name].requires_grad_() for name in ("weight", "styles")]
    given = dict(zip(("features", "image"), op(Case(), "triton")(*inputs.values())))[output]
    cotangent = torch.randn(given.shape, generator=source(1)).sign().to(given)
    large, small = (
        torch.autograd.grad(given, layer, factor * cotangent, retain_graph=True) for factor in (1.0, 2.0**power)
    )
    assert large[0].any() and large[1].any()
    assert all(torch.equal(a * 2.0**power, b) for a, b in zip(large, small))


def test_what_is_not_a_number_is_not_clamped_away() -> None:
    case = Case(shape=(1, 2, 2, 8), channels=4, rows=1, clamp=1.0)
    inputs = make(case)
    inputs["x"][..., 0] = torch.nan
    inputs["image"][..., 3] = torch.inf
    y, image = op(case, "triton")(*inputs.values())
    assert y[..., 0].isnan().all() and y[..., 1:].isfinite().all()
    assert image[..., 0].isnan().all() and image[..., 1:5].isfinite().all() and image[..., 5:].isinf().all()


def test_layout_of_x_does_not_matter() -> None:
    case = Case()
    inputs = make(case)
    y, image = op(case, "triton")(*inputs.values())
    inputs["x"] = inputs["x"].contiguous(memory_format=torch.channels_last)
    inputs["image"] = inputs["image"].contiguous(memory_format=torch.channels_last)
    again = op(case, "triton")(*inputs.values())
    assert torch.equal(again[0], y) and torch.equal(again[1], image)
    assert y.is_contiguous(memory_format=torch.channels_last) and image.is_contiguous()


def test_is_its_parts() -> None:
    """The plain form, with noise too, is what the ops that it joins compute."""
    given = make(Case())
    noise = torch.randn(4, 6, generator=source(2)).to(DEVICE)
    layer = ModulatedWeights(given["weight"], given["styles"], given["bias"], given["input_gain"])
    rgb = ModulatedWeights(given["rgb_weight"], given["rgb_styles"], given["rgb_bias"])
    y = modulated_layer(
        given["x"], *layer[:2], bias=layer.bias, input_gain=layer.input_gain, noise=noise, clamp=0.7, impl="ref"
    )
    colours = modulated_layer(y, *rgb[:2], demodulate=False, bias=rgb.bias, slope=None, gain=1.0, clamp=0.7, impl="ref")
    want = upsample2d(given["image"], setup_filter([1, 3, 3, 1], device=DEVICE), impl="ref") + colours
    options: Any = {"noise": noise, "clamp": 0.7}
    for_ref = refine_to_rgb(given["x"], layer, rgb, given["image"], **options, impl="ref")
    torch.testing.assert_close(for_ref, (y, want))
    torch.testing.assert_close(
        refine_to_rgb(given["x"], layer, rgb, given["image"], **options, impl="triton"), (y, want)
    )
    again = refine_to_rgb(given["x"], layer, rgb, given["image"], enlarge="bilinear", **options, impl="ref")[1]
    bilinear = F.interpolate(given["image"], scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(again, bilinear + colours)


@pytest.mark.parametrize("case", [Case(clamp=1.0), Case(enlarge="bilinear", keep=False)], ids=["fir", "bilinear, last"])
def test_second_order(case: Case) -> None:
    assert_derivatives_match(op(case, "triton"), op(case, "ref"), make(case))


@pytest.mark.parametrize("keep", [True, False])
def test_registered_as_torch_wants_it(keep: bool) -> None:
    shapes = ((2, 2, 4, 5), (2, 6, 5), (6,), (2, 3, 6), (3,), (2, 3, 1, 2))
    inputs = [torch.randn(s, device=DEVICE).requires_grad_() for s in shapes]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(refine_rows, (*inputs, "fir", keep, 1.5, 2.0, False), test_utils=checks)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x": ({"x": torch.zeros(2, 3, 4, 4)}, ValueError, r"weight must be \[C, I, 1, 1\] with I=3, got \[5, 6, 1, 1\]"),
    "rgb": ({"rgb": ModulatedWeights(torch.ones(3, 4, 1, 1), torch.ones(2, 4))}, ValueError, "rgb must be"),
    "rows": (
        {"rgb": ModulatedWeights(torch.ones(3, 5, 1, 1), torch.ones(1, 5))},
        ValueError,
        "layer and rgb must have equally many rows of styles, got 2 and 1",
    ),
    "image": ({"image": torch.zeros(2, 3, 4, 6)}, ValueError, r"image must be \[2, 3, 2, 3\], got \[2, 3, 4, 6\]"),
    "image's dtype": ({"image": torch.zeros(2, 3, 2, 3).half()}, TypeError, "image must be one of"),
    "odd": ({"x": torch.zeros(2, 6, 3, 6)}, ValueError, "x must have even sides where an image is enlarged"),
    "enlarge": ({"enlarge": "nearest"}, ValueError, "enlarge must be one of"),
    "noise": ({"noise": torch.ones(5, 5)}, ValueError, "noise must broadcast to the output"),
    "gain": ({"gain": 0.0}, ValueError, "gain must be positive, got 0.0"),
    "clamp": ({"clamp": -1.0}, ValueError, "clamp must be positive or None, got -1.0"),
    "float64": (
        {"x": torch.zeros(2, 6, 4, 6).double(), "image": torch.zeros(2, 3, 2, 3).double(), "impl": "triton"},
        RuntimeError,
        "refine_to_rgb: impl='triton' does not cover float64",
    ),
    "integers": ({"x": torch.zeros(2, 6, 4, 6).int()}, TypeError, "x must be one of"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refuses(bad: tuple[dict[str, Any], type[Exception], str]) -> None:
    changed, error, text = bad
    good: dict[str, Any] = {
        "x": torch.zeros(2, 6, 4, 6), "layer": ModulatedWeights(torch.ones(5, 6, 1, 1), torch.ones(2, 6)),
        "rgb": ModulatedWeights(torch.ones(3, 5, 1, 1), torch.ones(2, 5)), "image": torch.zeros(2, 3, 2, 3),
    }  # fmt: skip
    with pytest.raises(error, match=text):
        refine_to_rgb(**(good | changed))


def test_generator_of_reference_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny public model, the tails of its blocks as kernels."""
    f = load_fixture("gen_ffhq_tiny.npz")
    calls = []

    def by_kernel(x: Tensor, *args: Any, **options: Any) -> tuple[Tensor | None, Tensor]:
        calls.append((x.shape[2], options["enlarge"]))
        return refine_to_rgb(x, *args, **options, impl="triton")

    monkeypatch.setattr(stylenerf.models.upsampler, "refine_to_rgb", by_kernel)
    g = generator_from_official(json.loads(f.text("meta/config_json")), f.state("sd/")).to(DEVICE)
    camera = Camera(f["a1_c/world_mat"][:1].to(DEVICE), f["a1_c/camera_mat"][:1, [0, 1], [0, 1]].to(DEVICE))
    z_bg, options = f["z_shape_bg"][:1].to(DEVICE), RenderOptions(alpha=float(f["a1_c/alpha"]))
    with torch.no_grad():
        out = g.synthesis(f["ws"][:1].to(DEVICE), camera, z_bg=z_bg, options=options)
    assert calls == [(32, "fir"), (64, "fir")]
    assert_image_close("image", out.image.cpu(), f["a1_c/img"][:1])
