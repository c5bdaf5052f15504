"""What a label is, class, vector or camera, travels with checkpoints and models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stylenerf.engine.command_line.main import main
from stylenerf.engine.data import label_from_camera
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import load_model, save_model
from stylenerf.engine.training.checkpoint import read_checkpoint
from stylenerf.engine.training.trainer import Trainer, open_training_data
from stylenerf.models.camera import Camera
from tests import snapshots as s
from tests.models_at_hand import PRIOR, rewrite, tiny_model
from tests.picture_files import encoded, picture, write_folder
from tests.public_forms import make, public_kwargs, public_state
from tests.tiny import CPU, tiny_config


def trainer(run: Path, path: str = "procedural", resume: Path | None = None) -> Trainer:
    cfg = tiny_config("data.labels=true", f"data.path={json.dumps(path)}")
    state = None if resume is None else read_checkpoint(resume)[0]
    return Trainer(cfg, open_training_data(cfg, print), run, CPU, resume=state, report=print, progress=False)


def pictures(folder: Path, labels: list[object]) -> str:
    files = {f"{i}.png": encoded(picture(i)) for i in range(len(labels))}
    table = {"labels": {f"{i}.png": label for i, label in enumerate(labels)}}
    return str(write_folder(folder, {**files, "dataset.json": json.dumps(table).encode()}))


LABELS: dict[str, list[object]] = {"class": [0, 1, 2], "vector": [[0.5, 1.0, 2.0]] * 3}


@pytest.mark.parametrize("kind", ["class", "vector", "camera"])
def test_a_run_s_checkpoint_tells(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = "procedural" if kind == "camera" else pictures(tmp_path / "data", LABELS[kind])
    trainer(tmp_path / "run", path).save()
    model = load_model(tmp_path / "run")
    assert model.label_kind == kind and model.config.label_dim == (25 if kind == "camera" else 3)
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_with_labels_of_its_kind_only(tmp_path: Path) -> None:
    trainer(tmp_path / "run", pictures(tmp_path / "one", LABELS["class"])).save()
    trainer(tmp_path / "run", pictures(tmp_path / "same", LABELS["class"]), tmp_path / "run")
    with pytest.raises(UserError, match="--resume: wanted labels of kind class, as in the run, got vector"):
        trainer(tmp_path / "run", pictures(tmp_path / "other", LABELS["vector"]), tmp_path / "run")


@pytest.mark.parametrize(
    ("label_dim", "given", "kind"),
    [(0, None, "none"), (3, None, "class"), (3, "vector", "vector"), (25, None, "camera"), (25, "class", "class")],
)
def test_a_model_s_folder_tells(label_dim: int, given: str | None, kind: str, tmp_path: Path) -> None:
    generator = tiny_model(label_dim=label_dim).generator
    lines: list[str] = []
    save_model(tmp_path / "m", generator, PRIOR, label_kind=given)  # type: ignore[arg-type]
    assert load_model(tmp_path / "m", report=lines.append).label_kind == kind and not lines


@pytest.mark.parametrize(("label_dim", "kind"), [(3, "class"), (25, "camera")])
def test_a_model_that_does_not_tell(label_dim: int, kind: str, tmp_path: Path) -> None:
    lines: list[str] = []
    set_kind(save_model(tmp_path / "m", tiny_model(label_dim=label_dim).generator, PRIOR), None)
    assert load_model(tmp_path / "m", report=lines.append).label_kind == kind
    wanted = f"m: does not say what its labels of {label_dim} numbers are; taken for: {kind}"
    assert len(lines) == 1 and lines[0].endswith(wanted)


@pytest.mark.parametrize("kind", ["none", "camera", "colour", 3, ["class"]])
def test_a_kind_that_cannot_be(kind: object, tmp_path: Path) -> None:
    set_kind(save_model(tmp_path / "m", tiny_model(label_dim=3).generator, PRIOR), kind)
    with pytest.raises(UserError, match="label_kind: wanted class or vector for labels of 3 numbers, got"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("distance", [0.5, 2.7])
def test_cameras_that_see_nothing_are_refused(distance: float, tmp_path: Path) -> None:
    """The tiny volume lies from 0.7 to 1.3 before a camera."""
    label = label_from_camera(Camera.orbit(1.5, 0.2, distance, fov_deg=30))[0].tolist()
    path = pictures(tmp_path / "data", [label] * 2)
    cfg = tiny_config("data.labels=true", f"data.path={json.dumps(path)}")
    got = f"generator.field.near and far, 0.7 and 1.3 .*, got {distance:g} "
    with pytest.raises(UserError, match=f"data.labels: wanted cameras whose distance from the origin .* {got}"):
        open_training_data(cfg, print)


def set_kind(model: Path, kind: object) -> None:
    """Another label kind in a model's meta.json, None for no such entry, with a manifest that agrees."""
    meta = json.loads((model / "meta.json").read_text())
    meta.pop("label_kind")
    rewrite(model, json.dumps(meta if kind is None else {**meta, "label_kind": kind}))


def snapshot_of(file: Path) -> str:
    g = make("conditional")
    with s.public_modules():
        s.write_snapshot(file, {"G_ema": s.generator(public_kwargs(g.cfg), public_state(g))})
    return str(file)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [((), "class", "class, 3 numbers (deduced; --labels"), (("--labels", "vector"), "vector", "vector, 3 numbers\n")],
)
def test_convert_says_what_labels_are(
    arguments: tuple[str, ...], kind: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = snapshot_of(tmp_path / "x.pkl")
    assert main(["convert", file, "--out", str(tmp_path / "m"), *arguments]) == 0
    assert f"labels:      {said}" in capsys.readouterr().out
    assert load_model(tmp_path / "m").label_kind == kind


def test_convert_refuses_what_labels_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = snapshot_of(tmp_path / "x.pkl")
    assert main(["convert", file, "--out", str(tmp_path / "m"), "--labels", "camera"]) == 2
    assert "--labels: wanted class or vector for labels of 3 numbers, got 'camera'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
