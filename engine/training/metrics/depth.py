"""How well generated depth agrees with the true depth of procedural scenes: Pearson correlation of depth maps.

Correlation ignores offset and scale, which a generator cannot learn without depth supervision. Background, where a
depth map is infinite, counts as ``far``, so that the silhouette is part of the comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....kernels.base.checks import check_shapes
from ...errors import UserError

_FLAT = 1e-6  # relative spread of a constant map due to float32 rounding alone


def depth_correlation(depth: Tensor, true_depth: Tensor, *, far: float, mask: Tensor | None = None) -> float:
    """Pearson correlation over all pixels of all maps together, -1..1.

    Args:
        depth:      [B, r, r], generated, along the optical axis, world units.
        true_depth: [B, r, r], of the same scenes and cameras; infinite in the background.
        far:        finite depth that stands for infinity in both.
        mask:       [B, r, r] bool, the pixels that count; all of them if None.
    Returns: the correlation; 0.0 where it is undefined: no pixels, or one of the two constant. NaN if a map holds NaN.
    Raises: ValueError on shape, UserError if ``far`` is not positive and finite.
    """
    check_shapes(depth=(depth, "B H W"), true_depth=(true_depth, "B H W"))
    depth, true_depth = _finite(depth, far), _finite(true_depth, far)
    if mask is not None:
        check_shapes(depth=(depth, "B H W"), mask=(mask, "B H W"))
        depth, true_depth = depth[mask], true_depth[mask]
    return _pearson(depth.flatten(), true_depth.flatten())


def mean_depth_correlation(fake_depths: Tensor, true_depths: Tensor, *, far: float) -> float:
    """Correlation of the populations' mean depth maps, averaged over cameras.

    A generated image has no true depth, but the mean depth of many scenes from one camera is a property of the data:
    the mean over many latents, from the same camera, should match it.

    Args:
        fake_depths: [C, K, r, r], C cameras, K latents.
        true_depths: [C, K', r, r], the same cameras, K' scenes; infinite in the background.
        far:         finite depth that stands for infinity in both, before the means.
    Returns: mean over cameras of the Pearson correlation of two [r, r] maps; a constant map counts as 0.0.
    Raises: ValueError on shape, UserError if ``far`` is not positive and finite, or a set is empty.
    """
    check_shapes(fake_depths=(fake_depths, "C K H W"), true_depths=(true_depths, "C L H W"))
    for name, maps in (("fake_depths", fake_depths), ("true_depths", true_depths)):
        if maps.numel() == 0:
            raise UserError(f"{name}: wanted at least one map per camera, got {list(maps.shape)}")
    fake_mean, true_mean = _finite(fake_depths, far).mean(dim=1), _finite(true_depths, far).mean(dim=1)
    scores = [_pearson(f.flatten(), t.flatten()) for f, t in zip(fake_mean, true_mean)]
    return sum(scores) / len(scores)


def mean_depth_error(fake_depths: Tensor, true_depths: Tensor, *, far: float) -> float:
    """Mean absolute difference of two populations' mean depth maps from one camera, in world units.

    Unlike the correlation it counts offset and scale.

    Args:
        fake_depths: [K, r, r], K latents.  true_depths: [K', r, r], K' scenes; infinite in the background.
        far:         finite depth that stands for infinity in both, before the means.
    Raises: ValueError on shape, UserError if ``far`` is not positive and finite, or a set is empty.
    """
    check_shapes(fake_depths=(fake_depths, "K H W"), true_depths=(true_depths, "L H W"))
    for name, maps in (("fake_depths", fake_depths), ("true_depths", true_depths)):
        if maps.numel() == 0:
            raise UserError(f"{name}: wanted at least one map, got {list(maps.shape)}")
    return (_finite(fake_depths, far).mean(dim=0) - _finite(true_depths, far).mean(dim=0)).abs().mean().item()


def _finite(depth: Tensor, far: float) -> Tensor:
    if not 0 < far < float("inf"):
        raise UserError(f"far: wanted a positive, finite depth, got {far}")
    return torch.where(depth == float("inf"), far, depth.double())


def _pearson(x: Tensor, y: Tensor) -> float:
    """Correlation of two float64 vectors; 0.0 if either is empty or constant up to float32 rounding."""
    if x.numel() == 0:
        return 0.0
    parts = []
    for v in (x, y):
        centred = v - v.mean()
        if centred.abs().max() <= _FLAT * v.abs().max():
            return 0.0
        parts.append(centred / centred.norm())
    return torch.dot(*parts).clamp(-1, 1).item()
