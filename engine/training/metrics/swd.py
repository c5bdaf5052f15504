"""Sliced Wasserstein distance between two sets of images, on the levels of a Laplacian pyramid.

SWD = 1000 * mean over unit vectors v of W1({v . d}, {v . d'}), where d and d' run over the normalised 7 x 7 x 3 patches
of the real and the generated images at one pyramid level, and W1 of two equally large sets of numbers is the mean
absolute difference of the sorted sets. Level r holds the details of an r x r image that an r/2 x r/2 image lacks; the
lowest level holds the rest, shapes and colours. Needs no network and no download; smaller is better, but two finite
sets of one distribution also have a positive distance (about 10 at 256 images): compare values of equal N.

Source: Karras et al. 2018 (progressive growing), section 5; Rabin et al. 2011 (the sliced distance). Differs in:
  * Both sets are normalised with the mean and deviation of the REAL set, per level and colour channel. The paper
    normalises each set with its own, which hides a shift of colour or a loss of contrast; here they count. The
    distance of a set from itself is 0 either way, but the distance is no longer exactly symmetric.
  * Patch positions are drawn once per level and shared by all images, so that the order of the images has no influence
    and the variance is lower. Positions are drawn without replacement, all of them where the level is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.base.checks import check_shapes
from ...errors import UserError

_IMAGES_PER_CHUNK = 64  # bounds the memory of the pyramids, not the result
_PROJECTIONS_PER_ROUND = 128  # bounds the memory of the projections: 128 * N * patches * 4 bytes
_FLAT = 1e-6  # a channel that varies less than this (images in -1..1) holds rounding errors only


@dataclass(frozen=True)
class SlicedWasserstein:
    """Distances in units of 0.001 of the real set's standard deviation.

    Attributes:
        levels: distance by pyramid level, finest first; the key is the level's resolution.
        mean:   unweighted mean over the levels, the one number to watch.
    """

    levels: dict[int, float]
    mean: float


@dataclass(frozen=True)
class _Level:
    """Sorted projections and statistics of the real images at one level."""

    positions: Tensor  # [P], upper left corners, y * (r - patch + 1) + x
    directions: Tensor  # [D, 3 * patch^2], unit vectors
    mean: Tensor  # [3]
    std: Tensor  # [3]
    projected: Tensor  # [D, N * P], sorted along the last dimension


def wasserstein_1d(a: Tensor, b: Tensor, *, presorted: bool = False) -> Tensor:
    """Wasserstein-1 distance of equally large sets of numbers [..., M]: mean |sort(a) - sort(b)|. Returns [...]."""
    if not presorted:
        a, b = _sort(a), _sort(b)
    return (a - b).abs().mean(dim=-1)


def laplacian_pyramid(images: Tensor, min_resolution: int = 16) -> dict[int, Tensor]:
    """Split square ``images`` [N, C, H, H] into bands: {H: details, H/2: details, ..., lowest: the rest}.

    A band is the image minus its downsampled and upsampled copy (5-tap binomial filter, mirrored borders). Halving
    continues while the resolution is even and the half is at least ``min_resolution``. The upsampled bands sum to the
    images.
    """
    bands = {}
    resolution = images.shape[-1]
    while resolution % 2 == 0 and resolution // 2 >= min_resolution:
        half = _halve(images)
        bands[resolution] = images - _double(half)
        images, resolution = half, resolution // 2
    bands[resolution] = images
    return bands


class SlicedWassersteinMetric:
    """Distance from one set of real images, whose sorted projections are computed once and kept.

    Keeps 4 * projections * N * patches bytes per level on ``device``: 64 MiB for 256 images with the defaults.
    """

    def __init__(
        self,
        real: Tensor,
        seed: int = 0,
        *,
        min_resolution: int = 16,
        patch: int = 7,
        patches_per_image: int = 128,
        projections: int = 512,
        device: torch.device | str | None = None,
    ) -> None:
        """Project and sort ``real`` [N, 3, H, H], uint8 or floating point in -1..1.

        Args:
            seed:              fixes patch positions and projections; the same on every device.
            min_resolution:    the lowest level is at least this large.
            patch:             side of a patch in pixels.
            patches_per_image: maximum number of patches of each image and level.
            projections:       number of random unit vectors per level.
            device:            where to compute; that of ``real`` if None.
        Raises: ValueError on shape, TypeError on dtype, UserError if an option is out of range or the images are empty,
            not square or smaller than a patch.
        """
        _check_images("real", real)
        for name, value in (("patch", patch), ("patches_per_image", patches_per_image), ("projections", projections)):
            if value < 1:
                raise UserError(f"{name}: wanted at least 1, got {value}")
        if min_resolution < max(patch, 2):
            raise UserError(f"min_resolution: wanted at least {max(patch, 2)} for patch={patch}, got {min_resolution}")
        if real.shape[-1] < patch:
            raise UserError(f"real: wanted images of at least {patch} x {patch}, got {real.shape[2]} x {real.shape[3]}")
        self._shape = tuple(real.shape)
        self._min_resolution, self._patch = min_resolution, patch
        self._device = torch.device(device) if device is not None else real.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same draws
        positions: dict[int, Tensor] = {}
        directions: dict[int, Tensor] = {}
        for resolution in laplacian_pyramid(torch.zeros(1, 1, *real.shape[2:]), min_resolution):
            places = (resolution - patch + 1) ** 2
            positions[resolution] = torch.randperm(places, generator=generator)[:patches_per_image].to(self._device)
            vectors = torch.randn(projections, 3 * patch**2, generator=generator, dtype=torch.float64)
            directions[resolution] = functional.normalize(vectors).float().to(self._device)
        self._levels: dict[int, _Level] = {}
        for resolution, patches in self._patches(real, positions).items():
            std, mean = (m.float() for m in torch.std_mean(patches.double(), dim=(1, 2), correction=0))
            std = torch.where(std < _FLAT, 1.0, std)
            vectors = directions[resolution]
            rounds = list(_sorted_projections(patches, mean, std, vectors))
            self._levels[resolution] = _Level(positions[resolution], vectors, mean, std, torch.cat(rounds))

    @torch.no_grad()
    def distance(self, fake: Tensor) -> SlicedWasserstein:
        """Compare ``fake``, shaped as the real images, uint8 or floating point in -1..1 (clamped, as a picture is).

        Deterministic; NaN if ``fake`` holds NaN.
        Raises: ValueError on shape, TypeError on dtype, UserError if number or size of the images differ from the real.
        """
        _check_images("fake", fake)
        if len(fake) != self._shape[0]:
            raise UserError(f"fake: wanted {self._shape[0]} images, as many as real ones, got {len(fake)}")
        if tuple(fake.shape) != self._shape:
            raise UserError(f"fake: wanted {list(self._shape)} like the real images, got {list(fake.shape)}")
        all_patches = self._patches(fake, {r: level.positions for r, level in self._levels.items()})
        result: dict[int, float] = {}
        for resolution, level in self._levels.items():
            projected = _sorted_projections(all_patches[resolution], level.mean, level.std, level.directions)
            real = level.projected.split(_PROJECTIONS_PER_ROUND)
            apart = [wasserstein_1d(f, r, presorted=True) for f, r in zip(projected, real)]
            result[resolution] = 1e3 * torch.cat(apart).double().mean().item()
        return SlicedWasserstein(result, sum(result.values()) / len(result))

    def _patches(self, images: Tensor, positions: dict[int, Tensor]) -> dict[int, Tensor]:
        """Patches of every level, [3, patch^2, N * P] each: pixel values ready for a matrix product."""
        parts: dict[int, list[Tensor]] = {resolution: [] for resolution in positions}
        for chunk in images.detach().split(_IMAGES_PER_CHUNK):
            chunk = chunk.to(self._device).float()
            chunk = chunk / 127.5 - 1 if images.dtype == torch.uint8 else chunk.clamp(-1, 1)
            for resolution, band in laplacian_pyramid(chunk, self._min_resolution).items():
                parts[resolution].append(_cut(band, positions[resolution], self._patch))
        return {resolution: torch.cat(cuts, dim=2) for resolution, cuts in parts.items()}


def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    seed: int = 0,
    min_resolution: int = 16,
    patch: int = 7,
    patches_per_image: int = 128,
    projections: int = 512,
    device: torch.device | str | None = None,
) -> SlicedWasserstein:
    """Distance of two sets of images [N, 3, H, H]; :class:`SlicedWassersteinMetric` explains the arguments."""
    metric = SlicedWassersteinMetric(
        real,
        seed,
        min_resolution=min_resolution,
        patch=patch,
        patches_per_image=patches_per_image,
        projections=projections,
        device=device,
    )
    return metric.distance(fake)


def _check_images(name: str, images: Tensor) -> None:
    check_shapes(**{name: (images, "N 3 H W")})
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise TypeError(f"{name} must be uint8 or floating point, got {images.dtype}")
    if len(images) == 0:
        raise UserError(f"{name}: wanted at least one image, got none")
    if images.shape[2] != images.shape[3]:
        raise UserError(f"{name}: wanted square images, got {images.shape[2]} x {images.shape[3]}")


def _halve(x: Tensor) -> Tensor:
    """Blur with (1, 4, 6, 4, 1) / 16 along both axes, mirrored at the borders, and keep every second pixel."""
    for dim, pad in ((2, (0, 0, 2, 2)), (3, (2, 2, 0, 0))):
        size = x.shape[dim]
        x = functional.pad(x, pad, mode="reflect")
        taps = [x.narrow(dim, i, size).movedim(dim, 0)[::2].movedim(0, dim) for i in range(5)]
        x = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
    return x


def _double(x: Tensor) -> Tensor:
    """Insert zeros and blur along both axes with twice the filter of :func:`_halve`, in polyphase form."""
    for dim in (2, 3):
        size = x.shape[dim]
        # mirror padding of the zero-stuffed row: x[1] on the left of x[0], x[-1] again on the right of x[-1]
        x = torch.cat([x.narrow(dim, 1, 1), x, x.narrow(dim, size - 1, 1)], dim=dim)
        left, middle, right = (x.narrow(dim, i, size) for i in range(3))
        x = torch.stack([(left + 6 * middle + right) / 8, (middle + right) / 2], dim=dim + 1).flatten(dim, dim + 1)
    return x


def _cut(band: Tensor, positions: Tensor, patch: int) -> Tensor:
    """Patches of ``band`` [N, 3, r, r] with upper left corners ``positions`` [P]; returns [3, patch^2, N * P]."""
    n, channels, resolution, _ = band.shape
    across = resolution - patch + 1
    offsets = torch.arange(patch, device=band.device)
    rows = (positions // across)[None, :] + offsets[:, None]  # [patch, P]
    columns = (positions % across)[None, :] + offsets[:, None]
    index = rows[:, None] * resolution + columns[None]  # [patch, patch, P]
    flat = band.transpose(0, 1).reshape(channels, n, resolution**2)
    cut = flat[:, :, index.flatten()].view(channels, n, patch**2, -1)
    return cut.transpose(1, 2).reshape(channels, patch**2, -1)


def _sorted_projections(patches: Tensor, mean: Tensor, std: Tensor, directions: Tensor) -> Iterator[Tensor]:
    """Normalise ``patches`` [3, patch^2, M], project on ``directions`` [D, 3 patch^2], sort; yields [<= 128, M]."""
    normal = ((patches - mean[:, None, None]) / std[:, None, None]).flatten(0, 1)  # [3 patch^2, M]
    for vectors in directions.split(_PROJECTIONS_PER_ROUND):
        yield _sort(vectors @ normal)


def _sort(x: Tensor) -> Tensor:
    """Ascending along the last dimension; on the CPU by numpy, which sorts values without indices 20 times faster."""
    if x.device.type == "cpu" and not x.requires_grad:
        return torch.from_numpy(np.sort(x.numpy(), axis=-1))
    return x.sort(dim=-1).values
