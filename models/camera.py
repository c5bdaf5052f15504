"""Cameras, pixel grids, rays and pose priors.

The convention, once for the whole project (docs/cameras.md draws it): the object sits at the world's origin, world up
is +z; camera space is x right, y up, looking along -z; ``cam2world`` has the columns right, up, backward, position.
A pixel (x, y) in [-1, 1]^2, y up, lies on the ray ``o + t * R (x tan(fov/2), y tan(fov/2), -1)``: directions are not
normalised, so ``t`` is the distance along the optical axis. Rows of an image run from the top (y = +) downwards.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..kernels.base.constants import constant, kept


class Rays(NamedTuple):
    """Straight lines ``origin + t * direction``; ``t`` counts along the optical axis."""

    origins: Tensor  # [B, R, 3], world units
    directions: Tensor  # [B, R, 3], not normalised


def pixel_grid(
    resolution: int,
    *,
    margin: int = 0,
    align_corners: bool = False,
    image_resolution: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Pixel positions of a square image, rows from the top, x fastest.

    Pixel centres are ``x_i = (2 i + 1) / n - 1``; ``margin`` adds that many pixels of the same pitch on each side. With
    ``align_corners`` the grid of ``image_resolution`` runs from -1 to 1, and every (image_resolution / n)-th is taken.
    Returns: [R, 2] of (x, y), R = (resolution + 2 margin)^2.
    """
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    if align_corners:
        if margin:
            raise ValueError(f"margin must be 0 with align_corners, got {margin}")
        full = max(image_resolution or resolution, resolution)
        line = torch.linspace(-1.0, 1.0, full, dtype=torch.float64)[:: full // resolution][:resolution]
    else:
        reach = (1 - 1 / resolution) + 2 * margin / resolution
        line = torch.linspace(-reach, reach, resolution + 2 * margin, dtype=torch.float64)
    line = line.to(device=device, dtype=dtype)
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def roll_pixels(pixels: Tensor, roll_rad: Tensor) -> Tensor:
    """Rotate pixels [R, 2] or [B, R, 2] by ``roll_rad`` [B]: (x cos - y sin, x sin + y cos). Returns [B, R, 2]."""
    cos, sin = roll_rad.cos()[:, None], roll_rad.sin()[:, None]
    x, y = pixels[..., 0], pixels[..., 1]
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)


def look_at(position: Tensor) -> Tensor:
    """Rotations [..., 3, 3] (columns right, up, backward) of cameras at ``position`` [..., 3] that look at the origin.

    backward = position / |position|, right = +z x backward, up = backward x right. On the z axis
    this leaves right undefined; it is +x there.
    """
    backward = torch.nn.functional.normalize(position, dim=-1, eps=1e-5)
    up = constant((0.0, 0.0, 1.0), like=position).expand_as(backward)
    right = torch.linalg.cross(up, backward)
    on_axis = right.norm(dim=-1, keepdim=True) < 1e-6
    plus_x = constant((1.0, 0.0, 0.0), like=position)
    right = torch.nn.functional.normalize(torch.where(on_axis, plus_x, right), dim=-1, eps=1e-5)
    up = torch.nn.functional.normalize(torch.linalg.cross(backward, right), dim=-1, eps=1e-5)
    return torch.stack([right, up, backward], dim=-1)


def rotation_from_6d(six: Tensor) -> Tensor:
    """Rotations [..., 3, 3] from two free 3-vectors [..., 6] by Gram-Schmidt; they become the first two rows."""
    first = torch.nn.functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:6] - (first * six[..., 3:6]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def orbit_position(pitch_rad: Tensor, yaw_rad: Tensor, radius: Tensor) -> Tensor:
    """Points r (sin v cos u, sin v sin u, cos v), u = yaw around +z, v = pitch measured from +z. Returns [..., 3]."""
    sin = pitch_rad.sin()
    return radius[..., None] * torch.stack([sin * yaw_rad.cos(), sin * yaw_rad.sin(), pitch_rad.cos()], dim=-1)


def _pose(rotation: Tensor, position: Tensor) -> Tensor:
    top = torch.cat([rotation, position[..., None]], dim=-1)  # [B, 3, 4]
    bottom = constant((0.0, 0.0, 0.0, 1.0), like=top)
    return torch.cat([top, bottom.expand(*top.shape[:-2], 1, 4)], dim=-2)


POSE_TOLERANCE = 1e-4  # of R^T R from the identity, and of the last row: hand-written files round to five digits
FOV_RANGE_DEG = (1e-3, 179.9)


def pose_fault(cam2world: Tensor) -> tuple[int, str] | None:
    """Index of the first invalid pose of [B, 4, 4], and the reason ("wanted ..., got ..."); None if all are valid.

    A pose is finite, its upper left 3x3 is a right-handed rotation and its last row 0 0 0 1, both within
    ``POSE_TOLERANCE``, and its position is not the origin.
    """
    poses = cam2world.detach().double().cpu()
    rotation, position, last = poses[:, :3, :3], poses[:, :3, 3], poses[:, 3]
    off = (rotation.transpose(1, 2) @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(1, 2))
    distance = position.norm(dim=1)
    bad_last = ~((last - last.new_tensor([0, 0, 0, 1])).abs().amax(dim=1) <= POSE_TOLERANCE)
    faults = (  # ~(a <= b) also holds for NaN
        (~torch.isfinite(poses).all(dim=(1, 2)), "finite numbers in cam2world, got some that are not"),
        (~(off <= POSE_TOLERANCE), "a rotation in cam2world (columns of length 1, at right angles), "
         "got one that is off by {off:.3g}"),
        (~(torch.linalg.det(rotation) > 0),
         "a right-handed rotation in cam2world, got a mirrored one (determinant -1)"),
        (bad_last, "0 0 0 1 as the last row of cam2world, got {last}"),
        (~((distance >= 1e-6) & (distance <= 1e6)), "a position away from the origin, got {position}"),
    )  # fmt: skip
    bad = torch.stack([mask for mask, _ in faults])
    if not bool(bad.any()):
        return None
    i = int(bad.any(dim=0).int().argmax())
    text = faults[int(bad[:, i].int().argmax())][1]
    return i, "wanted " + text.format(off=float(off[i]), last=last[i].tolist(), position=position[i].tolist())


def _tan_half(fov_deg: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Tangent of half a field of view, one or [B], as [B, 1]."""
    fov = torch.as_tensor(fov_deg, dtype=torch.float64)
    return torch.tan(torch.deg2rad(fov / 2)).to(dtype).reshape(-1, 1)


def _focal(intrinsics: Tensor) -> Tensor:
    return torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    Attributes:
        cam2world:    [B, 4, 4], columns right, up, backward, position.
        tan_half_fov: [B, 2], tangent of half the horizontal and the vertical field of view.
    """

    cam2world: Tensor
    tan_half_fov: Tensor

    def __post_init__(self) -> None:
        if self.cam2world.ndim != 3 or self.cam2world.shape[-2:] != (4, 4):
            raise ValueError(f"cam2world must be [B, 4, 4], got {list(self.cam2world.shape)}")
        if self.tan_half_fov.shape != (len(self), 2):
            raise ValueError(f"tan_half_fov must be [B, 2] with B={len(self)}, got {list(self.tan_half_fov.shape)}")

    def __len__(self) -> int:
        return self.cam2world.shape[0]

    @classmethod
    def from_matrix(
        cls, cam2world: Tensor, *, fov_deg: float | Tensor | None = None, intrinsics: Tensor | None = None
    ) -> Camera:
        """Cameras from poses [B, 4, 4] or [4, 4] and either ``fov_deg`` (number or [B]) or normalised ``intrinsics``.

        ``intrinsics`` [3, 3] or [B, 3, 3] has focal lengths in image widths and the principal point in the middle
        (0.5, 0.5), as EG3D writes them.
        Raises: ValueError for both or neither, a field of view outside (0, 180), an off-centre principal point,
        a focal length that is not positive.
        """
        if cam2world.ndim == 2:
            cam2world = cam2world[None]
        if (fov_deg is None) == (intrinsics is None):
            raise ValueError("camera: wanted exactly one of fov_deg and intrinsics, got both or neither")
        if isinstance(fov_deg, Tensor):
            if not bool(((fov_deg > 0) & (fov_deg < 180)).all()):  # also NaN
                raise ValueError(f"fov_deg must be between 0 and 180, got {fov_deg}")
            half = _tan_half(fov_deg, cam2world.dtype).to(cam2world.device)
            return cls(cam2world, half.expand(len(cam2world), 2))
        if fov_deg is not None:
            if not 0 < fov_deg < 180:
                raise ValueError(f"fov_deg must be between 0 and 180, got {fov_deg}")
            half = kept(_tan_half, float(fov_deg), cam2world.dtype, device=cam2world.device)
            return cls(cam2world, half.expand(len(cam2world), 2))
        assert intrinsics is not None
        if not torch.allclose(intrinsics[..., :2, 2].double(), torch.tensor(0.5, dtype=torch.float64), atol=1e-3):
            raise ValueError(f"intrinsics must have the principal point at (0.5, 0.5), got {intrinsics.tolist()}")
        focal = _focal(intrinsics)
        if not bool(((focal > 0) & torch.isfinite(focal)).all()):
            raise ValueError(f"intrinsics must have positive focal lengths, got {focal.tolist()}")
        return cls.from_checked(cam2world, intrinsics)

    @classmethod
    def from_checked(cls, cam2world: Tensor, intrinsics: Tensor) -> Camera:
        """Cameras from poses [B, 4, 4] and ``intrinsics`` [B, 3, 3] known to be valid; reads no value of theirs."""
        focal = _focal(intrinsics).to(dtype=cam2world.dtype, device=cam2world.device)
        return cls(cam2world, (0.5 / focal).expand(len(cam2world), 2))

    @classmethod
    def orbit(
        cls,
        pitch_rad: float | Tensor,
        yaw_rad: float | Tensor,
        radius: float | Tensor = 1.0,
        *,
        fov_deg: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Camera:
        """Cameras on a sphere, looking at its centre; ``pitch_rad`` is measured from +z (pi/2 = level)."""
        parts = [
            torch.as_tensor(v, dtype=torch.float64, device=device)
            if isinstance(v, Tensor)
            else torch.full((), v, dtype=torch.float64, device=device)
            for v in (pitch_rad, yaw_rad, radius)
        ]
        pitch, yaw, r = torch.broadcast_tensors(*(torch.atleast_1d(p) for p in parts))
        position = orbit_position(pitch, yaw, r)
        return cls.from_matrix(_pose(look_at(position), position).to(dtype), fov_deg=fov_deg)

    @classmethod
    def from_nine(cls, nine: Tensor, *, fov_deg: float) -> Camera:
        """Cameras from 9 free numbers [B, 9]: a 6-D rotation and a translation; the parametrisation to optimise."""
        return cls.from_matrix(_pose(rotation_from_6d(nine[:, :6]), nine[:, 6:]), fov_deg=fov_deg)

    @property
    def fov_deg(self) -> Tensor:
        """[B] horizontal field of view."""
        return torch.rad2deg(2 * torch.atan(self.tan_half_fov[:, 0]))

    @property
    def position(self) -> Tensor:
        """[B, 3] positions of the cameras."""
        return self.cam2world[:, :3, 3]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        return Camera(self.cam2world.to(device=device, dtype=dtype), self.tan_half_fov.to(device=device, dtype=dtype))

    def __getitem__(self, index: int | slice | Tensor) -> Camera:
        if isinstance(index, int):
            index = slice(index, index + 1) if index != -1 else slice(-1, None)
        return Camera(self.cam2world[index], self.tan_half_fov[index])

    def rays(self, pixels: Tensor) -> Rays:
        """World-space rays through ``pixels`` [R, 2] or [B, R, 2]."""
        pixels = pixels.expand(len(self), *pixels.shape[-2:])
        local = torch.cat([pixels * self.tan_half_fov[:, None], pixels.new_full((*pixels.shape[:-1], 1), -1.0)], dim=-1)
        directions = local @ self.cam2world[:, :3, :3].transpose(1, 2)  # [B, R, 3]
        return Rays(self.position[:, None].expand_as(directions), directions)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World ``points`` [B, P, 3] to pixels [B, P, 2] in [-1, 1]^2 and depths [B, P] along the optical axis."""
        local = (points - self.position[:, None]) @ self.cam2world[:, :3, :3]
        depth = -local[..., 2]
        return local[..., :2] / (depth[..., None] * self.tan_half_fov[:, None]), depth

    def to_json(self) -> str:
        """JSON text: a list of {"cam2world": 4x4, "fov_deg": number}."""
        rows = zip(self.cam2world.tolist(), self.fov_deg.tolist())
        return json.dumps([{"cam2world": m, "fov_deg": f} for m, f in rows])

    @classmethod
    def from_json(cls, text: str | Path) -> Camera:
        """The inverse of :meth:`to_json`; takes the text or a path to a file that holds it."""
        rows = json.loads(text.read_text() if isinstance(text, Path) else text)
        return cls.from_matrix(
            torch.tensor([r["cam2world"] for r in rows], dtype=torch.float32),
            fov_deg=torch.tensor([r["fov_deg"] for r in rows], dtype=torch.float32),
        )


@dataclass(frozen=True)
class CameraPrior:
    """Distribution of training cameras: yaw, pitch and radius on a sphere around the object.

    ``uniform`` draws between the two ends of each range. ``gaussian`` draws mean + n (mean - low) with n ~ N(0, 1), so
    that half the range is one standard deviation, not a limit. The radius is always uniform. With ``angular`` the
    ranges are radians (pitch from +z); without, yaw is a fraction of a turn and pitch = arccos(1 - 2 v), uniform on
    the sphere.
    """

    distribution: Literal["uniform", "gaussian"] = "gaussian"
    yaw: tuple[float, float] = (-0.3, 0.3)
    pitch: tuple[float, float] = (math.pi / 2 - 0.155, math.pi / 2 + 0.155)
    radius: tuple[float, float] = (1.0, 1.0)
    fov_deg: float = 12.0
    angular: bool = True

    def __post_init__(self) -> None:
        if self.distribution not in ("uniform", "gaussian"):
            raise ValueError(f"distribution must be 'uniform' or 'gaussian', got {self.distribution!r}")
        for name in ("yaw", "pitch", "radius"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (low, high) with low <= high, got {(low, high)}")
        if self.radius[0] <= 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not 0 < self.fov_deg < 180:
            raise ValueError(f"fov_deg must be between 0 and 180, got {self.fov_deg}")

    def sample(self, n: int, generator: torch.Generator) -> Camera:
        """``n`` cameras; draws yaw and pitch together, then the radius."""
        draw = torch.randn if self.distribution == "gaussian" else torch.rand
        angles = draw(n, 2, generator=generator, dtype=torch.float32, device=generator.device)
        return self.from_draws(angles, torch.rand(n, generator=generator, dtype=torch.float32, device=generator.device))

    def from_draws(self, angles: Tensor, radius: Tensor) -> Camera:
        """Cameras from raw draws: ``angles`` [n, 2] (yaw, pitch), normal or uniform, and ``radius`` [n], uniform."""
        if self.distribution == "gaussian":
            return self.at(0.5 + 0.5 * angles[:, 0].double(), 0.5 + 0.5 * angles[:, 1].double(), radius)
        return self.at(angles[:, 0], angles[:, 1], radius)

    def at(
        self,
        yaw_fraction: float | Tensor,
        pitch_fraction: float | Tensor,
        radius_fraction: float | Tensor = 0.5,
        *,
        radius_scale: float | Tensor = 1.0,
    ) -> Camera:
        """Cameras at fractions of the ranges: 0 the low end, 0.5 the middle, 1 the high end; others extrapolate."""
        device = next((v.device for v in (yaw_fraction, pitch_fraction) if isinstance(v, Tensor)), None)

        def double(t: float | Tensor) -> float | Tensor:
            return t.to(device, torch.float64) if isinstance(t, Tensor) else float(t)

        def between(ends: tuple[float, float], t: float | Tensor) -> float | Tensor:
            return ends[0] + double(t) * (ends[1] - ends[0])

        yaw, pitch = between(self.yaw, yaw_fraction), between(self.pitch, pitch_fraction)
        if not self.angular:
            level = torch.as_tensor(1 - 2 * pitch, dtype=torch.float64)
            yaw, pitch = 2 * math.pi * yaw, torch.arccos(level.clamp(-1, 1))
        radius = between(self.radius, radius_fraction) * double(radius_scale)
        return Camera.orbit(pitch, yaw, radius, fov_deg=self.fov_deg, device=device)
