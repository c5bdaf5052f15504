"""Subjects: seeds that mean the same everywhere, files of plain arrays, one line for what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stylenerf.engine.applications.render.subjects import Subjects, load_subjects, save_subjects, subjects_from_seeds
from stylenerf.engine.command_line.verbs.common import parse_seeds
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.models.camera import Camera
from tests.models_at_hand import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def test_a_seed_is_the_same_subject_in_any_company(model: Model) -> None:
    alone, both = subjects_from_seeds(model, [7]), subjects_from_seeds(model, [3, 7])
    torch.testing.assert_close(alone.ws[0], both.ws[1], rtol=0, atol=1e-6)
    assert alone.z_bg is not None and both.z_bg is not None
    assert torch.equal(alone.z_bg[0], both.z_bg[1]) and not torch.equal(both.z_bg[0], both.z_bg[1])


def test_truncation_draws_towards_the_average(model: Model) -> None:
    average = model.generator.mapping.w_avg
    full, half, none = (subjects_from_seeds(model, [1], truncation_psi=p) for p in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half.ws - average, (full.ws - average) / 2)
    torch.testing.assert_close(none.ws, average.expand_as(none.ws))
    assert full.z_bg is not None and half.z_bg is not None and none.z_bg is not None
    torch.testing.assert_close(half.z_bg, full.z_bg / 2)
    assert full.z_bg.any() and not none.z_bg.any()


def test_truncation_0_is_one_picture_whatever_the_seed(model: Model) -> None:
    two = subjects_from_seeds(model, [1, 2], truncation_psi=0.0)
    image = model.generator.synthesis(two.ws, model.prior.at(torch.tensor([0.5, 0.5]), 0.5), z_bg=two.z_bg).image
    torch.testing.assert_close(image[0], image[1])


def test_a_conditional_model_wants_its_class() -> None:
    model = tiny_model(label_dim=3)
    one, two = (subjects_from_seeds(model, [0], label=k).ws for k in (1, 2))
    assert not torch.equal(one, two)
    with pytest.raises(UserError, match=r"--label: wanted a class of 0 to 2, got None"):
        subjects_from_seeds(model, [0])
    with pytest.raises(UserError, match=r"--label: wanted a class of 0 to 2, got 3"):
        subjects_from_seeds(model, [0], label=3)


@pytest.mark.parametrize("psi", [float("nan"), float("inf"), 1e30])
def test_a_truncation_that_is_none(model: Model, psi: float) -> None:
    with pytest.raises(UserError, match="--truncation: wanted a number"):
        subjects_from_seeds(model, [0], truncation_psi=psi)


def test_a_file_gives_back_what_was_saved(model: Model, tmp_path: Path) -> None:
    subjects, camera = subjects_from_seeds(model, [1, 2]), model.prior.at(torch.tensor([0.2, 0.8]), 0.5)
    save_subjects(tmp_path / "new" / "two.npz", subjects, camera)
    read, seen = load_subjects(tmp_path / "new" / "two.npz", model)
    assert torch.equal(read.ws, subjects.ws) and torch.equal(read.z_bg, subjects.z_bg)  # type: ignore[arg-type]
    assert seen is not None and torch.equal(seen.cam2world, camera.cam2world)
    assert torch.equal(seen.tan_half_fov, camera.tan_half_fov)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["two.npz"]


def test_a_single_w_fills_every_row_and_seed_0_the_background(model: Model, tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(2, model.config.w_dim)).astype(np.float32)
    np.savez(tmp_path / "w.npz", w=w)
    read, camera = load_subjects(tmp_path / "w.npz", model)
    assert camera is None
    assert torch.equal(read.ws, torch.from_numpy(w)[:, None].expand_as(read.ws))
    zero = subjects_from_seeds(model, [0], truncation_psi=1.0).z_bg
    assert read.z_bg is not None and zero is not None and torch.equal(read.z_bg, zero.expand_as(read.z_bg))


WS = (2, 9, 8)  # what tiny_model wants, with 2 subjects
BAD_FILES = {
    "pickled": ({"ws": np.array([{}], dtype=object)}, "pickle"),
    "nothing": ({"x": np.zeros(3)}, "wanted an array ws or w, got x"),
    "other model": ({"ws": np.zeros((2, 3, 8), np.float32)}, r"wanted ws \[N, \d+, 8\] of floating point"),
    "none": ({"w": np.zeros((0, 8), np.float32)}, "wanted w"),
    "whole numbers": ({"w": np.zeros((1, 8), np.int64)}, "got .* int64"),
    "scalar": ({"w": np.float32(0)}, "wanted w"),
    "not finite": ({"w": np.full((1, 8), np.nan, np.float32)}, "wanted finite numbers in w"),
    "background of another": (
        {"w": np.zeros((2, 8), np.float32), "z_bg": np.zeros((1, 4), np.float32)},
        r"wanted z_bg \[2, 4\]",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_wrong_file_is_one_line(model: Model, tmp_path: Path, case: str) -> None:
    arrays, message = BAD_FILES[case]
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_subjects(tmp_path / "bad.npz", model)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY\x01\x00", b"text"])
def test_another_file_is_one_line(model: Model, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.npz: wanted a \.npz"):
        load_subjects(path, model)


def test_nothing_there_is_one_line(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_subjects(tmp_path / "none.npz", model)


def test_subjects_are_picked_repeated_and_joined(model: Model) -> None:
    subjects = subjects_from_seeds(model, [1, 2])
    assert torch.equal(subjects.repeat(2).ws, subjects.ws[[0, 0, 1, 1]])
    joined = Subjects.cat([subjects[1], subjects[-2]])
    assert torch.equal(joined.ws, subjects.ws[[1, 0]]) and len(joined) == 2
    assert Subjects.cat([Subjects(subjects.ws), Subjects(subjects.ws)]).z_bg is None


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("0-2", [0, 1, 2]), ("5,0-1", [5, 0, 1]), (" 4 , 7 ", [4, 7])])
def test_lists_of_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-100000", "1.5", str(2**63), "²"])
def test_a_wrong_list_of_seeds_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--seeds: wanted"):
        parse_seeds(text)


def test_cameras_of_a_file_are_checked(tmp_path: Path) -> None:
    model, camera = tiny_model(), Camera.orbit(1.5, 0.2, fov_deg=12)
    subjects = subjects_from_seeds(model, [0])
    camera.cam2world[0, 0, :3] *= -1
    save_subjects(tmp_path / "mirrored.npz", subjects, camera)
    with pytest.raises(UserError, match=r"mirrored\.npz: camera 0: wanted a right-handed rotation in cam2world"):
        load_subjects(tmp_path / "mirrored.npz", model)
