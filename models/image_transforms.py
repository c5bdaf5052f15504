"""Moving and recolouring images, differentiable to any order in the pixels, without a wait on a device.

Every image has its own numbers, which are tensors, so that the host need not know them. Beyond its border an image goes
on as its reflection, which does not repeat the border's pixels. Source of the pipeline: Karras et al. 2020, "Training
generative adversarial networks with limited data" (arXiv 2006.06676), appendix B. It differs in these points: an image
that a transform does not concern keeps its bits; pixel moves are exact; the border is reflected by coordinates, so that
no margin depends on the numbers.
"""

import torch
from torch import Tensor

from ..kernels.base.checks import check_shapes
from ..kernels.base.constants import kept
from ..kernels.filters.upfirdn2d import setup_filter, upfirdn2d

# Daubechies' least asymmetric wavelet of 12 taps. Its even shifts are orthonormal, so that enlarging by it and reducing
# by its mirror image is the identity.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
TAPS = len(SYM6)
CENTRE = sum(i * tap for i, tap in enumerate(SYM6)) / sum(SYM6)  # where among its taps the filter's mass lies
BORDER = 3  # pixels beyond the border that the filter's taps reach where it reduces again
MARGIN = BORDER + 4  # reflected pixels under its taps where it enlarges those
SMALLEST = MARGIN + 1


def move_pixels(images: Tensor, flip: Tensor, quarters: Tensor, shift: Tensor) -> Tensor:
    """Flip left to right, then turn by quarters, then shift by whole pixels; no pixel is changed, only moved.

    Both axes are products with matrices of zeros and ones, whose backward adds in a fixed order.

    Args:
        images: [N, C, H, H] float32|float64, finite.
        flip: [N] bool.  quarters: [N] 0, 1, 2 or 3 counterclockwise.  shift: [N, 2] whole pixels (right, down), less
            than H; both of the dtype of ``images``.
    Returns: [N, C, H, H].
    Differentiable: any order in images.
    Raises: ValueError on shapes.
    """
    check_shapes(images=(images, "N C H H"), flip=(flip, "N"), quarters=(quarters, "N"), shift=(shift, "N 2"))
    odd = quarters.remainder(2) == 1
    turned = torch.where(odd[:, None, None, None], images.mT, images)
    flip_x = torch.where(odd, quarters == 3, flip ^ (quarters == 2))
    flip_y = torch.where(odd, flip ^ (quarters == 1), quarters == 2)
    across, down = (_picked(images, shift[:, i], flipped) for i, flipped in enumerate((flip_x, flip_y)))
    return down[:, None] @ turned @ across[:, None].mT


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Resample images under an affine map: enlarged twofold by a wavelet's filter, sampled bilinearly, reduced again.

    Args:
        images: [N, C, H, H] float32|float64, H at least 8.
        inverse: [N, 3, 3] same dtype; takes a point (x right, y down, 1) of the result, in pixels from the middle, to
            the point of the image that is shown there. Not differentiated.
    Returns: [N, C, H, H]; of the identity: ``images`` up to roundings.
    Differentiable: any order in images.
    Raises: ValueError on shapes.
    """
    size = check_shapes(images=(images, "N C H H"), inverse=(inverse, "N 3 3"))["H"]
    if size < SMALLEST:
        raise ValueError(f"images must be of at least {SMALLEST} px, got {size}")
    taps = kept(_taps, device=images.device)
    # padded like this, sample j of the enlarged image stands over pixel (j - CENTRE) / 2
    fine = upfirdn2d(_reflected(images), taps, up=2, padding=[TAPS - 1, TAPS - 2] * 2, gain=4)
    place = torch.arange(2 * size + TAPS - 2, device=images.device, dtype=images.dtype)
    place, middle = (place - CENTRE) / 2 - (size - 1) / 2, (size - 1) / 2
    x, y = place[None, None, :], place[None, :, None]
    at_x, at_y = (row[:, 0, None, None] * x + row[:, 1, None, None] * y + row[:, 2, None, None]
                  for row in inverse.detach()[:, :2].unbind(1))  # fmt: skip
    columns, rows = (2 * (_near(at + middle, size) + MARGIN) + CENTRE for at in (at_x, at_y))
    return upfirdn2d(_sample(fine, columns, rows), taps, down=2, flip_filter=True)


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Map every pixel's colour: y = M[:, :3] x + M[:, 3].

    Args:
        images: [N, 3, H, W], -1..1.  matrix: [N, 3, 4] same dtype.
    Returns: [N, 3, H, W], not clipped.
    """
    check_shapes(images=(images, "N C H W"), matrix=(matrix, "N C 4"))
    moved = matrix[:, :, :3] @ images.flatten(2) + matrix[:, :, 3:]
    return moved.view_as(images)


def _taps() -> Tensor:
    return setup_filter(SYM6)


def _fold(place: Tensor, size: int) -> Tensor:
    """Positions in an image that goes on as its reflection, to 0..size - 1; whole numbers stay exact."""
    return (size - 1) - (place.remainder(2 * (size - 1)) - (size - 1)).abs()


def _near(place: Tensor, size: int) -> Tensor:
    """The same up to BORDER pixels from the image, since the filter, which is not symmetric, has enlarged those too."""
    return torch.where((place >= -BORDER) & (place <= size - 1 + BORDER), place, _fold(place, size))


def _picked(images: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Matrices [N, H, H] with a one in each row, at the pixel that stands there."""
    size = images.shape[-1]
    place = torch.arange(size, device=images.device, dtype=images.dtype)
    source = _fold(place - shift[:, None], size)
    source = torch.where(flip[:, None], (size - 1) - source, source)
    return (source[:, :, None] == place).to(images.dtype)


def _reflected(images: Tensor) -> Tensor:
    """Padded by MARGIN reflected pixels; torch's own padding has a backward that adds with atomics on CUDA."""
    for dim in (2, 3):
        size = images.shape[dim]
        before = images.narrow(dim, 1, MARGIN).flip(dim)
        after = images.narrow(dim, size - 1 - MARGIN, MARGIN).flip(dim)
        images = torch.cat([before, images, after], dim)
    return images


def _sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples [N, C, H', W'] at pixels x, y [N, H', W'], which lie inside."""
    (N, C, H, W), out = image.shape, x.shape[1:]
    left, top = x.floor().clamp(0, W - 2), y.floor().clamp(0, H - 2)
    share_x, share_y = x - left, y - top
    first = (top.long() * W + left.long()).flatten(1)
    total = image.new_zeros(N, C, *out)
    for step, weight in (
        (0, (1 - share_x) * (1 - share_y)), (1, share_x * (1 - share_y)),
        (W, (1 - share_x) * share_y), (W + 1, share_x * share_y),
    ):  # fmt: skip
        total = total + _pixels(image, first + step).view(N, C, *out) * weight[:, None]
    return total


def _pixels(image: Tensor, place: Tensor) -> Tensor:
    """Pixels [N, C, P] at flat places [N, P], with a backward that adds in a fixed order.

    A CPU's is that of ``gather``, which adds with atomics on CUDA; there that of indexing sorts first, whereas on a CPU
    its threads would add in the order they come.
    """
    return _by_gather(image, place) if image.device.type == "cpu" else _by_index(image, place)


def _by_gather(image: Tensor, place: Tensor) -> Tensor:
    return image.flatten(2).gather(2, place[:, None].expand(-1, image.shape[1], -1))


def _by_index(image: Tensor, place: Tensor) -> Tensor:
    N, C, H, W = image.shape
    first = torch.arange(0, N * H * W, H * W, device=image.device)[:, None]
    return image.permute(0, 2, 3, 1).reshape(N * H * W, C)[place + first].mT
