"""Pictures on demand: one thread renders, the newest request of a page wins, what nobody waits for is given up."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ....models.camera import Camera
from ...device import default_precision, use_device
from ...errors import UserError
from ...model_io import Model
from ..edit.mixing import layer_groups, mix
from ..render.jobs import surface_picture
from ..render.outputs import enlarged, to_pillow
from ..render.paths import prior_ranges
from ..render.subjects import Subjects, save_subjects, subjects_from_seeds
from ..render.views import Bakes, ViewOptions, check_options, render_view
from .look import FOV_DEG, MAX_SEED, PARTS, ROWS, TRUNCATION, Limits, Look

MAX_EDGE = 1024  # of a strict picture, where the model's own is no larger
MAX_CLIENTS = 256
MAX_SUBJECTS = 64
# a tile is what cannot be given up half-way; a small model has done 4096 rays in a tenth of a second
_SMALL, _TILE_RAYS = 500_000, {"small": 4096, "cpu": 1024, "cuda": 8192}
_T = TypeVar("_T")


class Stale(Exception):
    """A newer request of the same page has come."""


class Closing(Exception):
    """The viewer is about to end."""


class Picture(NamedTuple):
    """A rendered picture and the milliseconds that it took."""

    image: Image.Image
    render_ms: float


class Studio:
    """A model behind one rendering thread.

    Pictures are asked for from any number of threads. A request of a client that a later one of the same client has
    overtaken raises :class:`Stale`, before it is rendered or between the tiles of a strict rendering.
    """

    def __init__(self, model: Model) -> None:
        if model.label_kind == "vector":
            raise UserError(f"{model.path}: wanted a model whose labels are classes or cameras, got label vectors")
        self.model = model
        self._classes = model.config.label_dim if model.label_kind == "class" else 0
        self.device = next(model.generator.parameters()).device
        synthesis, field = model.generator.synthesis, model.config.field
        self.edge = synthesis.growth().resolution
        self.rays_edge = min(self.edge, model.config.volume_resolution)
        self._parameters = sum(p.numel() for p in model.generator.parameters())
        self.samples = synthesis.default_samples or field.render_samples or field.samples
        self.can_be_strict = synthesis.upsampler.pointwise or not model.config.block_resolutions
        self.ranges = prior_ranges(model.prior)
        low, high = self.ranges.radius
        least = 3 if field.hierarchical else 1
        self.limits = Limits(
            max(MAX_EDGE, self.edge), (least, max(64, 2 * self.samples)), (low / 2, high * 2), self._classes
        )
        self._worker = ThreadPoolExecutor(
            1, thread_name_prefix="render", initializer=use_device, initargs=(self.device,)
        )
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._subjects: OrderedDict[tuple[object, ...], Subjects] = OrderedDict()  # of the rendering thread
        self._bakes = Bakes(model)

    def describe(self) -> dict[str, Any]:
        """Facts about the model for the page, as JSON values; angles in radians."""
        known, prior, cfg = self.ranges, self.model.prior, self.model.config
        edges = {self.edge} | {e for e in (16 * 2**k for k in range(10)) if e <= self.limits.edge}
        return {
            "name": _model_name(self.model.path),
            "path": str(self.model.path),
            "device": _device_name(self.device),
            "parameters": self._parameters,
            "resolution": self.edge,
            "rays": self.rays_edge,
            "resolutions": sorted(edges),
            "strict": self.can_be_strict,
            "samples": {"own": self.samples, "range": self.limits.samples},
            "labels": self._classes,
            "parts": [p for p in PARTS if p != "background" or cfg.background.kind != "none"],
            "rows": [name for name, rows in style_rows(self.model).items() if rows],
            "max_seed": MAX_SEED,
            "truncation": {"own": 0.7, "range": TRUNCATION},
            "distribution": prior.distribution,
            "yaw": known.yaw_rad,
            "pitch": known.pitch_rad,
            "radius": known.radius,
            "fov": {"own": known.fov_deg, "range": (max(known.fov_deg / 6, FOV_DEG[0]), self._widest_fov())},
        }

    def _widest_fov(self) -> float:
        return min(self.ranges.fov_deg * 2, FOV_DEG[1])

    def picture(
        self, look: Look, client: str = "", turn: int = 0, *, full: bool = False, camera: Camera | None = None
    ) -> Picture:
        """The picture of ``look``, seen by its own camera or by one that is given.

        With ``full`` depth, normals and opacity have the picture's resolution, not that of the rays. ``turn`` counts
        the requests of ``client``.

        Raises: UserError naming what the model cannot serve, :class:`Stale`, :class:`Closing`.
        """
        check_options(self.model, self.options(look))
        self.take_note(client, turn)

        def give_up() -> None:
            if self.closing:
                raise Closing
            with self._lock:
                if turn < self._newest.get(client, 0):
                    raise Stale

        def work() -> Picture:
            give_up()
            started = time.perf_counter()
            image = self._render(look, camera or self.camera(look), give_up, full=full)
            return Picture(image, (time.perf_counter() - started) * 1e3)

        return self._on_worker(work)

    def subject_file(self, look: Look) -> bytes:
        """The subject and its camera as the ``.npz`` that other verbs take with --latents."""

        def work() -> bytes:
            with TemporaryDirectory(prefix="stylenerf-") as folder:
                path = Path(folder) / "subject.npz"
                save_subjects(path, self._subject(look), self.camera(look))
                return path.read_bytes()

        return self._on_worker(work)

    def options(self, look: Look) -> ViewOptions:
        """How to render ``look``."""
        samples = max(look.samples or self.samples, self.samples)
        kind = "cuda" if self.device.type == "cuda" else "small" if self._parameters < _SMALL else "cpu"
        tile_rays = max(_TILE_RAYS[kind] * self.samples // samples, 64)
        precision = default_precision(self.device)
        return ViewOptions(look.strict, look.resolution, look.parts, look.samples, precision, tile_rays)

    def camera(self, look: Look) -> Camera:
        """One camera, where ``look`` says or in the middle of the model's ranges."""
        known = self.ranges
        yaw = _middle(known.yaw_rad) if look.yaw is None else look.yaw
        pitch = _middle(known.pitch_rad) if look.pitch is None else look.pitch
        radius = _middle(known.radius) if look.radius is None else look.radius
        return Camera.orbit(pitch, yaw, radius, fov_deg=look.fov or known.fov_deg, device=self.device)

    def close(self) -> None:
        """End the rendering thread; what it works on is given up at the next tile."""
        self._closing.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def take_note(self, client: str, turn: int) -> None:
        """Make what ``client`` asked for before ``turn`` stale; a client without a name is never overtaken."""
        if not client:
            return
        with self._lock:
            self._newest[client] = max(self._newest.pop(client, 0), turn)  # at the end: those heard of last are kept
            if len(self._newest) > MAX_CLIENTS:
                self._newest.popitem(last=False)

    def _on_worker(self, work: Callable[[], _T]) -> _T:
        try:
            return self._worker.submit(work).result()
        except (RuntimeError, CancelledError):  # raised by submit, and by those waiting, after shutdown
            if self.closing:
                raise Closing from None
            raise

    def _render(self, look: Look, camera: Camera, give_up: Callable[[], None], *, full: bool) -> Image.Image:
        options = self.options(look)
        view = render_view(self.model, self._subject(look), camera, options, before_tile=give_up, bakes=self._bakes)
        images = view.image if look.show == "colour" else surface_picture(self.model, look.show, view, camera)
        return to_pillow(enlarged(images, self.edge) if full else images)[0]

    def _subject(self, look: Look) -> Subjects:
        """The subject of ``look``, remembered for the next pictures."""
        whole = look.mix is None or not look.mix_rows or look.mix_amount == 0
        key: tuple[object, ...] = (look.seed, look.truncation, look.label)
        if not whole:
            key += (look.mix, look.mix_rows, look.mix_amount)
        subject = self._subjects.pop(key, None)
        if subject is None:
            first = subjects_from_seeds(self.model, [look.seed], truncation_psi=look.truncation, label=look.label)
            subject = first
            if not whole and look.mix is not None:
                second = self._subject(replace(look, seed=look.mix, mix=None))
                rows = [i for name in look.mix_rows for i in style_rows(self.model)[name]]
                mixed = mix(second, first, rows)
                subject = Subjects(torch.lerp(first.ws, mixed.ws, look.mix_amount), first.z_bg)
        self._subjects[key] = subject
        if len(self._subjects) > MAX_SUBJECTS:
            self._subjects.popitem(last=False)
        return subject


def encode(image: Image.Image, kind: str, note: dict[str, Any] | None = None) -> bytes:
    """A picture as the bytes of a file; PNG carries ``note`` as JSON in its text "stylenerf"."""
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, format="JPEG", quality=92, subsampling=0)
    elif kind == "webp":
        image.save(buffer, format="WEBP", quality=90, method=2)
    else:
        info = None
        if note is not None:
            info = PngInfo()
            info.add_text("stylenerf", json.dumps(note))
        image.save(buffer, format="PNG", compress_level=1 if note is None else 6, pnginfo=info)
    return buffer.getvalue()


def note_of(studio: Studio, look: Look) -> dict[str, Any]:
    """Everything that decides about a picture, as a screenshot carries it."""
    return {"model": str(studio.model.path), **asdict(look)}


def style_rows(model: Model) -> dict[str, list[int]]:
    """The styles' rows by what a visitor calls them.

    "geometry" is the field up to its density, "appearance" its features and the first half of the upsampler, "fine" the
    rest of the upsampler.
    """
    groups = layer_groups(model)
    colours = [i for i in (*groups["field"], *groups["middle"]) if i not in groups["shape"]]
    return dict(zip(ROWS, (list(groups["shape"]), colours, list(groups["fine"]))))


def _middle(ends: tuple[float, float]) -> float:
    return (ends[0] + ends[1]) / 2


def _model_name(path: Path) -> str:
    """A run's folder and its checkpoint, or the model's folder."""
    path = path.absolute()  # not resolved: a link's name is what its owner calls the model
    return f"{path.parent.parent.name}/{path.name}" if path.parent.name == "checkpoints" else path.name


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
