"""Start a run from another model's weights: matching tensors are copied, all others are initialised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError, one_line
from ..model_io import KIND, check_finite, is_plain, model_folder
from .checkpoint import read_checkpoint
from .config import Config
from .config_io import apply_overrides, from_dict
from .step import TrainState

NETWORKS = ("generator", "average", "discriminator")
MAX_GROUPS = 8
_ALPHA = "synthesis.alpha"  # progress of growth: state of the run, not a weight


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights, checked to be finite, for each network of :data:`NETWORKS` that the model has."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]

    def config(self, overrides: list[str]) -> Config:
        """The model's configuration for a new run; growth is off, since the model is fully grown."""
        if "config" in self.meta:
            data = {**self.meta["config"]}
        else:
            data = {"generator": {**self.meta["generator"], "label_dim": 0}, "camera": self.meta["camera"]}
        data["growth"] = {**data.get("growth", {}), "enabled": False}
        return from_dict(Config, apply_overrides(data, overrides, Config), where="")

    def copy_into(self, state: TrainState, report: Callable[[str], None]) -> None:
        """Copy tensors that match by name and shape; report the initialised and unused ones, one line per network.

        Raises: UserError, before anything is copied, if no tensor of the generator fits.
        """
        fits = {}
        for name in NETWORKS:
            own, given = getattr(state, name).state_dict(), self.tensors.get(name, {})
            fits[name] = [key for key in own if key in given and own[key].shape == given[key].shape and key != _ALPHA]
        if not fits["generator"]:
            raise UserError(
                f"--init: wanted a model with tensors of this generator's names and shapes, got {self.path}"
            )
        for name in NETWORKS:
            own, given = getattr(state, name).state_dict(), self.tensors.get(name, {})
            for key in fits[name]:
                own[key].copy_(given[key])
            anew = _groups(own.keys() - {_ALPHA}, fits[name])
            left = _groups(given.keys() - {_ALPHA}, fits[name])
            count = f"{len(fits[name])} of {len(own.keys() - {_ALPHA})} tensors copied"
            report(f"init:        {name}: {count}; started anew: {anew}; left over: {left}")


def read_initial(path: Path) -> InitialWeights:
    """Read a run, a checkpoint or a converted model. Raises: UserError in one line for anything else."""
    try:
        folder = model_folder(path)
        state, meta = read_checkpoint(folder)
        if "config" in meta:
            from_dict(Config, meta["config"], where="")
            parts = _mapping(state, "state")
            tensors = {name: _tensors(parts, name) for name in NETWORKS}
        elif meta.get("kind") == KIND:
            generator = _tensors(state, "generator")
            InitialWeights(folder, meta, {}).config([])
            tensors = {"generator": generator, "average": generator}
        else:
            raise UserError(f"{folder}: wanted the meta.json of a run or of a converted model, got another")
    except (UserError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"--init: {path}: wanted a model, got: {one_line(error)[:400]}") from None
    return InitialWeights(folder, meta, tensors)


def _tensors(state: dict[str, Any], name: str) -> dict[str, Tensor]:
    tensors = {key: value for key, value in _mapping(state, name).items() if is_plain(value)}
    check_finite(tensors)
    return tensors


def _mapping(state: dict[str, Any], name: str) -> dict[str, Any]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise UserError(f"state.pt: wanted a mapping {name!r}, got {type(value).__name__}")
    return value


def _groups(names: Collection[str], copied: Collection[str]) -> str:
    """Names that were not copied, and their count; a module without any copied tensor is listed by its own name."""
    groups: Counter[str] = Counter()
    for name in sorted(set(names) - set(copied)):
        parts = name.split(".")
        prefixes = [".".join(parts[:i]) for i in range(1, len(parts))]
        whole = next((p for p in prefixes if not any(key.startswith(f"{p}.") for key in copied)), None)
        groups[name if whole is None else f"{whole}.*"] += 1
    shown = [key if count == 1 else f"{key} ({count})" for key, count in groups.items()]
    more = f" and {sum(list(groups.values())[MAX_GROUPS:])} more" if len(shown) > MAX_GROUPS else ""
    return f"{groups.total()}, {', '.join(shown[:MAX_GROUPS])}{more}" if shown else "none"
