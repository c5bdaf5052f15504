"""From one subject to the next: along great circles in z, or straight in w."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from ...model_io import Model
from .label_argument import Label
from .subjects import Subjects, draw_latents, subjects_from_latents


class Moments(NamedTuple):
    """Position of each frame between two of the subjects."""

    before: Tensor  # [F] place of the subject that is left
    after: Tensor  # [F] place of the subject that is approached
    t: Tensor  # [F] 0..1, float64


def moments(subjects: int, frames: int, *, loop: bool = False) -> Moments:
    """``frames`` at even steps from the first subject to the last, or with ``loop`` back to the first.

    Without ``loop`` the last frame is the last subject; with it the frame after the last would be the first again.
    Raises: UserError for fewer than two subjects or frames.
    """
    if subjects < 2:
        raise UserError(f"--seeds, --latents: wanted at least two subjects to go between, got {subjects}")
    if frames < 2:
        raise UserError(f"--frames: wanted at least 2, got {frames}")
    steps = torch.arange(frames, dtype=torch.float64)
    place = steps * subjects / frames if loop else steps * (subjects - 1) / (frames - 1)
    before = place.floor().long()
    if not loop:
        before = before.clamp(max=subjects - 2)
    return Moments(before, (before + 1) % subjects, place - before)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """On the arc from ``a`` to ``b``: (sin((1-t) o) a + sin(t o) b) / sin o, o the angle between them.

    A normal latent has nearly the same length as any other; the straight line between two leaves that shell, the arc
    stays on it. Directions that are equal or opposite have no arc of their own: they go along the line.

    Args:
        a, b: [N, D].
        t: [N] 0..1.
    Returns: [N, D], dtype of ``a``.
    """
    x, y, t = a.double(), b.double(), t.double().to(a.device)[:, None]
    cos = torch.nn.functional.cosine_similarity(x, y, dim=1)[:, None].clamp(-1, 1)
    angle = cos.acos()
    sin = angle.sin()
    on_line = sin < 1e-6
    safe = torch.where(on_line, 1.0, sin)
    one, other = (((1 - t) * angle).sin() / safe, (t * angle).sin() / safe)
    return torch.where(on_line, torch.lerp(x, y, t), one * x + other * y).to(a.dtype)


def between_seeds(
    model: Model,
    seeds: Sequence[int],
    frames: int,
    *,
    loop: bool = False,
    truncation_psi: float = 0.7,
    label: Label | None = None,
) -> Subjects:
    """``frames`` subjects from seed to seed, latents z and background codes on arcs (:func:`slerp`).

    Raises: UserError naming the argument.
    """
    when = moments(len(seeds), frames, loop=loop)
    z, codes = draw_latents(model.generator, seeds)
    z = slerp(z[when.before], z[when.after], when.t)
    if codes is not None:
        codes = slerp(codes[when.before], codes[when.after], when.t)
    return subjects_from_latents(model, z, codes, truncation_psi=truncation_psi, label=label)


def between_subjects(subjects: Subjects, frames: int, *, loop: bool = False) -> Subjects:
    """``frames`` subjects from one to the next: styles on straight lines, background codes on arcs.

    Raises: UserError for fewer than two subjects or frames.
    """
    when = moments(len(subjects), frames, loop=loop)
    device = subjects.ws.device
    before, after = when.before.to(device), when.after.to(device)
    t = when.t.to(subjects.ws.dtype).to(device)[:, None, None]
    ws = torch.lerp(subjects.ws[before], subjects.ws[after], t)
    codes = subjects.z_bg
    return Subjects(ws, None if codes is None else slerp(codes[before], codes[after], when.t))
