"""Checkpoints to write, damage and compare."""

import json
from pathlib import Path
from typing import Any

import torch

from stylenerf.engine.training import checkpoint
from stylenerf.engine.training.checkpoint import write_checkpoint

State = dict[str, Any]


def state_of(value: int) -> State:
    return {"g": {"weight": torch.full((3, 5), float(value))}, "count": value}


def write(run: Path, images: int, **options: int) -> Path:
    return write_checkpoint(run, images, state_of(images), {"note": "x"}, **options)


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def images(run: Path) -> list[int]:
    return [int(name.rpartition("-")[2]) for name in names(run)]


def spoil(path: Path, name: str = "state.pt") -> None:
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)


def reseal(path: Path, **changes: Any) -> None:
    """Make the manifest agree with the files again, as somebody who means harm would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        file = path / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": checkpoint._sha256(file)}
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def assert_state_equal(got: Any, want: Any) -> None:
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_state_equal(got[key], want[key])
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for a, b in zip(got, want):
            assert_state_equal(a, b)
    elif isinstance(want, torch.Tensor):
        assert got.dtype == want.dtype
        assert got.stride() == want.stride()
        assert torch.equal(got, want)
    else:
        assert got == want
