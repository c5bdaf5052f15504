"""The label that pictures are made under: read from the command line, of the model's kind, following the camera."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stylenerf.engine.applications.project.projection import Projector
from stylenerf.engine.applications.project.projection_options import ProjectionOptions
from stylenerf.engine.applications.project.tuning import Tuner
from stylenerf.engine.applications.render.conditions import condition, random_conditions
from stylenerf.engine.applications.render.label_argument import Label, read_label
from stylenerf.engine.applications.render.latent_space import latent_space
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions, render_view
from stylenerf.engine.applications.view.studio import Studio
from stylenerf.engine.command_line.main import main
from stylenerf.engine.data import label_from_camera
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model, save_model
from stylenerf.engine.training.config_io import from_dict, to_dict
from stylenerf.models.camera import Camera
from tests.inputs import source
from tests.models_at_hand import PRIOR, tiny_model

WIDTHS = {"none": 0, "class": 3, "vector": 3, "camera": 25}


def conditional(kind: str) -> Model:
    return dataclasses.replace(tiny_model(label_dim=WIDTHS[kind]), meta={"label_kind": kind})


def front(yaw: float = 0.1) -> tuple[float, ...]:
    return tuple(label_from_camera(Camera.orbit(1.5, yaw, 1.0, fov_deg=30))[0].tolist())


def file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_labels_of_the_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.5, 2]], np.float32))
    read = {
        "3": 3,
        "0.5,2": (0.5, 2.0),
        "1,0": (1.0, 0.0),
        "-1": (-1.0,),
        str(tmp_path / "a.npy"): (0.5, 2.0),
        file(tmp_path / "a.json", "[0.5, 2]"): (0.5, 2.0),
        file(tmp_path / "a.txt", "0.5 2\n"): (0.5, 2.0),
    }
    assert {text: read_label(text) for text in read} == read


BAD = [
    "",
    "cat",
    "1,x",
    "nan",
    "1,inf",
    "1e400,2",
    "missing.json",
    "bad.json",
    "nested.json",
    "object.npy",
    "empty.txt",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_labels_are_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file(tmp_path / "bad.json", "[1, ")
    file(tmp_path / "nested.json", '[1, "a"]')
    file(tmp_path / "empty.txt", "")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"^--label: wanted .*, got "):
        read_label(text)


WRONG: list[tuple[str, Label | None, str]] = [
    ("none", 0, r"wanted none \(the model is not conditional\), got 0"),
    ("none", (1.0, 2.0), r"wanted none .*got 2 numbers"),
    ("class", None, "wanted a class of 0 to 2, got None"),
    ("class", 3, "wanted a class of 0 to 2, got 3"),
    ("class", (1.0, 0.0, 0.0), r"wanted a class of 0 to 2, got 3 numbers \(1, 0, 0\)"),
    ("vector", None, "wanted 3 numbers .*, got None"),
    ("vector", 1, r"wanted 3 numbers \(or a file of them\), not a class, got 1"),
    ("vector", (1.0, 2.0), "wanted 3 numbers .* got 2 numbers"),
    ("camera", 1, r"wanted a camera in EG3D's 25 numbers .*, not a class, got 1"),
    ("camera", (0.0,) * 25, "wanted a rotation in cam2world"),
]


def parts(model: Model, label: Label | None) -> list[object]:
    """Everything that takes a label from a person, as functions."""
    photos = torch.zeros(1, 3, 16, 16)
    return [
        lambda: condition(model, label, 2),
        lambda: subjects_from_seeds(model, [0], label=label),
        lambda: Projector(model, photos, ProjectionOptions(label=label)),
    ]


@pytest.mark.parametrize(("kind", "label", "message"), WRONG)
@pytest.mark.parametrize("part", range(3))
def test_a_label_of_another_kind_is_refused(part: int, kind: str, label: Label | None, message: str) -> None:
    with pytest.raises(UserError, match=f"--label: {message}"):
        parts(conditional(kind), label)[part]()  # type: ignore[operator]


def test_what_the_mapping_gets() -> None:
    assert condition(conditional("none"), None, 2) is None
    classes, vectors = condition(conditional("class"), 1, 2), condition(conditional("vector"), (0.5, 1.0, 2.0), 2)
    assert classes is not None and classes.tolist() == [[0, 1, 0]] * 2
    assert vectors is not None and vectors.tolist() == [[0.5, 1, 2]] * 2
    model = conditional("camera")
    told, middle = condition(model, front(), 2), condition(model, None, 2)
    assert told is not None and torch.equal(told, torch.tensor([front()] * 2))
    assert middle is not None and torch.equal(middle, label_from_camera(PRIOR.at(0.5, 0.5)).expand(2, -1))
    cameras = PRIOR.sample(2, source(3))
    followed = condition(model, None, 2, cameras)
    assert followed is not None and torch.equal(followed, label_from_camera(cameras))
    kept = condition(model, front(), 2, cameras)
    assert kept is not None and torch.equal(kept, told)


def test_drawn_labels() -> None:
    drawn = random_conditions(conditional("class"), None, 50, source(0))
    assert drawn is not None and drawn.sum(dim=0).min() > 5 and torch.equal(drawn.sum(dim=1), torch.ones(50))
    cameras = random_conditions(conditional("camera"), None, 50, source(0))
    assert cameras is not None and torch.equal(cameras, label_from_camera(PRIOR.sample(50, source(0))))
    with pytest.raises(UserError, match="--label: wanted 3 numbers"):
        latent_space(conditional("vector"), samples=4)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_pictures_of_a_camera_model_follow_the_camera(told: bool, strict: bool) -> None:
    """Unless a label was told; subjects that were made fixed keep the front view's."""
    model, camera = conditional("camera"), PRIOR.sample(2, source(1))
    subjects = subjects_from_seeds(model, [4, 5], label=front() if told else None)
    options = ViewOptions(strict=strict)
    got = render_view(model, subjects[1].repeat(2), camera, options).image
    label = torch.tensor([front()] * 2) if told else label_from_camera(camera)
    z = torch.cat([torch.randn(1, 8, generator=torch.Generator().manual_seed(5))] * 2)
    ws = model.generator.mapping(z, label, truncation_psi=0.7)
    exact = dataclasses.replace(subjects[1].repeat(2), ws=ws, z=None)
    torch.testing.assert_close(got, render_view(model, exact, camera, options).image, rtol=0, atol=1e-6)
    fixed = render_view(model, subjects.fixed()[1].repeat(2), camera, options).image
    assert torch.equal(fixed, got) == told


@pytest.mark.parametrize("kind", ["class", "vector", "camera"])
def test_tuning_and_projection_take_every_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = conditional(kind)
    label: Label | None = {"class": 2, "vector": (0.5, 1.0, 2.0), "camera": None}[kind]  # type: ignore[assignment]
    options = ProjectionOptions(label=label, subjects=2, cameras=1, starts=1, steps=1, tune=1)
    assert from_dict(ProjectionOptions, json.loads(json.dumps(to_dict(options))), where="") == options
    projector = Projector(model, torch.zeros(1, 3, 16, 16), options)
    assert torch.isfinite(projector.chart.space.mean).all()
    labels: list[Tensor] = []
    tuner = Tuner(model, subjects_from_seeds(model, [0], label=label), PRIOR.at(0.5, 0.5), projector.criterion,
                  rate=1e-3, locality=1.0, label=label)  # fmt: skip
    tuner._network.mapping.register_forward_pre_hook(lambda module, args: labels.append(args[1]))
    tuner.step(0)
    assert len(labels) == 1
    if kind != "camera":
        assert labels[0].tolist() == [[0, 0, 1] if kind == "class" else [0.5, 1, 2]]
    else:
        assert not torch.equal(labels[0], label_from_camera(PRIOR.at(0.5, 0.5)))


@pytest.mark.parametrize(("kind", "classes"), [("none", 0), ("class", 3), ("camera", 0)])
def test_viewer_offers_classes_only(kind: str, classes: int) -> None:
    studio = Studio(conditional(kind))
    assert studio.limits.labels == studio.describe()["labels"] == classes


def test_viewer_of_label_vectors_is_refused() -> None:
    with pytest.raises(UserError, match="tiny: wanted a model whose labels are classes or cameras, got label vectors"):
        Studio(conditional("vector"))


RUNS = {
    "class told": ("class", ["--label", "2"], 0, ""),
    "class missing": ("class", [], 2, "error: --label: wanted a class of 0 to 2, got None"),
    "vector told": ("vector", ["--label", "0.5,1,2"], 0, ""),
    "class for a vector": ("vector", ["--label", "2"], 2, "error: --label: wanted 3 numbers (or a file of them), not"),
    "vector for a class": ("class", ["--label", "1,0,0"], 2, "error: --label: wanted a class of 0 to 2, got 3 numbers"),
    "camera follows": ("camera", [], 0, ""),
    "class for a camera": ("camera", ["--label", "2"], 2, "error: --label: wanted a camera in EG3D's 25 numbers"),
    "no numbers": ("camera", ["--label", "cat"], 2, "error: --label: wanted a class number, numbers such as"),
}


@pytest.mark.parametrize("verb", ["render", "mix"])
@pytest.mark.parametrize("case", RUNS)
def test_verbs(case: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, arguments, code, line = RUNS[case]
    save_model(tmp_path / "m", conditional(kind).generator, PRIOR, label_kind=kind)  # type: ignore[arg-type]
    some = ["--seeds", "0", "--frames", "2"] if verb == "render" else ["--coarse", "0", "--fine", "1"]
    command = [verb, str(tmp_path / "m"), *some, *arguments, "--out", str(tmp_path / "o"), "--no-progress"]
    assert main(command) == code
    assert line in capsys.readouterr().err
    assert (tmp_path / "o").exists() == (code == 0)
