"""Image files from folders and zips: every ordinary kind of file, and every way to be unusable."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.data import Dataset, open_dataset
from stylenerf.engine.data.decode import UnusableImage, check_header, decode_square
from stylenerf.engine.data.folder import FolderFiles
from stylenerf.engine.data.photos import ImageFiles
from stylenerf.engine.data.zipped import ZipFiles
from stylenerf.engine.errors import UserError
from tests.picture_files import (
    MODES,
    SIDE,
    UNUSABLE,
    encoded,
    open_quietly,
    picture,
    some_pngs,
    write_folder,
    write_zip,
)


def test_wide_picture_is_cropped_to_its_centre() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20, 1] = 200  # only the middle 10 of 30 columns are green
    got = decode_square(encoded(Image.fromarray(pixels)), 10)
    assert (got == np.array([0, 200, 0])).all()


def test_resize_is_lanczos_of_the_square() -> None:
    image = picture(0, 48, 40)
    want = image.crop((4, 0, 44, 40)).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode_square(encoded(image), 16), np.asarray(want))


# Orientation -> how an upright U is stored. 6 says "turn clockwise to show", so U is stored turned the other way.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda u: u,
    2: np.fliplr,
    3: lambda u: np.rot90(u, 2),
    4: np.flipud,
    5: lambda u: u.transpose(1, 0, 2),
    6: lambda u: np.rot90(u, 1),
    7: lambda u: np.rot90(u.transpose(1, 0, 2), 2),
    8: lambda u: np.rot90(u, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = np.asarray(picture(1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    np.testing.assert_array_equal(decode_square(encoded(stored, exif=exif), SIDE), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_picture_as_it_is_stored() -> None:
    data = encoded(picture(1), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_square(data, SIDE), np.asarray(picture(1)))


def test_exif_that_cannot_be_written_again_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](np.asarray(picture(1))))), exif=exif)
    monkeypatch.setattr(Image.Exif, "tobytes", lambda *a, **k: 1 / 0)
    np.testing.assert_array_equal(decode_square(data, SIDE), np.asarray(picture(1)))


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name: str) -> None:
    image, kind, colour = MODES[name]
    got = decode_square(encoded(image, kind), 8)
    assert got.shape == (8, 8, 3) and got.dtype == np.uint8
    assert (got == np.array(colour)).all(), got[0, 0]


def test_16_bits_are_rounded_to_8() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = decode_square(encoded(Image.fromarray(levels)), 256)
    np.testing.assert_array_equal(got[..., 0], np.round(levels / 257))  # 65535 = 255 * 257


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("#ff0000", "#00ff00")]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (decode_square(data, 8) == np.array([255, 0, 0])).all()


def test_jpeg_decoded_at_a_fraction_looks_the_same() -> None:
    smooth = picture(2, 8, 8).resize((640, 640), Image.Resampling.BICUBIC)  # 640 = 10 times 64: decoded at half size
    data = encoded(smooth, "jpeg", quality=95)
    full = Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
    error = np.abs(decode_square(data, 64).astype(int) - np.asarray(full).astype(int))
    assert error.mean() < 0.5 and error.max() <= 3


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_unusable_file_is_named_once_and_counted(name: str, packed: bool, tmp_path: Path) -> None:
    data, reason = UNUSABLE[name]
    files = {**some_pngs(2), f"sub/{name}": data}
    place = write_zip(tmp_path / "a.zip", files) if packed else write_folder(tmp_path / "a", files)
    dataset, lines = open_quietly(place)
    assert len(dataset) == 2
    assert list(dataset.unusable) == [f"sub/{name}"] and reason in dataset.unusable[f"sub/{name}"]
    named = [line for line in lines if name in line]
    assert len(named) == 1 and reason in named[0]
    assert "1 files unusable" in dataset.describe()


def test_dangling_link_is_unusable(tmp_path: Path) -> None:
    write_folder(tmp_path, some_pngs(1))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset, _ = open_quietly(tmp_path)
    assert "unreadable: No such file" in dataset.unusable["gone.png"]


def test_damaged_zip_member_is_unusable(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", some_pngs(2))
    content = bytearray(path.read_bytes())
    spot = content.index(b"img1.png") + 200  # inside the second file's pixels
    content[spot] ^= 0xFF
    path.write_bytes(bytes(content))
    dataset, lines = open_quietly(path)
    assert list(dataset.unusable) == ["img1.png"] and len(lines) == 1
    assert "CRC" in dataset.unusable["img1.png"]


def test_late_failure_is_replaced_by_the_next_image(tmp_path: Path) -> None:
    """With a check of headers only, a file that breaks off shows when it is loaded: the next one stands in."""
    files = {**some_pngs(3), "img1.png": UNUSABLE["cut.png"][0]}
    labels = {"labels": [[name, number] for number, name in enumerate(sorted(files))]}
    write_folder(tmp_path, {**files, "dataset.json": json.dumps(labels).encode()})
    lines: list[str] = []

    def fresh() -> ImageFiles:
        lines.clear()
        return ImageFiles(
            FolderFiles(tmp_path), resolution=SIDE, use_labels=True, report=lines.append, full_check_up_to=0
        )

    dataset = fresh()
    assert not dataset.unusable
    np.testing.assert_array_equal(dataset.image(1, SIDE), np.asarray(picture(2)))
    assert list(dataset.unusable) == ["img1.png"] and "truncated" in dataset.unusable["img1.png"]
    assert len(dataset) == 3 and "1 files unusable" in dataset.describe()
    dataset.image(1, 8)
    assert len(lines) == 1 and "img1.png" in lines[0]
    assert fresh().label(1).tolist() == [0, 0, 1]  # asked before the image: still the stand-in's label


def test_two_threads_that_meet_a_broken_file_name_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {**some_pngs(2), "img0.png": UNUSABLE["cut.png"][0]})
    lines: list[str] = []
    dataset = ImageFiles(
        FolderFiles(tmp_path), resolution=SIDE, mirror=True, report=lines.append, full_check_up_to=0, workers=2
    )
    both = threading.Barrier(2, timeout=120)

    def decode_together(data: bytes, resolution: int) -> np.ndarray:
        if data == UNUSABLE["cut.png"][0]:
            both.wait()
        return decode_square(data, resolution)

    monkeypatch.setattr("stylenerf.engine.data.photos.decode_square", decode_together)
    dataset.map(lambda item: dataset.image(item, SIDE), [0, 2])  # the broken file and its mirrored copy
    assert len(lines) == 1


def test_no_usable_image_left_while_loading(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": UNUSABLE["cut.png"][0]})
    dataset = ImageFiles(FolderFiles(tmp_path), resolution=8, report=lambda line: None, full_check_up_to=0)
    with pytest.raises(UserError, match="wanted at least one usable image, got none that can be decoded"):
        dataset.image(0, 8)


@pytest.mark.parametrize("data", [UNUSABLE["text.jpg"][0], UNUSABLE["tiny.png"][0], UNUSABLE["bomb.png"][0]])
def test_header_alone_tells(data: bytes) -> None:
    with pytest.raises(UnusableImage):
        check_header(io.BytesIO(data))


def test_nested_folder_of_mixed_sizes(tmp_path: Path) -> None:
    files = {
        "b/deep/wide.PNG": encoded(picture(0, 40, 20)),
        "a/tall.jpeg": encoded(picture(1, 20, 50), "jpeg"),
        "c.webp": encoded(picture(2, 33, 17), "webp"),
        "notes.txt": b"no image, and not called one",
        ".hidden.png": b"left out without a word",
    }
    dataset, lines = open_quietly(write_folder(tmp_path, files), resolution=12)
    assert isinstance(dataset, ImageFiles)
    assert [dataset.file_name(i) for i in range(len(dataset))] == ["a/tall.jpeg", "b/deep/wide.PNG", "c.webp"]
    assert {dataset.image(i, 12).shape for i in range(3)} == {(12, 12, 3)}
    assert not dataset.unusable
    assert lines == ["data: 1 files are not images by their names and are ignored (1 .txt)"]


def test_long_check_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenerf.engine.data.photos._PROGRESS_SECONDS", -1.0)
    _, lines = open_quietly(write_folder(tmp_path, {f"{i}.png": encoded(picture(0, 8, 8)) for i in range(70)}), 8)
    assert lines == ["data: checked 64 of 70 images", "data: checked 70 of 70 images"]


def test_enlarged_images_are_mentioned(tmp_path: Path) -> None:
    _, lines = open_quietly(write_folder(tmp_path, some_pngs(2)), resolution=32)
    assert lines == ["data: 2 images are smaller than 32 pixels and are enlarged"]


def test_link_back_up_ends(tmp_path: Path) -> None:
    write_folder(tmp_path, {"sub/a.png": encoded(picture(0))})
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    dataset, _ = open_quietly(tmp_path)
    assert len(dataset) == 1


def test_lower_resolution_is_lanczos_of_full_size(tmp_path: Path) -> None:
    dataset, _ = open_quietly(write_folder(tmp_path, some_pngs(1)))
    want = picture(0).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(dataset.image(0, 8), np.asarray(want))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_same_data_without_cache_threads_and_after_close(packed: bool, tmp_path: Path) -> None:
    files = some_pngs(5)
    place = write_zip(tmp_path / "a.zip", files) if packed else write_folder(tmp_path / "a", files)
    plain, _ = open_quietly(place, cache_bytes=0, workers=1)
    quick, _ = open_quietly(place, workers=3)
    want = plain.batch(1, 0, 10, 8)
    assert torch.equal(quick.batch(1, 0, 10, 8).images, want.images)
    quick.close()
    assert torch.equal(quick.batch(1, 0, 10, 8).images, want.images)
    quick.close()


def read_all(dataset: Dataset) -> None:
    for index in range(len(dataset)):
        np.testing.assert_array_equal(dataset.image(index, SIDE), np.asarray(picture(index)))


def test_child_process_does_not_move_the_parents_place_in_the_zip(tmp_path: Path) -> None:
    files = ZipFiles(write_zip(tmp_path / "a.zip", some_pngs(4)))
    dataset = ImageFiles(files, resolution=SIDE, report=print, cache_bytes=0, workers=1)
    assert files._handle is not None and files._handle[1].fp is not None
    parents = files._handle[1].fp.fileno()
    place = os.lseek(parents, 0, os.SEEK_SET)
    child = multiprocessing.get_context("fork").Process(target=read_all, args=(dataset,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.lseek(parents, 0, os.SEEK_CUR) == place


def test_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    dataset = open_dataset(str(write_zip(tmp_path / "a.zip", some_pngs(2))), resolution=SIDE)
    read_all(pickle.loads(pickle.dumps(dataset)))


def _truncated_zip(root: Path) -> Path:
    path = write_zip(root / "cut.zip", some_pngs(3))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _text_zip(root: Path) -> Path:
    (root / "fake.zip").write_text("no archive")
    return root / "fake.zip"


BAD_PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda root: root / "nowhere", "data: wanted 'procedural', a folder of images or a zip, got .*nowhere"),
    "empty folder": (lambda root: root, "data: wanted images .*, got none among the 0 files"),
    "no images": (lambda root: write_folder(root, {"a.txt": b"x"}), "data: wanted images .* none among the 1 files"),
    "all broken": (
        lambda root: write_folder(root, {"a.png": b"x", "b.png": b""}),
        "data: wanted at least one usable image, got none of 2",
    ),
    "truncated zip": (_truncated_zip, "data: wanted a folder of images or a complete zip archive, got .*cut.zip"),
    "not a zip": (_text_zip, "data: wanted a folder of images or a complete zip archive, got .*fake.zip"),
    "empty zip": (lambda root: write_zip(root / "a.zip", {}), "data: wanted images .*, got none among the 0 files"),
    "zip without images": (lambda root: write_zip(root / "a.zip", {"a.md": b"x"}), "none among the 1 files"),
}


@pytest.mark.parametrize("name", BAD_PLACES)
def test_nothing_to_train_on_is_one_line(name: str, tmp_path: Path) -> None:
    make, message = BAD_PLACES[name]
    with pytest.raises(UserError, match=message) as caught:
        open_quietly(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_resolution_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resolution: wanted at least 1, got 0"):
        open_quietly(tmp_path, resolution=0)
