"""``stylenerf dataset``: every kind of picture to a set that training reads, and the check of a set."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.command_line.main import main
from stylenerf.engine.command_line.verbs import dataset_advice
from stylenerf.engine.data import camera_from_label, label_from_camera
from stylenerf.engine.data.prepare import picture as picture_module
from stylenerf.models.camera import Camera
from tests.conftest import ROOT
from tests.picture_files import MODES, UNUSABLE, encoded, open_quietly, picture, write_folder, write_zip
from tests.runs import PATIENCE_S, digests


def smooth(number: int, width: int = 48, height: int = 48) -> Image.Image:
    """A picture without fine detail, which looks the same after resizing and in a JPEG."""
    return picture(number, 6, 6).resize((width, height), Image.Resampling.BICUBIC)


def hostile() -> dict[str, bytes]:
    """Every form that is read, every one that is not, odd names, odd sizes, duplicates."""
    return {
        **{f"modes/{name}.{kind}": encoded(image, kind) for name, (image, kind, _) in MODES.items()},
        **{f"bad/{name}": data for name, (data, _) in UNUSABLE.items()},
        "wide.jpg": encoded(smooth(1, 60, 20), "jpeg"),
        "huge.jpg": encoded(smooth(2, 400, 300), "jpeg"),
        "a\tb.png": encoded(smooth(3)),
        "e\u0301.webp": encoded(smooth(4), "webp"),
        "small.png": encoded(picture(5, 12, 40)),
        "z/copy of 3.bmp": encoded(smooth(3), "bmp"),
        "z/like 4.jpg": encoded(smooth(4, 90, 90), "jpeg"),
        ".hidden.png": b"",
        "notes.txt": b"no picture",
    }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of somebody who has pictures of all kinds."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", hostile())
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere.png")
    yield tmp_path


def dataset(arguments: str) -> int:
    return main(["dataset", "--no-progress", *arguments.split()])


def manifest(path: str = "set.zip") -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def left_out(path: str = "set.zip") -> dict[str, str]:
    return {entry["source"]: entry["kind"] for entry in manifest(path)["left_out"]}


ARGUMENTS = "photos --resolution 16 --near-duplicates 4"


def test_a_hostile_folder(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dataset(f"{ARGUMENTS} --out set.zip") == 0
    said = capsys.readouterr().out
    assert re.search(r"left out:    8 unusable, .*2 duplicates", said) and "kept:        " in said
    gone = left_out()
    assert {name for name, kind in gone.items() if kind == "unusable"} == {*(f"bad/{n}" for n in UNUSABLE), "gone.png"}
    assert {name: kind for name, kind in gone.items() if kind != "unusable"} == {
        "small.png": "too small",
        "z/copy of 3.bmp": "duplicates",
        "z/like 4.jpg": "near-duplicates",
        "modes/palette with hole.png": "near-duplicates",  # plain white, as others are
        "modes/grey with alpha.png": "duplicates",
    } | {name: kind for name, kind in gone.items() if name.startswith("modes/")}
    reasons = {entry["source"]: entry["reason"] for entry in manifest()["left_out"]}
    assert reasons["z/copy of 3.bmp"] == "the same pixels as a\tb.png"
    assert re.match(r"looks like \u00e9.webp \([0-4] of 64 bits differ\)", reasons["z/like 4.jpg"])
    assert all(re.search(reason, reasons[f"bad/{name}"]) for name, (_, reason) in UNUSABLE.items())
    kept = [entry["source"] for entry in manifest()["images"]]
    assert kept == sorted(kept) and {"wide.jpg", "huge.jpg", "a\tb.png", "\u00e9.webp"} <= set(kept)
    assert os.listdir(desk) == [*{"photos", "set.zip", "set.png"}] or set(os.listdir(desk)) == {
        "photos",
        "set.zip",
        "set.png",
    }
    assert dataset("--check set.zip") == 0
