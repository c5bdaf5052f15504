"""A snapshot's generator as ours: arguments completed from the tensors where they are silent, sizes checked first."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.config_io import from_dict, one_line, to_dict
from engine.errors import UserError
from engine.model_io import check_finite, check_sizes
from engine.snapshot import Snapshot
from engine.snapshot.modules import arguments_of, attributes, make_tensors, plain, tensors_of
from engine.snapshot.objects import Persistent
from engine.snapshot.values import Refused
from models.camera import CameraPrior
from models.config import GeneratorConfig
from models.generator import Generator
from models.official import (
    POSITIONAL,
    camera_prior_from_official,
    generator_config_from_official,
    generator_from_official,
)

NETWORKS = ("G_ema", "G")
_CAMERA = ("range_u", "range_v", "range_radius", "depth_range", "fov", "gaussian_camera", "angular_camera",
           "depth_transform", "dists_normalized", "ray_align_corner", "bg_start")  # fmt: skip
_RENDERER = ("n_bg_samples", "n_ray_samples", "abs_sigma", "hierarchical", "no_background")


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
        kwargs = _named(args, kwargs)
        completed = complete(kwargs, state)
        completed |= _from_camera(kwargs, network)
        # back and forth: every field of its own type, every number finite
        config = from_dict(GeneratorConfig, to_dict(generator_config_from_official(kwargs, state)), where="")
        check_sizes(config, state)
        generator = generator_from_official(kwargs, state)
        prior = from_dict(CameraPrior, to_dict(camera_prior_from_official(kwargs)), where="camera")
        check_finite(generator.state_dict())
    except UserError as error:
        raise UserError(f"{snapshot.path}: {which}: {_brief(error)}") from None
    except Refused as error:
        raise UserError(f"{snapshot.path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{snapshot.path}: {which}: {_brief(error)}") from None
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        # arguments of wrong types fail wherever they are first used
        raise UserError(
            f"{snapshot.path}: {which}: wanted arguments as the public code takes, got: {_brief(error)}"
        ) from None
    return Converted(generator, prior, completed)


def _brief(error: Exception) -> str:
    """One line, not long, and nothing in it that a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in one_line(str(error)[:2000]))
    return text if len(text) <= 400 else f"{text[:397]}..."


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
    found: dict[str, Any] = {}

    def fill(section: dict[str, Any], name: str, value: Any) -> None:
        if value is not None and section.get(name) is None:
            section[name] = found[name] = value

    blocks = sorted({int(match[1]) for name in state if (match := re.match(r"synthesis\.b(\d{1,5})\.", name))})
    first = f"synthesis.b{blocks[0]}." if blocks else ""
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
    code, style = state.get("mapping.fc0.weight"), state.get(f"mapping.fc{layers - 1}.weight")
    label = state.get("mapping.embed.weight")
    if code is not None and style is not None and code.ndim == style.ndim == 2:
        fill(kwargs, "w_dim", style.shape[0])
        fill(kwargs, "c_dim", 0 if label is None else label.shape[-1])
        fill(kwargs, "z_dim", code.shape[1] - (0 if label is None else label.shape[0]))
        if not (kwargs.get("mapping_kwargs") or {}).get("num_layers"):
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
    return found


def _mode(state: Mapping[str, Tensor], first: str) -> str | None:
    """How the first block enlarges, where an adapter tells: nn_cat's reads two images, pixelshuffle's makes four."""
    into, out = (state.get(f"{first}conv0.adapter.{n}.weight") for n in (0, 1))
    width = state.get(f"{first}conv0.bias")
    if into is None or out is None or width is None or not into.ndim == out.ndim == 4 or width.ndim != 1:
        return None
    shapes = {2 * width.shape[0]: "nn_cat", width.shape[0]: "bilinear_ada"}
    return "pixelshuffle" if out.shape[0] == 4 * width.shape[0] else shapes.get(into.shape[1])


def _from_camera(kwargs: dict[str, Any], network: Persistent) -> dict[str, Any]:
    """Ranges of the pose prior that only the network's camera object (synthesis.C) tells."""
    modules = network.state.get("_modules")
    synthesis = attributes(modules.get("synthesis")) if isinstance(modules, dict) else None
    camera = attributes((synthesis or {}).get("C"))
    syn = kwargs["synthesis_kwargs"]
    known = dict(syn.get("camera_kwargs") or {})
    found = {name: plain(camera[name]) for name in _CAMERA if camera and name in camera and name not in known}
    if found:
        syn["camera_kwargs"] = {**known, **found}
    return found
