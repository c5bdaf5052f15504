"""Moving and recolouring images, against numpy, pillow and formulas; differentiable twice."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stylenerf.models import image_transforms
from stylenerf.models.image_transforms import CENTRE, SYM6, move_pixels, recolour, warp

EDGE = 32
Field = Callable[[Tensor, Tensor], Tensor]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def blobs(x: Tensor, y: Tensor) -> Tensor:
    """Three smooth channels [1, 3, H, W]; x and y in pixels from the middle."""
    centres = ((4.0, -3.0, 5.0), (-5.0, 2.0, 4.0), (0.0, 6.0, 3.0))
    return torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * w * w)) for a, b, w in centres])[None]


def lattice(edge: int = EDGE) -> tuple[Tensor, Tensor]:
    place = torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    return x, y


def affine(xx: float, xy: float, x: float, yx: float, yy: float, y: float) -> Tensor:
    return torch.tensor([[[xx, xy, x], [yx, yy, y], [0, 0, 1]]], dtype=torch.float64)


def turned(rad: float) -> Tensor:
    return affine(math.cos(rad), -math.sin(rad), 0, math.sin(rad), math.cos(rad), 0)


def test_filter_is_orthonormal() -> None:
    """sum h = sqrt 2, sum h[i] h[i + 2k] = 1 for k = 0, else 0; and its mass lies where CENTRE says."""
    h = np.array(SYM6)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    products = [(h[2 * k :] * h[: len(h) - 2 * k]).sum() for k in range(6)]
    assert products == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    assert pytest.approx((np.arange(12) * h).sum() / h.sum()) == CENTRE


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_pixels_move_as_in_numpy(flip: bool, quarters: int) -> None:
    images, shifts = noise(3, 2, 9, 9), [(0, 0), (2, -3), (-4, 8)]
    turns = torch.full((3,), quarters, dtype=torch.float64)
    got = move_pixels(images, torch.full((3,), flip), turns, torch.tensor(shifts).double())
    for image, (right, down), moved in zip(images.numpy(), shifts, got.numpy()):
        want = np.rot90(image[:, :, ::-1] if flip else image, quarters, axes=(1, 2))
        padded = np.pad(want, ((0, 0), (8, 8), (8, 8)), mode="reflect")
        assert np.array_equal(moved, padded[:, 8 - down : 17 - down, 8 - right : 17 - right])


def test_each_image_moves_by_its_own_numbers() -> None:
    images = noise(2, 3, 8, 8, dtype=torch.float32)
    got = move_pixels(images, torch.tensor([False, True]), torch.tensor([0.0, 1.0]), torch.zeros(2, 2))
    assert torch.equal(got[0], images[0])
    assert torch.equal(got[1], torch.rot90(images[1].flip(2), 1, [1, 2]))


def test_warp_by_nothing_is_the_identity() -> None:
    """Up to the border, for noise of every frequency: the two filters undo each other. The taps are float32."""
    images = noise(2, 3, 8, 8)
    got = warp(images, turned(0).expand(2, 3, 3))
    assert (got - images).abs().max() < 2e-6


@pytest.mark.parametrize("shift", [(3, -2), (-5, 0)])
def test_warp_by_whole_pixels(shift: tuple[int, int]) -> None:
    images, inside = noise(1, 3, EDGE, EDGE), slice(10, -10)
    got = warp(images, affine(1, 0, -shift[0], 0, 1, -shift[1]))
    want = images.roll((shift[1], shift[0]), (2, 3))
    assert (got - want)[:, :, inside, inside].abs().max() < 2e-6


WARPS = {
    "half a pixel": affine(1, 0, 0.5, 0, 1, -0.25),
    "turn": turned(0.5),
    "turn back and move": turned(-2.2) @ affine(1, 0, 1.3, 0, 1, 2.1),
    "larger": affine(0.7, 0, 0, 0, 0.7, 0),
    "smaller": affine(1.25, 0, 0, 0, 1.25, 0),
    "stretched": turned(0.3) @ affine(0.8, 0, 0, 0, 1.25, 0) @ turned(1.1),
}


@pytest.mark.parametrize("name", WARPS)
def test_warp_against_a_formula(name: str) -> None:
    """The picture of a function is the function's picture, away from the border."""
    x, y = lattice()
    inverse = WARPS[name]
    (xx, xy, dx), (yx, yy, dy) = inverse[0, :2].tolist()
    got, want = warp(blobs(x, y), inverse), blobs(xx * x + xy * y + dx, yx * x + yy * y + dy)
    assert (got - want)[:, :, 6:-6, 6:-6].abs().max() < 0.008
    assert (blobs(x, y) - want).abs().max() > 0.1


@pytest.mark.parametrize("name", WARPS)
def test_warp_against_pillow(name: str) -> None:
    """Pillow counts from the outer corner of the first pixel; its cubic interpolation errs by up to 0.03 here."""
    image = blobs(*lattice())
    half = EDGE / 2
    corner = affine(1, 0, half, 0, 1, half) @ WARPS[name] @ affine(1, 0, -half, 0, 1, -half)
    numbers = corner[0, :2].flatten().tolist()
    size = (EDGE, EDGE)
    channels = [Image.fromarray(channel.float().numpy()) for channel in image[0]]
    how = Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC
    want = [np.array(channel.transform(size, *how)) for channel in channels]
    got = warp(image, WARPS[name])[0].numpy()
    assert np.abs(got - np.stack(want))[:, 6:-6, 6:-6].max() < 0.04


def test_warp_reflects_at_the_border() -> None:
    """Moved by 20 pixels and 8 more: what enters is the picture mirrored at its first column and row."""
    x, y = lattice(16)
    image = (0.3 * x).cos()[None, None] * (0.2 * y).sin()
    got = warp(image, affine(1, 0, -4, 0, 1, 3))
    padded = np.pad(image[0, 0].numpy(), 5, mode="reflect")
    assert np.abs(got[0, 0].numpy() - padded[8:24, 1:17]).max() < 0.02


def test_indexing_and_gathering_agree() -> None:
    """The forms of the CPU and of other devices; the backward of both adds where a pixel is taken twice."""
    image, place = noise(2, 3, 5, 6).requires_grad_(), torch.tensor([[0, 7, 7, 29], [3, 3, 3, 12]])
    cotangent, out = noise(2, 3, 4, seed=1), []
    for form in (image_transforms._by_gather, image_transforms._by_index):
        pixels = form(image, place)
        out.append((pixels, torch.autograd.grad(pixels, image, cotangent)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*out))
    assert torch.autograd.gradgradcheck(lambda x: image_transforms._by_index(x, place).pow(3), image, fast_mode=True)


@pytest.mark.parametrize("name", ["move_pixels", "warp", "recolour"])
def test_second_order(name: str) -> None:
    images, matrix = noise(2, 3, 8, 8).requires_grad_(), noise(2, 3, 4, seed=2)
    inverse = torch.cat([WARPS["stretched"], WARPS["larger"]])
    run: dict[str, Callable[[Tensor], Tensor]] = {
        "move_pixels": lambda x: move_pixels(
            x, torch.tensor([True, False]), torch.tensor([1, 2]).double(), torch.tensor([[1, -2], [0, 3]]).double()
        ),
        "warp": lambda x: warp(x, inverse),
        "recolour": lambda x: recolour(x, matrix),
    }
    assert torch.autograd.gradcheck(run[name], images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: run[name](x).pow(3), images, fast_mode=True)


def test_recolour_against_numpy() -> None:
    images, matrix = noise(2, 3, 4, 5), noise(2, 3, 4, seed=1)
    want = [np.einsum("ij,jhw->ihw", m[:, :3], x) + m[:, 3, None, None] for m, x in zip(matrix.numpy(), images.numpy())]
    assert np.allclose(recolour(images, matrix).numpy(), np.stack(want), rtol=1e-12, atol=1e-12)


def test_grey_flipped_in_luma_is_pillow_s_inverted_picture() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
    want = np.array(ImageOps.invert(Image.fromarray(grey)))
    image = torch.from_numpy(grey).double().expand(1, 3, 6, 6) / 127.5 - 1
    matrix = torch.cat([torch.eye(3).double() - 2 / 3, torch.zeros(3, 1).double()], dim=1)
    got = ((recolour(image, matrix[None]) + 1) * 127.5).round().byte()
    assert np.array_equal(got[0, 1].numpy(), want)


@pytest.mark.parametrize(("call", "match"), [
    (lambda: warp(torch.zeros(1, 3, 4, 4), torch.eye(3)[None]), "at least 8 px, got 4"),
    (lambda: warp(torch.zeros(1, 3, 8, 9), torch.eye(3)[None]), r"\[N, C, H, H\] with H=8"),
    (lambda: warp(torch.zeros(2, 3, 8, 8), torch.eye(3)[None]), "N=2"),
    (lambda: recolour(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 3)), "matrix must be"),
    (lambda: move_pixels(torch.zeros(1, 3, 8, 8), torch.ones(2) > 0, torch.zeros(1), torch.zeros(1, 2)), "flip must"),
])  # fmt: skip
def test_bad_shapes(call: Callable[[], Tensor], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
