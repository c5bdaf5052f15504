"""Scenes that the project renders itself: no download, true depth and true poses.

A scene is one large painted solid near the origin, sometimes with a small one on it, a directional light and a clean
background. It is a function of (seed, index) alone, so a million scenes cost nothing until they are looked at. Sizes
follow the camera prior: the large solid spans about half the image's width whatever the field of view.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.camera import Camera, CameraPrior
from .base import DEFAULT_CACHE_BYTES, Dataset, Pixels, scramble
from .labels import CAMERA_LABEL_DIM, label_from_camera
from .raycast import Background, Paint, Pattern, Scene, SceneView, render, render_image
from .solids import CAPSULE_HALF_LENGTH, Floats, Kind, Solid

_KINDS: tuple[Kind, ...] = ("ellipsoid", "box", "cylinder", "capsule")
_PATTERNS: tuple[Pattern, ...] = ("stripes", "checker", "gradient")
_AMBIENT = 0.5
_BACKGROUND_HUES = (0.57, 0.12, 0.38, 0.75, 0.05)  # sky, sand, mint, lavender, peach


class ProceduralScenes(Dataset):
    """``num_scenes`` scenes, each seen from its own camera of ``camera_prior``; a label is its camera."""

    def __init__(
        self,
        *,
        resolution: int,
        mirror: bool = False,
        use_labels: bool = False,
        camera_prior: CameraPrior | None = None,
        num_scenes: int = 4096,
        seed: int = 0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        workers: int | None = None,
    ) -> None:
        super().__init__("procedural", resolution=resolution, mirror=mirror, cache_bytes=cache_bytes, workers=workers)
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
        self.camera_prior = camera_prior if camera_prior is not None else CameraPrior()
        self.seed = seed
        if use_labels:
            self.label_dim, self.label_kind = CAMERA_LABEL_DIM, "camera"
        self._num_scenes = num_scenes

    @property
    def num_images(self) -> int:
        return self._num_scenes

    def sha256(self) -> str:
        """Hash of seed, number of scenes and cameras, which determine them."""
        return hashlib.sha256(repr((self.seed, self._num_scenes, self.camera_prior)).encode()).hexdigest()

    def describe(self) -> str:
        return f"{self.num_images} procedural scenes of seed {self.seed}, {self._facts()}"

    def camera(self, index: int) -> Camera:
        """The one camera of scene ``index``, drawn from the prior."""
        self._check_scene(index)
        generator = torch.Generator().manual_seed(scramble(self.seed, index, 1))
        return self.camera_prior.sample(1, generator)

    def scene(self, index: int) -> Scene:
        """Scene ``index``, 0..num_scenes-1, without a camera."""
        self._check_scene(index)
        return draw_scene(np.random.Generator(np.random.PCG64(scramble(self.seed, index, 0))), self.camera_prior)

    def view(self, index: int, resolution: int, camera: Camera | None = None) -> SceneView:
        """Scene ``index`` at any resolution, from its own camera or from another one."""
        camera = self.camera(index) if camera is None else camera
        if len(camera) != 1:
            raise ValueError(f"camera must be one camera, got {len(camera)}")
        return render(self.scene(index), camera, resolution)

    def _check_scene(self, index: int) -> None:
        if not 0 <= index < self._num_scenes:
            raise IndexError(f"index must be between 0 and {self._num_scenes - 1}, got {index}")

    def _pixels(self, number: int, resolution: int) -> Pixels:
        pixels = self.cache.get((number, resolution))
        if pixels is None:
            pixels = render_image(self.scene(number), self.camera(number), resolution)
            pixels.flags.writeable = False  # shared with everyone who asks for it
            self.cache.put((number, resolution), pixels)
        return pixels

    def _plain_label(self, number: int) -> NDArray[np.float32]:
        if not self.label_dim:
            return np.zeros(0, dtype=np.float32)
        return label_from_camera(self.camera(number))[0].numpy()


def draw_scene(rng: np.random.Generator, prior: CameraPrior) -> Scene:
    """A random scene that fits the view of ``prior``'s nearest camera."""
    half_width = prior.radius[0] * math.tan(math.radians(prior.fov_deg) / 2)  # of the view, at the origin
    hue = rng.random()
    main = _draw_main(rng, half_width)
    solids = [(main, _draw_paint(rng, hue))]
    if rng.random() < 0.5:
        solids.append((_draw_small(rng, main, half_width), _draw_paint(rng, hue + 0.3 + 0.4 * rng.random())))
    return Scene(tuple(solids), _draw_light(rng, prior), _AMBIENT, _draw_background(rng, prior))


def _draw_main(rng: np.random.Generator, half_width: float) -> Solid:
    kind = _KINDS[int(rng.random() * len(_KINDS))]
    size = half_width * (0.48 + 0.16 * rng.random()) * np.ones(3)
    if kind == "ellipsoid" and rng.random() < 0.6:
        size = size * (0.75 + 0.25 * rng.random(3))
    if kind == "box":
        size = size * (0.6 + 0.18 * rng.random(3))
    if kind == "cylinder":
        size = size * [0.75, 0.75, 0.55 + 0.35 * rng.random()]
    if kind == "capsule":
        size = size * 1.1 / (1 + CAPSULE_HALF_LENGTH)
    centre = half_width * 0.08 * (2 * rng.random(3) - 1)
    return Solid(kind, centre, _draw_axes(rng, tilt_rad=0.5 if kind != "capsule" else 1.2), size)


def _draw_small(rng: np.random.Generator, main: Solid, half_width: float) -> Solid:
    """A small solid that sits on the upper half of the large one."""
    kind: Kind = "ellipsoid" if rng.random() < 0.5 else "box"
    azimuth, height = 2 * math.pi * rng.random(), 0.45 + 0.5 * rng.random()
    flat = math.sqrt(1 - height * height)
    towards = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), height])
    reach = 1 / np.linalg.norm((towards @ main.axes) / main.size)  # to the ellipsoid with the main solid's sizes
    size = half_width * (0.17 + 0.06 * rng.random()) * np.ones(3)
    return Solid(kind, main.centre + 1.05 * reach * towards, _draw_axes(rng, tilt_rad=0.3), size)


def _draw_axes(rng: np.random.Generator, tilt_rad: float) -> Floats:
    """A rotation: any turn around the vertical, then a tilt of at most ``tilt_rad`` around a level axis."""
    turn, tilt, around = 2 * math.pi * rng.random(), tilt_rad * (2 * rng.random() - 1), 2 * math.pi * rng.random()
    return _turn_z(around) @ _turn_x(tilt) @ _turn_z(turn - around)


def _turn_z(angle: float) -> Floats:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _turn_x(angle: float) -> Floats:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _draw_paint(rng: np.random.Generator, hue: float) -> Paint:
    first = _colour(hue, 0.75 + 0.25 * rng.random(), 0.8 + 0.2 * rng.random())
    other = hue + (0.12 + 0.25 * rng.random()) * (1 if rng.random() < 0.5 else -1)
    second = _colour(other, 0.7 + 0.3 * rng.random(), 0.75 + 0.25 * rng.random())
    axis = int(rng.random() * 3)
    return Paint(_PATTERNS[int(rng.random() * 3)], first, second, axis, 0.9 + 0.6 * rng.random())


def _draw_light(rng: np.random.Generator, prior: CameraPrior) -> Floats:
    """From above and from the side of the cameras, so that what they see is mostly lit."""
    azimuth = _middle_yaw(prior) + 2 * rng.random() - 1
    elevation = 0.4 + 0.6 * rng.random()
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


@lru_cache(maxsize=8)
def _middle_yaw(prior: CameraPrior) -> float:
    x, y, _ = prior.at(0.5, 0.5).position[0].tolist()
    return math.atan2(y, x)


def _draw_background(rng: np.random.Generator, prior: CameraPrior) -> Background:
    """A smooth vertical gradient, or a ground that meets a sky at a soft horizon."""
    fov = math.radians(prior.fov_deg)
    hue = _BACKGROUND_HUES[int(rng.random() * len(_BACKGROUND_HUES))]
    if rng.random() < 0.6:
        return Background(_colour(hue, 0.4, 0.65), _colour(hue, 0.12, 0.97), 0.0, 1.3 * fov)
    return Background(_colour(hue + 0.04, 0.3, 0.5), _colour(hue, 0.15, 0.95), -0.12 * fov, 0.1 * fov)


def _colour(hue: float, saturation: float, value: float) -> Floats:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
