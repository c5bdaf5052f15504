"""Moving pictures for a page: one at a time, frame by frame between the pictures that are looked at meanwhile."""

from __future__ import annotations

import itertools
import math
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from PIL import Image

from ...device import use_device
from ...errors import UserError, one_line
from ..render.outputs import ANIMATIONS, check_animations, save_animation
from ..render.paths import CameraPath, PathOptions, camera_path
from .look import BadQuery, Look, Shot
from .studio import Closing, Stale, Studio

PATHS = ("turntable", "ellipse", "full-turn", "zoom")
MAX_FRAMES = 240
MAX_BYTES = 2**28  # of all frames together, as RGB
TYPES = {"webp": "image/webp", "gif": "image/gif", "mp4": "video/mp4"}

State = Literal["running", "done", "failed", "stopped"]


def kinds() -> tuple[str, ...]:
    """Formats that this installation can write; MP4 wants the extra ``video``."""
    return tuple(k for k in ("webp", "gif", "mp4") if k in ANIMATIONS and (k != "mp4" or find_spec("imageio_ffmpeg")))


class Film:
    """One moving picture on its way."""

    def __init__(self, number: int, frames: int, kind: str) -> None:
        self.number, self.frames, self.kind = number, frames, kind
        self.state: State = "running"
        self.done = 0
        self.error = ""
        self.content = b""
        self.stop = threading.Event()

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "state": self.state,
            "done": self.done,
            "frames": self.frames,
            "bytes": len(self.content),
            "error": self.error,
        }


class Films:
    """The newest moving picture; another is begun only when it has ended."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._film: Film | None = None
        self._thread: threading.Thread | None = None

    def start(self, look: Look, shot: Shot) -> Film:
        """Begin one, its frames like ``look``, along the path of ``shot``.

        Raises: BadQuery for more pixels than memory is meant for; UserError while another is running, or for a kind
        of file that cannot be written here.
        """
        edge = (look.resolution or self._studio.edge) if look.strict else self._studio.edge
        most = MAX_BYTES // (3 * edge**2)
        if shot.frames > most:
            raise BadQuery("frames", f"wanted at most {most} at {edge} px, got {shot.frames}")
        check_animations([shot.kind])
        path = self._path(look, shot)
        with self._lock:
            if self._film is not None and self._film.state == "running":
                raise UserError("video: wanted one at a time, got another while one is running")
            film = self._film = Film(next(self._numbers), shot.frames, shot.kind)
            self._thread = threading.Thread(target=self._work, args=(film, look, shot, path), daemon=True)
            self._thread.start()
        return film

    def find(self, number: int) -> Film:
        """Raises: UserError if it is not the newest one."""
        film = self._film
        if film is None or film.number != number:
            raise UserError(f"video: wanted the newest one, got {number}")
        return film

    def stop(self, film: Film) -> None:
        """End it at its next tile or frame."""
        film.stop.set()
        self._studio.take_note(_client(film), 1)

    def close(self) -> None:
        """Stop what is running and wait for it."""
        if self._film is not None and self._thread is not None:
            self.stop(self._film)
            self._thread.join()

    def _path(self, look: Look, shot: Shot) -> CameraPath:
        """Cameras with the page's pitch, radius and field of view, where the path does not move them."""
        known = self._studio.ranges
        pitch = sum(known.pitch_rad) / 2 if look.pitch is None else look.pitch
        yaw = sum(known.yaw_rad) / 2 if look.yaw is None else look.yaw
        options = PathOptions(
            frames=shot.frames,
            pitch_rad=(pitch, pitch),
            fov_deg=look.fov,
            radius=None if look.radius is None else (look.radius, look.radius),
        )
        if shot.path == "full-turn":
            options, kind = replace(options, yaw_rad=(yaw, yaw + 2 * math.pi)), "turntable"
        elif shot.path == "ellipse":
            options, kind = replace(options, pitch_rad=None), "ellipse"
        elif shot.path == "zoom":
            options, kind = replace(options, yaw_rad=(yaw, yaw)), "zoom"
        else:
            kind = shot.path
        return camera_path(self._studio.model.prior, kind, options)

    def _work(self, film: Film, look: Look, shot: Shot, path: CameraPath) -> None:
        try:
            use_device(self._studio.device)
            frames = [self._frame(film, look, path, i) for i in range(film.frames) if not film.stop.is_set()]
            if film.stop.is_set():
                film.state = "stopped"
                return
            with TemporaryDirectory(prefix="stylenerf-") as folder:
                file = Path(folder) / f"film.{film.kind}"
                save_animation(frames, file, fps=shot.fps)
                film.content = file.read_bytes()
            film.state = "done"
        except (Closing, Stale):
            film.state = "stopped"
        except Exception as error:  # the page shows it; no caller waits for this thread
            film.error, film.state = one_line(error)[:400], "failed"

    def _frame(self, film: Film, look: Look, path: CameraPath, index: int) -> Image.Image:
        camera = path.camera[index].to(self._studio.device)
        image = self._studio.picture(look, _client(film), full=True, camera=camera).image
        film.done = index + 1
        return image


def _client(film: Film) -> str:
    """A name that no page can have."""
    return f"film {film.number}"
