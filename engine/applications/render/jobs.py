"""A rendering job: subjects along a camera path into a folder, frame by frame, so that a part of it can go on.

The folder holds ``job.json`` (what the job is), ``cameras.json`` and ``latents.npz`` (for other verbs to go on from),
``frames/<subject>/<kind>-<number>.png``, and what is made of the frames: ``<subject>-<kind>.gif``, ``sheet.png``.
Frames are rendered in the same groups whether or not some exist, so that a job that went on leaves the same bits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ....models.camera import Camera, pixel_grid
from ...errors import UserError, one_line
from ...files import file_names, sha256_of
from ...model_io import Model
from ...ownership import entries
from ...pictures import labelled_rows, save_png
from ...training.checkpoint import check_vacant
from . import outputs
from .choices import FORMATS, KINDS, PICTURES
from .paths import CameraPath
from .sheets import tile, to_images
from .subjects import Subjects, save_subjects
from .views import Bakes, View, ViewOptions, check_options, render_view, strict_pixels

Pairing = Literal["every", "own", "film"]
SHEET_COLUMNS, MAX_SHEET_ROWS = 8, 64
_DEPTH_VIEWS = 8  # fast pictures that tell the range of depths
_FORMAT = 1


@dataclass(frozen=True)
class Writing:
    """Output files of a job.

    Attributes:
        kinds: of :data:`KINDS`, at least one.
        formats: of :data:`FORMATS`; without "png" the frames' pictures are removed once the others are made.
        fps: frames a second of moving pictures.
        sheet: whether to lay pictures out on ``sheet.png``.
        depth_range: depths of the warmest and the darkest colour in pictures of depth; None takes them from a few of
            the pictures themselves.
        batch: pictures rendered at a time.
        enlarge: moving pictures are so many times as large as their frames.
        beside: all pictures of a moment beside each other in one moving picture, instead of one for each kind.
    """

    kinds: tuple[str, ...] = ("image",)
    formats: tuple[str, ...] = ("png",)
    fps: float = 24.0
    sheet: bool = False
    depth_range: tuple[float, float] | None = None
    batch: int = 8
    beside: bool = False
    enlarge: int = 1

    def __post_init__(self) -> None:
        for name, values, known in (("--save", self.kinds, KINDS), ("--format", self.formats, FORMATS)):
            if not values or not set(values) <= set(known) or len(set(values)) < len(values):
                raise UserError(f"{name}: wanted some of {', '.join(known)}, got {','.join(values) or 'nothing'}")
        if not 0.1 <= self.fps <= 1000:
            raise UserError(f"--fps: wanted 0.1 to 1000 frames a second, got {self.fps}")
        if not 1 <= self.batch <= 4096:
            raise UserError(f"--batch: wanted 1 to 4096, got {self.batch}")
        if not 1 <= self.enlarge <= 16:
            raise UserError(f"--enlarge: wanted 1 to 16, got {self.enlarge}")
        if not self.pictures and (self.sheet or self.formats != ("png",)):
            raise UserError(f"--save: wanted a kind that can be looked at for sheets and moving pictures "
                            f"({', '.join(PICTURES)}), got {','.join(self.kinds)}")  # fmt: skip
        ends = self.depth_range
        if ends is not None and not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
            raise UserError(f"--depth-range: wanted two depths, NEAR < FAR, got {ends}")
        outputs.check_animations(self.formats)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Kinds that can be looked at."""
        return tuple(k for k in self.kinds if k in PICTURES)

    @property
    def keeps_frames(self) -> bool:
        """Whether anything stays in ``frames/``."""
        return "png" in self.formats or self.pictures != self.kinds


@dataclass(frozen=True)
class RenderJob:
    """A rendering job.

    Attributes:
        subjects, labels: N of them and their names.
        path: cameras.
        options: how to look.
        writing: what to leave on the disk.
        pairing: "every" subject is seen by each camera of the path; or there are N cameras, and each subject is seen by
            its "own", or they are the moments of one "film", which has the first label.
        sheet_rows: (label, frames) of each row of the sheet; None picks a few of the path.
    """

    subjects: Subjects
    labels: Sequence[str]
    path: CameraPath
    options: ViewOptions = dataclasses.field(default_factory=ViewOptions)
    writing: Writing = dataclasses.field(default_factory=Writing)
    pairing: Pairing = "every"
    sheet_rows: Sequence[tuple[str, Sequence[int]]] | None = None

    def __post_init__(self) -> None:
        if self.pairing != "every" and len(self.path.camera) != len(self.subjects):
            raise ValueError(f"path must hold {len(self.subjects)} cameras, got {len(self.path.camera)}")
        rows = len(self.writing.pictures) * len(self.strips) * len(_sheet_rows(self))
        if self.writing.sheet and rows > MAX_SHEET_ROWS:
            raise UserError(f"--sheet: wanted at most {MAX_SHEET_ROWS} rows (subjects or steps x kinds), got {rows}")

    @property
    def frames(self) -> int:
        """Pictures of each strip."""
        return 1 if self.pairing == "own" else len(self.path.camera)

    @property
    def strips(self) -> list[str]:
        """Labels of what is seen frame after frame: a subject, or the only film."""
        return list(self.labels[:1] if self.pairing == "film" else self.labels)

    @property
    def names(self) -> list[str]:
        """A name for files for each strip, no two alike."""
        return file_names(self.strips, "subject")

    def pair(self, strip: int, frame: int) -> tuple[int, int]:
        """Places of the subject and the camera of a frame."""
        if self.pairing == "own":
            return strip, strip
        return (frame if self.pairing == "film" else strip), frame

    def check(self, model: Model) -> None:
        """Raises: UserError naming what the model cannot serve."""
        check_options(model, self.options)
        if "background" in self.writing.kinds:
            check_options(model, dataclasses.replace(self.options, parts="background"))
        if "strict" in self.writing.kinds:
            check_options(model, dataclasses.replace(self.options, strict=True))


def describe_job(model: Model, job: RenderJob) -> dict[str, Any]:
    """Everything that decides about the bits of a job's files, as JSON can hold it."""
    described = {
        "model_sha256": model.sha256,
        "subjects_sha256": sha256_of(job.subjects.numbers),
        "cameras_sha256": sha256_of([job.path.camera.cam2world, job.path.camera.tan_half_fov]),
        "device": job.subjects.ws.device.type,
        "subjects": job.strips,
        "frames": job.frames,
        "options": dataclasses.asdict(job.options),
        "pairing": job.pairing,
        "loops": job.path.loops,
        "sheet_columns": job.path.columns,
        "writing": dataclasses.asdict(job.writing),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))  # tuples as the lists that a file gives back
    return plain


def check_folder(out: Path, description: dict[str, Any], *, resume: bool) -> None:
    """Let a job into a folder that is new or empty, or with ``resume`` holds a part of the same job.

    Raises: UserError naming what differs.
    """
    file = out / "job.json"
    if not resume and file.is_file():
        raise UserError(f"{out}: wanted a new or empty folder, got one with a job in it (--resume goes on with it)")
    if resume and out.is_dir() and all(name.startswith(".") and ".part" in name for name in entries(out)):
        return  # empty, or killed while it wrote the first file
    if not (resume and out.is_dir()):
        check_vacant(out)
        return
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        before = recorded["job"] if recorded["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"--resume: wanted a folder that a rendering began (its job.json), got {out}")
    keys = [k.removesuffix("_sha256") for k in _differences(before, description)]
    if keys:
        raise UserError(f"--resume: wanted the same job as in {out}, got one that differs in {', '.join(keys)}")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys of ``now`` that differ, those of nested mappings each for itself."""
    keys = []
    for key, value in now.items():
        other = before.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            keys += _differences(other, value)
        elif other != value:
            keys.append(key)
    return keys


def render_job(
    model: Model, job: RenderJob, out: Path, *, resume: bool = False, progress: Callable[[int], None] = lambda n: None
) -> list[Path]:
    """Do a job, or what is missing of it.

    Args:
        out: a new or empty folder, or with ``resume`` one that holds a part of this job.
        progress: called with the number of pictures that were finished (or found) since the last call.
    Returns: what was made, or was there already: moving pictures and sheets, and the folder of frames if it stays.
    Raises: UserError before anything is written, or naming the file that cannot be.
    """
    job.check(model)
    description = describe_job(model, job)
    check_folder(out, description, resume=resume)
    outputs.save_text(json.dumps({"format": _FORMAT, "model": str(model.path), "job": description}, indent=2),
                      out / "job.json")  # fmt: skip
    camera = job.path.camera
    if not (out / "cameras.json").exists():
        outputs.save_text(camera.to_json(), out / "cameras.json")
    if not (out / "latents.npz").exists():
        save_subjects(out / "latents.npz", job.subjects, camera if job.pairing != "every" else None)
    made = _products(job, out)
    if not job.writing.keeps_frames and all(p.exists() for p in made):
        progress(len(job.strips) * job.frames)
    else:
        _render_frames(model, job, out, progress)
        for path in made:
            if not path.exists():
                _make(job, out, path)
    if "png" not in job.writing.formats:
        _remove_pictures(job, out / "frames")
    return [out / "frames", *made] if job.writing.keeps_frames else made


def _render_frames(model: Model, job: RenderJob, out: Path, progress: Callable[[int], None]) -> None:
    total, bakes = len(job.strips) * job.frames, Bakes(model)
    if "depth" in job.writing.pictures and job.writing.depth_range is None:
        ends = _depth_ends(model, job)
        job = dataclasses.replace(job, writing=dataclasses.replace(job.writing, depth_range=ends))
    for first in range(0, total, job.writing.batch):
        places = [divmod(i, job.frames) for i in range(first, min(first + job.writing.batch, total))]
        if not all(_frame(job, out, kind, *place).exists() for kind in job.writing.kinds for place in places):
            _render_group(model, job, out, places, bakes)
        progress(len(places))


def _depth_ends(model: Model, job: RenderJob) -> tuple[float, float] | None:
    """Depths for the colours of all pictures of a job, from a few fast views: every picture has the same."""
    total, device = len(job.strips) * job.frames, job.subjects.ws.device
    places = [divmod(i, job.frames) for i in evenly(0, total - 1, _DEPTH_VIEWS)]
    pairs = torch.tensor([job.pair(*place) for place in places])
    camera = job.path.camera[pairs[:, 1]].to(device)
    options = ViewOptions(samples=job.options.samples, parts=job.options.parts)
    view = render_view(model, job.subjects[pairs[:, 0].to(device)], camera, options)
    return outputs.depth_ends(view.depth, view.opacity, model.config.field.far)


def _render_group(model: Model, job: RenderJob, out: Path, places: list[tuple[int, int]], bakes: Bakes) -> None:
    """Render the pictures at ``places`` (strip, frame) together, and write those that do not exist."""
    device = job.subjects.ws.device
    pairs = torch.tensor([job.pair(*place) for place in places])
    subjects, camera = job.subjects[pairs[:, 0].to(device)], job.path.camera[pairs[:, 1]].to(device)
    views: dict[ViewOptions, View] = {}

    def look(options: ViewOptions) -> View:
        if options not in views:
            views[options] = render_view(model, subjects, camera, options, bakes=bakes)
        return views[options]

    for kind in job.writing.kinds:
        for place, write in zip(places, _writers(model, job, kind, look, camera)):
            path = _frame(job, out, kind, *place)
            if not path.exists():
                write(path)


def _writers(
    model: Model, job: RenderJob, kind: str, look: Callable[[ViewOptions], View], camera: Camera
) -> list[Callable[[Path], None]]:
    """The writer of each picture of a group."""
    near, far = model.config.field.near, model.config.field.far
    own, behind = job.options, dataclasses.replace(job.options, parts="background")
    if kind == "depth16":
        return [partial(outputs.save_depth_16bit, depth, near=near, far=far) for depth in look(own).depth]
    if kind == "depth-npy":
        return [partial(outputs.save_array, depth) for depth in look(own).depth]
    if kind in ("image", "strict", "background"):
        strict = dataclasses.replace(own, strict=True)
        images = look({"image": own, "strict": strict, "background": behind}[kind]).image
    elif kind == "foreground":
        whole = look(dataclasses.replace(own, parts="all"))
        backdrop = look(behind).image if model.config.background.kind != "none" else None
        images = outputs.cutout(whole.image, whole.opacity, backdrop)
    else:
        view = look(own)
        surface = surface_picture(model, kind, view, camera, job.writing.depth_range)
        images = outputs.enlarged(surface, view.image.shape[-1])
    return [partial(save_png, picture) for picture in outputs.to_pillow(images)]


def surface_picture(
    model: Model, kind: str, view: View, camera: Camera, depth_range: tuple[float, float] | None = None
) -> Tensor:
    """ "depth", "normals" or "opacity" of a view as pictures of the rays' resolution, uint8 or -1..1.

    ``depth_range`` are the depths of the warmest and the darkest colour; None takes them from the view, or the model's
    near and far where it shows nothing.
    """
    field = model.config.field
    if kind == "depth":
        ends = depth_range or outputs.depth_ends(view.depth, view.opacity, field.far) or (field.near, field.far)
        return outputs.depth_image(view.depth, view.opacity, ends, field.far)
    if kind == "opacity":
        return outputs.opacity_image(view.opacity)
    edge = view.depth.shape[-1]
    if edge == view.image.shape[-1]:
        pixels = strict_pixels(model, edge, view.depth.device)
    else:
        pixels = pixel_grid(edge, align_corners=field.align_corners, image_resolution=model.config.resolution)
    return outputs.normals_image(view.depth, view.opacity, camera, field.far, pixels)


def _frame(job: RenderJob, out: Path, kind: str, subject: int, frame: int) -> Path:
    stem, ending = ("depth", "npy") if kind == "depth-npy" else (kind, "png")
    return out / "frames" / job.names[subject] / f"{stem}-{frame:04d}.{ending}"


def _products(job: RenderJob, out: Path) -> list[Path]:
    """The outputs made from the frames."""
    paths = [out / f"{stem}.{f}" for stem in _moving(job) for f in job.writing.formats if f != "png"]
    return [*paths, out / "sheet.png"] if job.writing.sheet else paths


def _moving(job: RenderJob) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Names of moving pictures: the strip and the kinds that each shows."""
    kinds = job.writing.pictures
    if job.writing.beside:
        return {name: (i, kinds) for i, name in enumerate(job.names)}
    return {f"{name}-{kind}": (i, (kind,)) for i, name in enumerate(job.names) for kind in kinds}


def _make(job: RenderJob, out: Path, path: Path) -> None:
    if path.name == "sheet.png":
        save_png(_sheet(job, out), path)
        return
    (strip, kinds), times = _moving(job)[path.stem], job.writing.enlarge
    frames = (
        outputs.resized(outputs.side_by_side([_read(_frame(job, out, kind, strip, f)) for kind in kinds]), times)
        for f in range(job.frames)
    )
    outputs.save_animation(frames, path, fps=job.writing.fps, loop=True)


def _sheet_rows(job: RenderJob) -> Sequence[tuple[str, Sequence[int]]]:
    """Labelled frames on the sheet, row by row: the whole of a grid, a few of a longer path, evenly spread."""
    if job.sheet_rows is not None:
        return job.sheet_rows
    columns, count = job.path.columns, min(job.path.shown or job.frames, job.frames)
    if columns is not None:
        return [("", range(i, min(i + columns, count))) for i in range(0, count, columns)]
    if count <= SHEET_COLUMNS:
        return [("", range(count))]
    if job.path.loops and count == job.frames:
        return [("", [i * count // SHEET_COLUMNS for i in range(SHEET_COLUMNS)])]
    return [("", evenly(0, count - 1, SHEET_COLUMNS))]


def evenly(first: int, last: int, count: int) -> list[int]:
    """At most ``count`` whole numbers from ``first`` to ``last``, both among them."""
    count = min(count, last - first + 1)
    return [first + round(i * (last - first) / max(count - 1, 1)) for i in range(count)]


def _sheet(job: RenderJob, out: Path) -> Image.Image:
    """Rows for each strip and kind."""
    lines = []
    for strip, label in enumerate(job.strips):
        for i, (own, frames) in enumerate(_sheet_rows(job)):
            for kind in job.writing.pictures:
                tiles = [tile(_read(_frame(job, out, kind, strip, f))) for f in frames]
                name = own or (_short(label) if i == 0 else "")
                text = f"{name}\n{kind}" if name and kind != "image" else name
                lines.append((text, to_images(tiles)))
    return labelled_rows(lines)


def _short(label: str, longest: int = 28) -> str:
    """A label that leaves room for pictures: a file's long name loses its middle."""
    half = longest // 2
    return label if len(label) <= longest else f"{label[:half]}...{label[-half:]}"


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return outputs.on_white(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: wanted the frame that was written there, got: {one_line(error)[:120]}") from None


def _remove_pictures(job: RenderJob, frames: Path) -> None:
    """Remove the frames that only the moving pictures needed; raw depth stays."""
    for name in job.names:
        for kind in job.writing.pictures:
            for path in (frames / name).glob(f"{kind}-*.png"):
                path.unlink()
    if not job.writing.keeps_frames:
        shutil.rmtree(frames, ignore_errors=True)
