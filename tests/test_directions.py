"""Directions: eigenvectors that are known, rows that stay still, files that come back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylenerf.engine.applications.edit.directions import Directions, find_directions, load_directions, style_layers
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.models.layers import FullyConnected
from tests.inputs import source
from tests.models_at_hand import PRIOR, tiny_model

ROWS = 7  # of tiny_model: trunk 0 and 1, density 2, features 3, one block 4 to 6


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.mark.parametrize("method", ["factor", "pca"])
def test_directions_are_orthonormal_and_descending(model: Model, method: Any) -> None:
    found = find_directions(model, method)
    assert found.rows == tuple(range(ROWS)) and len(found) == 8
    torch.testing.assert_close(found.vectors @ found.vectors.t(), torch.eye(8), rtol=0, atol=1e-5)
    assert bool((found.values.diff() <= 0).all()) and bool((found.stds >= 0).all())


def test_the_strongest_direction_is_the_one_that_styles_read() -> None:
    model = tiny_model()
    d = torch.nn.functional.normalize(torch.randn(8, generator=source(5)), dim=0)
    for layer in style_layers(model)[4]:  # every channel reads d and nothing else
        layer.weight.copy_(torch.linspace(0.5, 2, len(layer.weight))[:, None] * d)
    found = find_directions(model, "factor", [4])
    torch.testing.assert_close(found.vectors[0], d * d[d.abs().argmax()].sign(), rtol=0, atol=1e-5)
    # normalised channels: A^T A = C d d^T, divided by C channels; eigenvalues 1, 0, ..., 0
    assert found.values.tolist() == pytest.approx([1.0] + [0.0] * 7, abs=1e-6)


def test_strengths_are_deviations_of_random_styles(model: Model) -> None:
    w = model.generator.mapping(torch.randn(5000, 8, generator=source(9)))[:, 0]
    for method in ("factor", "pca"):
        found = find_directions(model, method)
        torch.testing.assert_close((w @ found.vectors.t()).std(dim=0), found.stds, rtol=0.05, atol=0.01)


def test_every_affine_layer_belongs_to_a_row(model: Model) -> None:
    synthesis = model.generator.synthesis
    mine = [layer for row in style_layers(model) for layer in row]
    assert {id(m) for m in synthesis.modules() if isinstance(m, FullyConnected)} == {id(m) for m in mine}
    widths = [[layer.weight.shape[0] for layer in row] for row in style_layers(model)]
    assert widths == [[12], [8], [8], [8], [8], [8], [8]]


def test_a_styled_background_reads_the_fields_rows() -> None:
    rows = style_layers(tiny_model(background={"kind": "styled", "hidden": 8, "depth": 2, "num_freqs": 2}))
    assert [len(row) for row in rows[:4]] == [2, 2, 2, 2]


@pytest.mark.parametrize(("rows", "still"), [([4, 5, 6], True), ([0, 1, 2], False)])
def test_layers_of_appearance_leave_the_shape(model: Model, rows: list[int], still: bool) -> None:
    found = find_directions(model, "factor", rows)
    subjects = subjects_from_seeds(model, [1])
    moved = found.apply(subjects, torch.eye(8)[:1] * 3)
    others = [r for r in range(ROWS) if r not in rows]
    assert torch.equal(moved.ws[:, others], subjects.ws[:, others]) and moved.z_bg is subjects.z_bg
    torch.testing.assert_close(
        moved.ws[:, rows] - subjects.ws[:, rows],
        (3 * found.stds[0] * found.vectors[0]).expand(1, len(rows), 8),
        rtol=0,
        atol=1e-5,
    )
    a, b = (render_view(model, s, PRIOR.at(0.5, 0.5)) for s in (subjects, moved))
    assert torch.equal(a.depth, b.depth) == still and not torch.equal(a.image, b.image)


def test_there_and_back(model: Model) -> None:
    found, subjects = find_directions(model, "pca"), subjects_from_seeds(model, [1, 2])
    amounts = torch.randn(2, 8, generator=source(1))
    back = found.apply(found.apply(subjects, amounts), -amounts)
    torch.testing.assert_close(back.ws, subjects.ws, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"strengths must be \[2, 8\], got \[1, 8\]"):
        found.apply(subjects, amounts[:1])


def test_a_file_gives_back_what_was_saved(model: Model, tmp_path: Path) -> None:
    found = find_directions(model, "factor", [3, 1])
    found.save(tmp_path / "d.npz")
    read = load_directions(tmp_path / "d.npz", model)
    assert (read.rows, read.method) == ((1, 3), "factor")
    assert all(torch.equal(getattr(read, n), getattr(found, n)) for n in ("vectors", "stds", "values"))


def arrays(**changes: object) -> dict[str, object]:
    good = {
        "vectors": np.eye(8, dtype=np.float32),
        "stds": np.ones(8, np.float32),
        "values": np.ones(8, np.float32),
        "rows": np.array([0, 1]),
        "method": np.array("pca"),
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


BAD = {
    "missing": ({"stds": None}, "got none of stds in it"),
    "other model": (
        {"vectors": np.zeros((8, 5), np.float32)},
        r"wanted vectors \[N, 8\] of floating point, got \[8, 5\]",
    ),
    "empty": ({"vectors": np.zeros((0, 8), np.float32)}, "wanted vectors"),
    "scalar": ({"vectors": np.float32(0)}, "wanted vectors"),
    "lengths": ({"stds": np.ones(3, np.float32)}, r"wanted stds \[N\] of floating point, got \[3\] float32"),
    "not finite": ({"values": np.full(8, np.nan, np.float32)}, "wanted finite numbers in values"),
    "rows": ({"rows": np.array([0, 7])}, r"wanted rows of 0 to 6, got \[0, 7\]"),
    "method": ({"method": np.array("magic")}, "wanted a method of factor, pca, got 'magic'"),
    "pickled": ({"method": np.array([{}], dtype=object)}, "wanted a .npz of directions"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_one_line(model: Model, tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    np.savez(tmp_path / "d.npz", **arrays(**changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_directions(tmp_path / "d.npz", model)


@pytest.mark.parametrize("rows", [[], [7], [-1]])
def test_rows_that_are_not_there(model: Model, rows: list[int]) -> None:
    with pytest.raises(UserError, match="--layers: wanted some of rows 0 to 6"):
        find_directions(model, "factor", rows)


def test_a_conditional_model_takes_a_class_or_all() -> None:
    model = tiny_model(label_dim=3)
    assert isinstance(find_directions(model, "pca"), Directions)
    one, two = (find_directions(model, "pca", label=k) for k in (0, 2))
    assert not torch.equal(one.stds, two.stds)
    with pytest.raises(UserError, match="--label: wanted a class of 0 to 2, got 3"):
        find_directions(model, "pca", label=3)
