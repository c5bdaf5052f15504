"""Pictures: bytes, grids, depth colours, labels, and files that are whole or absent."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor

from stylenerf.engine import pictures
from stylenerf.engine.errors import UserError
from stylenerf.engine.pictures import depth_picture, grid, labelled_rows, save_png, strip, to_uint8

RED, GREEN, BLUE = (torch.tensor(c, dtype=torch.uint8).view(3, 1, 1) for c in ([255, 0, 0], [0, 255, 0], [0, 0, 255]))
WHITE = (255, 255, 255)


def tiles(*colours: Tensor, height: int = 4, width: int = 6) -> Tensor:
    return torch.stack([c.expand(3, height, width) for c in colours])


def colours_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.unique(np.array(picture).reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize(
    ("value", "byte"),
    [
        (-1.0, 0),  # 0.5, truncated
        (1.0, 255),  # 255.5, clipped
        (0.0, 128),
        (-0.0001, 127),  # 127.98725: truncated, not rounded
        (-3.0, 0),
        (7.0, 255),
        (math.inf, 255),
        (-math.inf, 0),
        (math.nan, 0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_to_uint8(value: float, byte: int, dtype: torch.dtype) -> None:
    got = to_uint8(torch.full((1, 3, 2, 2), value, dtype=dtype))
    assert got.dtype == torch.uint8
    assert got.unique().tolist() == [byte]


def test_bytes_survive_a_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every / 127.5 - 1), every)


def test_grid_places_images_row_by_row() -> None:
    sheet = grid(tiles(RED, GREEN, BLUE), columns=2, pad=1)
    assert sheet.size == (2 * 6 + 3, 2 * 4 + 3)
    assert [sheet.getpixel(p) for p in [(1, 1), (6, 4), (8, 1), (13, 4), (1, 6)]] == [
        (255, 0, 0),
        (255, 0, 0),
        (0, 255, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]
    assert [sheet.getpixel(p) for p in [(0, 0), (7, 2), (3, 5), (8, 6), (14, 10)]] == [WHITE] * 5


@pytest.mark.parametrize(("n", "columns", "size"), [(1, None, (6, 4)), (5, None, (18, 8)), (3, 9, (18, 4))])
def test_grid_size(n: int, columns: int | None, size: tuple[int, int]) -> None:
    assert grid(tiles(*[RED] * n), columns, pad=0).size == size


def test_grid_takes_numbers_and_grey_and_gradients() -> None:
    numbers = torch.linspace(-1, 1, 2 * 3 * 4 * 6).view(2, 3, 4, 6).requires_grad_()
    assert ImageChops.difference(grid(numbers), grid(to_uint8(numbers.detach()))).getbbox() is None
    assert colours_of(grid(torch.zeros(1, 1, 4, 4), pad=0)) == {(128, 128, 128)}


def test_grid_keeps_rows_and_columns_of_a_picture() -> None:
    picture = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(torch.from_numpy(np.array(grid(picture, pad=0))).permute(2, 0, 1)[None], picture)


def test_strip_is_one_row() -> None:
    assert strip(tiles(*[RED] * 5), pad=2).size == (5 * 8 + 2, 8)


@pytest.mark.parametrize(
    ("images", "options", "error", "text"),
    [
        (torch.zeros(3, 4, 4), {}, ValueError, r"images must be \[N, C, H, W\]"),
        (torch.zeros(1, 2, 4, 4), {}, ValueError, r"images must be \[N, 3, H, W\] or .*got \[1, 2, 4, 4\]"),
        (torch.zeros(0, 3, 4, 4), {}, ValueError, "images must hold at least one image"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int32), {}, TypeError, "images must be uint8 or floating point"),
        (torch.zeros(1, 3, 4, 4), {"columns": 0}, ValueError, "columns must be at least 1, got 0"),
        (torch.zeros(1, 3, 4, 4), {"pad": -1}, ValueError, "pad must be at least 0, got -1"),
    ],
)
def test_grid_refuses(images: Tensor, options: dict[str, int], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        grid(images, **options)


def test_labelled_rows() -> None:
    rows = [("first", tiles(RED, RED, height=40, width=40)), ("a longer name", tiles(BLUE, height=20, width=20))]
    sheet = labelled_rows(rows, pad=2)
    pixels = np.array(sheet)
    red, blue = ((pixels == c).all(-1) for c in ((255, 0, 0), (0, 0, 255)))
    assert red.sum() == 2 * 40 * 40
    assert blue.sum() == 20 * 20
    margin = np.nonzero(red.any(0))[0][0]
    assert margin == np.nonzero(blue.any(0))[0][0]  # rows begin at one edge
    label = pixels[:, :margin]
    assert (label < 128).any(-1).any(1)[:44].any()  # dark ink beside the first row ...
    assert (label < 128).any(-1).any(1)[44:].any()  # ... and beside the second
    assert not (label[:, [0, -1]] < 200).any()  # no label is cut off or runs into the pictures
    with pytest.raises(ValueError, match=r"rows must hold at least one \(label, images\), got none"):
        labelled_rows([])


def _lightness(rgb: Tensor) -> Tensor:
    """CIE L* of sRGB bytes [..., 3]."""
    c = rgb.double() / 255
    linear = torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    return torch.where(y > (6 / 29) ** 3, 116 * y ** (1 / 3) - 16, y * (29 / 3) ** 3)


def test_depth_colours_are_even_steps_of_lightness() -> None:
    depth = torch.linspace(1.0, 3.0, 161).view(1, 1, -1)
    lightness = _lightness(depth_picture(depth, 1.0, 3.0)[0, :, 0].T)
    want = torch.linspace(94, 14, 161, dtype=torch.float64)
    assert (lightness - want).abs().max() < 1.0
    assert (lightness.diff() < 0).all()


def test_near_is_warm_and_far_is_cold() -> None:
    ends = depth_picture(torch.tensor([[[1.0, 3.0]]]), 1.0, 3.0)[0, :, 0].int()  # [3, 2]
    assert ends[0, 0] > ends[2, 0] + 40  # red over blue
    assert ends[2, 1] > ends[0, 1] + 40


def test_depth_beyond_the_range_takes_the_end_colours() -> None:
    depth = torch.tensor([[[0.0, 1.0, 3.0, 9.0, math.inf]]])
    got = depth_picture(depth, 1.0, 3.0)[0, :, 0].T.tolist()
    assert got[0] == got[1] == list(pictures._WARMTH[-1])
    assert got[2] == got[3] == got[4] == list(pictures._WARMTH[0])


def test_depth_fades_with_weights() -> None:
    depth = torch.full((2, 3, 4), 1.5)
    full, half, none = (depth_picture(depth, 1.0, 3.0, torch.full_like(depth, w)) for w in (1.0, 0.5, 0.0))
    assert full.shape == (2, 3, 3, 4) and full.dtype == torch.uint8
    assert torch.equal(full, depth_picture(depth, 1.0, 3.0))
    assert (half.int() - full.int() / 2).abs().max() <= 1
    assert not none.any()
    assert not depth_picture(depth * math.nan, 1.0, 3.0).any()


def test_depth_picture_refuses() -> None:
    depth = torch.ones(2, 4, 4)
    with pytest.raises(UserError, match=r"near, far: wanted finite depths with near < far, got 3\.0, 1\.0"):
        depth_picture(depth, 3.0, 1.0)
    with pytest.raises(UserError, match="near, far: wanted finite"):
        depth_picture(depth, 0.0, math.inf)
    with pytest.raises(ValueError, match=r"weights must be \[N, H, W\] with N=2"):
        depth_picture(depth, 0.0, 1.0, depth[:1])
    with pytest.raises(ValueError, match=r"depth must be \[N, H, W\]"):
        depth_picture(depth[0], 0.0, 1.0)


def test_save_png(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "picture.png"
    save_png(grid(tiles(RED)), path)
    save_png(grid(tiles(BLUE)), str(path))  # over an existing file
    with Image.open(path) as back:
        assert back.format == "PNG"
        assert back.getpixel((3, 3)) == (0, 0, 255)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_save_png_leaves_the_old_picture_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    save_png(grid(tiles(RED)), path)
    before = path.read_bytes()

    def full_disk(self: Image.Image, file: Path, **_: object) -> None:
        file.write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(UserError, match=r"picture\.png: .*No space left on device"):
        save_png(grid(tiles(BLUE)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("name", ["file/picture.png", "folder"])
def test_save_png_refuses_with_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: wanted a file that can be written, got "):
        save_png(grid(tiles(RED)), tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
