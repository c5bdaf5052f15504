"""From the public code's constructor arguments and parameter names to our models, and nothing executed on the way.

Keys that the public code reads are translated; keys that it ignores are ignored; a value that would mean something
we do not have is refused by name, never dropped.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .camera import CameraPrior
from .config import BackgroundConfig, DiscriminatorConfig, FieldConfig, GeneratorConfig, UpsamplerConfig
from .discriminator import Discriminator
from .generator import Generator

# accepted and without effect on what is rendered; the public code never reads them or reads them in training only
IGNORED = {
    "synthesis": {
        "num_fp16_res", "module_name", "no_bbox", "progressive", "reg_full", "use_style", "prog_nerf_only",
        "freeze_nerf", "init_res", "hidden_size", "use_background", "fp16_resolution", "resolution_end",
    },
    "camera": {"range_u", "range_v", "range_radius", "fov", "gaussian_camera", "angular_camera", "random_rotate"},
    "renderer": {"abs_sigma"},
    "foreground": {"use_style", "skips"},
    "background": {"use_style", "skips"},
    "upsampler": {"upsample_type", "channel_base", "channel_max", "no_residual_img"},
}  # fmt: skip
ALPHA_UNSET_SAMPLES = 20  # ray samples of the public code while its growth buffer holds its initial value, -1


def generator_from_official(
    init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor], *, init_args: tuple[Any, ...] = ()
) -> Generator:
    """Build our generator from a public generator's constructor arguments and state dict.

    Args:
        init_kwargs: z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs, plain data.
        state: parameters and buffers under the public names. ``synthesis.alpha`` (growth) is optional: absent means 1;
            -1, its initial value, means full growth with 20 ray samples per pass, as the public code renders it.
        init_args: positional arguments in the public order, if the snapshot used any.
    Returns: a generator in evaluation mode; its camera prior is ``camera_prior_from_official(init_kwargs)``.
    Raises: ValueError naming an option that is not supported, or parameters that are missing, unknown or misshapen.
    """
    kwargs = {**dict(zip(("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"), init_args)), **init_kwargs}
    generator = Generator(generator_config_from_official(kwargs))
    renamed: dict[str, Tensor] = {}
    alpha = 1.0
    for name, value in state.items():
        if name == "synthesis.alpha":
            alpha = float(value)
            continue
        ours = generator_name(name)
        if ours is not None:
            renamed[ours] = value
    if alpha == -1:
        generator.synthesis.default_samples = ALPHA_UNSET_SAMPLES
    renamed["synthesis.alpha"] = torch.tensor(1.0 if alpha == -1 else alpha)
    _load(generator, renamed, "generator")
    return generator.eval().requires_grad_(False)


def discriminator_from_official(init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> Discriminator:
    """Build our discriminator from the public constructor arguments and state dict; in evaluation mode."""
    discriminator = Discriminator(discriminator_config_from_official(init_kwargs))
    renamed = {ours: value for name, value in state.items() if (ours := discriminator_name(name)) is not None}
    _load(discriminator, renamed, "discriminator")
    return discriminator.eval().requires_grad_(False)


def _load(module: torch.nn.Module, state: dict[str, Tensor], what: str) -> None:
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(f"{what} state: wanted the names of its configuration, missing {missing}, unknown {unknown}")
    for name, value in state.items():
        value = value.reshape(own[name].shape) if value.numel() == own[name].numel() else value
        if value.shape != own[name].shape:
            raise ValueError(f"{what} state: {name} must be {list(own[name].shape)}, got {list(value.shape)}")
        own[name].copy_(value.detach())


def _section(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(options.get(f"{name}_kwargs") or {})


def _finish(section: str, left: dict[str, Any], **neutral: Any) -> None:
    """Refuse what was not understood: every key left must be ignorable or hold its neutral value."""
    for key, value in left.items():
        if key in IGNORED[section] or (key in neutral and value == neutral[key]):
            continue
        raise ValueError(f"{section}_kwargs.{key}: wanted {neutral.get(key, 'a known key')!r}, got {value!r}")


def generator_config_from_official(kwargs: Mapping[str, Any]) -> GeneratorConfig:
    """Translate the public generator's keyword arguments."""
    kw = dict(kwargs)
    syn = dict(kw.get("synthesis_kwargs") or {})
    mapping = dict(kw.get("mapping_kwargs") or {})
    camera, renderer, fg, bg, ups = (
        _section(syn, name) for name in ("camera", "renderer", "foreground", "background", "upsampler")
    )
    for name in ("camera", "renderer", "foreground", "background", "upsampler"):
        syn.pop(f"{name}_kwargs", None)
    if kw.get("img_channels", 3) != 3:
        raise ValueError(f"img_channels: wanted 3, got {kw['img_channels']}")
    layers = mapping.pop("num_layers", 8)
    if set(mapping) - {"lr_multiplier", "w_avg_beta", "activation"}:
        raise ValueError(f"mapping_kwargs: wanted num_layers, got {sorted(mapping)}")

    z_dim_bg = syn.pop("z_dim_bg", 32)
    field = _field_config(camera, renderer, fg)
    background = _background_config(camera, renderer, bg, z_dim_bg)
    upsampler = _upsampler_config(syn, ups)
    volume, start = syn.pop("resolution_vol", 32), syn.pop("resolution_start", None)
    config = GeneratorConfig(
        resolution=kw["img_resolution"],
        volume_resolution=volume,
        start_resolution=min(start or volume, volume),
        z_dim=kw["z_dim"],
        w_dim=kw["w_dim"],
        label_dim=kw.get("c_dim", 0),
        mapping_layers=layers,
        features=syn.pop("rgb_out_dim", 128),
        path_lattice=syn.pop("n_reg_samples", 0),
        field=field,
        background=background,
        upsampler=upsampler,
    )
    _finish("camera", camera, depth_transform=None, dists_normalized=False)
    _finish("renderer", renderer)
    _finish(
        "foreground", fg,
        positional_encoding="normal", downscale_p_by=1, predict_rgb=True, use_viewdirs=False,
        magnitude_ema_beta=-1,
    )  # fmt: skip
    _finish(
        "background", bg,
        positional_encoding="normal", downscale_p_by=1, predict_rgb=True, use_viewdirs=False, inverse_sphere=True,
    )  # fmt: skip
    _finish("upsampler", ups, no_2d_renderer=False, block_reses=None, shared_rgb_style=False)
    _finish("synthesis", syn, z_dim=0, margin=0)
    return config


def _field_config(camera: dict[str, Any], renderer: dict[str, Any], fg: dict[str, Any]) -> FieldConfig:
    warps = {None: "linear", "InverseWarp": "inverse", "LogWarp": "log"}
    transform = camera.pop("depth_transform", None)
    if transform not in warps:
        raise ValueError(f"camera_kwargs.depth_transform: wanted one of {list(warps)}, got {transform!r}")
    near, far = camera.pop("depth_range", (0.5, 6.0))
    return FieldConfig(
        hidden=fg.pop("hidden_size", 128),
        depth=fg.pop("n_blocks", 8),
        num_freqs=fg.pop("n_freq_posenc", 10),
        samples=renderer.pop("n_ray_samples", 14),
        hierarchical=renderer.pop("hierarchical", True),
        near=near,
        far=far,
        warp=warps[transform],  # type: ignore[arg-type]
        align_corners=camera.pop("ray_align_corner", True),
    )


def _background_config(
    camera: dict[str, Any], renderer: dict[str, Any], bg: dict[str, Any], z_dim: int
) -> BackgroundConfig:
    absent = renderer.pop("no_background", False)
    samples, start = renderer.pop("n_bg_samples", 4), camera.pop("bg_start", 1.0)
    return BackgroundConfig(
        kind="none" if absent else "coded",
        hidden=bg.pop("hidden_size", 64),
        depth=bg.pop("n_blocks", 4),
        num_freqs=bg.pop("n_freq_posenc", 10),
        z_dim=z_dim,
        samples=samples,
        start=start,
    )


def _upsampler_config(syn: dict[str, Any], ups: dict[str, Any]) -> UpsamplerConfig:
    # the upsampler's own section wins where both name a width
    base = ups.get("channel_base", syn.get("channel_base", 1))
    widest = ups.get("channel_max", syn.get("channel_max", 512))
    syn.pop("channel_base", None)
    syn.pop("channel_max", None)
    decay = syn.pop("magnitude_ema_beta", -1)
    return UpsamplerConfig(
        mode=syn.pop("upsample_mode", "default"),
        kernel_size=syn.pop("kernel_size", 3),
        architecture=syn.pop("architecture", "skip"),
        channel_base=base * 32768,
        channel_max=widest,
        clamp=syn.pop("conv_clamp", None),
        magnitude_decay=decay if decay > 0 else None,
        noise=syn.pop("use_noise", True),
        image_skip=not ups.get("no_residual_img", False),
    )


def camera_prior_from_official(init_kwargs: Mapping[str, Any]) -> CameraPrior:
    """The pose prior in ``synthesis_kwargs.camera_kwargs``: u is our yaw, v our pitch."""
    camera = _section(dict(init_kwargs.get("synthesis_kwargs") or {}), "camera")

    def pair(name: str, default: tuple[float, float]) -> tuple[float, float]:
        low, high = camera.get(name, default)
        return float(low), float(high)

    return CameraPrior(
        distribution="gaussian" if camera.get("gaussian_camera", False) else "uniform",
        yaw=pair("range_u", (0.0, 0.0)),
        pitch=pair("range_v", (0.25, 0.25)),
        radius=pair("range_radius", (2.732, 2.732)),
        fov_deg=float(camera.get("fov", 49.13)),
        angular=bool(camera.get("angular_camera", False)),
    )


def discriminator_config_from_official(kwargs: Mapping[str, Any]) -> DiscriminatorConfig:
    """Translate the public discriminator's keyword arguments."""
    kw = dict(kwargs)
    epilogue = dict(kw.pop("epilogue_kwargs", {}) or {})
    progressive = kw.pop("progressive", False)
    known = {"img_channels", "upsample_type", "resize_real_early", "block_kwargs", "mapping_kwargs", "enable_ema"}
    config = DiscriminatorConfig(
        resolution=(resolution := kw.pop("img_resolution")),
        label_dim=kw.pop("c_dim", 0),
        architecture=kw.pop("architecture", "resnet"),
        channel_base=kw.pop("channel_base", 1) * 32768,
        channel_max=kw.pop("channel_max", 512),
        clamp=kw.pop("conv_clamp", None),
        group_size=epilogue.pop("mbstd_group_size", 4),
        group_channels=epilogue.pop("mbstd_num_channels", 1),
        progressive=progressive,
        lowres=kw.pop("lowres_head", None) or (16 if progressive else resolution),
        fp16_levels=kw.pop("num_fp16_res", 0),
    )
    if epilogue or set(kw) - known:
        raise ValueError(f"discriminator: wanted known arguments, got {sorted([*epilogue, *(set(kw) - known)])}")
    return config


_FIELD_HEADS = {"fc_in": "layers.0", "sigma_out": "density", "feat_out": "feature", "to_rgb": "colour"}


def field_name(name: str) -> str | None:
    """Public name inside a radiance field to ours."""
    if name.endswith("resample_filter"):
        return None
    name = re.sub(r"\.w_avg$", ".magnitude", name)
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    if block:
        return f"layers.{int(block[1]) + 1}.{block[2]}"
    head, _, rest = name.partition(".")
    return f"{_FIELD_HEADS.get(head, head)}.{rest}"


def generator_name(name: str) -> str | None:
    """Public name of a generator's parameter or buffer to ours; None where it holds nothing learned."""
    if name.endswith("resample_filter"):
        return None
    mapping = re.fullmatch(r"mapping\.fc(\d+)\.(.*)", name)
    if mapping:
        return f"mapping.layers.{mapping[1]}.{mapping[2]}"
    field = re.fullmatch(r"synthesis\.(fg|bg)_nerf\.(.*)", name)
    if field:
        inside = field_name(field[2])
        return f"synthesis.volume.{'foreground' if field[1] == 'fg' else 'background'}.{inside}"
    block = re.fullmatch(r"synthesis\.b(\d+)\.(.*)", name)
    if block:
        return f"synthesis.upsampler.blocks.b{block[1]}.{re.sub(r'[.]w_avg$', '.magnitude', block[2])}"
    return name


def discriminator_name(name: str) -> str | None:
    """Public name of a discriminator's parameter to ours."""
    return None if name.endswith("resample_filter") else name
