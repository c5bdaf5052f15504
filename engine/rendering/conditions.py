"""The label that a picture is made under: told by a person, of the model's kind, or that of the rendering camera."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.data.labels import label_fault, label_from_camera
from engine.errors import UserError
from engine.model_io import Model
from models.camera import Camera

Label = int | tuple[float, ...]
FILES = (".json", ".npy", ".txt")
MAX_NUMBERS = 2**16


def add_label_argument(group: argparse._ArgumentGroup) -> None:
    """--label."""
    group.add_argument(
        "--label",
        metavar="LABEL",
        type=read_label,
        help="of a conditional model: a class number, numbers with commas between them, or a .json, .npy or .txt file "
        "of numbers (default for camera labels: that of the rendering camera)",
    )


def read_label(text: str) -> Label:
    """A class number, or numbers with commas between them, or those of a file.

    Raises: UserError naming --label.
    """
    wanted = "a class number, numbers such as 0.5,1,2 or a .json, .npy or .txt file of them"
    try:
        if Path(text).suffix.lower() in FILES:
            numbers = _of_file(Path(text))
        elif text.strip().isascii() and text.strip().isdecimal() and len(text) < 10:
            return int(text)
        else:
            numbers = [float(part) for part in text.split(",") if part.strip() or "," not in text]
    except OSError as error:
        raise UserError(f"--label: wanted {wanted}, got {text[:80]!r}: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError, RecursionError, OverflowError):
        raise UserError(f"--label: wanted {wanted}, got {text[:80]!r}") from None
    if not 1 <= len(numbers) <= MAX_NUMBERS or not all(abs(n) < 3e38 for n in numbers):
        raise UserError(f"--label: wanted 1 to {MAX_NUMBERS} finite numbers, got {text[:80]!r}")
    return tuple(numbers)


def _of_file(path: Path) -> list[float]:
    if path.suffix.lower() == ".npy":
        values = np.load(path, allow_pickle=False)
    elif path.suffix.lower() == ".json":
        values = np.array(json.loads(path.read_text(encoding="utf-8")))
    else:
        return [float(part) for part in path.read_text(encoding="utf-8").replace(",", " ").split()]
    if values.dtype.kind not in "iuf":
        raise ValueError("no numbers")
    return [float(value) for value in values.reshape(-1)]


def condition(model: Model, label: Label | None, count: int, camera: Camera | None = None) -> Tensor | None:
    """[count, L] labels for the mapping network, on the model's device; None for a model without.

    Args:
        label: of all of them. None for a camera model: that of each of ``camera``, or of the prior's middle camera.
        camera: ``count`` cameras that will render.
    Raises: UserError naming --label where it is not of the model's kind.
    """
    kind, label_dim = model.label_kind, model.config.label_dim
    device = next(model.generator.parameters()).device
    if kind == "camera" and label is None:
        seen_from = model.prior.at(0.5, 0.5) if camera is None else camera
        rows = label_from_camera(seen_from).to(device)
        return rows if camera is not None else rows.expand(count, -1)
    fault = _fault(model, label)
    if fault is not None:
        raise UserError(f"--label: wanted {fault}, got {_shown(label)}")
    if label is None:
        return None
    rows = torch.zeros(1, label_dim, device=device)
    rows[0] = torch.eye(label_dim)[label] if isinstance(label, int) else torch.tensor(label)
    return rows.expand(count, -1)


def random_conditions(model: Model, label: Label | None, count: int, rng: torch.Generator) -> Tensor | None:
    """Like :func:`condition`; without a label, one for each that is drawn from all classes or the prior's cameras."""
    if label is None and model.label_kind == "class":
        drawn = torch.randint(model.config.label_dim, (count,), generator=rng)
        rows = torch.nn.functional.one_hot(drawn, model.config.label_dim).float()
        return rows.to(next(model.generator.parameters()).device)
    if label is None and model.label_kind == "camera":
        return condition(model, None, count, model.prior.sample(count, rng))
    return condition(model, label, count)


def _fault(model: Model, label: Label | None) -> str | None:
    """What the model wants instead of ``label``; None where it is right."""
    kind, label_dim = model.label_kind, model.config.label_dim
    if kind == "none":
        return None if label is None else "none (the model is not conditional)"
    if kind == "class":
        fits = isinstance(label, int) and 0 <= label < label_dim
        return None if fits else f"a class of 0 to {label_dim - 1}"
    numbers = [float(label)] if isinstance(label, int) and label_dim == 1 else label
    if not isinstance(numbers, list | tuple) or len(numbers) != label_dim:
        what = "a camera in EG3D's 25 numbers" if kind == "camera" else f"{label_dim} number{'s' * (label_dim > 1)}"
        return f"{what} (or a file of them), not a class"
    fault = label_fault(torch.tensor([numbers])) if kind == "camera" else None
    return None if fault is None else fault[1].removeprefix("wanted ").rsplit(", got", 1)[0]


def _shown(label: Label | None) -> str:
    if label is None or isinstance(label, int):
        return str(label)
    some = ", ".join(f"{n:g}" for n in label[:4]) + ", ..." * (len(label) > 4)
    return f"{len(label)} number{'s' * (len(label) > 1)} ({some})"
