"""A new run that begins with the weights of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stylenerf.engine.command_line.main import train_main
from stylenerf.engine.model_io import load_model, save_model
from stylenerf.engine.training.checkpoint import read_checkpoint, write_checkpoint
from tests.picture_files import some_pngs, write_folder
from tests.runs import config_file, digests, fresh, outcome, train_here

ONE_STEP = ("--set", "train.total_kimg=0.004", "--set", "monitor.swd_images=0")
NETWORKS = ("generator", "average", "discriminator")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 32 images at 16 px."""
    return fresh(tmp_path_factory.mktemp("reference") / "run")


def first_state(run: Path) -> dict[str, Any]:
    """What a run began with."""
    (folder,) = (run / "checkpoints").glob("*-images-0")
    state: dict[str, Any] = read_checkpoint(folder)[0]["state"]
    return state


@pytest.mark.slow
def test_new_run_on_other_data(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_folder(tmp_path / "photos", some_pngs(3))
    before = digests(reference)
    assert train_here("--init", reference, "--data", photos, "--out", tmp_path / "new", *ONE_STEP) == 0
    assert digests(reference) == before
    got, want = first_state(tmp_path / "new"), outcome(reference).state["state"]
    for name in NETWORKS:
        assert got[name].keys() == want[name].keys()
        for key, value in want[name].items():
            assert torch.equal(got[name][key], value), f"{name}: {key}"
    assert (got["images_shown"], got["step"]) == (0, 0)
    assert got["generator_optimiser"]["state"] == {} == got["discriminator_optimiser"]["state"]
    left = outcome(tmp_path / "new")
    assert left.meta["config"]["data"]["path"] == str(photos)
    assert [row["Progress/images"] for row in left.rows] == [0, 4]
    out = capsys.readouterr().out
    assert out.count("started anew: none; left over: none") == 3
    assert "init:        counters from zero, fresh optimisers, growth is off\n" in out


def test_higher_resolution(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bigger = ("--set", "generator.resolution=32", "--set", "growth.enabled=true")
    assert train_here("--init", reference, "--out", tmp_path / "new", *bigger, *ONE_STEP) == 0
    got, want = first_state(tmp_path / "new"), outcome(reference).state["state"]
    for name in NETWORKS:
        for key, value in want[name].items():
            if key != "synthesis.alpha":
                assert torch.equal(got[name][key], value), f"{name}: {key}"
        assert got[name].keys() > want[name].keys()
    assert float(got["generator"]["synthesis.alpha"]) == 0
    out = capsys.readouterr().out
    for name in NETWORKS:
        new = len(got[name]) - len(want[name])
        block = "blocks.b32" if name == "discriminator" else "synthesis.upsampler.blocks.b32"
        assert f"started anew: {new}, {block}.* ({new}); left over: none" in out
    assert "growth begins at 8 px (off: --set growth.enabled=false)" in out


def test_converted_model(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(reference)
    converted = save_model(tmp_path / "model", model.generator, model.prior)
    arguments = ("--config", config_file(tmp_path), "--out", tmp_path / "new")
    assert train_here("--init", converted, *arguments, *ONE_STEP) == 0
    got, want = first_state(tmp_path / "new"), model.generator.state_dict()
    for key in want.keys() - {"synthesis.alpha"}:
        assert torch.equal(got["generator"][key], want[key]) and torch.equal(got["average"][key], want[key])
    assert "discriminator: 0 of " in capsys.readouterr().out
    assert train_main(["--init", str(converted), "--dry-run"]) == 0  # its own configuration is one that trains


def test_shape_that_does_not_fit_starts_anew(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("--set", "generator.background.hidden=6", "--set", "discriminator.channel_max=4")
    assert train_here("--init", reference, "--out", tmp_path / "new", *other, *ONE_STEP) == 0
    got, want = first_state(tmp_path / "new")["generator"], outcome(reference).state["state"]["generator"]
    same = {key for key in got if got[key].shape == want[key].shape}
    assert all(torch.equal(got[key], want[key]) for key in same)
    out = capsys.readouterr().out
    assert "synthesis.volume.background.layers.*" in out and "left over: none" not in out


def test_nothing_fits(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, meta = read_checkpoint(reference)
    strange = {f"other.{key}": value for key, value in state["state"]["generator"].items()}
    parts = {**state["state"], "generator": strange}
    write_checkpoint(tmp_path / "strange", 32, {**state, "state": parts}, {"config": meta["config"]})
    assert train_here("--init", tmp_path / "strange", "--out", tmp_path / "new") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --init: wanted a model with tensors of this generator's names and shapes, got ")
    assert err.count("\n") == 1 and not (tmp_path / "new").exists()
