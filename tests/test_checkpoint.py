"""Checkpoints through kills, full disks, damage and hostile files."""

import errno
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenerf.engine.errors import UserError
from stylenerf.engine.training.checkpoint import latest_checkpoint, read_checkpoint, verify, write_checkpoint
from tests.checkpoints import assert_state_equal, images, names, reseal, spoil, state_of, write


def test_round_trip_is_exact(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(4, 3, generator=g)).square().sum().backward()
    adam.step()
    state = {
        "model": model.state_dict(),
        "adam": adam.state_dict(),
        "half": torch.randn(3, generator=g).half(),
        "bf16": torch.randn(3, generator=g).bfloat16(),
        "nhwc": torch.randn(2, 3, 4, 5, generator=g).contiguous(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2**62),
        "mask": torch.tensor([True, False]),
        "plain": [1, -(2**70), 0.1, float("inf"), True, None, "text", (1, 2), OrderedDict(a=1), {3: 4}],
    }
    path = write_checkpoint(tmp_path / "run", 1234, state, {"config": {"batch": 4}, "name": "é"})
    got, meta = read_checkpoint(path)
    assert_state_equal(got, {**state, "model": OrderedDict(model.state_dict())})
    assert meta == {"config": {"batch": 4}, "name": "é", "images_shown": 1234}
    assert path == tmp_path / "run" / "checkpoints" / "00001-images-1234"
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "meta.json", "state.pt"]


class _Custom:
    pass


UNREADABLE_STATE = {
    "object": ({"a": [_Custom()]}, r"state\.a\[0\]: wanted tensors, numbers, strings, lists and dicts, got _Custom"),
    "subclass": ({"a": type("Sub", (dict,), {})()}, r"state\.a: wanted .*, got Sub"),
    "set": ({"a": {1}}, r"state\.a: wanted .*, got set"),
    "key": ({"a": {(1, 2): 3}}, r"state\.a: wanted keys of type str or int, got \(1, 2\)"),
}


@pytest.mark.parametrize("case", UNREADABLE_STATE)
def test_state_that_could_not_be_read_back_is_not_written(case: str, tmp_path: Path) -> None:
    state, message = UNREADABLE_STATE[case]
    with pytest.raises(TypeError, match=message):
        write_checkpoint(tmp_path, 1, state, {})
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be >= 1 and images_shown >= 0, got 0 and 1"):
        write_checkpoint(tmp_path, 1, {}, {}, keep=0)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_checkpoint(tmp_path, 1, {}, {"fid": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_order_of_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, their directory, the manifest, the directory again, the new name, the directory that holds it."""
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real_fsync(fd)

    def replace(a: Path, b: Path) -> None:
        events.append(f"{a.name} -> {b.name}")
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path / "run", 7)
    hidden, final = ".writing-00001-images-7", "00001-images-7"
    named = f"{hidden} -> {final}"
    assert events == ["run", "state.pt", "meta.json", hidden, "manifest.json", hidden, named, "checkpoints"]


def test_keeps_the_newest(tmp_path: Path) -> None:
    for i in (100, 200, 300):
        write(tmp_path, i)
    assert images(tmp_path) == [200, 300]
    write(tmp_path, 400, keep=1)
    assert names(tmp_path) == ["00004-images-400"]


PRUNING = {
    # keep, spoiled among the written 1 2 3, left after 4 is written
    "spoiled_between": (2, [3], [2, 4]),
    "last_good_one_stays": (2, [2, 3], [1, 4]),
    "too_few_good_ones_removes_nothing": (3, [2, 3], [1, 2, 3, 4]),
    "spoiled_ones_go_once_enough_are_good": (3, [2], [1, 3, 4]),
}


@pytest.mark.parametrize("case", PRUNING)
def test_pruning_counts_only_what_verifies(case: str, tmp_path: Path) -> None:
    keep, spoiled, left = PRUNING[case]
    paths = {i: write(tmp_path, i, keep=9) for i in (1, 2, 3)}
    for i in spoiled:
        spoil(paths[i])
    write(tmp_path, 4, keep=keep)
    assert images(tmp_path) == left


def test_same_count_twice_and_going_back(tmp_path: Path) -> None:
    write(tmp_path, 100)
    write(tmp_path, 300)
    newest = write(tmp_path, 300)
    assert latest_checkpoint(tmp_path) == newest
    back = write(tmp_path, 200)
    assert latest_checkpoint(tmp_path) == back
    assert names(tmp_path) == ["00003-images-300", "00004-images-200"]


def test_what_cannot_be_removed_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    write(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        write(tmp_path, 2, keep=1)
    assert images(tmp_path) == [1, 2]
    write(tmp_path, 3, keep=1)
    assert images(tmp_path) == [3]


def _damage_json(path: Path) -> None:
    (path / "manifest.json").write_text("{")


def _damage_listing(path: Path) -> None:
    (path / "manifest.json").write_text(json.dumps({"format_version": 1, "files": {"state.pt": 3}}))


def _damage_length(path: Path) -> None:
    os.truncate(path / "state.pt", 100)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one_bit_of_state": (spoil, r"state\.pt does not match its SHA-256"),
    "one_bit_of_meta": (lambda p: spoil(p, "meta.json"), r"meta\.json does not match its SHA-256"),
    "truncated": (_damage_length, r"state\.pt has 100 bytes, its manifest says \d+"),
    "no_state": (lambda p: (p / "state.pt").unlink(), r"state\.pt: No such file or directory"),
    "no_meta": (lambda p: (p / "meta.json").unlink(), r"meta\.json: No such file or directory"),
    "no_manifest": (lambda p: (p / "manifest.json").unlink(), r"manifest\.json: No such file or directory"),
    "manifest_no_json": (_damage_json, r"manifest\.json is not JSON"),
    "manifest_incomplete": (_damage_listing, r"manifest\.json does not list state\.pt and meta\.json"),
    "newer_format": (lambda p: reseal(p, format_version=2), "format version 2, this program reads 1"),
    "no_format": (lambda p: (p / "manifest.json").write_text("[]"), "format version None, this program reads 1"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_found_reported_and_skipped(case: str, tmp_path: Path) -> None:
    damage, reason = DAMAGES[case]
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    assert verify(bad) is None
    damage(bad)
    with pytest.raises(UserError, match=f"{bad}: wanted an intact checkpoint, got: {reason}$"):
        read_checkpoint(bad)
    reports: list[str] = []
    assert latest_checkpoint(tmp_path, reports.append) == good
    assert len(reports) == 1
    assert reports[0].startswith(f"skipped checkpoint {bad}: ")
    damage(good)
    assert latest_checkpoint(tmp_path, reports.append) is None
    with pytest.raises(UserError, match="wanted a run with an intact checkpoint, got none"):
        read_checkpoint(tmp_path, reports.append)


def test_skipped_ones_go_to_stderr_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    spoil(bad)
    assert latest_checkpoint(tmp_path) == good
    assert capsys.readouterr().err == f"skipped checkpoint {bad}: state.pt does not match its SHA-256\n"


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/00002-images-2"])
def test_reads_from_a_run_or_a_checkpoint(inside: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    state, meta = read_checkpoint(tmp_path / inside)
    assert_state_equal(state, state_of(2))
    assert meta["images_shown"] == 2


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: wanted a run or checkpoint directory, got nothing there"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: wanted a run or checkpoint directory, got a file"):
        read_checkpoint(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"wanted a run or checkpoint directory, got one without checkpoints/ and manifest\.json"
    ):
        read_checkpoint(tmp_path)
    assert latest_checkpoint(tmp_path / "none") is None
    assert verify(tmp_path / "none") == "no such directory"


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_code_in_the_file_is_refused_not_run(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's own switch must not open this door
    path, marker = write(tmp_path, 1), tmp_path / "executed"
    with open(path / "state.pt", "wb") as file:
        if container == "torch":
            torch.save({"g": _Hostile(marker)}, file)
        else:
            pickle.dump({"g": _Hostile(marker)}, file, protocol=2)
    reseal(path)
    assert verify(path) is None
    with pytest.raises(UserError, match=r"state\.pt: refused: .* but it asks for \S*\.system$") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


FOREIGN = {
    "text": (b"hello", "state.pt", r"state\.pt: wanted a file of tensors, got one that torch cannot read: \w+Error: "),
    "nothing": (b"", "state.pt", r"state\.pt: wanted a file of tensors, got one that torch cannot read"),
    "cut_archive": (b"PK\x03\x04" + bytes(60), "state.pt", r"state\.pt: wanted a file of tensors"),
    "meta_no_json": (b"{", "meta.json", r"meta\.json: wanted JSON, got"),
    "meta_a_list": (b"[]", "meta.json", r"meta\.json: wanted a mapping, got list"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_contents_give_one_line(case: str, tmp_path: Path) -> None:
    data, name, message = FOREIGN[case]
    path = write(tmp_path, 1)
    (path / name).write_bytes(data)
    reseal(path)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_former_keys_of_a_configuration_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(tmp_path, 8, state_of(8), {"config": {"train": {"public_slips": True, "batch": 4}}})
    _, meta = read_checkpoint(path)
    assert meta["config"] == {"train": {"match_public_code": True, "batch": 4}}
    assert capsys.readouterr().err == f"{path}: train.public_slips is now called train.match_public_code\n"
