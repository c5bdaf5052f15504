"""The configuration: presets, round trips, overrides, and every combination that is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylenerf.engine.command_line.main import train_main
from stylenerf.engine.errors import UserError
from stylenerf.engine.training.config import PRESETS, Config, GrowthConfig, load_config, preset_path
from stylenerf.engine.training.config_io import RENAMED, from_dict, list_presets, to_dict
from stylenerf.models.config import DiscriminatorConfig
from tests.tiny import TINY, tiny_config, write_tiny

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


def flat(plain: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """(a.b.c, value) of every leaf."""
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def changed(one: Config, other: Config) -> dict[str, Any]:
    """What ``other`` has where it differs from ``one``."""
    before, after = dict(flat(to_dict(one))), dict(flat(to_dict(other)))
    assert before.keys() == after.keys()
    return {key: value for key, value in after.items() if value != before[key]}


def preset(name: str, *overrides: str) -> Config:
    return load_config(name, None, list(overrides))


@pytest.mark.parametrize("name", NAMES)
def test_preset_round_trips(name: str) -> None:
    cfg = preset(name)
    plain = to_dict(cfg)
    assert from_dict(Config, json.loads(json.dumps(plain, allow_nan=False)), where="") == cfg
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(plain)), where="") == cfg


def test_the_presets_there_are() -> None:
    assert NAMES == [
        "afhq512", "compcars256", "demo", "ffhq1024", "ffhq256", "ffhq256_public", "ffhq512", "metfaces512",
        "quickstart",
    ]  # fmt: skip


# What each preset changes of another: written out, so that nothing else slips in.
HALF_PI = 1.5707963267948966
DIFFERENCES: dict[tuple[str, str], dict[str, Any]] = {
    ("ffhq256", "ffhq512"): {"generator.resolution": 512},
    ("ffhq256", "ffhq1024"): {"generator.resolution": 1024, "train.batch": 32, "train.micro_batch": 4},
    ("ffhq256", "ffhq256_public"): {"train.match_public_code": True},
    ("ffhq512", "afhq512"): {"data.path": "afhq"},
    ("ffhq512", "metfaces512"): {"data.path": "metfaces", "loss.r1_gamma": 2.0, "train.total_kimg": 5000.0},
    ("ffhq256", "compcars256"): {
        "data.path": "compcars",
        "data.mirror": False,
        "camera.distribution": "uniform",
        "camera.yaw": [-2 * HALF_PI, 2 * HALF_PI],
        "camera.fov_deg": 16.0,
        "generator.path_lattice": 0,
        "generator.field.near": 0.8,
        "generator.field.far": 1.2,
        "generator.field.samples": 16,
        "loss.nerf_path_weight": 0.0,
    },
}


@pytest.mark.parametrize("pair", DIFFERENCES, ids=" -> ".join)
def test_presets_differ_only_as_told(pair: tuple[str, str]) -> None:
    assert changed(preset(pair[0]), preset(pair[1])) == DIFFERENCES[pair]


def test_ffhq256_has_the_paper_s_numbers() -> None:
    cfg = preset("ffhq256")
    g = cfg.generator
    assert (g.resolution, g.volume_resolution, g.start_resolution, g.path_lattice) == (256, 32, 32, 16)
    assert (g.z_dim, g.w_dim, g.mapping_layers, g.features) == (512, 512, 8, 256)
    assert (g.field.hidden, g.field.depth, g.field.num_freqs, g.field.samples) == (128, 8, 10, 14)
    assert (g.field.near, g.field.far, g.background.start) == (0.88, 1.12, 0.5)
    assert (cfg.loss.path_length_weight, cfg.loss.nerf_path_weight, cfg.loss.style_mixing) == (2.0, 2.0, 0.9)
    assert (cfg.loss.r1_interval, cfg.loss.path_length_interval) == (16, 4)
    assert (cfg.growth.start_kimg, cfg.growth.end_kimg) == (500.0, 5000.0)
    assert cfg.camera.pitch == pytest.approx((HALF_PI - 0.155, HALF_PI + 0.155), abs=1e-12)


OVERRIDES = {
    "train.batch=16": {"train.batch": 16},
    "generator.field.samples=16": {"generator.field.samples": 16},
    "data.path=a b.zip": {"data.path": "a b.zip"},
    "train.ema_rampup=null": {"train.ema_rampup": None},
    "optimiser.eps=1e-7": {"optimiser.eps": 1e-7},
    "camera.yaw=[-1, 1]": {"camera.yaw": [-1.0, 1.0]},
    "growth.enabled=false": {"growth.enabled": False},
    "train.batch=64": {},
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_override_changes_one_key(override: str) -> None:
    assert changed(preset("ffhq256"), preset("ffhq256", override)) == OVERRIDES[override]


REFUSED = {
    # sections
    "data.scenes=0": "data: scenes must be at least 1, got 0",
    "data.cache_mib=-1": "data: cache_mib must be at least 0, got -1",
    "discriminator.channel_base=0": "discriminator: channel_base must be positive, got 0",
    "discriminator.channel_max=0": "discriminator: channel_max must be at least 1, got 0",
    "discriminator.clamp=-1": "discriminator: clamp must be positive, or null, got -1",
    "discriminator.fp16_levels=-1": "discriminator: fp16_levels must be at least 0, got -1",
    "loss.r1_gamma=-1": "loss: r1_gamma must be at least 0, got -1",
    "loss.path_length_weight=-1": "loss: path_length_weight must be at least 0, got -1",
    "loss.nerf_path_weight=-0.5": "loss: nerf_path_weight must be at least 0, got -0.5",
    "loss.r1_interval=0": "loss: r1_interval must be at least 1, got 0",
    "loss.path_length_interval=0": "loss: path_length_interval must be at least 1, got 0",
    "loss.path_length_decay=1.5": "loss: path_length_decay must be between 0 and 1, got 1.5",
    "loss.style_mixing=-0.1": "loss: style_mixing must be between 0 and 1, got -0.1",
    "optimiser.generator_lr=0": "optimiser: generator_lr must be positive, got 0",
    "optimiser.discriminator_lr=-1": "optimiser: discriminator_lr must be positive, got -1",
    "optimiser.eps=0": "optimiser: eps must be positive, got 0",
    "optimiser.beta1=1": r"optimiser: beta1 must be in \[0, 1\), got 1",
    "optimiser.beta2=-0.1": r"optimiser: beta2 must be in \[0, 1\), got -0.1",
    "growth.start_kimg=-1": r"growth: start_kimg, end_kimg must be 0 <= start <= end, got \(-1.0, 0.028\)",
    "growth.start_kimg=1": r"growth: start_kimg, end_kimg must be 0 <= start <= end, got \(1.0, 0.028\)",
    "train.batch=0": "train: batch must be at least 1, got 0",
    "train.micro_batch=0": "train: micro_batch must be at least 1, got 0",
    "train.micro_batch=3": r"train: batch must be a multiple of micro_batch \(3\), got 4",
    "train.total_kimg=0": "train: total_kimg must be positive, got 0",
    "train.tick_kimg=0": "train: tick_kimg must be positive, got 0",
    "train.snapshot_kimg=-1": "train: snapshot_kimg must be positive, got -1",
    "train.ema_kimg=-1": "train: ema_kimg must be at least 0, got -1",
    "train.ema_rampup=-1": "train: ema_rampup must be at least 0, or null, got -1",
    "train.seed=-1": r"train: seed must be at least 0 and below 2\*\*63, got -1",
    "train.seed=9223372036854775808": r"train: seed must be at least 0 and below 2\*\*63, got 9223372036854775808",
    "train.precision=fp8": "train.precision: wanted one of 'fp32', 'fp16', 'bf16', got 'fp8'",
    "monitor.grid_images=0": "monitor: grid_images must be at least 1, got 0",
    "monitor.turn_frames=0": "monitor: turn_frames must be at least 1, got 0",
    "monitor.batch=0": "monitor: batch must be at least 1, got 0",
    "monitor.swd_images=-1": "monitor: swd_images must be at least 0, got -1",
    "monitor.depth_scenes=-1": "monitor: depth_scenes must be at least 0, got -1",
    # combinations
    "generator.label_dim=3": r"generator.label_dim must be 0: it follows the data \(set data.labels instead\), got 3",
    "generator.z_dim=0": "generator.z_dim must be at least 1, got 0",
    "generator.field.track_magnitude=true": "generator.field.track_magnitude must be false: .*, got True",
    "generator.resolution=24": "generator: resolution must be volume_resolution times a power of two, got 24 from 8",
    "generator={resolution: 24, volume_resolution: 12}": "generator.resolution must be a power of two .*, got 24",
    "generator={resolution: 4, volume_resolution: 4, start_resolution: 4}": "generator.resolution must be .*, got 4",
    "generator.start_resolution=4": "generator.start_resolution must be a power of two of at least 8 .*, got 4",
    "generator.start_resolution=16": "generator: start_resolution must be at most volume_resolution",
    "discriminator.group_size=0": r"discriminator.group_size must be a divisor of train.micro_batch \(2\), got 0",
    "discriminator.group_channels=3": "discriminator.group_channels must be 0 or a divisor of the last .* 8 .*, got 3",
    "discriminator.group_channels=-1": "discriminator.group_channels must be 0 or a divisor .*, got -1",
    "generator.upsampler.kernel_size=3": "loss.nerf_path_weight must be 0 unless .* 1x1 layers .*, got 2.0",
    "generator.upsampler.mode=default": "loss.nerf_path_weight must be 0 unless",
    "generator.upsampler.architecture=resnet": "loss.nerf_path_weight must be 0 unless",
    "camera.radius=[1, 1.5]": "camera.radius must be at most 1 with a background .*, got",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused(override: str) -> None:
    with pytest.raises(UserError, match="^" + REFUSED[override]) as caught:
        tiny_config(override)
    assert "\n" not in str(caught.value)


def test_group_of_statistics_must_divide_the_micro_batch() -> None:
    with pytest.raises(UserError, match=r"group_size must be a divisor of train.micro_batch \(4\), got 3"):
        tiny_config("train.micro_batch=4", "discriminator.group_size=3")
    assert tiny_config("discriminator.group_size=null").discriminator.group_size is None
    assert tiny_config("discriminator.group_size=3").train.micro_batch == 2  # a group is at most the micro-batch


@pytest.mark.parametrize("section", ["generator.upsampler", "discriminator"])
def test_clamp_must_fit_in_half_precision(section: str) -> None:
    assert tiny_config(f"{section}.clamp=1e6").train.precision == "fp32"
    with pytest.raises(UserError, match=rf"^{section}\.clamp must be at most 65504, .*, got 1000000.0"):
        tiny_config(f"{section}.clamp=1e6", "train.precision=fp16")


def test_what_growth_asks_for_is_asked_only_with_growth() -> None:
    assert tiny_config("growth.enabled=false", "generator.start_resolution=3").generator.start_resolution == 3


def test_path_loss_off_frees_the_upsampler() -> None:
    assert tiny_config("loss.nerf_path_weight=0", "generator.upsampler.kernel_size=3")


def test_discriminator_follows_the_generator() -> None:
    got = tiny_config("generator.resolution=64", "discriminator.architecture=resnet").discriminator_config(5)
    assert got == DiscriminatorConfig(
        resolution=64, label_dim=5, architecture="resnet", channel_base=128, channel_max=8, group_size=2, lowres=8,
        progressive=True, fp16_levels=1,
    )  # fmt: skip
    assert not tiny_config("growth.enabled=false").discriminator_config().progressive


@pytest.mark.parametrize(("images", "alpha"), [(0, 0.0), (2000, 0.0), (3000, 0.25), (6000, 1.0), (9000, 1.0)])
def test_growth_in_thousands_of_images(images: int, alpha: float) -> None:
    assert GrowthConfig(start_kimg=2, end_kimg=6).alpha(images) == alpha
    assert GrowthConfig(enabled=False, start_kimg=2, end_kimg=6).alpha(images) == 1.0


def test_exactly_one_source() -> None:
    with pytest.raises(UserError, match=r"^--preset, --config: wanted exactly one of the two .*, got neither$"):
        load_config(None, None, [])
    with pytest.raises(UserError, match=r"^--preset, --config: wanted exactly one of the two .*, got both$"):
        load_config("ffhq256", "x.yaml", [])


def test_unknown_preset_and_key() -> None:
    with pytest.raises(UserError, match=r"^--preset: wanted one of afhq512, .*, quickstart, got 'ffhq255'$"):
        preset_path("ffhq255")
    with pytest.raises(UserError, match=r"^generator\.resolutoin: unknown key; .*; did you mean resolution\?$"):
        preset("ffhq256", "generator.resolutoin=3")


def test_file_on_top_of_a_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: ffhq512\ntrain: {batch: 8}\n")
    cfg = load_config(None, str(tmp_path / "mine.yaml"), ["train.seed=3"])
    assert changed(preset("ffhq512"), cfg) == {"train.batch": 8, "train.seed": 3}


def test_configuration_is_frozen_and_complete() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().train.batch = 8  # type: ignore[misc]
    assert from_dict(Config, {}, where="") == Config()


def test_dry_run_prints_the_resolved_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(write_tiny(tmp_path / "tiny.yaml")), "--set", "train.batch=8", "--data", "some where"]
    assert train_main([*arguments, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    cfg = from_dict(Config, json.loads(out), where="")
    assert changed(from_dict(Config, TINY, where=""), cfg) == {"train.batch": 8, "data.path": "some where"}
    assert err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_list_of_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--list-presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    descriptions = list_presets(PRESETS)
    assert [line.split(maxsplit=1)[1] for line in lines] == [descriptions[name] for name in NAMES]
    assert min(map(len, descriptions.values())) > 10


@pytest.mark.parametrize("former", RENAMED)
def test_renamed_keys_lead_to_fields(former: str) -> None:
    above, _, key = former.rpartition(".")
    section = functools.reduce(getattr, above.split("."), Config())
    assert hasattr(section, RENAMED[former]) and not hasattr(section, key)
