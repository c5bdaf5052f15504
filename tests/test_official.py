"""Loading public models: names, options, round trips of every supported form, refusals."""

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.models.camera import Camera
from stylenerf.models.config import BackgroundConfig, DiscriminatorConfig, FieldConfig, UpsamplerConfig
from stylenerf.models.discriminator import Discriminator
from stylenerf.models.generator import RenderOptions
from stylenerf.models.official import (
    POSITIONAL,
    camera_prior_from_official,
    discriminator_config_from_official,
    discriminator_from_official,
    discriminator_name,
    generator_config_from_official,
    generator_from_official,
    generator_name,
)
from tests.conftest import load_fixture
from tests.inputs import cameras, make_image, seeded, source, tiny_discriminator_config
from tests.public_forms import (
    BASE,
    GENERATORS,
    Q,
    make,
    public_generator_name,
    public_kwargs,
    public_state,
    recorded_kwargs,
)

DISCRIMINATORS: dict[str, DiscriminatorConfig] = {
    "released": tiny_discriminator_config(),
    "conditional": tiny_discriminator_config(label_dim=3),
    "resnet": tiny_discriminator_config(architecture="resnet", clamp=None, group_size=None, fp16_levels=0),
    "full resolution only": tiny_discriminator_config(architecture="orig", progressive=False, lowres=32),
}


def public_discriminator_kwargs(cfg: DiscriminatorConfig) -> dict[str, Any]:
    return {
        "c_dim": cfg.label_dim, "img_resolution": cfg.resolution, "img_channels": 3, "architecture": cfg.architecture,
        "channel_base": cfg.channel_base / 32768, "channel_max": cfg.channel_max, "conv_clamp": cfg.clamp,
        "epilogue_kwargs": {"mbstd_group_size": cfg.group_size}, "num_fp16_res": cfg.fp16_levels,
        "progressive": cfg.progressive, "lowres_head": cfg.lowres, "upsample_type": "default",
        "resize_real_early": True,
    }  # fmt: skip


def public_discriminator_state(d: Discriminator) -> dict[str, Tensor]:
    state = {"b8.conv0.resample_filter": torch.ones(4, 4)}
    for ours, value in d.state_dict().items():
        name = ours.replace("from_rgb", "fromrgb").replace("mapping.layers.", "mapping.fc")
        name = re.sub(r"^blocks\.", "", re.sub(r"^epilogue\.", "b4.", name))
        state[name] = value.clone()
    return state


@pytest.mark.parametrize("case", GENERATORS)
def test_generator_configuration(case: str) -> None:
    cfg = GENERATORS[case]
    skips = replace(cfg.field, skips=())  # no argument tells of skips, the tensors do
    assert generator_config_from_official(public_kwargs(cfg)) == replace(cfg, field=skips)
    assert generator_config_from_official(public_kwargs(cfg), public_state(make(case))) == cfg


@pytest.mark.parametrize("case", GENERATORS)
def test_generator_round_trip(case: str) -> None:
    g = make(case)
    loaded = generator_from_official(public_kwargs(g.cfg), public_state(g))
    own, got = g.state_dict(), loaded.state_dict()
    assert own.keys() == got.keys() and all(torch.equal(own[name], got[name]) for name in own)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())

    z, z_bg = torch.randn(2, 6, generator=source(1)), torch.randn(2, 3, generator=source(2))
    label = torch.eye(3)[:2] if g.cfg.label_dim else None
    stages = []
    for alpha in (0.0, 0.2, 0.4, 0.5, 0.8, 1.0):
        options = RenderOptions(alpha=alpha)
        a, b = (m(z, cameras(2), label=label, z_bg=z_bg, truncation_psi=0.7, options=options) for m in (g, loaded))
        assert torch.isfinite(a.image).all() and torch.equal(a.image, b.image)
        stages.append(a.image.shape[-1])
    assert stages[0] == g.cfg.start_resolution and stages[-1] == g.cfg.resolution
    assert len(set(stages)) == 1 + len(g.cfg.block_resolutions) + (g.cfg.start_resolution < g.cfg.volume_resolution)


def test_every_public_name_is_met() -> None:
    f = load_fixture("gen_ffhq_tiny.npz")
    for name in f.keys("sd/"):
        ours = generator_name(name)
        if name.endswith("resample_filter"):
            assert ours is None
        else:
            assert ours is not None and public_generator_name(ours) == name
    kwargs = json.loads(f.text("meta/config_json"))
    assert generator_config_from_official(kwargs).field == FieldConfig(hidden=32)


DROPPED = [
    ("foreground_kwargs", ("hidden_size", "n_blocks", "n_freq_posenc")),
    ("background_kwargs", ("hidden_size", "n_blocks", "n_freq_posenc")),
    (None, ("rgb_out_dim",)),
]


@pytest.mark.parametrize("case", ["released", "skips", "no background"])
@pytest.mark.parametrize("section, keys", DROPPED, ids=["foreground", "background", "features"])
def test_sizes_left_out_are_read_off_the_tensors(section: str | None, keys: tuple[str, ...], case: str) -> None:
    g = make(case)
    kwargs = public_kwargs(g.cfg)
    inside = kwargs["synthesis_kwargs"] if section is None else kwargs["synthesis_kwargs"][section]
    for key in keys:
        del inside[key]
    assert generator_from_official(kwargs, public_state(g)).cfg == g.cfg
    if case == "released":
        assert generator_config_from_official(kwargs) != g.cfg  # the public defaults, which are larger


def test_defaults_of_the_public_code() -> None:
    cfg = generator_config_from_official({"z_dim": 8, "w_dim": 8, "img_resolution": 64, "synthesis_kwargs": None})
    assert (cfg.volume_resolution, cfg.start_resolution, cfg.features, cfg.path_lattice) == (32, 32, 256, 0)
    assert cfg.field == FieldConfig(near=0.5, far=6.0, align_corners=True) and cfg.background == BackgroundConfig(
        start=1.0, z_dim=128
    )
    assert cfg.upsampler == UpsamplerConfig(
        mode="default", kernel_size=3, clamp=None, magnitude_decay=None, noise=True, channel_max=1024
    )


@pytest.mark.parametrize(
    "alpha, shown, samples", [(None, 1.0, None), (1.0, 1.0, None), (0.5, 0.5, None), (-1.0, 1.0, 20)]
)
def test_growth_buffer(alpha: float | None, shown: float, samples: int | None) -> None:
    g = make("released")
    state = public_state(g)
    del state["synthesis.alpha"]
    if alpha is not None:
        state["synthesis.alpha"] = torch.tensor(alpha)
    loaded = generator_from_official(public_kwargs(g.cfg), state)
    assert loaded.synthesis.alpha.item() == shown and loaded.synthesis.default_samples == samples
    out = loaded.synthesis(torch.ones(1, 9, 5), cameras(1), z_bg=torch.zeros(1, 3))
    want = g.synthesis(torch.ones(1, 9, 5), cameras(1), z_bg=torch.zeros(1, 3),
                       options=RenderOptions(alpha=shown, samples=samples))  # fmt: skip
    assert torch.equal(out.image, want.image)
    assert out.volume.foreground is not None and out.volume.foreground.weights.shape[-1] == 2 * (samples or 4)


@pytest.mark.parametrize("count", [0, 4, 7])
def test_positional_arguments(count: int) -> None:
    g = make("released")
    kwargs = public_kwargs(g.cfg)
    args = tuple(kwargs.pop(name) for name in POSITIONAL[:count])
    assert generator_from_official(kwargs, public_state(g), init_args=args).cfg == g.cfg
    assert camera_prior_from_official(kwargs, init_args=args).pitch == (Q / 3, Q)


def test_half_precision_state_is_widened() -> None:
    g = make("released")
    state = {name: value.half() for name, value in public_state(g).items()}
    loaded = generator_from_official(public_kwargs(g.cfg), state)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_the_state_given_is_left_alone() -> None:
    g = make("released")
    state, kwargs = public_state(g), public_kwargs(g.cfg)
    before = copy.deepcopy(kwargs)
    loaded = generator_from_official(kwargs, state)
    loaded.mapping.w_avg.zero_()
    assert state["mapping.w_avg"].abs().max() > 0 and kwargs == before


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def having(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


BAD_STATES: dict[str, tuple[str, Callable[[dict[str, Tensor]], object]]] = {
    "missing": (r"missing \['synthesis.volume.foreground.density.bias'\]", without("synthesis.fg_nerf.sigma_out.bias")),
    "missing average": (r"missing \['mapping.w_avg'\]", without("mapping.w_avg")),
    "unknown": (r"unknown \['synthesis.b8.conv2.weight'\]", having("synthesis.b8.conv2.weight", 1)),
    "unknown head": (r"unknown \['synthesis.fg_nerf.view.bias'\]", having("synthesis.fg_nerf.view.bias", 1)),
    "shape": (r"mapping.fc0.weight must be \[5, 6\], got \[6, 5\]", having("mapping.fc0.weight", 6, 5)),
    "kernel": (
        r"b8.conv1.weight must be \[8, 8, 1, 1\], got \[8, 8, 3, 3\]",
        having("synthesis.b8.conv1.weight", 8, 8, 3, 3),
    ),
    "alpha": ("synthesis.alpha must be -1 or between 0 and 1, got 2.0", having("synthesis.alpha")),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_wrong_tensors_are_refused_by_name(name: str) -> None:
    text, spoil = BAD_STATES[name]
    g = make("released")
    state = public_state(g)
    spoil(state)
    if name == "alpha":
        state["synthesis.alpha"].fill_(2.0)
    with pytest.raises(ValueError, match=f"generator state: .*{text}"):
        generator_from_official(public_kwargs(g.cfg), state)


@pytest.mark.parametrize("case", GENERATORS)
def test_what_the_constructor_writes_into_its_arguments(case: str) -> None:
    g = make(case)
    assert generator_from_official(recorded_kwargs(g.cfg), public_state(g)).cfg == g.cfg


RECORDED = [
    (section, key)
    for section in ("foreground", "background", "upsampler")
    for key in (("img_channels", "in_res", "out_res") if section == "upsampler" else
                ("z_dim", "w_dim", "rgb_out_dim", "activation"))
]  # fmt: skip


@pytest.mark.parametrize("section, key", RECORDED)
def test_what_disagrees_with_the_rest_is_refused_by_key(section: str, key: str) -> None:
    kwargs = recorded_kwargs(BASE)
    inside = kwargs["synthesis_kwargs"][f"{section}_kwargs"]
    wanted, inside[key] = inside[key], "relu" if key == "activation" else 77
    with pytest.raises(ValueError, match=f"{section}_kwargs.{key}: wanted {wanted!r}, got {inside[key]!r}"):
        generator_config_from_official(kwargs)


def test_width_of_the_background_code_left_out() -> None:
    g = make("released")
    kwargs = recorded_kwargs(g.cfg)
    del kwargs["synthesis_kwargs"]["z_dim_bg"]
    assert generator_from_official(kwargs, public_state(g)).cfg == g.cfg
    del kwargs["synthesis_kwargs"]["background_kwargs"]["z_dim"]
    assert generator_from_official(kwargs, public_state(g)).cfg == g.cfg
    assert generator_config_from_official(kwargs).background.z_dim == 128


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "colours": (("img_channels",), 1, "img_channels: wanted 3, got 1"),
    "encoder": (("encoder_kwargs",), {"depth": 3}, r"encoder_kwargs: wanted \{\}, got \{'depth': 3\}"),
    "new argument": (("tricks",), True, "tricks: wanted a known argument, got True"),
    "mapping": (("mapping_kwargs", "lr_multiplier"), 1, "mapping_kwargs.lr_multiplier: wanted 0.01, got 1"),
    "new option": (("synthesis_kwargs", "hyper"), 1, "synthesis_kwargs.hyper: wanted a known argument, got 1"),
    "margin": (("synthesis_kwargs", "margin"), 2, "synthesis_kwargs.margin: wanted 0, got 2"),
    "latent": (("synthesis_kwargs", "z_dim"), 4, "synthesis_kwargs.z_dim: wanted 0, got 4"),
    "code": (("synthesis_kwargs", "z_dim_bg"), 0, "synthesis_kwargs.z_dim_bg: wanted at least 1 .* got 0"),
    "mode": (("synthesis_kwargs", "upsample_mode"), "magic", "upsample_mode: wanted one of .* got 'magic'"),
    "warp": (
        ("synthesis_kwargs", "camera_kwargs", "depth_transform"), "CubicWarp",
        r"camera_kwargs.depth_transform: wanted one of \[None, 'InverseWarp', 'LogWarp'\], got 'CubicWarp'",
    ),
    "dists": (
        ("synthesis_kwargs", "camera_kwargs", "dists_normalized"), True,
        "camera_kwargs.dists_normalized: wanted False, got True",
    ),
    "renderer": (
        ("synthesis_kwargs", "renderer_kwargs", "colour"), 1, "renderer_kwargs.colour: wanted a known argument, got 1",
    ),
    "views": (
        ("synthesis_kwargs", "foreground_kwargs", "use_viewdirs"), True,
        "foreground_kwargs.use_viewdirs: wanted False, got True",
    ),
    "sphere": (
        ("synthesis_kwargs", "background_kwargs", "inverse_sphere"), False,
        "background_kwargs.inverse_sphere: wanted True, got False",
    ),
    "rgb style": (
        ("synthesis_kwargs", "upsampler_kwargs", "shared_rgb_style"), True,
        "upsampler_kwargs.shared_rgb_style: wanted False, got True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_unsupported_options_are_refused_by_key(name: str) -> None:
    path, value, text = BAD_OPTIONS[name]
    kwargs = public_kwargs(BASE)
    inside = kwargs
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(ValueError, match=text):
        generator_config_from_official(kwargs)


def test_arguments_must_be_complete_and_given_once() -> None:
    kwargs, state = public_kwargs(BASE), public_state(make("released"))
    with pytest.raises(ValueError, match="img_resolution: wanted a number, got nothing"):
        generator_config_from_official({"z_dim": 8, "w_dim": 8})
    with pytest.raises(ValueError, match=r"init_args: wanted every argument once, got \['z_dim'\]"):
        generator_from_official(kwargs, state, init_args=(6,))
    with pytest.raises(ValueError, match=r"init_args: wanted at most 7 .* got 8"):
        generator_from_official({}, state, init_args=tuple(range(8)))


def test_camera_prior() -> None:
    f = load_fixture("gen_ffhq_tiny.npz")
    prior = camera_prior_from_official(json.loads(f.text("meta/config_json")))
    assert (prior.distribution, prior.yaw, prior.radius, prior.fov_deg) == ("gaussian", (-0.3, 0.3), (1.0, 1.0), 12.0)
    assert prior.pitch == (Q - 0.155, Q + 0.155) and prior.angular


def test_camera_prior_over_the_sphere() -> None:
    camera = {"range_u": [0, 1], "range_v": [0.2, 0.45], "range_radius": [0.9, 1.3], "fov": 49.13}
    prior = camera_prior_from_official({"synthesis_kwargs": {"camera_kwargs": camera}})
    assert prior.distribution == "uniform" and not prior.angular
    # a quarter of a turn, and z / r = 1 - 2 v, at the middle radius
    position = prior.at(0.25, 0.0).position[0].tolist()
    r = 1.1
    assert position == pytest.approx([0, r * (1 - 0.6**2) ** 0.5, r * 0.6], abs=1e-6)
    assert isinstance(prior.sample(2, source(0)), Camera)


@pytest.mark.parametrize("case", DISCRIMINATORS)
def test_discriminator_round_trip(case: str) -> None:
    cfg = DISCRIMINATORS[case]
    d = seeded(lambda: Discriminator(cfg)).eval().requires_grad_(False)
    kwargs = public_discriminator_kwargs(cfg)
    assert discriminator_config_from_official(kwargs) == cfg
    loaded = discriminator_from_official(kwargs, public_discriminator_state(d))
    own, got = d.state_dict(), loaded.state_dict()
    assert own.keys() == got.keys() and all(torch.equal(own[name], got[name]) for name in own)
    label = torch.eye(3)[:2] if cfg.label_dim else None
    image = make_image((2, 3, 32, 32))
    assert torch.equal(d(image, label), loaded(image, label))


@pytest.mark.parametrize("public, ours", [
    ("b64.fromrgb.weight", "blocks.b64.from_rgb.weight"),
    ("b4.fromrgb.bias", "epilogue.from_rgb.bias"),
    ("b4.out.weight", "epilogue.out.weight"),
    ("b8.skip.weight", "blocks.b8.skip.weight"),
    ("mapping.fc3.bias", "mapping.layers.3.bias"),
    ("mapping.embed.weight", "mapping.embed.weight"),
    ("b16.conv1.resample_filter", None),
])  # fmt: skip
def test_discriminator_names(public: str, ours: str | None) -> None:
    assert discriminator_name(public) == ours


BAD_DISCRIMINATORS: dict[str, tuple[dict[str, Any], str]] = {
    "colours": ({"img_channels": 4}, "img_channels: wanted 3, got 4"),
    "blocks": ({"block_kwargs": {"freeze_layers": 2}}, "block_kwargs: wanted {}, got {'freeze_layers': 2}"),
    "epilogue": ({"epilogue_kwargs": {"activation": "relu"}}, "epilogue_kwargs.activation: wanted 'lrelu', got 'relu'"),
    "new": ({"attention": True}, "attention: wanted a known argument, got True"),
    "resolution": ({"img_resolution": "64"}, "img_resolution: wanted a whole number of at least 1, got '64'"),
    "no section": ({"epilogue_kwargs": 4}, "epilogue_kwargs: wanted a mapping or None, got 4"),
    "group": ({"epilogue_kwargs": {"mbstd_group_size": True}}, "epilogue_kwargs.mbstd_group_size: wanted a whole"),
    "text times a number": ({"channel_base": "x"}, "channel_base: wanted a number above 0, got 'x'"),
    "not a number": ({"conv_clamp": math.nan}, "conv_clamp: wanted a number above 0 or None, got nan"),
    "levels": ({"num_fp16_res": None}, "num_fp16_res: wanted a whole number of at least 0, got None"),
}


@pytest.mark.parametrize("name", BAD_DISCRIMINATORS)
def test_unsupported_discriminators_are_refused_by_key(name: str) -> None:
    changes, text = BAD_DISCRIMINATORS[name]
    with pytest.raises(ValueError, match=re.escape(text)):
        discriminator_config_from_official(public_discriminator_kwargs(DISCRIMINATORS["released"]) | changes)


def test_wrong_discriminator_tensors_are_refused_by_name() -> None:
    cfg = DISCRIMINATORS["released"]
    state = public_discriminator_state(Discriminator(cfg))
    state["b8.conv9.bias"] = state.pop("b4.fc.bias")
    with pytest.raises(ValueError, match=r"missing \['epilogue.fc.bias'\] .* unknown \['b8.conv9.bias'\]"):
        discriminator_from_official(public_discriminator_kwargs(cfg), state)
    with pytest.raises(ValueError, match="img_resolution: wanted a number, got nothing"):
        discriminator_config_from_official({})
