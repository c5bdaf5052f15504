"""Strict views through a baked density: the same pictures as without, within what a colour can show."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.engine.applications.render.consistency import made_solid
from stylenerf.engine.applications.render.subjects import subjects_from_seeds
from stylenerf.engine.applications.render.views import Bakes, ViewOptions, render_view
from stylenerf.engine.model_io import Model, load_model
from stylenerf.models import march
from stylenerf.models.bake import bake_density
from stylenerf.models.camera import pixel_grid
from stylenerf.models.generator import RenderOptions
from stylenerf.models.march import BakedSubject
from tests.models_at_hand import tiny_model
from tests.tiny import TINY

FIELD, BACKGROUND, UPSAMPLER = (TINY["generator"][name] for name in ("field", "background", "upsampler"))
CLOSE = 1e-3


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model("demo")


@pytest.mark.parametrize("solid", [False, True], ids=["fog", "solid"])
@pytest.mark.parametrize("seed", [0, 2])
def test_a_baked_picture_is_the_strict_one(demo: Model, seed: int, solid: bool) -> None:
    model = made_solid(demo) if solid else demo
    subject, camera = subjects_from_seeds(model, [seed]), model.prior.at(torch.tensor([0.2]), torch.tensor([0.5]))
    options = ViewOptions(strict=True, resolution=96)
    assert Bakes(model).pays(96, options)
    baked, plain = (
        render_view(model, subject, camera, ViewOptions(strict=True, resolution=96, bake=bake))
        for bake in (True, False)
    )
    for got, want in zip(baked, plain):
        torch.testing.assert_close(got, want, rtol=0, atol=CLOSE)
    assert not torch.equal(baked.image, plain.image)  # two ways to the same picture, not one


# changes of the model, progress of growth, parts, samples
CASES: dict[str, tuple[dict[str, Any], float, Any, int | None]] = {
    "coded background": ({}, 1.0, "all", None),
    "styled background": ({"background": {**BACKGROUND, "kind": "styled"}}, 1.0, "all", None),
    "no background": ({"background": {**BACKGROUND, "kind": "none"}}, 1.0, "all", 7),
    "foreground alone": ({}, 1.0, "foreground", None),
    "one pass": ({"field": {**FIELD, "hierarchical": False}}, 1.0, "all", 9),
    "in a ball": ({"field": {**FIELD, "bound_radius": 0.1, "density_scale": 30.0}}, 1.0, "all", None),
    "ball alone": ({"field": {**FIELD, "bound_radius": 0.1, "density_scale": 30.0}}, 1.0, "foreground", None),
    "inverse depth": ({"field": {**FIELD, "warp": "inverse"}}, 1.0, "all", None),
    "contracted": ({"field": {**FIELD, "space": "radial"}}, 1.0, "all", None),
    "skips": ({"field": {**FIELD, "skips": (1,)}}, 1.0, "all", None),
    "growing": ({"resolution": 32}, 0.8, "all", None),
    "no rgb between": ({"resolution": 32, "upsampler": {**UPSAMPLER, "architecture": "orig"}}, 1.0, "all", None),
    "no image below": ({"upsampler": {**UPSAMPLER, "image_skip": False}}, 1.0, "all", None),
    "clamped": ({"upsampler": {**UPSAMPLER, "clamp": 0.3}}, 1.0, "all", None),
    "no upsampler": ({"resolution": 8}, 1.0, "all", None),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_model(case: str) -> None:
    changes, alpha, parts, samples = CASES[case]
    model = tiny_model(**changes)
    synthesis = model.generator.synthesis
    synthesis.alpha.fill_(alpha)
    subject, camera = subjects_from_seeds(model, [1]), model.prior.at(torch.tensor([0.3]), torch.tensor([0.6]))
    corner = torch.full((3,), 0.15)
    baked = BakedSubject(synthesis, subject.ws, -corner, corner, cells=12, z_bg=subject.z_bg)
    pixels = pixel_grid(13)
    got = baked.render(camera, pixels, parts=parts, samples=samples, keep=True)
    with torch.no_grad():
        options = RenderOptions(parts=parts, samples=samples)
        want = synthesis.strict(subject.ws, camera, pixels, z_bg=subject.z_bg, options=options)
    for name in ("colours", "depth", "opacity", "weights"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=CLOSE)
    seen = want.weights[..., : want.depths.shape[-1]] > CLOSE
    torch.testing.assert_close(got.depths[seen], want.depths[seen], rtol=0, atol=CLOSE)
    assert want.colours.std() > 0.01
    short = baked.render(camera, pixels, parts=parts, samples=samples)
    torch.testing.assert_close(short.colours, got.colours, rtol=0, atol=1e-6)


def test_what_cannot_be_seen_is_not_evaluated(demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_solid(demo)
    subject, camera = subjects_from_seeds(model, [0]), model.prior.at(torch.tensor([0.2]), torch.tensor([0.5]))
    corner = torch.full((3,), 0.3)
    baked = BakedSubject(model.generator.synthesis, subject.ws, -corner, corner, cells=48, z_bg=subject.z_bg)
    asked: list[int] = []
    at = march.BakedSubject._at
    monkeypatch.setattr(march.BakedSubject, "_at", lambda self, points: asked.append(len(points)) or at(self, points))
    pixels = pixel_grid(64)
    baked.render(camera, pixels)
    samples = 2 * (model.config.field.render_samples or 0)
    assert 0 < sum(asked) < len(pixels) * samples / 5


def blobs(points: Tensor) -> Tensor:
    return 4 - 9 * points.sub(0.3).norm(dim=-1).minimum((points + 0.4).norm(dim=-1) * 2)


def test_bounds_hold_and_tell_empty_space() -> None:
    corner = torch.ones(3)
    bake = bake_density(blobs, -corner, corner, cells=20)
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(5)) * 2 - 1
    place = ((points - bake.low) / bake.cell).long() + 1
    floor = bake.floor[tuple(place.T)]
    density = blobs(points)
    assert bool((density[floor < 0] <= 0).all()) and bool((density >= floor)[floor > 0].all())
    assert 0.6 < bake.empty < 1 and float((floor > 0).float().mean()) > 0.005
    filled = points[density > 0]
    assert bool(((filled >= bake.box[0]) & (filled <= bake.box[1])).all())
    assert float(bake.box[0].min()) > -0.95  # the box is tight


def test_a_field_finer_than_the_grid_excludes_nothing() -> None:
    corner = torch.ones(3)
    bake = bake_density(lambda p: (p * 900).sin().sum(-1) - 1.5, -corner, corner, cells=6)
    assert bake.empty == 0 and float(bake.floor.max()) == 0


def test_a_subject_is_baked_once(demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    bake = march.bake_density
    monkeypatch.setattr(march, "bake_density", lambda *a, **k: calls.append(k["cells"]) or bake(*a, **k))
    bakes, options = Bakes(demo), ViewOptions(strict=True, resolution=64)
    for seed, yaw in ((0, 0.1), (0, 0.9), (1, 0.1), (0, 0.5)):
        subject, camera = subjects_from_seeds(demo, [seed]), demo.prior.at(torch.tensor([yaw]), torch.tensor([0.5]))
        render_view(demo, subject, camera, options, bakes=bakes)
    assert calls == [16, 16]


def test_a_bake_is_given_up_when_asked(demo: Model) -> None:
    class Enough(Exception): ...

    def enough() -> None:
        raise Enough

    subject, camera = subjects_from_seeds(demo, [0]), demo.prior.at(torch.tensor([0.2]), torch.tensor([0.5]))
    with pytest.raises(Enough):
        render_view(demo, subject, camera, ViewOptions(strict=True, resolution=64), before_tile=enough)


def test_a_bake_is_of_one_subject(demo: Model) -> None:
    corner = torch.full((3,), 0.3)
    with pytest.raises(ValueError, match="ws must hold one subject, got 2"):
        BakedSubject(demo.generator.synthesis, subjects_from_seeds(demo, [0, 1]).ws, -corner, corner, cells=4)
