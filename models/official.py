"""Translate the public code's constructor arguments and parameter names to our models; nothing is executed.

Keys that the public code reads are translated, and keys that it ignores are ignored. A value that asks for an
unsupported feature is refused by name, never dropped.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .camera import CameraPrior
from .config import BackgroundConfig, DiscriminatorConfig, FieldConfig, GeneratorConfig, UpsamplerConfig
from .discriminator import Discriminator
from .generator import Generator
from .official_arguments import DISCRIMINATOR, SECTIONS, WARPS, check_arguments, shown

# accepted, without effect on rendering; the public code never reads them or reads them in training only
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
POSITIONAL = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
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
    Returns: a generator in evaluation mode; :func:`camera_prior_from_official` gives its cameras.
    Raises: ValueError naming an option that is not supported, or parameters that are missing, unknown or misshapen.
    """
    generator = Generator(generator_config_from_official(_by_name(init_kwargs, init_args), state))
    growth = state.get("synthesis.alpha", torch.tensor(1.0))
    if growth.numel() != 1:
        raise ValueError(f"generator state: synthesis.alpha must be one number, got a tensor of {list(growth.shape)}")
    alpha = float(growth)
    if alpha != -1 and not 0 <= alpha <= 1:
        raise ValueError(f"generator state: synthesis.alpha must be -1 or between 0 and 1, got {alpha}")
    if alpha == -1:
        generator.synthesis.default_samples = ALPHA_UNSET_SAMPLES
    state = {**state, "synthesis.alpha": torch.tensor(1.0 if alpha == -1 else alpha, dtype=torch.float32)}
    _load(generator, state, generator_name, "generator")
    return generator.eval().requires_grad_(False)


def discriminator_from_official(init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> Discriminator:
    """Build our discriminator from the public constructor arguments and state dict; in evaluation mode.

    Raises: ValueError naming an option that is not supported, or parameters that are missing, unknown or misshapen.
    """
    discriminator = Discriminator(discriminator_config_from_official(init_kwargs))
    _load(discriminator, state, discriminator_name, "discriminator")
    return discriminator.eval().requires_grad_(False)


def _by_name(init_kwargs: Mapping[str, Any], init_args: tuple[Any, ...]) -> dict[str, Any]:
    if len(init_args) > len(POSITIONAL):
        raise ValueError(f"init_args: wanted at most {len(POSITIONAL)} ({', '.join(POSITIONAL)}), got {len(init_args)}")
    positional = dict(zip(POSITIONAL, init_args))
    if twice := sorted(positional.keys() & init_kwargs.keys()):
        raise ValueError(f"init_args: wanted every argument once, got {twice} in init_kwargs as well")
    return {**positional, **init_kwargs}


def _load(module: torch.nn.Module, state: Mapping[str, Tensor], rename: Callable[[str], str | None], what: str) -> None:
    own = module.state_dict()
    tensors: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        ours = rename(name)
        if ours is None:
            continue
        if ours not in own:
            unknown.append(name)
            continue
        wanted, got = list(own[ours].shape), list(value.shape)
        if got not in (wanted, [*wanted, 1, 1]):  # the public code keeps some linear layers as 1x1 convolutions
            raise ValueError(f"{what} state: {name} must be {wanted}, got {got}")
        tensors[ours] = value.detach().reshape(wanted)
    missing = sorted(own.keys() - tensors.keys())
    if missing or unknown:
        raise ValueError(
            f"{what} state: wanted the names of its configuration, missing {missing} (our names), unknown {unknown}"
        )
    module.load_state_dict(tensors)


def _same(value: Any, other: Any) -> bool:
    return (type(value) is bool) == (type(other) is bool) and bool(value == other)


def _finish(where: str, left: Mapping[str, Any], ignored: set[str], **neutral: Any) -> None:
    """Refuse unsupported keys: every key left must be in ``ignored`` or hold its neutral value."""
    for key, value in left.items():
        if key in ignored or (key in neutral and _same(value, neutral[key])):
            continue
        wanted = repr(neutral[key]) if key in neutral else "a known argument"
        raise ValueError(f"{where}{key}: wanted {wanted}, got {shown(value)}")


def generator_config_from_official(
    kwargs: Mapping[str, Any], state: Mapping[str, Tensor] | None = None
) -> GeneratorConfig:
    """Translate the public generator's keyword arguments.

    Widths and depths of the fields that ``kwargs`` does not state are read from the shapes in ``state``, where given.
    Raises: ValueError naming an option that is absent or not supported.
    """
    check_arguments(kwargs)
    kw = dict(kwargs)
    for name in ("z_dim", "w_dim", "img_resolution"):
        if name not in kw:
            raise ValueError(f"{name}: wanted a number, got nothing")
    syn = dict(kw.pop("synthesis_kwargs", None) or {})
    mapping = dict(kw.pop("mapping_kwargs", None) or {})
    sections = {name: dict(syn.pop(f"{name}_kwargs", None) or {}) for name in SECTIONS}
    camera, renderer, fg, bg, ups = (sections[name] for name in SECTIONS)
    layers, z_dim_bg = mapping.pop("num_layers", 8), syn.pop("z_dim_bg", bg.get("z_dim"))
    if z_dim_bg is None:
        z_dim_bg = _background_code(bg, state or {})
    if state is not None:
        _fill_in(fg, state, "synthesis.fg_nerf.", point_dims=3)
        _fill_in(bg, state, "synthesis.bg_nerf.", point_dims=4, code=z_dim_bg)
        feature = _matrix(state, "synthesis.fg_nerf.feat_out.weight")
        if feature is not None:
            syn.setdefault("rgb_out_dim", feature.shape[0])
    volume, start = syn.pop("resolution_vol", 32), syn.pop("resolution_start", None)
    config = GeneratorConfig(
        resolution=kw.pop("img_resolution"),
        volume_resolution=volume,
        start_resolution=min(start or volume, volume),
        z_dim=kw.pop("z_dim"),
        w_dim=kw.pop("w_dim"),
        label_dim=kw.pop("c_dim", 0),
        mapping_layers=layers,
        features=syn.pop("rgb_out_dim", 256),
        path_lattice=syn.pop("n_reg_samples", 0),
        field=_field_config(camera, renderer, fg, _skips(state)),
        background=_background_config(camera, renderer, bg, z_dim_bg),
        upsampler=_upsampler_config(syn, ups),
    )
    # the public constructor adds its submodules' arguments to the mappings it receives, before they are recorded
    field: dict[str, Any] = {
        "positional_encoding": "normal", "downscale_p_by": 1, "predict_rgb": True, "use_viewdirs": False,
        "w_dim": config.w_dim, "rgb_out_dim": config.features, "activation": "lrelu",
    }  # fmt: skip
    neutral: dict[str, dict[str, Any]] = {
        "camera": {"dists_normalized": False},
        "foreground": {**field, "z_dim": 0},
        "background": {**field, "z_dim": z_dim_bg, "inverse_sphere": True},
        "upsampler": {
            "no_2d_renderer": False, "block_reses": None, "shared_rgb_style": False,
            "img_channels": 3, "in_res": config.volume_resolution, "out_res": config.resolution,
        },
    }  # fmt: skip
    _finish("", kw, set(), img_channels=3, encoder_kwargs={})
    _finish("mapping_kwargs.", mapping, set(), lr_multiplier=0.01, w_avg_beta=0.995, activation="lrelu")
    _finish("synthesis_kwargs.", syn, IGNORED["synthesis"], z_dim=0, margin=0)
    for name, left in sections.items():
        _finish(f"{name}_kwargs.", left, IGNORED[name], **neutral.get(name, {}))
    return config


def _fill_in(
    section: dict[str, Any], state: Mapping[str, Tensor], prefix: str, *, point_dims: int, code: int = 0
) -> None:
    """Fill in missing sizes of a field from the shapes of its tensors."""
    first = _matrix(state, f"{prefix}fc_in.weight")
    if first is None:
        return
    blocks = [name for name in state if re.fullmatch(re.escape(prefix) + r"blocks\.\d+\.weight", name)]
    section.setdefault("hidden_size", first.shape[0])
    section.setdefault("n_blocks", 1 + len(blocks))
    section.setdefault("n_freq_posenc", (first.shape[1] - code) // (2 * point_dims))


def _matrix(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """A layer's weight; None if absent or below two dims, which loading then refuses by its shape."""
    weight = state.get(name)
    return weight if weight is not None and weight.ndim >= 2 else None


def _background_code(bg: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    """Width of the background's code: inputs of its first layer less those of the encoding; 128 by default."""
    first = _matrix(state, "synthesis.bg_nerf.fc_in.weight")
    return 128 if first is None else int(first.shape[1]) - 8 * bg.get("n_freq_posenc", 10)


def _skips(state: Mapping[str, Tensor] | None) -> tuple[int, ...]:
    """Foreground layers that also read the encoding: those whose weight has more inputs than outputs."""
    skips = []
    for name, value in (state or {}).items():
        block = re.fullmatch(r"synthesis\.fg_nerf\.blocks\.(\d+)\.weight", name)
        if block and value.ndim >= 2 and value.shape[1] > value.shape[0]:
            skips.append(int(block[1]) + 1)
    return tuple(sorted(skips))


def _field_config(
    camera: dict[str, Any], renderer: dict[str, Any], fg: dict[str, Any], skips: tuple[int, ...]
) -> FieldConfig:
    spaces = {None: "plain", "InverseWarp": "contracted", "LogWarp": "radial"}
    transform = camera.pop("depth_transform", None)
    near, far = camera.pop("depth_range", (0.5, 6.0))
    middle = _prior(camera).at(0.5, 0.5).position[0].double().round(decimals=6) + 0.0  # no -0.0
    return FieldConfig(
        hidden=fg.pop("hidden_size", 128),
        depth=fg.pop("n_blocks", 8),
        num_freqs=fg.pop("n_freq_posenc", 10),
        skips=skips,
        track_magnitude=fg.pop("magnitude_ema_beta", -1) > 0,
        samples=renderer.pop("n_ray_samples", 14),
        hierarchical=renderer.pop("hierarchical", True),
        near=near,
        far=far,
        warp=WARPS[transform],  # type: ignore[arg-type]
        space=spaces[transform],  # type: ignore[arg-type]
        centre=tuple(middle.tolist()) if transform == "LogWarp" else (0.0, 0.0, 0.0),
        align_corners=camera.pop("ray_align_corner", True),
    )


def _background_config(
    camera: dict[str, Any], renderer: dict[str, Any], bg: dict[str, Any], z_dim: int
) -> BackgroundConfig:
    absent = renderer.pop("no_background", False)
    config = {
        "hidden": bg.pop("hidden_size", 64),
        "depth": bg.pop("n_blocks", 4),
        "num_freqs": bg.pop("n_freq_posenc", 10),
        "samples": renderer.pop("n_bg_samples", 4),
        "start": camera.pop("bg_start", 1.0),
    }
    if absent:
        return BackgroundConfig(kind="none")
    if z_dim < 1:
        raise ValueError(f"synthesis_kwargs.z_dim_bg: wanted at least 1 (a background with a code), got {z_dim}")
    return BackgroundConfig(kind="coded", z_dim=z_dim, **config)


def _upsampler_config(syn: dict[str, Any], ups: dict[str, Any]) -> UpsamplerConfig:
    # the upsampler's own section takes precedence over the synthesis section
    base = ups.get("channel_base", syn.get("channel_base", 1))
    widest = ups.get("channel_max", syn.get("channel_max", 1024))
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


def camera_prior_from_official(init_kwargs: Mapping[str, Any], *, init_args: tuple[Any, ...] = ()) -> CameraPrior:
    """The pose prior in ``synthesis_kwargs.camera_kwargs``: u is our yaw, v our pitch."""
    kwargs = _by_name(init_kwargs, init_args)
    check_arguments(kwargs)
    return _prior((kwargs.get("synthesis_kwargs") or {}).get("camera_kwargs") or {})


def _prior(camera: Mapping[str, Any]) -> CameraPrior:
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
    """Translate the public discriminator's keyword arguments.

    Raises: ValueError naming an option that is absent or not supported.
    """
    check_arguments(kwargs, DISCRIMINATOR)
    kw = dict(kwargs)
    if "img_resolution" not in kw:
        raise ValueError("img_resolution: wanted a number, got nothing")
    epilogue = dict(kw.pop("epilogue_kwargs", None) or {})
    resolution, progressive = kw.pop("img_resolution"), kw.pop("progressive", False)
    config = DiscriminatorConfig(
        resolution=resolution,
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
    _finish("epilogue_kwargs.", epilogue, set(), activation="lrelu")
    # resizing of real images and an average of the weights belong to training, not to the forward pass
    ignored = {"upsample_type", "resize_real_early", "enable_ema"}
    _finish("", kw, ignored, img_channels=3, cmap_dim=None, block_kwargs={}, mapping_kwargs={})
    return config


_FIELD_HEADS = {"fc_in": "layers.0", "sigma_out": "density", "feat_out": "feature", "to_rgb": "colour"}


def field_name(name: str) -> str | None:
    """Our name of a radiance field's parameter, from the public one; None where it holds nothing learned."""
    if name.endswith("resample_filter"):
        return None
    name = re.sub(r"\.w_avg$", ".magnitude", name)
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    if block:
        return f"layers.{int(block[1]) + 1}.{block[2]}"
    head, _, rest = name.partition(".")
    return f"{_FIELD_HEADS.get(head, head)}.{rest}"


def generator_name(name: str) -> str | None:
    """Our name of a generator's parameter or buffer, from the public one; None where it holds nothing learned."""
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
    """Our name of a discriminator's parameter, from the public one; None where it holds nothing learned."""
    if name.endswith("resample_filter"):
        return None
    mapping = re.fullmatch(r"mapping\.fc(\d+)\.(.*)", name)
    if mapping:
        return f"mapping.layers.{mapping[1]}.{mapping[2]}"
    block = re.fullmatch(r"b(\d+)\.(.*)", name)
    if block:
        place = "epilogue" if block[1] == "4" else f"blocks.b{block[1]}"
        return f"{place}.{re.sub(r'^fromrgb[.]', 'from_rgb.', block[2])}"
    return name
