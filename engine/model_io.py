"""Models on the disk, for rendering: the average generator of a run, or a converted one.

A converted model is a folder with the three files of a checkpoint: ``state.pt`` (tensors, read with
``weights_only=True``), ``meta.json`` (configuration, camera prior, where it came from), ``manifest.json`` (SHA-256).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.camera import CameraPrior
from ..models.config import GeneratorConfig
from ..models.generator import Generator
from .data.labels import LabelKind, deduced_kind, kind_fault
from .errors import UserError, one_line, short, to_stderr
from .files import sha256_of
from .training.checkpoint import FILES, read_checkpoint, write_folder
from .training.config import Config
from .training.config_io import from_dict, to_dict

KIND = "generator"
MAX_SAMPLES = 4096  # per ray and pass
MAX_RESOLUTION = 8192
SNAPSHOT_ENDINGS = (".pkl", ".pickle")
DEMO = "demo"  # names the model that comes with the package
DEMO_FOLDER = Path(__file__).resolve().parent / "demo"


@dataclass(frozen=True)
class Model:
    """A generator ready to render, in evaluation mode, without gradients of its parameters.

    Attributes:
        generator: G_ema of a run, or the converted network.
        prior: distribution of its training cameras.
        path: the folder that was read.
        meta: the folder's meta.json: the run's configuration, or the source of a converted model.
    """

    generator: Generator
    prior: CameraPrior
    path: Path
    meta: dict[str, Any]

    @property
    def config(self) -> GeneratorConfig:
        return self.generator.cfg

    @property
    def label_kind(self) -> LabelKind:
        """Kind of the labels from meta.json, else deduced from their number."""
        kind: LabelKind = self.meta.get("label_kind", deduced_kind(self.config.label_dim))
        return kind

    @property
    def sha256(self) -> str:
        """Hash of everything that determines its pictures: configuration, samples, weights."""
        g = self.generator
        return sha256_of([to_dict(g.cfg), g.synthesis.default_samples, g.state_dict()])


def load_model(
    path: str | Path, device: torch.device | str = "cpu", report: Callable[[str], None] = to_stderr
) -> Model:
    """Load the model at ``path`` onto ``device``; hashes are verified, nothing in the files is executed.

    Args:
        path: a run's folder (its newest intact checkpoint), a checkpoint, a converted model's folder, or a file in one;
            "demo", where there is no such folder, is the small model that comes with the package.
        report: takes one line if a conditional model does not state the kind of its labels.
    Raises: UserError naming the path: nothing there, not a model, damaged, of another format.
    """
    folder = model_folder(Path(path))
    state, meta = read_checkpoint(folder)
    try:
        if "config" in meta:
            config = from_dict(Config, meta["config"], where="")
            generator_config, prior = config.generator, config.camera
            weights, samples = _mapping(_mapping(state, "state"), "average"), None
            generator_config = _with_labels(generator_config, meta.get("label_dim", 0))
        elif meta.get("kind") == KIND:
            generator_config = from_dict(GeneratorConfig, meta.get("generator"), where="generator")
            prior = from_dict(CameraPrior, meta.get("camera"), where="camera")
            weights, samples = _mapping(state, "generator"), meta.get("default_samples")
        else:
            raise UserError("wanted the meta.json of a run or of a converted model, got another")
        generator = _build(generator_config, weights)
        generator.synthesis.default_samples = _samples(samples)
        _check_label_kind(meta, generator.cfg.label_dim)
    except (UserError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError includes RecursionError
        raise UserError(f"{folder}: wanted a model, got: {one_line(error)[:400]}") from None
    model = Model(generator.eval().requires_grad_(False).to(device), prior, folder, meta)
    if model.config.label_dim and "label_kind" not in meta:
        wide = model.config.label_dim
        report(f"{folder}: does not say what its labels of {wide} numbers are; taken for: {model.label_kind}")
    return model


def save_model(
    path: str | Path,
    generator: Generator,
    prior: CameraPrior,
    source: Mapping[str, Any] | None = None,
    *,
    label_kind: LabelKind | None = None,
) -> Path:
    """Write a generator and its cameras as a new folder that :func:`load_model` reads; whole, or not at all.

    Args:
        path: a folder that does not exist yet, or is empty.
        source: origin of the model, anything that JSON can hold.
        label_kind: kind of its labels; None: deduced from their number (:func:`deduced_kind`).
    Returns: the folder.
    Raises: UserError naming the path if it exists or cannot be written.
    """
    meta = {
        "kind": KIND,
        "generator": to_dict(generator.cfg),
        "camera": to_dict(prior),
        "label_kind": label_kind or deduced_kind(generator.cfg.label_dim),
        "default_samples": generator.synthesis.default_samples,
        "source": dict(source or {}),
    }
    state = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    return write_folder(Path(path), {"generator": state}, meta)


def check_sizes(config: GeneratorConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse a configuration that is too large for the tensors given, before memory is allocated for it.

    Raises: ValueError naming the size in question.
    """
    samples = max(config.field.samples, config.field.render_samples or 0, config.background.samples)
    edge = max(config.resolution, config.path_lattice)
    if samples > MAX_SAMPLES or edge > MAX_RESOLUTION:
        raise ValueError(f"wanted at most {MAX_SAMPLES} samples and {MAX_RESOLUTION} pixels, got {samples} and {edge}")
    if config.mapping_layers + config.field.depth > len(state):
        layers = config.mapping_layers + config.field.depth
        raise ValueError(f"the configuration has at least {layers} layers, the file {len(state)} tensors")
    # by storage: a tensor may claim more elements than its storage holds, and several may share one
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    wanted, given = least_numbers(config), sum(storages.values()) // 2  # at least two bytes a number
    if wanted > given:
        raise ValueError(f"the configuration takes at least {wanted} numbers, the file has at most {given}")


def least_numbers(config: GeneratorConfig) -> int:
    """Lower bound of the number of values in the generator's state, within a small factor."""
    w, features, field = config.w_dim, config.features, config.field
    count = w * (config.z_dim + (config.mapping_layers - 1) * w + config.label_dim)
    first = 6 * field.num_freqs
    count += first * (field.hidden + w) + field.hidden * ((field.depth - 1) * (field.hidden + w) + features)
    if config.background.kind == "coded":
        b = config.background
        count += b.hidden * (8 * b.num_freqs + b.z_dim + (b.depth - 1) * b.hidden + features)
    elif config.background.kind == "styled":
        b = config.background
        count += 8 * b.num_freqs * (b.hidden + w) + (b.depth - 1) * b.hidden * (b.hidden + w)
    ups, width = config.upsampler, features
    for resolution in config.block_resolutions:
        out = ups.channels(resolution)
        count += ups.kernel_size**2 * out * (width + out) + w * (width + out)
        count += 2 * resolution**2 if ups.noise else 0
        width = out
    return count


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raises: ValueError naming a tensor with values that are not finite."""
    for name, value in state.items():
        count = int((~torch.isfinite(value)).sum())
        if count:
            raise ValueError(f"{name}: wanted finite numbers, got {count} that are not")


def model_folder(path: Path) -> Path:
    """Model folder for a path: the folder itself, that of a file in it, or the package's own for "demo"."""
    if str(path) == DEMO and not os.path.lexists(path):
        return DEMO_FOLDER
    if not os.path.exists(path):  # unlike Path.exists, false for any name that leads nowhere, however long
        raise UserError(f"{path}: wanted a run, a checkpoint or a converted model, got nothing there")
    if path.is_dir():
        return path
    if path.name in FILES:
        return path.parent
    if path.suffix.lower() in SNAPSHOT_ENDINGS:
        raise UserError(f"{path}: wanted a model of ours; convert first: stylenerf convert {path} --out DIR")
    raise UserError(f"{path}: wanted a run, a checkpoint or a converted model, got another file")


def _mapping(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise UserError(f"state.pt: wanted a mapping {name!r}, got {type(value).__name__}")
    return value


def _with_labels(config: GeneratorConfig, label_dim: object) -> GeneratorConfig:
    return from_dict(GeneratorConfig, {**to_dict(config), "label_dim": label_dim}, where="label_dim")


def _check_label_kind(meta: Mapping[str, Any], label_dim: int) -> None:
    fault = kind_fault(meta["label_kind"], label_dim) if "label_kind" in meta else None
    if fault is not None:
        raise UserError(f"label_kind: {fault}")


def _samples(value: object) -> int | None:
    if value is None or (type(value) is int and 1 <= value <= MAX_SAMPLES):
        return value
    raise UserError(f"default_samples: wanted null or 1 to {MAX_SAMPLES}, got {short(value)}")


def _build(config: GeneratorConfig, weights: Mapping[str, Any]) -> Generator:
    tensors = {name: value for name, value in weights.items() if is_plain(value)}
    check_sizes(config, tensors)
    generator = Generator(config)
    own = generator.state_dict()
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    unknown = sorted(weights.keys() - own.keys())
    if wrong or unknown:
        faults = f"{_some(wrong)} missing or misshapen, {_some(unknown)} unknown"
        raise ValueError(f"wanted the tensors of its configuration, got {faults}")
    check_finite(tensors)
    generator.load_state_dict(tensors)
    return generator


def is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
    )


def _some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"
