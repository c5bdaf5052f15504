"""Consistency of a model's views: the surface along a ray, a field made solid, figures that tell fast from strict."""

import math
from typing import Any

import pytest
import torch

from stylenerf.engine.applications.render.consistency import (
    Agreement,
    Consistency,
    _at,
    check_consistency,
    made_solid,
    median_depth,
    table,
)
from stylenerf.engine.applications.render.subjects import Subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions, render_view
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.models.camera import pixel_grid
from tests.models_at_hand import tiny_model
from tests.tiny import TINY

FIELD = TINY["generator"]["field"]


@pytest.fixture(scope="module")
def model() -> Model:
    """A subject whose colours change over less than the volume's pixels are apart."""
    return tiny_model(field={**FIELD, "num_freqs": 3}, features=16)


def test_the_surface_is_where_half_of_the_light_ends() -> None:
    depths = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(3, 4)
    weights = torch.tensor([[0.0, 0.4, 0.2, 0.4], [0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.0, 0.0]])
    depth, spread = median_depth(weights, depths)
    # row 0: 0.4 < 0.5 <= 0.6; mean 3, variance 0.4 + 0.4. Row 2 lets 0.4 of the light pass.
    assert depth.tolist() == [3.0, 3.0, math.inf]
    torch.testing.assert_close(spread, torch.tensor([0.8**0.5, 0.0, 0.5]))


def test_solid_is_the_same_model_but_for_its_density(model: Model) -> None:
    before = torch.random.get_rng_state()
    solid = made_solid(model, 7.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert solid.config.field.density_scale == 7 * FIELD["density_scale"] == 7 * model.config.field.density_scale
    own, other = model.generator.state_dict(), solid.generator.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    subject = subjects(model)[0]
    thin, dense = (render_view(m, subject, model.prior.at(0.5, 0.5)).opacity.mean() for m in (model, solid))
    assert dense > thin


def subjects(model: Model) -> Subjects:
    return subjects_from_seeds(model, [0, 1], truncation_psi=1.0)


@pytest.fixture(scope="module")
def report(model: Model) -> Consistency:
    return check_consistency(model, subjects(model), apart_rad=0.1, resolution=48)


def test_strict_views_of_a_solid_agree_several_times_better_than_fast_ones(report: Consistency) -> None:
    fast, strict = report.rows[2:]
    assert (fast.field, fast.mode, strict.field, strict.mode) == ("solid", "fast", "solid", "strict")
    assert strict.overlap > 0.05 and strict.spread < report.rows[1].spread
    assert 3 * strict.residual < fast.residual
    assert strict.psnr_db > fast.psnr_db + 6 and 3 * strict.residual < strict.baseline


def test_it_shows_what_it_compared(report: Consistency, model: Model) -> None:
    assert [name for name, _ in report.pictures] == ["fast", "strict", "fast, solid", "strict, solid"]
    a, b, carried, difference = report.pictures[1][1]
    assert a.shape == (3, 48, 48)
    seen = difference > -1
    torch.testing.assert_close(difference[seen], (5 * (carried - b).abs() - 1)[seen])
    # both strict views are those of render_view from 0.05 rad on either side of the prior's middle
    options = ViewOptions(strict=True, resolution=48, samples=96)
    subject = subjects(model)[0]
    left, right = (model.prior.at(0.5 + sign * 0.05 / 2, 0.5) for sign in (-1, 1))  # the range is 2 rad wide
    for got, camera in ((a, left), (b, right)):
        want = render_view(model, subject, camera, options).image[0].clamp(-1, 1)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("align", "alpha", "edge"), [(True, 1.0, 16), (True, 0.0, 8), (False, 1.0, 16)])
def test_a_fast_image_is_looked_up_where_its_pixels_are(align: bool, alpha: float, edge: int) -> None:
    model = tiny_model(field={**FIELD, "align_corners": align})
    own = pixel_grid(edge, align_corners=align, image_resolution=16)
    ramp = torch.stack([own[:, 0], own[:, 1], own[:, 0]]).view(1, 3, edge, edge)
    centres = pixel_grid(16)
    got = _at(centres, model, ramp)[0, :2].flatten(1).T
    inside = ((centres <= own.amax(0)) & (centres >= own.amin(0))).all(1)
    torch.testing.assert_close(got[inside], centres[inside], rtol=0, atol=1e-6)
    assert int(inside.sum()) >= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"apart_rad": 0.0}, "--apart: wanted an angle between 0 and"),
        ({"apart_rad": math.nan}, "--apart: wanted an angle"),
        ({"samples": 1}, "--samples: wanted 3 to 4096, got 1"),
        ({"resolution": 0}, "--resolution: wanted 1 to"),
    ],
)
def test_what_cannot_be_compared_is_one_line(model: Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_consistency(model, subjects(model), **arguments)


def test_figures_as_text() -> None:
    lines = table([Agreement("solid", "fast", 0.5, 1.25, 12.34, 0.75, 0.001)]).splitlines()
    assert lines[1].split() == ["solid", "fast", "0.5000", "1.2500", "12.3", "0.750", "0.0010"]
    assert len(lines[0]) == len(lines[1])
