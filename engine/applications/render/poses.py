"""Cameras as four numbers that can be optimised: yaw, pitch, radius and roll around the object."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....kernels.base.constants import constant
from ....models.camera import Camera, CameraPrior, look_at, orbit_position

_ROLL_SCALE_RAD = 0.2
_LEAST_ANGLE_RAD, _LEAST_RADIUS = 0.05, 0.02  # what a prior without extent is moved by; the radius relative


def pose_cameras(poses: Tensor, fov_deg: float) -> Camera:
    """Cameras that look at the origin, differentiable in their numbers.

    Args:
        poses: [B, 4] yaw_rad (around +z), pitch_rad (from +z), radius (world units), roll_rad (the image turns by it
            about the optical axis, as ``RenderOptions.roll_rad`` does).
        fov_deg: full field of view.
    Returns: B cameras of the dtype of ``poses``; computed in float64.
    """
    yaw, pitch, radius, roll = poses.double().unbind(dim=-1)
    position = orbit_position(pitch, yaw, radius)
    cos, sin, zero, one = roll.cos(), roll.sin(), torch.zeros_like(roll), torch.ones_like(roll)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
    top = torch.cat([look_at(position) @ turn, position[..., None]], dim=-1)  # [B, 3, 4]
    bottom = constant((0.0, 0.0, 0.0, 1.0), like=top).expand(len(top), 1, 4)
    return Camera.from_matrix(torch.cat([top, bottom], dim=1).to(poses.dtype), fov_deg=fov_deg)


def prior_poses(prior: CameraPrior) -> tuple[Tensor, Tensor]:
    """Middle [4] of a prior as a pose, and [4] the lengths that a step of one is worth: half of each range."""
    yaw, pitch = prior.yaw, prior.pitch
    if not prior.angular:  # fractions of a turn, and of the sphere
        yaw = (2 * math.pi * yaw[0], 2 * math.pi * yaw[1])
        low, high = (math.acos(min(max(1 - 2 * v, -1.0), 1.0)) for v in pitch)
        pitch = (low, high)
    ranges = (yaw, pitch, prior.radius)
    middle = [(low + high) / 2 for low, high in ranges]
    least = (_LEAST_ANGLE_RAD, _LEAST_ANGLE_RAD, _LEAST_RADIUS * middle[2])
    halves = [max((high - low) / 2, smallest) for (low, high), smallest in zip(ranges, least)]
    return torch.tensor([*middle, 0.0]), torch.tensor([*halves, _ROLL_SCALE_RAD])


def spread_poses(prior: CameraPrior, count: int) -> Tensor:
    """[count, 4] poses that fill the prior evenly; a single one stands in its middle.

    Yaws are evenly spaced over the range (over one and a half standard deviations to each side of a Gaussian's), and
    pitches follow the van der Corput sequence, so that neighbours in yaw differ in pitch.
    """
    middle, scale = prior_poses(prior)
    reach = 1.5 if prior.distribution == "gaussian" else 1.0
    yaw = (2 * torch.arange(count) + 1) / count - 1
    pitch = torch.tensor([2 * _van_der_corput(i + 1) - 1 for i in range(count)])
    poses = middle.repeat(count, 1)
    if count > 1:
        poses[:, 0] += reach * scale[0] * yaw
        poses[:, 1] += reach * scale[1] * pitch
    return poses


def _van_der_corput(index: int) -> float:
    """The binary digits of ``index``, mirrored at the point: 1/2, 1/4, 3/4, 1/8 ..."""
    value, weight = 0.0, 0.5
    while index:
        value += weight * (index & 1)
        index, weight = index >> 1, weight / 2
    return value
