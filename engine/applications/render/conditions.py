"""The label that a picture is made under: told by a person, of the model's kind, or that of the rendering camera."""

from __future__ import annotations

import torch
from torch import Tensor

from ....models.camera import Camera
from ...data.labels import label_fault, label_from_camera
from ...errors import UserError
from ...model_io import Model
from .label_argument import Label


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
    """The label that the model wants, if ``label`` is not one; else None."""
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
