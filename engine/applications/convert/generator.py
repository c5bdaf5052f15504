"""A snapshot's generator as ours: arguments completed from the tensors where they are silent, sizes checked first."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....models.camera import CameraPrior
from ....models.config import GeneratorConfig
from ....models.generator import Generator
from ....models.official import (
    IGNORED,
    POSITIONAL,
    camera_prior_from_official,
    generator_config_from_official,
    generator_from_official,
)
from ....models.official_arguments import check_arguments
from ...errors import UserError
from ...model_io import check_finite, check_sizes
from ...training.config_io import from_dict, to_dict
from .interpolation import Unresolved
from .modules import arguments_of, attributes, make_tensors, plain, tensors_of
from .objects import Persistent
from .refusals import Refused, brief
from .snapshot import Snapshot

_CAMERA = ("range_u", "range_v", "range_radius", "depth_range", "fov", "gaussian_camera", "angular_camera",
           "depth_transform", "dists_normalized", "ray_align_corner", "bg_start")  # fmt: skip
_RENDERER = ("n_bg_samples", "n_ray_samples", "abs_sigma", "hierarchical", "no_background")
# what the tensors show to the translator
_FIELD = {"hidden_size", "n_blocks", "n_freq_posenc", "z_dim", "w_dim", "rgb_out_dim"}
_READ_ELSEWHERE = {*_CAMERA, "channel_base", "channel_max", "no_residual_img"}  # what the translator pops before
_SHOWN = {
    "": {"img_channels"},
    "synthesis": {"rgb_out_dim", "z_dim_bg"},
    "foreground": _FIELD,
    "background": _FIELD,
    "upsampler": {"img_channels", "in_res", "out_res"},
}


@dataclass(frozen=True)
class Converted:
    """Our generator and camera prior, and what was read off the tensors because the arguments left it out."""

    generator: Generator
    prior: CameraPrior
    completed: dict[str, Any]


def convert_network(snapshot: Snapshot, which: str = "G_ema") -> Converted:
    """Build our generator from the snapshot's network ``which``.

    Raises: UserError naming the file and what it has that we do not: another kind of generator, an option, a tensor.
    """
    network = snapshot.network(which)
    try:
        args, kwargs = arguments_of(network)
        state = make_tensors(tensors_of(network), 4 * snapshot.size_bytes)
        if not any(name.startswith("synthesis.fg_nerf.") for name in state):
            raise Refused(f"{which} is a {network.class_name[:40]!r} without synthesis.fg_nerf: no StyleNeRF generator")
        kwargs, unresolved = without_unresolved(_named(args, kwargs))
        check_arguments(kwargs, sections_only=True)
        completed = complete(kwargs, state)
        completed |= _complete_unresolved(kwargs, state, unresolved)
        completed |= _from_objects(kwargs, network)
        check_resolved(kwargs, unresolved)
        # back and forth: every field of its own type, every number finite
        config = from_dict(GeneratorConfig, to_dict(generator_config_from_official(kwargs, state)), where="")
        check_sizes(config, state)
        generator = generator_from_official(kwargs, state)
        prior = from_dict(CameraPrior, to_dict(camera_prior_from_official(kwargs)), where="camera")
        check_finite(generator.state_dict())
    except UserError as error:
        raise UserError(f"{snapshot.path}: {which}: {brief(error)}") from None
    except Refused as error:
        raise UserError(f"{snapshot.path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{snapshot.path}: {which}: {brief(error)}") from None
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        # arguments of wrong types fail wherever they are first used
        raise UserError(
            f"{snapshot.path}: {which}: wanted arguments as the public code takes, got: {brief(error)}"
        ) from None
    return Converted(generator, prior, completed)


def _named(args: list[object], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Positional arguments under their names; one given twice is the translator's to refuse."""
    if len(args) > len(POSITIONAL):
        raise ValueError(f"init_args: wanted at most {len(POSITIONAL)}, got {len(args)}")
    positional = dict(zip(POSITIONAL, args))
    if twice := sorted(positional.keys() & kwargs.keys()):
        raise ValueError(f"init_args: wanted every argument once, got {twice} in init_kwargs as well")
    return {**positional, **kwargs}


def complete(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fill what ``kwargs`` leaves out, and the tensors show, in place. Returns: what was filled in, by name."""
    syn = kwargs["synthesis_kwargs"] = dict(kwargs.get("synthesis_kwargs") or {})
    filled: dict[str, Any] = {}

    def fill(section: dict[str, Any], name: str, value: Any) -> None:
        if value is not None and section.get(name) is None:
            section[name] = filled[name] = value

    blocks = sorted({int(match[1]) for name in state if (match := re.match(r"synthesis\.b(\d{1,5})\.", name))})
    first = f"synthesis.b{blocks[0]}." if blocks else ""
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
    code, style = state.get("mapping.fc0.weight"), state.get(f"mapping.fc{layers - 1}.weight")
    label = state.get("mapping.embed.weight")
    if label is not None and label.ndim != 2:
        label = None
    if code is not None and style is not None and code.ndim == style.ndim == 2:
        fill(kwargs, "w_dim", style.shape[0])
        fill(kwargs, "c_dim", 0 if label is None else label.shape[-1])
        fill(kwargs, "z_dim", code.shape[1] - (0 if label is None else label.shape[0]))
        kwargs["mapping_kwargs"] = dict(kwargs.get("mapping_kwargs") or {})
        fill(kwargs["mapping_kwargs"], "num_layers", layers)
    if blocks:
        fill(kwargs, "img_resolution", blocks[-1])
        fill(syn, "resolution_vol", blocks[0] // 2)
        fill(syn, "upsample_mode", _mode(state, first))
        weight = state.get(f"{first}conv0.weight")
        fill(syn, "kernel_size", weight.shape[-1] if weight is not None and weight.ndim == 4 else None)
        if "use_noise" not in syn:
            fill(syn, "use_noise", f"{first}conv1.noise_strength" in state)
        if f"{first}conv0.w_avg" in state:
            fill(syn, "magnitude_ema_beta", 0.999)  # the public default; it only matters when training goes on
    for section, names in (("camera_kwargs", _CAMERA), ("renderer_kwargs", _RENDERER)):
        # older code took these one level higher
        moved = {name: syn.pop(name) for name in names if name in syn}
        if moved:
            syn[section] = {**moved, **dict(syn.get(section) or {})}
    return filled


def without_unresolved(arguments: Mapping[str, Any], above: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """``arguments`` less those whose interpolation leads nowhere, and the text of each of these by dotted name."""
    kept, unresolved = dict[str, Any](), dict[str, str]()
    for name, value in arguments.items():
        inside = value if isinstance(value, list) else [value]
        open_ends = [item for item in inside if isinstance(item, Unresolved)]
        if open_ends:
            unresolved[above + name] = open_ends[0]
        elif isinstance(value, dict):
            kept[name], more = without_unresolved(value, f"{above}{name}.")
            unresolved |= more
        else:
            kept[name] = value
    return kept, unresolved


def _complete_unresolved(
    kwargs: dict[str, Any], state: Mapping[str, Tensor], unresolved: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments with a public default that the tensors show as well, where a snapshot names but does not tell them."""
    syn, filled = kwargs["synthesis_kwargs"], dict[str, Any]()
    widths = {
        int(match[1]): value.shape[0]
        for name, value in state.items()
        if (match := re.fullmatch(r"synthesis\.b(\d{1,5})\.conv1\.bias", name)) and value.ndim == 1
    }
    shown_by_tensors: dict[str, Any] = {
        "renderer_kwargs.no_background": not any(n.startswith("synthesis.bg_nerf.") for n in state)
    }
    magnitudes = any(re.fullmatch(r"synthesis\.fg_nerf\..*\.w_avg", name) for name in state)
    shown_by_tensors["foreground_kwargs.magnitude_ema_beta"] = 0.999 if magnitudes else -1
    shown_by_tensors["magnitude_ema_beta"] = 0.999 if any(name.endswith(".conv0.w_avg") for name in state) else -1
    if widths:
        finest = max(widths)
        base = widths[finest] * finest / 32768  # where that is capped, so is every coarser block
        for above in ("", "upsampler_kwargs."):
            shown_by_tensors |= {f"{above}channel_base": base, f"{above}channel_max": max(widths.values())}
    for name, value in shown_by_tensors.items():
        if f"synthesis_kwargs.{name}" in unresolved:
            *section, last = name.split(".")
            (syn.setdefault(section[0], {}) if section else syn)[last] = filled[last] = value
    return filled


def check_resolved(kwargs: Mapping[str, Any], unresolved: Mapping[str, str]) -> None:
    """Refuse an argument that matters, was given as an interpolation and is nowhere to be found."""
    for name, text in unresolved.items():
        *sections, last = name.split(".")
        inside: Any = kwargs
        for section in sections:
            inside = inside.get(section) or {}
        of = sections[-1].removesuffix("_kwargs") if sections else ""
        known = last in inside or last in _SHOWN.get(of, ()) or last in IGNORED.get(of, set()) - _READ_ELSEWHERE
        if last.endswith("_kwargs") or not known:
            raise ValueError(f"{name}: wanted a value, got {text!r}, which the file does not resolve")


def _mode(state: Mapping[str, Tensor], first: str) -> str | None:
    """How the first block enlarges, where an adapter tells: nn_cat's reads two images, pixelshuffle's makes four."""
    into, out = (state.get(f"{first}conv0.adapter.{n}.weight") for n in (0, 1))
    width = state.get(f"{first}conv0.bias")
    if into is None or out is None or width is None or not into.ndim == out.ndim == 4 or width.ndim != 1:
        return None
    shapes = {2 * width.shape[0]: "nn_cat", width.shape[0]: "bilinear_ada"}
    return "pixelshuffle" if out.shape[0] == 4 * width.shape[0] else shapes.get(into.shape[1])


def _from_objects(kwargs: dict[str, Any], network: Persistent) -> dict[str, Any]:
    """Camera and renderer arguments that only the network's own objects (synthesis.C and V) tell."""
    modules = network.state.get("_modules")
    synthesis = attributes(modules.get("synthesis")) if isinstance(modules, dict) else None
    syn, filled = kwargs["synthesis_kwargs"], dict[str, Any]()
    for name, section, names in (("C", "camera_kwargs", _CAMERA), ("V", "renderer_kwargs", _RENDERER)):
        recorded, known = attributes((synthesis or {}).get(name)) or {}, dict(syn.get(section) or {})
        new = {key: plain(recorded[key]) for key in names if key in recorded and key not in known}
        new, _ = without_unresolved(new)
        if new:
            syn[section] = {**known, **new}
            filled |= new
    return filled
