"""Mixing and interpolating subjects: whose layers, whose geometry; on arcs and lines, closed or not."""

import math

import pytest
import torch
from torch import Tensor

from stylenerf.engine.applications.edit.mixing import layer_groups, layer_rows, mix, mix_grid
from stylenerf.engine.applications.render.interpolation import between_seeds, between_subjects, moments, slerp
from stylenerf.engine.applications.render.subjects import Subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from tests.inputs import source
from tests.models_at_hand import PRIOR, tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


# the tiny model: a field of 2 layers, density, features; one block of two layers and the last colours: 7 rows
ROWS = {
    "coarse": [0, 1, 2, 3],
    "field": [0, 1, 2, 3],
    "shape": [0, 1, 2],
    "middle": [4, 5],
    "fine": [6],
    "16px": [4, 5, 6],
    "0-2, 5": [0, 1, 2, 5],
    "fine,0": [0, 6],
    "4,shape,1": [0, 1, 2, 4],
}


@pytest.mark.parametrize("text", ROWS)
def test_layers_by_name_and_number(text: str, model: Model) -> None:
    assert layer_rows(model, text) == ROWS[text]


def test_groups_of_a_taller_model() -> None:
    groups = layer_groups(tiny_model(resolution=64))
    assert [groups[n] for n in ("coarse", "middle", "fine")] == [range(0, 4), range(4, 6), range(6, 11)]
    assert [groups[n] for n in ("16px", "32px", "64px")] == [range(4, 6), range(6, 8), range(8, 11)]


@pytest.mark.parametrize("text", ["", "7", "3-1", "-1", "1-", "all", "32px", "0-6", "coarse,16px", "1,,2", "²"])
def test_layers_that_are_none(text: str, model: Model) -> None:
    with pytest.raises(UserError, match="--layers: wanted"):
        layer_rows(model, text)


def test_mixed_rows_come_from_the_right_subject(model: Model) -> None:
    a, b = (subjects_from_seeds(model, [s]) for s in (1, 2))
    mixed = mix(a, b, [0, 3])
    assert torch.equal(mixed.ws[:, [0, 3]], a.ws[:, [0, 3]])
    assert torch.equal(mixed.ws[:, [1, 2, 4, 5, 6]], b.ws[:, [1, 2, 4, 5, 6]])
    assert mixed.z_bg is a.z_bg and mix(a, b, [0], background="fine").z_bg is b.z_bg
    assert torch.equal(b.ws, subjects_from_seeds(model, [2]).ws)  # the sources are as they were
    with pytest.raises(ValueError, match="coarse and fine must be equally many, got 1 and 2"):
        mix(a, Subjects.cat([a, b]), [0])


def test_a_grid_goes_row_by_row(model: Model) -> None:
    coarse, fine = subjects_from_seeds(model, [1, 2]), subjects_from_seeds(model, [3, 4, 5])
    grid = mix_grid(coarse, fine, [0])
    assert len(grid) == 6
    assert torch.equal(grid.ws[:, 0], coarse.ws[[0, 0, 0, 1, 1, 1], 0])
    assert torch.equal(grid.ws[:, 1:], fine.ws[[0, 1, 2, 0, 1, 2], 1:])
    assert grid.z_bg is not None and coarse.z_bg is not None
    assert torch.equal(grid.z_bg, coarse.z_bg[[0, 0, 0, 1, 1, 1]])


def test_the_field_s_layers_are_the_geometry(model: Model) -> None:
    coarse, fine = (subjects_from_seeds(model, [s], truncation_psi=1) for s in (1, 2))
    camera = PRIOR.at(0.5, 0.5)
    own, mixed, other = (
        render_view(model, s, camera) for s in (coarse, mix(coarse, fine, layer_rows(model, "coarse")), fine)
    )
    shape = render_view(model, mix(coarse, fine, layer_rows(model, "shape")), camera)
    assert torch.equal(own.depth, mixed.depth) and torch.equal(own.depth, shape.depth)
    assert not torch.allclose(own.image, mixed.image, atol=1e-3)
    assert not torch.allclose(own.depth, other.depth, atol=1e-3)


def test_moments() -> None:
    when = moments(3, 5)
    assert when.before.tolist() == [0, 0, 1, 1, 1] and when.after.tolist() == [1, 1, 2, 2, 2]
    assert when.t.tolist() == [0, 0.5, 0, 0.5, 1]
    loop = moments(3, 6, loop=True)
    assert loop.before.tolist() == [0, 0, 1, 1, 2, 2] and loop.after.tolist() == [1, 1, 2, 2, 0, 0]
    assert loop.t.tolist() == [0, 0.5] * 3


@pytest.mark.parametrize(("subjects", "frames", "name"), [(1, 5, "--seeds, --latents"), (2, 1, "--frames")])
def test_too_few_to_go_between(subjects: int, frames: int, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: wanted at least"):
        moments(subjects, frames)


def test_an_arc_keeps_angle_and_length() -> None:
    a, b = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    third = slerp(a, b, torch.tensor([1 / 3]))
    torch.testing.assert_close(third, torch.tensor([[2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6), 0.0]]))
    a, b = torch.randn(2, 8, 64, generator=source(0))
    torch.testing.assert_close(slerp(a, b, torch.zeros(8)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(8)), b)
    lengths = torch.stack([slerp(a, b, torch.full((8,), t)).norm(dim=1) for t in (0.25, 0.5, 0.75)])
    low, high = torch.minimum(a.norm(dim=1), b.norm(dim=1)), torch.maximum(a.norm(dim=1), b.norm(dim=1))
    assert bool((lengths > 0.95 * low).all()) and bool((lengths < 1.05 * high).all())


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_directions_without_an_arc_go_along_the_line(factor: float) -> None:
    a = torch.randn(1, 5, generator=source(0))
    torch.testing.assert_close(slerp(a, factor * a, torch.tensor([0.25])), (0.75 + 0.25 * factor) * a)


def assert_same(one: Subjects, other: Subjects) -> None:
    torch.testing.assert_close(one.ws, other.ws, rtol=0, atol=1e-5)
    assert one.z_bg is not None and other.z_bg is not None
    torch.testing.assert_close(one.z_bg, other.z_bg, rtol=0, atol=1e-5)


def test_the_ends_are_the_seeds(model: Model) -> None:
    keys = subjects_from_seeds(model, [3, 1, 4], truncation_psi=0.9)
    walk = between_seeds(model, [3, 1, 4], 7, truncation_psi=0.9)
    assert_same(walk[torch.tensor([0, 3, 6])], keys)
    assert_same(between_subjects(keys, 7)[torch.tensor([0, 3, 6])], keys)


def steps(walk: Subjects) -> Tensor:
    """How far each frame is from the one before, the first from the last."""
    return (walk.ws - walk.ws.roll(1, 0)).flatten(1).norm(dim=1)


@pytest.mark.parametrize("space", ["z", "w"])
def test_a_loop_closes_without_a_halt_or_a_jump(space: str, model: Model) -> None:
    if space == "z":
        walk = between_seeds(model, [3, 1], 40, loop=True, truncation_psi=1)
    else:
        walk = between_subjects(subjects_from_seeds(model, [3, 1], truncation_psi=1), 40, loop=True)
    found = steps(walk)
    assert float(found[0]) < 3 * float(found.median()) and float(found.min()) > 0.1 * float(found.median())


def test_in_w_the_middle_is_the_mean(model: Model) -> None:
    keys = subjects_from_seeds(model, [3, 1])
    walk = between_subjects(keys, 3)
    torch.testing.assert_close(walk.ws[1], keys.ws.mean(0))
    assert not torch.allclose(between_seeds(model, [3, 1], 3).ws[1], keys.ws.mean(0), atol=1e-3)
