"""What comes with images and in which order: labels, cameras, epochs, mirrored copies, the cache."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stylenerf.engine.data import Dataset, camera_from_label, label_from_camera
from stylenerf.engine.data.base import ByteCache, epoch_order, scramble
from stylenerf.engine.data.labels import mirror_label
from stylenerf.engine.errors import UserError
from stylenerf.models.camera import Camera
from tests.closeness import assert_relative
from tests.picture_files import SIDE, open_quietly, picture, some_pngs, write_folder, write_zip


def front_label() -> list[float]:
    """EG3D's front view from distance 2.7: at +z, looking along -z with y down; focal length 4.2647 image widths."""
    pose = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1]
    return [float(v) for v in pose] + [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


def labelled(tmp_path: Path, labels: object, *, folder: str = "", packed: bool = True) -> Dataset:
    files = {folder + name: data for name, data in some_pngs(2).items()}
    files[folder + "dataset.json"] = json.dumps({"labels": labels}).encode()
    place = write_zip(tmp_path / "a.zip", files) if packed else write_folder(tmp_path / "a", files)
    return open_quietly(place, use_labels=True)[0]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("folder", ["", "deep/er/"])
@pytest.mark.parametrize("as_dict", [False, True])
def test_class_numbers_become_one_hot(tmp_path: Path, packed: bool, folder: str, as_dict: bool) -> None:
    table = {"img0.png": 2, "img1.png": 0}
    dataset = labelled(tmp_path, table if as_dict else list(table.items()), folder=folder, packed=packed)
    assert dataset.label_dim == 3
    assert dataset.label(0).tolist() == [0, 0, 1] and dataset.label(1).tolist() == [1, 0, 0]


def with_numbers(**numbers: float) -> list[float]:
    label = front_label()
    for name, value in numbers.items():
        label[int(name[1:])] = value
    return label


def one_hot(place: int) -> list[float]:
    return [float(i == place) for i in range(25)]


KINDS: dict[str, tuple[object, object, str]] = {
    "class": (3, 0, "class"),
    "vector": ([1.0, 2.0], [3.0, 4.0], "vector"),
    "one-hot rows": ([0, 1], [1, 0], "vector"),
    "25 numbers": ([float(i) for i in range(25)], [0.5] * 25, "vector"),
    "one-hot rows of 25": (one_hot(15), one_hot(24), "vector"),
    "a pose of zeros": ([*[0.0] * 15, 1, *[0.0] * 8, 1], [*[0.0] * 15, 1, *[0.0] * 8, 1], "vector"),
    "24 numbers": (front_label()[:24], front_label()[:24], "vector"),
    "camera": (front_label(), with_numbers(n3=0.1), "camera"),
    "camera with a rounded last row": (with_numbers(n12=1e-6), front_label(), "camera"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_of_labels(name: str, tmp_path: Path) -> None:
    first, second, kind = KINDS[name]
    assert labelled(tmp_path, {"img0.png": first, "img1.png": second}).label_kind == kind


def test_kind_of_data_without_labels(tmp_path: Path) -> None:
    assert open_quietly(write_folder(tmp_path, some_pngs(1)))[0].label_kind == "none"


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (16, 0.0, "wanted positive focal lengths"),
        (0, -1.0, "wanted a right-handed rotation"),
        (15, 0.0, "wanted 0 0 0 1 as the last row"),
        (22, 1.0, "wanted intrinsics f 0 0.5"),
        (11, -2.7, "wanted a camera-to-world matrix"),
    ],
)
def test_a_label_that_is_no_camera_among_cameras(number: int, value: float, message: str, tmp_path: Path) -> None:
    labels = {"img0.png": front_label(), "img1.png": with_numbers(**{f"n{number}": value})}
    with pytest.raises(UserError, match=f"data: dataset.json: the camera label of img1.png: {message}"):
        labelled(tmp_path, labels)


def test_a_vector_is_not_mirrored(tmp_path: Path) -> None:
    """Not even one whose first 16 numbers are a pose."""
    vector = [*front_label()[:22], 0.25, 0.5, 0.75]
    files = {**some_pngs(1), "dataset.json": json.dumps({"labels": {"img0.png": vector}}).encode()}
    dataset = open_quietly(write_folder(tmp_path, files), use_labels=True, mirror=True)[0]
    assert dataset.label_kind == "vector" and dataset.label(0).tolist() == dataset.label(1).tolist()


def test_vectors_are_kept_and_follow_the_images(tmp_path: Path) -> None:
    dataset = labelled(tmp_path, [["img1.png", [7, 8.5]], ["img0.png", [5, 6]]])
    batch = dataset.batch(0, 0, 2, SIDE)
    by_label = {tuple(label.tolist()): image for label, image in zip(batch.labels, batch.images)}
    assert set(by_label) == {(5.0, 6.0), (7.0, 8.5)}
    np.testing.assert_array_equal(by_label[7.0, 8.5].permute(1, 2, 0).numpy(), np.asarray(picture(1)))


BAD_LABELS: dict[str, tuple[object, str]] = {
    "null": (None, r'wanted dataset.json to hold {"labels": .*got labels of type NoneType'),
    "odd entry": ([["img0.png"]], "got the entry"),
    "missing": ([["img0.png", 1]], "label in dataset.json for every image, got none for 1 of 2, the first is img1.png"),
    "mixture": ([["img0.png", 1], ["img1.png", [1.0]]], "labels of one kind .* got a mixture"),
    "two lengths": ([["img0.png", [1, 2]], ["img1.png", [1.0]]], "got a mixture"),
    "negative": ([["img0.png", 1], ["img1.png", -1]], "got -1 for img1.png"),
    "text": ([["img0.png", "cat"], ["img1.png", "dog"]], "got 'cat' for img0.png"),
    "nan": ([["img0.png", [math.nan]], ["img1.png", [0.0]]], "got .nan. for img0.png"),
    "huge": ([["img0.png", [10**400]], ["img1.png", [0.0]]], "for img0.png"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_refused(name: str, tmp_path: Path) -> None:
    labels, message = BAD_LABELS[name]
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, labels)


def test_labels_wanted_but_absent_or_unreadable(tmp_path: Path) -> None:
    write_folder(tmp_path, some_pngs(1))
    with pytest.raises(UserError, match=r"data: wanted labels in a dataset.json, got no such file"):
        open_quietly(tmp_path, use_labels=True)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="got no readable JSON"):
        open_quietly(tmp_path, use_labels=True)


def test_unusable_file_needs_no_label(tmp_path: Path) -> None:
    files = {**some_pngs(1), "bad.png": b"x", "dataset.json": b'{"labels": {"img0.png": 0}}'}
    dataset, _ = open_quietly(write_folder(tmp_path, files), use_labels=True)
    assert len(dataset) == 1 and dataset.label_dim == 1


def test_eg3d_front_view_is_our_front_view() -> None:
    got = camera_from_label(torch.tensor(front_label()))
    want = Camera.orbit(math.pi / 2, 0.0, 2.7, fov_deg=math.degrees(2 * math.atan(0.5 / 4.2647)))
    assert_relative("cam2world", got.cam2world, want.cam2world, 1e-6)
    assert_relative("tan_half_fov", got.tan_half_fov, want.tan_half_fov, 1e-6)


def test_eg3d_up_is_our_up_and_right_is_right() -> None:
    """EG3D's point (x right, y up, towards the camera) of the front view lies at our (z', x', y')."""
    label = front_label()
    label[3], label[7] = 0.25, 0.5  # the camera moves right and up
    assert_relative("position", camera_from_label(torch.tensor(label)).position, torch.tensor([[2.7, 0.25, 0.5]]), 1e-6)


def test_camera_labels_come_back() -> None:
    camera = Camera.orbit(torch.tensor([1.3, 1.7]), torch.tensor([0.4, -2.0]), 1.5, fov_deg=25)
    back = camera_from_label(label_from_camera(camera))
    assert_relative("cam2world", back.cam2world, camera.cam2world, 1e-6)
    assert_relative("tan_half_fov", back.tan_half_fov, camera.tan_half_fov, 1e-6)


def test_mirrored_camera_label_is_the_opposite_yaw() -> None:
    label, want = (label_from_camera(Camera.orbit(1.4, yaw, 2.0, fov_deg=20))[0] for yaw in (0.3, -0.3))
    assert_relative("label", torch.from_numpy(mirror_label(label.numpy())), want, 1e-6)


@pytest.mark.parametrize("shape", [(24,), (2, 2, 25)])
def test_camera_from_label_wants_25_numbers(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"label must be \[25\] or \[B, 25\], got"):
        camera_from_label(torch.zeros(shape))


def changed(**numbers: float) -> torch.Tensor:
    """Three labels, in the second of which some numbers differ: n3=0.5 is its number 3."""
    labels = torch.tensor([front_label()] * 3, dtype=torch.float64)
    for name, value in numbers.items():
        labels[1, int(name[1:])] = value
    return labels


def world_to_camera() -> torch.Tensor:
    label = label_from_camera(Camera.orbit(1.4, 0.5, 2.7, fov_deg=13))
    return torch.cat([torch.linalg.inv(label[:, :16].reshape(1, 4, 4)).reshape(1, 16), label[:, 16:]], dim=1)


NO_CAMERAS = {
    "nan": (lambda: changed(n3=math.nan), "label 1: wanted finite numbers in cam2world"),
    "nan focal length": (lambda: changed(n16=math.nan), "label 1: wanted positive focal lengths"),
    "focal length 0": (lambda: changed(n20=0.0), "label 1: wanted positive focal lengths"),
    "focal length below 0": (lambda: changed(n16=-4.0), "label 1: wanted positive focal lengths"),
    "skew": (lambda: changed(n17=0.1), "label 1: wanted intrinsics f 0 0.5"),
    "off centre": (lambda: changed(n18=0.4), "label 1: wanted intrinsics f 0 0.5"),
    "left-handed": (lambda: changed(n0=-1.0), "label 1: wanted a right-handed rotation in cam2world"),
    "scaled": (lambda: changed(n0=2.0), "label 1: wanted a rotation in cam2world"),
    "last row": (lambda: changed(n14=1.0), "label 1: wanted 0 0 0 1 as the last row of cam2world"),
    "at the origin": (lambda: changed(n11=0.0), "label 1: wanted a position away from the origin"),
    "world to camera": (
        world_to_camera,
        "label 0: wanted a camera-to-world matrix .not world-to-camera. that looks at",
    ),
    "behind": (
        lambda: changed(n11=-2.7),
        "label 1: wanted a camera-to-world matrix .not world-to-camera. that looks at",
    ),
}


@pytest.mark.parametrize("name", NO_CAMERAS)
def test_labels_that_are_no_cameras_are_refused(name: str) -> None:
    make, message = NO_CAMERAS[name]
    with pytest.raises(ValueError, match=message):
        camera_from_label(make())


def test_rounded_pose_is_a_pose_and_is_mirrored() -> None:
    label = label_from_camera(Camera.orbit(1.4, 0.3, 2.0, fov_deg=20))[0]
    label[12:16] += 1e-9 * torch.tensor([1.0, -1, 1, 0])
    mirrored = camera_from_label(mirror_label(label.numpy()))
    want = Camera.orbit(1.4, -0.3, 2.0, fov_deg=20)
    assert_relative("cam2world", mirrored.cam2world, want.cam2world, 1e-6)


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_epoch_is_a_permutation(length: int) -> None:
    orders = [epoch_order(3, epoch, length).tolist() for epoch in (0, 1)]
    assert all(sorted(order) == list(range(length)) for order in orders)
    assert length < 7 or orders[0] != orders[1]


def test_order_never_changes() -> None:
    """Written down once: another order would make a resumed run see other data than its first half."""
    assert scramble(0, 0) == 5104172916443561106
    assert epoch_order(0, 0, 8).tolist() == [1, 3, 5, 0, 2, 7, 4, 6]


def test_order_is_uniform_over_places() -> None:
    """Item 0 comes at each of 8 places in 1/8 of 4000 epochs: 500 +- 5 standard deviations of 21."""
    places = np.array([np.flatnonzero(epoch_order(1, epoch, 8) == 0)[0] for epoch in range(4000)])
    assert np.abs(np.bincount(places, minlength=8) - 500).max() < 105


@pytest.fixture
def mirrored(tmp_path: Path) -> Dataset:
    return open_quietly(write_folder(tmp_path, some_pngs(5)), mirror=True)[0]


def test_each_epoch_shows_every_item_once(mirrored: Dataset) -> None:
    assert sorted(mirrored.order(0, 0, 10)) == list(range(10))
    assert sorted(mirrored.order(0, 10, 10)) == list(range(10))
    assert mirrored.order(0, 0, 10) != mirrored.order(1, 0, 10)


@pytest.mark.parametrize("shown", [0, 3, 9, 10, 23])
def test_resumed_equals_continued(mirrored: Dataset, shown: int) -> None:
    continued = mirrored.batch(7, 0, shown + 6, 8).images[shown:]
    assert torch.equal(mirrored.batch(7, shown, 6, 8).images, continued)


def test_batch_layout(mirrored: Dataset) -> None:
    batch = mirrored.batch(0, 4, 3, 8)
    assert batch.images.shape == (3, 3, 8, 8) and batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
    assert batch.labels.shape == (3, 0) and batch.labels.dtype == torch.float32
    first = mirrored.image(mirrored.order(0, 4, 1)[0], 8)
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), first)


@pytest.mark.parametrize("resolution", [SIDE, 8, 5])
def test_mirrored_copy_is_the_flip(mirrored: Dataset, resolution: int) -> None:
    plain, copy = mirrored.image(2, resolution), mirrored.image(7, resolution)
    np.testing.assert_array_equal(copy, plain[:, ::-1])
    assert (copy != plain).any()
    assert "mirrored to 10" in mirrored.describe()


@pytest.mark.parametrize("resolution", [0, SIDE + 1])
def test_resolution_out_of_range(mirrored: Dataset, resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution must be between 1 and {SIDE}, got {resolution}"):
        mirrored.image(0, resolution)


@pytest.mark.parametrize("index", [-1, 10])
def test_index_out_of_range(mirrored: Dataset, index: int) -> None:
    with pytest.raises(IndexError, match=f"index must be between 0 and 9, got {index}"):
        mirrored.image(index, 8)


def test_cache_stays_below_its_limit_and_keeps_the_newest() -> None:
    cache = ByteCache(250)
    arrays = [np.full(100, i, dtype=np.uint8) for i in range(3)]
    cache.put("a", arrays[0])
    cache.put("b", arrays[1])
    assert cache.get("a") is arrays[0]  # now "b" is the one not used for longest
    cache.put("c", arrays[2])
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None
    cache.put("d", np.zeros(251, dtype=np.uint8))
    assert cache.get("d") is None and cache.used == 200


def test_cached_image_is_not_decoded_again(tmp_path: Path) -> None:
    dataset, _ = open_quietly(write_folder(tmp_path, some_pngs(1)))
    (tmp_path / "img0.png").unlink()
    np.testing.assert_array_equal(dataset.image(0, SIDE), np.asarray(picture(0)))


def test_cached_image_cannot_be_spoilt(mirrored: Dataset) -> None:
    with pytest.raises(ValueError, match="read-only"):
        mirrored.image(0, SIDE)[0] = 0
