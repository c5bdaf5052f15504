"""Our configurations and parameters under the names of the public implementation."""

import copy
import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stylenerf.models.config import BackgroundConfig, GeneratorConfig
from stylenerf.models.generator import Generator
from tests.inputs import seeded, tiny_generator_config

Q = math.pi / 2
BASE = tiny_generator_config()
UP, FIELD = BASE.upsampler, BASE.field
GENERATORS: dict[str, GeneratorConfig] = {
    "released": BASE,
    "pixelshuffle": replace(BASE, upsampler=replace(UP, mode="pixelshuffle")),
    "field that grows": replace(BASE, start_resolution=2),
    "contracted space": replace(
        BASE,
        field=replace(FIELD, warp="inverse", space="contracted", align_corners=True, far=4.0, hierarchical=False),
    ),
    # the centre is where the middle camera of the prior stands: yaw 0, pitch pi / 3 from +z, at radius 1
    "radial space": replace(BASE, field=replace(FIELD, warp="log", space="radial", centre=(0.866025, 0.0, 0.5))),
    "no background": replace(BASE, background=BackgroundConfig(kind="none")),
    "3x3 with noise": replace(
        BASE, upsampler=replace(UP, mode="default", kernel_size=3, noise=True, clamp=None, magnitude_decay=None)
    ),
    "conditional": replace(BASE, label_dim=3),
    "skips": replace(BASE, field=replace(FIELD, depth=4, skips=(2,), track_magnitude=True)),
    "resnet": replace(BASE, upsampler=replace(UP, architecture="resnet", mode="bilinear")),
    "no image skip": replace(BASE, upsampler=replace(UP, image_skip=False)),
    "no upsampler": replace(BASE, resolution=4),
}
WARPS = {"linear": None, "inverse": "InverseWarp", "log": "LogWarp"}


def public_kwargs(cfg: GeneratorConfig) -> dict[str, Any]:
    """What the public constructor would have been given."""
    f, b, u = cfg.field, cfg.background, cfg.upsampler
    neutral = {"positional_encoding": "normal", "downscale_p_by": 1, "use_style": "StyleGAN2", "predict_rgb": True,
               "use_viewdirs": False}  # fmt: skip
    return {
        "z_dim": cfg.z_dim, "c_dim": cfg.label_dim, "w_dim": cfg.w_dim,
        "img_resolution": cfg.resolution, "img_channels": 3,
        "mapping_kwargs": {"num_layers": cfg.mapping_layers},
        "synthesis_kwargs": {
            "num_fp16_res": 0, "channel_base": u.channel_base / 32768, "channel_max": u.channel_max,
            "conv_clamp": u.clamp, "kernel_size": u.kernel_size, "architecture": u.architecture,
            "upsample_mode": u.mode, "use_noise": u.noise, "magnitude_ema_beta": u.magnitude_decay or -1,
            "z_dim_bg": b.z_dim, "z_dim": 0, "resolution_vol": cfg.volume_resolution,
            "resolution_start": cfg.start_resolution, "rgb_out_dim": cfg.features, "n_reg_samples": cfg.path_lattice,
            "progressive": True, "no_bbox": True, "margin": 0, "module_name": "training.stylenerf.NeRFSynthesisNetwork",
            "camera_kwargs": {
                "range_u": [-0.3, 0.3], "range_v": [Q / 3, Q], "range_radius": [1.0, 1.0], "fov": 12,
                "gaussian_camera": True, "angular_camera": True, "depth_range": [f.near, f.far],
                "depth_transform": WARPS[f.warp], "dists_normalized": False,
                "ray_align_corner": f.align_corners, "bg_start": b.start,
            },
            "renderer_kwargs": {
                "n_bg_samples": b.samples, "n_ray_samples": f.samples, "abs_sigma": False,
                "hierarchical": f.hierarchical, "no_background": b.kind == "none",
            },
            "foreground_kwargs": {
                **neutral, "hidden_size": f.hidden, "n_blocks": f.depth, "n_freq_posenc": f.num_freqs,
                "magnitude_ema_beta": 0.999 if f.track_magnitude else -1,
            },
            "background_kwargs": {
                **neutral, "hidden_size": b.hidden, "n_blocks": b.depth, "n_freq_posenc": b.num_freqs,
                "skips": [], "inverse_sphere": True,
            },
            "upsampler_kwargs": {
                "channel_base": u.channel_base / 32768, "channel_max": u.channel_max, "no_2d_renderer": False,
                "no_residual_img": not u.image_skip, "block_reses": None, "shared_rgb_style": False,
            },
        },
    }  # fmt: skip


PUBLIC_HEADS = {"density": "sigma_out", "feature": "feat_out", "colour": "to_rgb"}


def public_generator_name(ours: str) -> str:
    """The way back, written down by itself."""
    name = ours.replace(".magnitude", ".w_avg")
    if part := re.fullmatch(r"mapping\.layers\.(\d+)\.(.*)", name):
        return f"mapping.fc{part[1]}.{part[2]}"
    if part := re.fullmatch(r"synthesis\.upsampler\.blocks\.(b\d+)\.(.*)", name):
        return f"synthesis.{part[1]}.{part[2]}"
    if part := re.fullmatch(r"synthesis\.volume\.(fore|back)ground\.(.*)", name):
        place = {"fore": "synthesis.fg_nerf", "back": "synthesis.bg_nerf"}[part[1]]
        if layer := re.fullmatch(r"layers\.(\d+)\.(.*)", part[2]):
            number = int(layer[1])
            return f"{place}.{f'blocks.{number - 1}' if number else 'fc_in'}.{layer[2]}"
        head, rest = part[2].split(".", 1)
        return f"{place}.{PUBLIC_HEADS[head]}.{rest}"
    return name


def public_state(g: Generator) -> dict[str, Tensor]:
    """Under public names and shapes, with the filters that the public modules carry around."""
    state = {}
    for ours, value in g.state_dict().items():
        name = public_generator_name(ours)
        convolution = "fg_nerf" in name or "adapter" in name or "to_rgb" in name
        if convolution and name.endswith(".weight") and "affine" not in name:
            value = value[:, :, None, None]
        state[name] = value.clone()
    state["synthesis.b8.conv0.resample_filter"] = torch.ones(4, 4)
    state["synthesis.fg_nerf.fc_in.resample_filter"] = torch.ones(4, 4)
    return state


def make(case: str) -> Generator:
    return seeded(lambda: Generator(GENERATORS[case])).eval().requires_grad_(False)


def recorded_kwargs(cfg: GeneratorConfig) -> dict[str, Any]:
    """With what the public constructor writes into the mappings that it is given."""
    kwargs = public_kwargs(cfg)
    syn = kwargs["synthesis_kwargs"]
    field = {"w_dim": cfg.w_dim, "rgb_out_dim": cfg.features, "activation": "lrelu"}
    syn["foreground_kwargs"] |= {**field, "z_dim": 0}
    syn["background_kwargs"] |= {**field, "z_dim": cfg.background.z_dim}
    syn["upsampler_kwargs"] |= {"img_channels": 3, "in_res": cfg.volume_resolution, "out_res": cfg.resolution}
    return kwargs


@cache
def small() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return public_kwargs(BASE), public_state(seeded(lambda: Generator(BASE)))


def inside(kwargs: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The section that holds the dotted name, and the last part of the name."""
    *path, last = name.split(".")
    for part in path:
        kwargs = kwargs[part]
    return kwargs, last


def without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """``kwargs`` less the dotted names."""
    kwargs = copy.deepcopy(kwargs)
    for name in names:
        section, last = inside(kwargs, name)
        del section[last]
    return kwargs


def changed(kwargs: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    kwargs = copy.deepcopy(kwargs)
    section, last = inside(kwargs, name)
    section[last] = value
    return kwargs


def paths(kwargs: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for name, value in kwargs.items():
        found += [above + name, *(paths(value, f"{above}{name}.") if isinstance(value, dict) else [])]
    return found
