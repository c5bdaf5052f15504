"""A projection in a folder: saved as it goes, so that it can go on exactly, and what it leaves there in the end.

``checkpoints/`` holds the newest state (with the photographs, so that these need not stay), ``latents.npz`` what was
found, for every other verb; ``images/``, ``sheet.png``, ``progress.gif``, ``loss.png`` and ``losses.json``, which comes
last, show how. A tuned generator lies in ``model/``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....models.camera import Camera
from ...errors import UserError, to_stderr
from ...extras import missing
from ...files import file_names
from ...model_io import load_model, save_model
from ...pictures import labelled_rows, save_png, to_uint8
from ...plots import line_chart
from ...training.checkpoint import FOLDER, read_checkpoint, write_checkpoint
from ...training.config_io import from_dict, to_dict
from ..render import outputs
from ..render.choices import TERMS
from ..render.subjects import Subjects, save_subjects
from .perceptual import PerceptualNet
from .projection import Projector
from .projection_options import ProjectionOptions
from .unknowns import Unknowns

KIND = "projection"
_SHOWN = 8  # photos on the sheet and in the film
_LINES = 6
_TILE = (128, 256)


@dataclass(frozen=True)
class ProjectionJob:
    """A projector, the names of its photos and its folder."""

    projector: Projector
    names: list[str]
    out: Path

    def save(self) -> None:
        """Write the state; the one before goes once this one is safe."""
        p = self.projector
        net = p.criterion.net
        meta = {
            "kind": KIND,
            "model": str(p.source.path.absolute()),
            "model_sha256": p.source.sha256,
            "photos": self.names,
            "perceptual": None if net is None else {"path": os.path.abspath(net.path), "sha256": net.sha256},
            "options": to_dict(p.options),
        }
        write_checkpoint(self.out, p.step, {"photos": p.criterion.photos.cpu(), **p.state()}, meta, keep=1)

    def finish(self, video: str = "gif") -> list[Path]:
        """Write what was found and how; returns the files. ``video``: gif, webp or none."""
        p, out = self.projector, self.out
        subjects, camera = p.result()
        poses = p.chart.poses(p.projected)[0].cpu()
        save_subjects(out / "latents.npz", subjects, camera, poses=poses.numpy().astype(np.float32))
        made = [out / "latents.npz"]
        if p.options.tune:
            made.append(out / "model")
            if not made[-1].exists():  # there once a finish was cut short after it; a resumed tuning has its bits
                save_model(
                    made[-1],
                    p.model.generator,
                    p.source.prior,
                    {"tuned": p.source.path.name, "sha256": p.source.sha256},
                    label_kind=p.source.label_kind,
                )
        rows = self._stages()
        for name, picture in zip(self.file_names, outputs.to_pillow(rows[-1][1])):
            save_png(picture, out / "images" / f"{name}.png")
        made.append(out / "images")
        save_png(self._sheet(rows), out / "sheet.png")
        made.append(out / "sheet.png")
        if video != "none" and len(p.frames):
            made.append(out / f"progress.{video}")
            outputs.save_animation(self._film(), made[-1], fps=10)
        made += self._draw_losses()
        made.append(out / "losses.json")
        outputs.save_text(json.dumps(self._record(poses), indent=2), made[-1])
        return made

    @property
    def file_names(self) -> list[str]:
        """A name for each photo's files, no two alike."""
        return file_names([Path(n).stem for n in self.names], "photo")

    def _stages(self) -> list[tuple[str, Tensor]]:
        """Names and pictures of what the photos looked like on the way."""
        p = self.projector
        rows = [("average", p.chart.images(p.average)), ("search", p.chart.images(p.found))]
        rows.append(("projected", p.chart.images(p.projected)))
        if p.options.tune:
            subjects, camera = p.result()
            with torch.no_grad():
                tuned = p.model.generator.synthesis(subjects.ws, camera, z_bg=subjects.z_bg).image.float()
            rows.append(("tuned", tuned))
        return rows

    def _sheet(self, rows: list[tuple[str, Tensor]]) -> Any:
        photos = self.projector.criterion.photos
        difference = (to_uint8(rows[-1][1]).float() - to_uint8(photos).float()).abs()
        rows = [("photo", photos), *rows, ("difference x4", (4 * difference).clamp(max=255).to(torch.uint8))]
        edge = min(max(photos.shape[-1], _TILE[0]), _TILE[1])
        return labelled_rows([(name, _tiles(images[:_SHOWN], edge)) for name, images in rows])

    def _film(self) -> list[Any]:
        p = self.projector
        edge = min(max(p.frames.shape[-1], _TILE[0]), _TILE[1])
        photos = _tiles(p.criterion.photos[:_SHOWN], edge).cpu()
        last = _tiles(self._stages()[-1][1][:_SHOWN], edge).cpu()
        frames = [_tiles(frame[:_SHOWN], edge) for frame in p.frames] + [last] * 10  # a second to look at the end
        return [labelled_rows([("photo", photos), ("found", frame)]) for frame in frames]

    def _draw_losses(self) -> list[Path]:
        """Write loss.png if there are losses and something to draw them with; returns the file, if any."""
        p, file, hint = self.projector, self.out / "loss.png", missing("plots")
        if not len(p.history):
            return []
        if hint is not None:
            to_stderr(f"{file}: not drawn, wants {hint}")
            return []
        lines = dict(zip(self.file_names, p.history.t().tolist()))
        if len(lines) > _LINES:
            lines = {"mean of the photos": p.history.mean(dim=1).tolist()}
        series = {name: [(float(i), loss) for i, loss in enumerate(values)] for name, values in lines.items()}
        save_png(line_chart(series, "Projection", "step", "loss", log_y=True), file)
        return [file]

    def _record(self, poses: Tensor) -> dict[str, Any]:
        p = self.projector
        return {
            "model": str(p.source.path.absolute()),
            "options": to_dict(p.options),
            "stages": p.options.stages,
            "photos": self.names,
            "cameras": [dict(zip(TERMS, row)) for row in poses.tolist()],
            "fov_deg": p.chart.fov_deg,
            "losses": p.history.tolist(),
        }


def resume_job(out: Path, device: torch.device | str) -> ProjectionJob:
    """The projection in folder ``out``, where it was last saved.

    Raises: UserError if it is none, has ended, or its model or network has changed since.
    """
    if not (out / FOLDER).is_dir():
        raise UserError(f"--resume: wanted the folder of a projection, got {out}")
    if (out / "losses.json").exists():
        raise UserError(f"--resume: wanted a projection that has not ended, got {out}")
    state, meta = read_checkpoint(out)
    if meta.get("kind") != KIND:
        raise UserError(f"--resume: wanted the folder of a projection, got another checkpoint in {out}")
    options = from_dict(ProjectionOptions, meta["options"], where="options")
    model = load_model(meta["model"], device)
    if model.sha256 != meta["model_sha256"]:
        raise UserError(f"--resume: wanted the model that the projection began with, got another in {meta['model']}")
    net = None
    if meta["perceptual"] is not None:
        net = PerceptualNet(meta["perceptual"]["path"], device)
        if net.sha256 != meta["perceptual"]["sha256"]:
            raise UserError(f"--resume: wanted the network that the projection began with, got another in {net.path}")
    projector = Projector(model, state.pop("photos"), options, net)
    projector.load(state)
    return ProjectionJob(projector, list(meta["photos"]), out)


def latent_distance(a: Subjects, b: Subjects) -> Tensor:
    """[N] root of the mean over rows of |w_a - w_b|^2."""
    return (a.ws - b.ws).square().sum(dim=-1).mean(dim=-1).sqrt()


def camera_distance(a: Camera, b: Camera) -> Tensor:
    """[N] angle in radians between the orientations of N cameras, exact for small ones."""
    difference = (a.cam2world - b.cam2world)[:, :3, :3].double()
    return 2 * (difference.square().sum(dim=(1, 2)).sqrt() / 8**0.5).clamp(max=1).arcsin()


def subjects_and_cameras(projector: Projector, u: Unknowns) -> tuple[Subjects, Camera]:
    """Subjects and cameras of a hypothesis that the projector has been at."""
    with torch.no_grad():
        return projector.chart.subjects(u), projector.chart.cameras(u)


def _tiles(images: Tensor, edge: int) -> Tensor:
    """uint8 at ``edge`` px: repeated pixels for small pictures, averages for large ones."""
    images = to_uint8(images) if images.is_floating_point() else images
    if images.shape[-1] > edge:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), edge).round().to(torch.uint8)
    return outputs.enlarged(images, edge)
