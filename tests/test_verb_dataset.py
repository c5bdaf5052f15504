"""``stylenerf dataset``: every kind of picture to a set that training reads, stopped and resumed; checks of sets."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.command_line.main import main, train_main
from stylenerf.engine.command_line.verbs.dataset_advice import advice, command
from stylenerf.engine.data import label_from_camera
from stylenerf.engine.data.prepare import job
from stylenerf.engine.data.prepare import picture as pictures
from stylenerf.engine.data.prepare.duplicates import Duplicates
from stylenerf.engine.data.prepare.picture import LeftOut, Recipe, cut
from stylenerf.models.camera import Camera
from tests.conftest import ROOT
from tests.picture_files import MODES, UNUSABLE, encoded, open_quietly, picture, write_folder, write_zip
from tests.runs import PATIENCE_S, digests


def smooth(number: int, width: int = 48, height: int = 48) -> Image.Image:
    """A picture without fine detail, which looks the same when it is resized or saved as a JPEG."""
    return picture(number, 6, 6).resize((width, height), Image.Resampling.BICUBIC)


def hostile() -> dict[str, bytes]:
    """Every form that is read, every one that is not, odd names and sizes, copies."""
    return {
        **{f"modes/{name}.{kind}": encoded(image, kind) for name, (image, kind, _) in MODES.items()},
        **{f"bad/{name}": data for name, (data, _) in UNUSABLE.items()},
        "wide.jpg": encoded(smooth(1, 60, 20), "jpeg"),
        "huge.jpg": encoded(smooth(2, 400, 320), "jpeg"),
        "a\tb.png": encoded(smooth(3)),
        "e\u0301.webp": encoded(smooth(4), "webp"),
        "small.png": encoded(picture(5, 12, 40)),
        "z/copy of 3.bmp": encoded(smooth(3), "bmp"),
        "z/like 4.jpg": encoded(smooth(4, 90, 90), "jpeg"),
        ".hidden.png": b"",
        "notes.txt": b"no picture",
    }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who has pictures of all kinds."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", hostile())
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere.png")
    return tmp_path


def dataset(arguments: str) -> int:
    return main(["dataset", "--no-progress", *arguments.split()])


def members(path: str = "set.zip") -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(members()["manifest.json"])
    return content


def pixels(name: str) -> np.ndarray:
    with zipfile.ZipFile("set.zip") as archive, archive.open(name) as file:
        return np.asarray(Image.open(file))


COPIES = ("modes/16 bits tiff.tiff", "modes/grey with alpha.png", "modes/palette with hole.png", "z/copy of 3.bmp")
HOSTILE = "photos --resolution 16 --near-duplicates 4"


def test_a_hostile_folder(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dataset(f"{HOSTILE} --out set.zip") == 0
    said = capsys.readouterr().out
    assert "left out:    8 unusable, 4 duplicates, 1 too small, 1 near-duplicates\n" in said
    assert "kept:        11 pictures, 16 px, labels: none\n" in said and "a\tb" not in said
    noted = {entry["source"]: (entry["kind"], entry["reason"]) for entry in manifest()["left_out"]}
    kinds = {name: kind for name, (kind, _) in noted.items()}
    assert kinds == {
        **{f"bad/{name}": "unusable" for name in UNUSABLE},
        "gone.png": "unusable",
        **dict.fromkeys(COPIES, "duplicates"),
        "small.png": "too small",
        "\u00e9.webp": "near-duplicates",  # comes after z
    }
    assert all(re.search(reason, noted[f"bad/{name}"][1]) for name, (_, reason) in UNUSABLE.items())
    assert noted["z/copy of 3.bmp"][1] == "the same pixels as a\tb.png"
    assert re.fullmatch(r"looks like z/like 4.jpg \([0-4] of 64 bits differ\)", noted["\u00e9.webp"][1])
    kept = [entry["source"] for entry in manifest()["images"]]
    assert kept == sorted(kept) and {*hostile(), "\u00e9.webp"} - {"e\u0301.webp"} == {
        *kept, *noted, ".hidden.png", "notes.txt"
    } - {"gone.png"}  # fmt: skip
    assert set(os.listdir()) == {"photos", "set.zip", "set.png"}
    assert dataset("--check set.zip") == 0 and capsys.readouterr().out.endswith("result:      sound\n")


def test_the_manifest_tells_sources_and_squares(desk: Path) -> None:
    assert dataset(f"{HOSTILE} --out set.zip --enlarge") == 0
    by_source = {entry["source"]: entry for entry in manifest()["images"]}
    huge = by_source["huge.jpg"]  # decoded at a fraction of its size, told in pixels of the file
    assert (huge["source_size"], huge["square"]) == ([400, 320], [40, 0, 320])
    assert (by_source["small.png"]["source_size"], by_source["small.png"]["square"]) == ([12, 40], [0, 14, 12])
    source, inside = digests(Path("photos")), members()
    del inside["manifest.json"]
    assert huge["source_sha256"] == source["huge.jpg"] and set(inside) == {e["file"] for e in by_source.values()}
    colours = np.stack([pixels(name) for name in inside]).reshape(-1, 3).astype(float)
    statistics = manifest()["statistics"]
    np.testing.assert_allclose(statistics["mean"], colours.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(statistics["deviation"], colours.std(axis=0), atol=1e-3)
    grey = [name for name in inside if np.ptp(pixels(name).astype(int), axis=2).max() <= 8]
    assert statistics["grey"] == round(len(grey) / len(inside), 4) and 0 < len(grey) < len(inside)


def count_cuts(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> list[str]:
    """Names of the pictures that are cut; Ctrl-C at number ``stop_at``."""
    names: list[str] = []
    lock = threading.Lock()

    def counted(name: str, data: bytes, recipe: Recipe) -> Any:
        with lock:
            names.append(name)
            if len(names) == stop_at:
                raise KeyboardInterrupt
        return cut(name, data, recipe)

    monkeypatch.setattr(pictures, "cut", counted)
    return names


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stopped_set_goes_on_to_the_same_bytes(workers: int, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset(f"{HOSTILE} --out whole.zip --workers 2") == 0
    names = count_cuts(monkeypatch, stop_at=9)
    assert dataset(f"{HOSTILE} --out set.zip --workers {workers}") == 130
    assert not Path("set.zip").exists() and not Path("set.png").exists() and Path(".set.zip.work").is_dir()
    assert not list(Path(".set.zip.work").rglob("*.part"))
    done = sorted(path for path in Path(".set.zip.work").rglob("*") if path.is_file())
    assert done
    done[0].write_bytes(done[0].read_bytes()[:-1])  # as a disk may leave it
    before = len(names)
    assert dataset(f"{HOSTILE} --out set.zip --workers {workers}") == 0
    unusable = len(UNUSABLE) - 1  # one has no bytes to cut
    assert len(names) - before <= len(hostile()) - 3 - len(done) + 1 and unusable <= len(names) - before
    assert Path("set.zip").read_bytes() == Path("whole.zip").read_bytes()
    assert Path("set.png").read_bytes() == Path("whole.png").read_bytes()
    assert not Path(".set.zip.work").exists()


def test_a_set_stopped_while_it_is_written_goes_on(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    assert dataset(f"{HOSTILE} --out whole.zip") == 0
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_set", interrupted)
        assert dataset(f"{HOSTILE} --out set.zip") == 130
    assert Path("set.png").exists() and not Path("set.zip").exists()
    names = count_cuts(monkeypatch, stop_at=-1)
    assert dataset(f"{HOSTILE} --out set.zip") == 0
    assert Path("set.zip").read_bytes() == Path("whole.zip").read_bytes()
    assert all(name.startswith("bad/") or name == "small.png" for name in names)


@pytest.mark.slow
def test_a_killed_set_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", {f"{i}.png": encoded(smooth(i, 160, 160)) for i in range(100)})
    words = [sys.executable, "-m", "stylenerf", "dataset", str(tmp_path / "photos"), "--resolution", "128", "--out"]
    killed = subprocess.Popen([*words, str(tmp_path / "set.zip")], cwd=ROOT)
    until = time.monotonic() + PATIENCE_S
    while sum(path.is_file() for path in tmp_path.glob(".set.zip.work/*/*")) < 10 and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not Path("set.zip").exists()
    assert dataset("photos --resolution 128 --out set.zip") == 0
    assert dataset("photos --resolution 128 --out whole.zip") == 0
    assert Path("set.zip").read_bytes() == Path("whole.zip").read_bytes()


def test_the_set_trains_as_its_pictures_and_their_sources_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {f"{i}.jpg": encoded(smooth(i, 50 + i, 80 - i), "jpeg") for i in range(9)}
    labels = {"labels": {name: i % 3 for i, name in enumerate(files)}}
    write_folder(tmp_path / "photos", {**files, "dataset.json": json.dumps(labels).encode()})
    assert dataset("photos --resolution 32 --out set.zip") == 0
    write_folder(tmp_path / "unpacked", members())
    opened = [open_quietly(tmp_path / p, 32, use_labels=True, mirror=True) for p in ("set.zip", "unpacked", "photos")]
    assert [lines for _, lines in opened] == [[], [], []]
    for shown in (0, 12):
        batches = [data.batch(3, shown, 12, 32) for data, _ in opened]
        assert all(torch.equal(b.images, batches[0].images) for b in batches)
        assert all(torch.equal(b.labels, batches[0].labels) for b in batches)
    assert batches[0].labels.shape == (12, 3)


POINT = np.array([0.05, 0.12, -0.03, 1.0])  # in EG3D's world


def project(label: list[float]) -> np.ndarray:
    """Where a camera sees ``POINT``, in fractions of its picture."""
    pose, intrinsics = np.array(label[:16]).reshape(4, 4), np.array(label[16:]).reshape(3, 3)
    x = intrinsics @ (np.linalg.inv(pose) @ POINT)[:3]
    return x[:2] / x[2]


def camera_label(width: int, height: int, focal: float, centre: tuple[float, float]) -> list[float]:
    """A camera with a focal length and a principal point in pixels of the whole picture."""
    label: list[float] = label_from_camera(Camera.orbit(1.4, 0.3, 2.7, fov_deg=20))[0].double().tolist()
    label[16:22] = [focal / width, 0, centre[0] / width, 0, focal / height, centre[1] / height]
    return label


def spot_on(width: int, height: int, label: list[float]) -> tuple[Image.Image, np.ndarray]:
    """A picture of ``POINT``, a soft white spot, and where it is in pixels."""
    at = project(label) * [width, height]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    light = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 8)
    return Image.fromarray(np.repeat(light[..., None], 3, axis=2).round().astype(np.uint8)), at


def middle_of_light(image: np.ndarray) -> np.ndarray:
    """The spot's place in fractions of the picture."""
    light = image[..., 0].astype(float)
    place = np.arange(len(light)) + 0.5
    return np.array([light.sum(axis=0) @ place, light.sum(axis=1) @ place]) / light.sum() / len(light)


SQUARES: dict[str, tuple[int, int, tuple[float, float], list[float] | None]] = {
    "box": (100, 80, (62.0, 41.0), [30, 9, 64]),
    "box between pixels": (100, 80, (60.25, 41.5), [28.25, 9.5, 64]),
    "middle": (120, 80, (60.0, 40.0), None),
    "half a pixel": (91, 64, (45.5, 32.0), None),
    "upright": (64, 91, (32.0, 45.5), None),
    "whole": (64, 64, (32.0, 32.0), [0, 0, 64]),
}


@pytest.mark.parametrize("case", SQUARES)
def test_camera_labels_follow_the_square(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    width, height, centre, box = SQUARES[case]
    label = camera_label(width, height, 190.0, centre)
    image, at = spot_on(width, height, label)
    text = json.dumps({"labels": {"a.png": label}}).encode()
    write_folder(tmp_path / "photos", {"a.png": encoded(image), "dataset.json": text})
    (tmp_path / "boxes.json").write_text(json.dumps({"a.png": box}))
    assert dataset(f"photos --resolution 32 --out set.zip {'--crop boxes.json' if box else ''}") == 0
    ((name, got),) = json.loads(members()["dataset.json"])["labels"]
    side = box[2] if box else min(width, height)
    corner = np.array(box[:2]) if box else (np.array([width, height]) - side) / 2
    np.testing.assert_allclose(project(got), (at - corner) / side, atol=1e-9)
    np.testing.assert_allclose(middle_of_light(pixels(name)), project(got), atol=0.1 / 32)  # a tenth of a pixel
    assert got[:16] == label[:16] and got[18] == got[21] == 0.5
    assert open_quietly(tmp_path / "set.zip", 32, use_labels=True)[0].label_kind == "camera"


def test_a_square_that_no_camera_of_training_sees_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = {name: camera_label(64, 64, 190.0, (32.0, 32.0)) for name in ("a.png", "b.png")}
    files = {name: encoded(smooth(i, 64, 64)) for i, name in enumerate(["a.png", "b.png", "c.png"])}
    write_folder(tmp_path / "photos", {**files, "dataset.json": json.dumps({"labels": labels}).encode()})
    (tmp_path / "boxes.csv").write_text("name,left,top,side\na.png,10,4,32\nb.png,16,16,32\nc.png,16,16,32\n")
    assert dataset("photos --resolution 32 --out set.zip --crop boxes.csv") == 0
    noted = {entry["source"]: (entry["kind"], entry["reason"]) for entry in manifest()["left_out"]}
    assert noted["c.png"] == ("without a label", "no label") and noted["a.png"][0] == "without a possible camera"
    assert "wanted intrinsics f 0 0.5" in noted["a.png"][1] and len(manifest()["images"]) == 1
    assert dataset("photos --resolution 32 --out all.zip --crop boxes.csv --no-labels") == 0
    assert "dataset.json" not in members("all.zip") and len(members("all.zip")) == 4


def test_boxes_count_upright_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    upright = np.asarray(smooth(1, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(np.ascontiguousarray(np.rot90(upright))), exif=exif)
    files = {"b/turned.png": turned, "c.png": turned, "no box.png": encoded(smooth(2)), "edge.png": encoded(smooth(3))}
    write_zip(tmp_path / "photos.zip", files)
    boxes = {"b\\turned.png": [4, 20, 32], "c.png": [0, 0, 40], "edge.png": [20, 0, 32], "lost.png": [0, 0, 9]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert dataset("photos.zip --resolution 32 --out set.zip --crop boxes.json") == 0
    np.testing.assert_array_equal(pixels("00000/img00000000.png"), upright[20:52, 4:36])
    resized = Image.fromarray(upright[:40]).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels("00000/img00000001.png"), np.asarray(resized))
    assert [entry["source_size"] for entry in manifest()["images"]] == [[40, 60]] * 2
    kinds = {entry["source"]: entry["kind"] for entry in manifest()["left_out"]}
    assert kinds == {"no box.png": "without a box", "edge.png": "beyond the edge"}


def test_without_a_crop_pictures_must_be_square(desk: Path) -> None:
    assert dataset("photos --resolution 16 --out set.zip --crop none") == 0
    kinds = {entry["source"]: entry["kind"] for entry in manifest()["left_out"]}
    assert {name for name, kind in kinds.items() if kind == "not square"} == {"wide.jpg", "huge.jpg", "small.png"}


@pytest.mark.parametrize(("near", "flips"), [(0, 0.01), (3, 0.03), (10, 0.08)])
def test_near_duplicates_are_all_found(near: int, flips: float) -> None:
    """All pairs of pictures, compared bit by bit."""
    draw = np.random.default_rng(near)
    facts = cut("a", encoded(picture(0)), Recipe(16, "centre", False, False))[0]
    bases = draw.integers(0, 2, (20, 64))
    looks = [int("".join(map(str, b ^ (draw.random(64) < flips))), 2) for b in bases[draw.integers(0, 20, 300)]]
    kept: list[int] = []
    duplicates, agreed = Duplicates(near), []
    for i, look in enumerate(looks):
        want = not any((look ^ other).bit_count() <= near for other in kept)
        if want:
            kept.append(look)
        try:
            duplicates.admit(str(i), facts._replace(look=look, pixels_sha256=str(i)))
            agreed.append(want)
        except LeftOut:
            agreed.append(not want)
    assert all(agreed) and 20 <= len(kept) < 300


def test_plain_areas_of_two_colours_are_not_alike() -> None:
    recipe, duplicates = Recipe(16, "centre", False, False), Duplicates(16)
    for colour in ("red", "blue"):
        duplicates.admit(colour, cut(colour, encoded(Image.new("RGB", (16, 16), colour)), recipe)[0])
    with pytest.raises(LeftOut, match="looks like blue"):
        duplicates.admit("navy", cut("navy", encoded(Image.new("RGB", (16, 16), (0, 0, 250))), recipe)[0])


Files = dict[str, bytes]
FIRST = "00000/img00000000.png"
STRANGE = {"00000/new.png": encoded(picture(7))}
# what becomes of the files of a set, and the fault that it is
FAULTS: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another picture": (lambda f: f | {FIRST: encoded(picture(77))}, f"{FIRST}: other bytes than manifest.json notes"),
    "a broken picture": (lambda f: f | {FIRST: f[FIRST][:300]}, f"{FIRST}: .*truncated"),
    "no picture": (lambda f: f | {FIRST: b"x"}, f"{FIRST}: not an image"),
    "not square": (lambda f: f | {FIRST: encoded(picture(7, 16, 20))}, f"{FIRST}: not square: 16x20"),
    "another size": (lambda f: f | {FIRST: encoded(picture(7, 8, 8))}, f"{FIRST}: 8 pixels, most have 16"),
    "a lost picture": (lambda f: without(f, FIRST), f"{FIRST}: in manifest.json, but not in the set"),
    "a label too many": (lambda f: without(f, FIRST), f"{FIRST}: a label in dataset.json without a picture"),
    "a strange picture": (lambda f: f | STRANGE, "00000/new.png: not in manifest.json"),
    "a label too few": (lambda f: f | STRANGE, "wanted a label in dataset.json for every image, got none for 1 of 3"),
    "another label": (
        lambda f: f | {"dataset.json": f["dataset.json"].replace(b"1]", b"0]")},
        "dataset.json: other bytes than manifest.json notes",
    ),
    "labels lost": (lambda f: without(f, "dataset.json"), "labels: not as manifest.json notes"),
    "a broken manifest": (lambda f: f | {"manifest.json": b"{"}, "manifest.json: wanted the manifest of a set"),
    "odd size": (lambda f: {"a.png": encoded(picture(1, 20, 20))}, "all: wanted a side that is a power of two, got 20"),
}


def without(files: Files, *names: str) -> Files:
    return {name: data for name, data in files.items() if name not in names}


@pytest.fixture(scope="module")
def two_labelled(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The members of a set of two pictures."""
    root = tmp_path_factory.mktemp("labelled")
    labels = {"labels": [["a.png", 0], ["b.png", 1]]}
    files = {"a.png": encoded(picture(0)), "b.png": encoded(picture(1)), "dataset.json": json.dumps(labels).encode()}
    write_folder(root / "photos", files)
    assert dataset(f"{root}/photos --resolution 16 --out {root}/set.zip") == 0
    return members(f"{root}/set.zip")


@pytest.mark.parametrize("case", FAULTS)
def test_a_check_finds(case: str, two_labelled: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, fault = FAULTS[case]
    assert dataset(f"--check {write_zip(tmp_path / 'set.zip', change(two_labelled))}") == 1
    out = capsys.readouterr().out
    assert re.search(f"^fault:       {fault}", out, re.MULTILINE), out
    assert re.search(r"^result:      [1-9] faults$", out, re.MULTILINE)


@pytest.mark.parametrize("names", [(), ("manifest.json",), ("manifest.json", "dataset.json")])
def test_a_check_accepts_a_folder_without(names: tuple[str, ...], two_labelled: Files, tmp_path: Path) -> None:
    assert dataset(f"--check {write_folder(tmp_path / 'set', without(two_labelled, *names))}") == 0


BAD = {
    "no source": ("--out new.zip --resolution 16", "SOURCE: wanted a folder of images, a zip or a video"),
    "absent": ("nothing --out new.zip --resolution 16", "SOURCE: wanted .*, got nothing, which is not there"),
    "no images": ("empty --out new.zip --resolution 16", "data: wanted images .* got none among the 0 files"),
    "no zip": ("boxes.csv --out new.zip --resolution 16", "data: wanted a folder of images or a complete zip"),
    "no out": ("photos --resolution 16", "--out: wanted the name of a new .zip, got nothing"),
    "folder": ("photos --out new --resolution 16", "--out: wanted the name of a new .zip, got new"),
    "taken": ("photos --out taken.zip --resolution 16", "--out: wanted a new file, got taken.zip, which is there"),
    "inside": ("photos --out photos/new.zip --resolution 16", "--out: wanted a file outside SOURCE"),
    "no resolution": ("photos --out new.zip", "--resolution: wanted a power of two from 8 to 4096, got nothing"),
    "odd resolution": ("photos --out new.zip --resolution 100", "--resolution: wanted a power of two .* got 100"),
    "bits": ("photos --out new.zip --resolution 16 --near-duplicates 17", "--near-duplicates: wanted 0 to 16"),
    "workers": ("photos --out new.zip --resolution 16 --workers 0", "--workers: wanted 1 to 256, got 0"),
    "every": ("photos --out new.zip --resolution 16 --every 2", "--every: has no meaning for photos"),
    "crop": ("photos --out new.zip --resolution 16 --crop left", "--crop: wanted centre, none or a readable file"),
    "header": ("photos --out new.zip --resolution 16 --crop boxes.csv", "--crop: boxes.csv: wanted the header name"),
    "side": ("photos --out new.zip --resolution 16 --crop side.json", r"--crop: side.json: wanted \[left, top, side\]"),
    "twice": ("photos --out new.zip --resolution 16 --crop twice.json", "--crop: twice.json: wanted one box"),
    "list": ("photos --out new.zip --resolution 16 --crop list.json", "--crop: list.json: wanted JSON"),
    "strangers": ("photos --out new.zip --resolution 16 --crop lost.json", "--crop: wanted boxes of pictures in"),
    "no video": ("fake.mp4 --out new.zip --resolution 16", "SOURCE: "),
    "labels": ("mixed --out new.zip --resolution 16", "data: wanted labels of one kind in dataset.json"),
    "nothing left": ("photos/bad --out new.zip --resolution 16", "SOURCE: wanted at least one .* got none: 7 unusable"),
    "check of nothing": ("--check nothing", "--check: wanted a folder of images or a zip, got nothing"),
    "check and make": ("photos --check photos", "--check: wanted alone, got also SOURCE"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = json.dumps({"labels": {"a.png": 1, "b.png": [0.5]}}).encode()
    write_folder(desk, {
        "taken.zip": b"mine", "fake.mp4": b"no film", "mixed/dataset.json": mixed,
        "mixed/a.png": encoded(picture(0)), "mixed/b.png": encoded(picture(1)),
        "boxes.csv": b"file,x,y,w\n", "side.json": b'{"wide.jpg": [0, 0, 7]}', "list.json": b"[1]",
        "twice.json": b'{"a.png": [0, 0, 9], "./a.png": [0, 0, 9]}', "lost.json": b'{"lost.png": [0, 0, 9]}',
    })  # fmt: skip
    (desk / "empty").mkdir()
    (desk / "photos" / "gone.png").unlink()
    arguments, wanted = BAD[case]
    before = digests(desk)
    assert dataset(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.match(f"error: {wanted}", err.splitlines()[-1]), err
    assert digests(desk) == before and not list(desk.glob(".*.work"))


def test_a_sheet_of_somebody_else_stays(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set.png").write_bytes(b"mine")
    assert dataset(f"{HOSTILE} --out set.zip") == 2
    assert "--out: wanted room for a contact sheet" in capsys.readouterr().err
    write_folder(desk, {".set.zip.work/00/0": b"of a set that was stopped"})
    assert dataset(f"{HOSTILE} --out set.zip") == 2
    assert "error: set.png: wanted no file or the contact sheet of this set" in capsys.readouterr().err
    assert Path("set.png").read_bytes() == b"mine" and not Path("set.zip").exists()


@pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="imageio with ffmpeg is not installed")
def test_frames_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio.v2 as imageio

    monkeypatch.chdir(tmp_path)
    with imageio.get_writer("film.mp4", fps=8, macro_block_size=2, quality=10) as film:
        for i in range(7):
            film.append_data(np.asarray(smooth(i, 64, 32)))
    assert dataset("film.mp4 --resolution 32 --out set.zip --every 3") == 0
    assert [entry["source"] for entry in manifest()["images"]] == [f"frame-00000{i}" for i in (0, 3, 6)]
    assert manifest()["source"]["sha256"] == digests(tmp_path)["film.mp4"]
    error = pixels(FIRST).astype(int) - np.asarray(smooth(0, 64, 32))[:, 16:48].astype(int)
    assert np.abs(error).mean() < 12


def test_a_video_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    monkeypatch.setattr("stylenerf.engine.extras.importlib.util.find_spec", lambda name: None)
    assert dataset(f"{tmp_path}/film.mp4 --resolution 32 --out {tmp_path}/set.zip") == 2
    assert "pip install 'stylenerf-engine[video]'" in capsys.readouterr().err


@pytest.mark.parametrize("resolution", [32, 64, 256, 2048])
def test_the_advised_command_is_right(resolution: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command(resolution, labelled=True, path="a set.zip"))
    assert train_main([*words[2:], "--dry-run"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert resolved["generator"]["resolution"] == resolution
    assert resolved["data"]["labels"] and resolved["data"]["path"] == "a set.zip"


@pytest.mark.parametrize(("number", "word"), [(7, "too few"), (300, "few:"), (1500, "metfaces512"), (70000, "growth")])
def test_advice_goes_by_the_number(number: int, word: str) -> None:
    assert word in advice(number, 256, labelled=False, path="set.zip")[0]
