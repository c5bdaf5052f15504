"""View consistency: warp one view of a scene into another by its depth, and compare the two."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.base.checks import check_shapes
from ....models.camera import Camera, pixel_grid
from ...errors import UserError


class Reprojection(NamedTuple):
    """View A warped into view B.

    ``residual`` well below ``baseline`` means that the parallax of the images agrees with the depth, as for a solid
    object. Check ``valid.float().mean()`` as well: a residual over few pixels says little.
    """

    warped: Tensor  # [B, 3, H, H], view A resampled at the pixels of B; 0 where not valid
    valid: Tensor  # [B, H, H] bool, pixels of B that are visible in A
    residual: float  # mean |warped - image_b| over valid pixels; NaN if there are none
    baseline: float  # mean |image_a - image_b| over the same pixels: the residual without warping


@torch.no_grad()
def reproject(
    image_a: Tensor,
    depth_a: Tensor,
    camera_a: Camera,
    image_b: Tensor,
    depth_b: Tensor,
    camera_b: Camera,
    *,
    occlusion_tolerance: float,
) -> Reprojection:
    """Unproject the pixels of B by their depth, sample A at the projected points, and compare colours.

    Args:
        image_a, image_b:     [B, 3, H, H], the same B scenes from two sides; any range, the result is in its units.
        depth_a, depth_b:     [B, H, H], along the optical axis in world units; pixels of infinite depth do not count.
        camera_a, camera_b:   B cameras each.
        occlusion_tolerance:  largest difference, in world units, between a point's distance from A and A's own depth
                              there at which the point still counts as visible in A; this also excludes silhouettes,
                              where the depth is interpolated across a gap.
    Raises: ValueError on shape or number of cameras, UserError if the tolerance is not positive.
    Example: ``reproject(*front, *side, occlusion_tolerance=0.05).residual``
    """
    check_shapes(
        image_a=(image_a, "B 3 H H"),
        depth_a=(depth_a, "B H H"),
        image_b=(image_b, "B 3 H H"),
        depth_b=(depth_b, "B H H"),
    )
    for name, camera in (("camera_a", camera_a), ("camera_b", camera_b)):
        if len(camera) != len(image_a):
            raise ValueError(f"{name} must have B={len(image_a)} poses, got {len(camera)}")
    if not occlusion_tolerance > 0:
        raise UserError(f"occlusion_tolerance: wanted a positive length, got {occlusion_tolerance}")
    dtype, device = torch.promote_types(depth_b.dtype, torch.float32), depth_b.device
    image_a, image_b, depth_a, depth_b = (t.to(device, dtype) for t in (image_a, image_b, depth_a, depth_b))
    camera_a, camera_b = camera_a.to(device, dtype), camera_b.to(device, dtype)

    pixels, distance = _pixels_in_a(depth_b, camera_a, camera_b)
    inside = (pixels.abs() <= 1).all(dim=-1) & (distance > 0)  # False for NaN, the result of an infinite depth
    look_up = torch.where(inside[..., None], pixels * pixels.new_tensor([1.0, -1.0]), 2.0)  # [B, H, H, 2], y down
    sampled = _sample(depth_a[:, None], look_up)[:, 0]  # infinite or NaN beside the background: never within tolerance
    valid = inside & ((distance - sampled).abs() <= occlusion_tolerance)
    warped = torch.where(valid[:, None], _sample(image_a, look_up), 0.0)
    keep = valid[:, None].expand_as(image_b)
    return Reprojection(
        warped=warped,
        valid=valid,
        residual=(warped - image_b)[keep].abs().mean().item(),
        baseline=(image_a - image_b)[keep].abs().mean().item(),
    )


def _pixels_in_a(depth_b: Tensor, camera_a: Camera, camera_b: Camera) -> tuple[Tensor, Tensor]:
    """Project the pixels of B into A: positions [B, H, H, 2] with y up, distances [B, H, H] along A's axis."""
    size = depth_b.shape[-1]
    rays = camera_b.rays(pixel_grid(size, device=depth_b.device, dtype=depth_b.dtype))
    points = rays.origins + depth_b.flatten(1)[..., None] * rays.directions  # [B, H*H, 3]
    pixels, distance = camera_a.project(points)
    return pixels.unflatten(1, (size, size)), distance.unflatten(1, (size, size))


def _sample(x: Tensor, look_up: Tensor) -> Tensor:
    """Sample bilinearly; the outer half of a border pixel has its centre's value."""
    return functional.grid_sample(x, look_up, mode="bilinear", padding_mode="border", align_corners=False)
