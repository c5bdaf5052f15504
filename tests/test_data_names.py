"""Names of files as other systems spell them: backslashes, decomposed accents, archives without the UTF-8 flag."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stylenerf.engine.data.names import plain_name, stored_names
from tests.picture_files import SIDE, encoded, open_quietly, picture, write_folder, write_zip

NFC, NFD = (unicodedata.normalize(form, "Zürich/café.png") for form in ("NFC", "NFD"))
SPELLINGS = {
    "plain": NFC,
    "decomposed": NFD,
    "backslash": NFC.replace("/", "\\"),
    "both": NFD.replace("/", "\\"),
    "dot": "./" + NFC,
}


@pytest.mark.parametrize("key", SPELLINGS)
@pytest.mark.parametrize("stored", SPELLINGS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_label_follows_its_picture(packed: bool, stored: str, key: str, tmp_path: Path) -> None:
    files = {
        SPELLINGS[stored]: encoded(picture(3)),
        "a.png": encoded(picture(4)),
        "dataset.json": json.dumps({"labels": {SPELLINGS[key]: [7.0], "a.png": [5.0]}}).encode(),
    }
    place = write_zip(tmp_path / "x.zip", files) if packed else write_folder(tmp_path / "x", files)
    dataset, lines = open_quietly(place, use_labels=True)
    assert lines == [] and len(dataset) == 2
    assert dataset.file_name(0) == NFC and dataset.label(0).tolist() == [7.0]
    np.testing.assert_array_equal(dataset.image(0, SIDE), np.asarray(picture(3)))


@pytest.mark.parametrize(
    "junk", ["__MACOSX\\._a.png", "__MACOSX\\x\\b.png", "x\\.hidden\\b.png", "x\\", "__MACOSX/b.png"]
)
def test_what_is_no_content_is_left_out_in_either_spelling(junk: str, tmp_path: Path) -> None:
    files = {"a.png": encoded(picture(0)), junk: b"" if junk.endswith("\\") else encoded(picture(1))}
    dataset, lines = open_quietly(write_zip(tmp_path / "x.zip", files))
    assert len(dataset) == 1 and lines == []


def test_labels_file_in_a_folder_with_a_backslash(tmp_path: Path) -> None:
    files = {"s\\a.png": encoded(picture(0)), "s\\dataset.json": b'{"labels": {"a.png": [2]}}'}
    dataset, _ = open_quietly(write_zip(tmp_path / "x.zip", files), use_labels=True)
    assert dataset.label(0).tolist() == [2.0]


def test_archive_that_does_not_say_its_names_are_utf8(tmp_path: Path) -> None:
    """As macOS's own archiver writes them: the flag is cleared in the archive's bytes."""
    files = {NFD: encoded(picture(0)), "dataset.json": json.dumps({"labels": {NFC: [3.0]}}).encode()}
    path = write_zip(tmp_path / "x.zip", files)
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):  # high byte of the flags in both headers
        start = data.find(mark)
        while start >= 0:
            data[start + flags] &= ~0x08
            start = data.find(mark, start + 1)
    path.write_bytes(data)
    assert zipfile.ZipFile(path).namelist()[0] != NFD  # the library reads another name
    dataset, _ = open_quietly(path, use_labels=True)
    assert dataset.file_name(0) == NFC and dataset.label(0).tolist() == [3.0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_plain_name_is_one_and_stays(name: str) -> None:
    assert plain_name(SPELLINGS[name]) == NFC == plain_name(plain_name(SPELLINGS[name]))


def test_two_files_of_one_plain_form_are_both_kept() -> None:
    names, stored = stored_names([NFD, NFC, "a\\b.png", "a/b.png"])
    assert sorted(stored.get(name, name) for name in names) == sorted([NFD, NFC, "a\\b.png", "a/b.png"])
    assert NFC not in stored and "a/b.png" not in stored
    assert names == sorted([NFD, NFC, "a\\b.png", "a/b.png"])


def test_files_of_one_plain_form_have_their_own_labels(tmp_path: Path) -> None:
    labels = {NFC: [1.0], NFD: [2.0]}
    files = {
        NFC: encoded(picture(0)),
        NFD: encoded(picture(1)),
        "dataset.json": json.dumps({"labels": labels}).encode(),
    }
    dataset, _ = open_quietly(write_zip(tmp_path / "x.zip", files), use_labels=True)
    assert {dataset.file_name(i): dataset.label(i).tolist() for i in range(2)} == labels
