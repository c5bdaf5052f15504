"""The discriminator: reference logits and R1, minibatch statistics, continuous growth, sizes, errors."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.models.config import DiscriminatorConfig
from stylenerf.models.discriminator import Discriminator, DiscriminatorOptions, minibatch_std, reduce_bilinear
from stylenerf.models.growth import Growth
from stylenerf.models.official import discriminator_name
from tests.closeness import assert_relative
from tests.conftest import at_hand, load_fixture
from tests.inputs import make_image, seeded, tiny_discriminator_config
from tests.recorded.discriminator import CASES, FIXTURE, TAPPED, options_of, reference

MBSTD: dict[str, tuple[int | None, int]] = {
    "group4_n8_f1": (4, 1),
    "group4_n4_f1": (4, 1),
    "group4_n2_f1": (4, 1),
    "group2_n8_f2": (2, 2),
    "groupNone_n8_f1": (None, 1),
}
COMPARED = {
    FIXTURE: [
        *(f"{case}/{field}" for case in CASES for field in ("alpha", "logits", "status")),
        *(f"{case}/b{edge}_{tap}" for case in TAPPED for edge in TAPPED[case] for tap in ("x_c4", "img")),
        *(f"r1/{field}" for field in ("penalty", "image_grad", "gamma", "param_names", "param_grad_norms", "grad/*")),
        *("img64", "img32", "img16", "sd/*", "meta/config_json"),
    ],
    "units.npz": [
        *(f"mbstd/{case}/{field}" for case in MBSTD for field in ("x", "out")),
        *("resize/img", "resize/down4", "resize/down2"),
    ],
}


@pytest.mark.usefixtures("rounded_to_the_nearest")
@pytest.mark.parametrize("case", CASES)
def test_reference_logits(case: str) -> None:
    f, d = reference()
    image = f[f"img{case.split('_')[1]}"]
    assert_relative(case, d(image, options=options_of(f, case)), f[f"{case}/logits"])


@pytest.mark.usefixtures("rounded_to_the_nearest")
@pytest.mark.parametrize("case", ["a1_64", "am1_64", "a075_64_int", "a075_64_nostatus"])
def test_full_resolution_needs_no_growth(case: str) -> None:
    f, d = reference()
    assert_relative(case, d(f["img64"]), f[f"{case}/logits"])


@pytest.mark.usefixtures("rounded_to_the_nearest")
@pytest.mark.parametrize("case", at_hand(FIXTURE, TAPPED, "b8_img"))
def test_reference_blocks(case: str) -> None:
    f, d = reference()
    taps: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, name=name: taps.__setitem__(name, out))
        for name, block in d.blocks.items()
    ]
    d(f[f"img{case.split('_')[1]}"], options=options_of(f, case))
    for hook in hooks:
        hook.remove()
    assert tuple(int(name[1:]) for name in taps) == TAPPED[case]
    for name, (x, image) in taps.items():
        assert_relative(f"{name}_x", x[:, :4], f[f"{case}/{name}_x_c4"])
        assert_relative(f"{name}_img", image, f[f"{case}/{name}_img"])


def test_reference_images_are_reductions() -> None:
    f = load_fixture(FIXTURE)
    for edge in (32, 16):
        assert_relative(f"img{edge}", reduce_bilinear(f["img64"], edge), f[f"img{edge}"])


@pytest.mark.usefixtures("rounded_to_the_nearest")
def test_reference_r1() -> None:
    f, d = reference()
    own = dict(d.named_parameters())
    image = f["img64"].requires_grad_()
    for p in own.values():
        p.requires_grad_()
    (grad,) = torch.autograd.grad(d(image).sum(), image, create_graph=True)
    penalty = grad.square().sum(dim=(1, 2, 3))
    names = json.loads(f.text("r1/param_names"))
    assert {discriminator_name(name) for name in names} == set(own)
    (penalty * (f["r1/gamma"] / 2)).mean().backward()
    grads = {name: own[str(discriminator_name(name))].grad for name in names}
    d.zero_grad()
    d.requires_grad_(False)
    if "r1/image_grad" in f:  # the full set; the penalty is its sum of squares
        assert_relative("image_grad", grad, f["r1/image_grad"])
    assert_relative("penalty", penalty, f["r1/penalty"])
    norms = torch.stack([torch.tensor(-1.0) if g is None else g.norm() for g in grads.values()])
    wanted = f["r1/param_grad_norms"]
    assert_relative("norms", norms.clamp_min(0), wanted.clamp_min(0))
    for name in f.keys("r1/grad/"):
        assert_relative(name, grads[name], f[f"r1/grad/{name}"])


def test_minibatch_std_hand_computed() -> None:
    # groups {0, 2} and {1, 3}: values 1, 5 have a deviation of 2 and 0, 0 of none (root of 1e-8)
    x = torch.tensor([1.0, 0.0, 5.0, 0.0], dtype=torch.float64).view(4, 1, 1, 1)
    got = minibatch_std(x, 2)[:, 1].flatten()
    torch.testing.assert_close(got, torch.tensor([2, 1e-4, 2, 1e-4], dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("case", MBSTD)
def test_minibatch_std_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    assert_relative(case, minibatch_std(f[f"mbstd/{case}/x"], *MBSTD[case]), f[f"mbstd/{case}/out"])


@pytest.mark.parametrize("edge", [4, 2])
def test_reduction_reference_numbers(edge: int) -> None:
    f = load_fixture("units.npz")
    assert_relative(f"down{edge}", reduce_bilinear(f["resize/img"], edge), f[f"resize/down{edge}"])


def tiny(**changes: Any) -> Discriminator:
    return seeded(lambda: Discriminator(tiny_discriminator_config(**changes))).eval()


def images(edge: int) -> Tensor:
    return make_image((2, 3, edge, edge))


ARCHITECTURES = ("skip", "resnet", "orig")
FORMS = [(architecture, False) for architecture in ARCHITECTURES] + [("skip", True)]


def judge(d: Discriminator, image: Tensor, level: int, blend: float | None, **options: Any) -> Tensor:
    """At growth level 0 (8 px), 1 (16 px) or 2 (32 px)."""
    edge = 8 * 2**level
    growth = Growth(edge, max(edge // 2, 8), level, blend)
    return d(image, options=DiscriminatorOptions(growth=growth, **options))


@pytest.mark.parametrize("architecture, twice", FORMS)
@pytest.mark.parametrize("level", [1, 2])
def test_a_new_block_fades_in_from_nothing(level: int, architecture: Any, twice: bool) -> None:
    d, image = tiny(architecture=architecture), images(8 * 2**level)
    small = reduce_bilinear(image, 4 * 2**level)
    faded = judge(d, image, level, 0.0, entry_rgb_twice=twice)
    torch.testing.assert_close(faded, judge(d, small, level - 1, None, entry_rgb_twice=twice))
    # and ends as itself
    full = judge(d, image, level, 1.0, entry_rgb_twice=twice)
    torch.testing.assert_close(full, judge(d, image, level, None, entry_rgb_twice=twice))
    assert not torch.allclose(full, faded, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fade_is_a_choice(architecture: Any) -> None:
    d, image = tiny(architecture=architecture), images(16)
    assert torch.equal(judge(d, image, 1, 0.3, fade=False), judge(d, image, 1, None))
    assert not torch.equal(judge(d, image, 1, 0.3), judge(d, image, 1, None))


def test_rgb_twice_at_the_entry_hand_computed() -> None:
    d, image = tiny(), images(8).contiguous(memory_format=torch.channels_last)  # as it is taken: the same roundings
    block = d.blocks["b8"]
    want = d.epilogue(*block(block.rgb_features(image), image, torch.float32))  # the block adds its own again
    assert torch.equal(judge(d, image, 0, None, entry_rgb_twice=True), want)
    assert not torch.allclose(judge(d, image, 0, None), want)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("level", [0, 1])
def test_larger_images_are_reduced_first(level: int, architecture: Any) -> None:
    d, image = tiny(architecture=architecture), images(32)
    small = reduce_bilinear(image, 8 * 2**level)
    assert torch.equal(judge(d, image, level, None), judge(d, small, level, None))


def test_without_growth_the_option_is_ignored() -> None:
    d, image = tiny(progressive=False), images(32)
    assert torch.equal(judge(d, image, 1, 0.5), d(image))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_r1_reaches_every_parameter(architecture: Any) -> None:
    d, image = tiny(architecture=architecture), images(32).requires_grad_()
    (grad,) = torch.autograd.grad(d(image).sum(), image, create_graph=True)
    grad.square().sum().backward()
    silent = {name for name, p in d.named_parameters() if p.grad is None and name.endswith("weight")}
    # all but skip read a full image at the first block alone
    later = {"blocks.b16.from_rgb.weight", "blocks.b8.from_rgb.weight"}
    assert silent == (set() if architecture == "skip" else later)


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_of_the_finest_blocks(precision: Any, levels: int) -> None:
    d, image = tiny(fp16_levels=levels), images(32)
    want, seen = d(image), []
    for block in d.blocks.values():
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[0].dtype))
    got = d(image, options=DiscriminatorOptions(precision=precision))
    low = [torch.float16 if precision == "fp16" else torch.bfloat16] * levels
    assert seen == low + [torch.float32] * (3 - levels) and got.dtype == torch.float32
    tolerance = 0.1 if levels else 0.0
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def test_labels_matter() -> None:
    d = seeded(lambda: Discriminator(tiny_discriminator_config(label_dim=3))).eval()
    image, label = make_image((2, 3, 32, 32)), torch.eye(3)
    a, b = d(image, label[:2]), d(image, label[1:])
    assert a.shape == (2, 1) and not torch.allclose(a, b)
    # projection: <features, embedding> / sqrt(width), features from the network without its last step
    assert d.mapping is not None
    embedding, d.mapping = d.mapping(None, label[:2]), None
    torch.testing.assert_close(a, (d(image) * embedding).sum(1, keepdim=True) / math.sqrt(8))


@pytest.mark.parametrize("resolution, millions", [(64, 22.5), (256, 23.1)])
def test_sizes_of_the_released_models(resolution: int, millions: float) -> None:
    # skip form with half of StyleGAN2's channels
    d = Discriminator(DiscriminatorConfig(resolution=resolution, architecture="skip", channel_base=16384))
    assert sum(p.numel() for p in d.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


BAD: dict[str, tuple[str, Callable[[], Any]]] = {
    "small": (r"image must be \[B, 3, 32, 32\] \(or larger\), got \[2, 3, 16, 16\]", lambda: tiny()(images(16))),
    "channels": (r"image must be \[B, 3, 32, 32\]", lambda: tiny()(images(32)[:, :2])),
    "square": (r"image must be \[B, 3, 32, 32\]", lambda: tiny()(images(64)[..., :32])),
    "level": (r"image must be \[B, 3, 16, 16\]", lambda: judge(tiny(), images(8), 1, None)),
    "group": ("group_size must divide the batch \\(3\\), got 2", lambda: minibatch_std(torch.zeros(3, 4, 1, 1), 2)),
    "label": (r"label must be \[B, 2\], got None", lambda: tiny(label_dim=2)(images(32))),
    "power": (
        "resolution must be a power of two of at least 8, got 24",
        lambda: tiny_discriminator_config(resolution=24),
    ),
    "tiny": ("resolution must be a power of two of at least 8, got 4", lambda: tiny_discriminator_config(resolution=4)),
    "lowres": (r"lowres must be between 8 and resolution \(32\), got 64", lambda: tiny_discriminator_config(lowres=64)),
    "width": ("channel_max must be at least 1, got 0", lambda: tiny_discriminator_config(channel_max=0)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    text, call = BAD[name]
    with pytest.raises(ValueError, match=text):
        call()


def test_image_must_enter_where_it_can() -> None:
    block = tiny(progressive=False, architecture="resnet").blocks["b16"]
    with pytest.raises(ValueError, match="full resolution only: progressive is off"):
        block.rgb_features(images(16))
