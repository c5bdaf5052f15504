"""Subjects of pictures: the styles of a person, a car, a solid, and the code of the background behind it.

A subject comes from a seed or from a file. Seed k draws, from a generator of its own, first the latent z, then the
background's code: the same seed is the same subject, whatever stands beside it in a batch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....models.camera import Camera, pose_fault
from ....models.generator import Generator
from ...errors import UserError
from ...files import write_whole
from ...model_io import Model
from .choices import MAX_SEED
from .conditions import condition
from .label_argument import Label

MAX_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Subjects:
    """N subjects.

    Attributes:
        ws:   [N, num_ws, w_dim] float32 styles, truncated already.
        z_bg: [N, background.z_dim] codes of a coded background, else None.
        z:    [N, z_dim] where the styles follow the camera (:meth:`seen_by`) and ``ws`` is the front view's; else None.
        truncation_psi: of styles that follow.
    """

    ws: Tensor
    z_bg: Tensor | None = None
    z: Tensor | None = None
    truncation_psi: float = 1.0

    def __len__(self) -> int:
        return len(self.ws)

    @property
    def numbers(self) -> list[Any]:
        """All that decides about their pictures."""
        following = [] if self.z is None else [self.z, self.truncation_psi]
        return [self.ws, self.z_bg, *following]

    def __getitem__(self, index: int | slice | Tensor) -> Subjects:
        if isinstance(index, int):
            index = slice(index, index + 1) if index != -1 else slice(-1, None)
        return self._each(lambda t: t[index])

    def to(self, device: torch.device | str) -> Subjects:
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Subjects:
        codes, z = (None if t is None else change(t) for t in (self.z_bg, self.z))
        return Subjects(change(self.ws), codes, z, self.truncation_psi)

    def fixed(self) -> Subjects:
        """The same, with the front view's styles for every camera."""
        return Subjects(self.ws, self.z_bg)

    def seen_by(self, model: Model, camera: Camera) -> Subjects:
        """Subject i as camera i makes it: a model with camera labels maps its latent under the label of that camera."""
        if self.z is None:
            return self
        label = condition(model, None, len(self), camera)
        return Subjects(model.generator.mapping(self.z, label, truncation_psi=self.truncation_psi), self.z_bg)

    def repeat(self, times: int) -> Subjects:
        """Each subject ``times`` times in a row: a, a, b, b."""
        pick = torch.arange(len(self), device=self.ws.device).repeat_interleave(times)
        return self[pick]

    @classmethod
    def cat(cls, parts: Sequence[Subjects]) -> Subjects:
        """All subjects of ``parts``, which have background codes, or have not, together; their styles are fixed."""
        codes = [p.z_bg for p in parts if p.z_bg is not None]
        return cls(torch.cat([p.ws for p in parts]), torch.cat(codes) if codes else None)


def draw_latents(generator: Generator, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """z [N, z_dim] and, for a coded background, codes [N, z_dim]; on the CPU, N(0, 1)."""
    z, codes = [], []
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed)
        z.append(torch.randn(1, generator.cfg.z_dim, generator=rng))
        codes.append(generator.synthesis.draw_background(1, rng))
    given = [c for c in codes if c is not None]
    return torch.cat(z), torch.cat(given) if given else None


@torch.no_grad()
def subjects_from_seeds(
    model: Model, seeds: Sequence[int], *, truncation_psi: float = 0.7, label: Label | None = None
) -> Subjects:
    """The subjects of ``seeds``, on the model's device.

    Args:
        seeds: non-negative numbers; at least one.
        truncation_psi: w <- w_avg + psi (w - w_avg), and the background's code, of average 0, times psi: 1 is as drawn,
            0 the average subject before the average background, between them safer and duller.
        label: class or vector of a conditional model, which needs one; a camera, or None to follow the rendering one.
    Raises: UserError naming the argument.
    """
    if not seeds or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise UserError(f"seeds: wanted at least one of 0 to {MAX_SEED}, got {list(seeds)[:4]}")
    return subjects_from_latents(
        model, *draw_latents(model.generator, seeds), truncation_psi=truncation_psi, label=label
    )


@torch.no_grad()
def subjects_from_latents(
    model: Model, z: Tensor, codes: Tensor | None, *, truncation_psi: float = 0.7, label: Label | None = None
) -> Subjects:
    """The subjects of latents z [N, z_dim] and background codes [N, D], on the model's device.

    Raises: UserError naming the label or the truncation.
    """
    if not abs(truncation_psi) <= 100:  # False for NaN
        raise UserError(f"--truncation: wanted a number, 0 to 1 as a rule, got {truncation_psi}")
    g = model.generator
    device = next(g.parameters()).device
    z = z.to(device)
    ws = g.mapping(z, condition(model, label, len(z)), truncation_psi=truncation_psi)
    follows = z if label is None and model.label_kind == "camera" else None
    return Subjects(ws, None if codes is None else codes.to(device) * truncation_psi, follows, truncation_psi)


def save_subjects(path: str | Path, subjects: Subjects, camera: Camera | None = None, **extra: np.ndarray) -> None:
    """Write subjects, and where they were seen from, as a ``.npz`` of plain arrays; whole, or not at all.

    Arrays: ws [N, num_ws, w_dim], z_bg [N, D], cam2world [N, 4, 4], tan_half_fov [N, 2], and what ``extra`` adds.
    """
    arrays: dict[str, Any] = {"ws": subjects.ws.detach().cpu().numpy(), **extra}
    if subjects.z_bg is not None:
        arrays["z_bg"] = subjects.z_bg.detach().cpu().numpy()
    if camera is not None:
        arrays["cam2world"] = camera.cam2world.detach().cpu().numpy()
        arrays["tan_half_fov"] = camera.tan_half_fov.detach().cpu().numpy()
    save_arrays(path, arrays)


def save_arrays(path: str | Path, arrays: dict[str, Any]) -> None:
    """Write plain arrays as a ``.npz``; whole, or not at all. Raises: UserError naming what cannot be written."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez(file, **arrays)

    write_whole(path, write)


def load_subjects(path: str | Path, model: Model) -> tuple[Subjects, Camera | None]:
    """Read what :func:`save_subjects` wrote, for this model; nothing in the file is executed.

    A file may hold ``w`` [N, w_dim] instead of ``ws``. Subjects without a background code, where the model wants one,
    get that of seed 0.
    Raises: UserError naming the path: not readable, other arrays, of another model's shape, not finite, no cameras.
    """
    path, g = Path(path), model.generator
    arrays = read_arrays(path)
    num_ws, w_dim = g.synthesis.num_ws, g.cfg.w_dim
    if "ws" in arrays:
        ws = _array(path, arrays, "ws", (num_ws, w_dim))
    elif "w" in arrays:
        ws = _array(path, arrays, "w", (w_dim,))[:, None].repeat(1, num_ws, 1)
    else:
        raise UserError(f"{path}: wanted an array ws or w, got {', '.join(sorted(arrays)) or 'none'}")
    codes = None
    if g.cfg.background.kind == "coded":
        if "z_bg" in arrays:
            codes = _array(path, arrays, "z_bg", (g.cfg.background.z_dim,), len(ws))
        else:
            first = draw_latents(g, [0])[1]
            assert first is not None
            codes = first.repeat(len(ws), 1)
    camera = None
    if "cam2world" in arrays and "tan_half_fov" in arrays:
        pose = _array(path, arrays, "cam2world", (4, 4), len(ws))
        half = _array(path, arrays, "tan_half_fov", (2,), len(ws))
        fault = pose_fault(pose)
        if fault is not None:
            raise UserError(f"{path}: camera {fault[0]}: {fault[1]}")
        if not bool((half > 0).all()):
            raise UserError(f"{path}: wanted positive numbers in tan_half_fov, got {float(half.min()):.3g}")
        camera = Camera(pose, half)
    device = next(g.parameters()).device
    return Subjects(ws, codes).to(device), None if camera is None else camera.to(device)


def read_arrays(path: Path, what: str = "subjects") -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` of ``what``; nothing in it is executed. Raises: UserError naming the path."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: wanted at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: wanted a .npz of {what}, got another file")
        with np.load(path, allow_pickle=False) as file:
            with zipfile.ZipFile(path) as members:
                if sum(m.file_size for m in members.infolist()) > MAX_FILE_BYTES:
                    raise UserError(f"{path}: wanted at most {MAX_FILE_BYTES} bytes of arrays, got more")
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError(f"{path}: wanted a .npz of {what}, got: {error.strerror or 'another file'}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, KeyError) as error:
        raise UserError(f"{path}: wanted a .npz of {what}, got: {str(error)[:200] or 'a damaged file'}") from None


def _array(
    path: Path, arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], count: int | None = None
) -> Tensor:
    value = arrays[name]
    rows = "N" if count is None else str(count)
    if value.dtype.kind != "f" or value.shape[1:] != shape or len(value) == 0 or len(value) != (count or len(value)):
        wanted = ", ".join([rows, *map(str, shape)])
        raise UserError(f"{path}: wanted {name} [{wanted}] of floating point, got {list(value.shape)} {value.dtype}")
    if not np.isfinite(value).all():
        raise UserError(f"{path}: wanted finite numbers in {name}, got some that are not")
    return torch.from_numpy(value.astype(np.float32))
