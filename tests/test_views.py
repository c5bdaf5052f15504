"""Views: the fast one is the generator's own; a strict one is the NeRF path everywhere, in tiles, at any resolution."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stylenerf.models.renderer
from stylenerf.engine.applications.render.subjects import Subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import View, ViewOptions, render_view, render_views
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.models.camera import Camera
from stylenerf.models.generator import RenderOptions
from stylenerf.models.sampling import StepDraws
from tests.models_at_hand import tiny_model
from tests.tiny import TINY

FIELD, BACKGROUND, UPSAMPLER = (TINY["generator"][name] for name in ("field", "background", "upsampler"))
STRICT = ViewOptions(strict=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def scene(model: Model, count: int = 2) -> tuple[Subjects, Camera]:
    return subjects_from_seeds(model, range(count)), model.prior.at(torch.linspace(0.2, 0.9, count), 0.4)


def render(model: Model, options: ViewOptions, count: int = 2) -> View:
    return render_view(model, *scene(model, count), options)


@pytest.mark.parametrize("parts", ["all", "foreground", "background"])
def test_a_fast_view_is_the_generators_own(model: Model, parts: Any) -> None:
    subjects, camera = scene(model)
    view = render_view(model, subjects, camera, ViewOptions(parts=parts, samples=5))
    with torch.no_grad():
        options = RenderOptions(parts=parts, samples=5)
        want = model.generator.synthesis(subjects.ws, camera, z_bg=subjects.z_bg, options=options)
    assert torch.equal(view.image, want.image) and view.image.shape == (2, 3, 16, 16)
    assert torch.equal(view.depth, want.depth) and torch.equal(view.opacity, want.opacity)


def test_views_come_in_batches(model: Model) -> None:
    subjects, camera = scene(model, 3)
    parts = list(render_views(model, subjects, camera, STRICT, batch=2))
    assert [len(v.image) for v in parts] == [2, 1]
    want = render_view(model, subjects, camera, STRICT)
    torch.testing.assert_close(torch.cat([v.image for v in parts]), want.image, rtol=0, atol=1e-5)


# changes of the model, progress of growth, parts
LIKE_THE_PATH: dict[str, tuple[dict[str, Any], float, Any]] = {
    "coded background": ({}, 1.0, "all"),
    "styled background": ({"background": {**BACKGROUND, "kind": "styled"}}, 1.0, "all"),
    "no background": ({"background": {**BACKGROUND, "kind": "none"}}, 1.0, "all"),
    "foreground alone": ({}, 1.0, "foreground"),
    "background alone": ({}, 1.0, "background"),
    "one pass": ({"field": {**FIELD, "hierarchical": False}}, 1.0, "all"),
    "corners": ({"field": {**FIELD, "align_corners": True}}, 1.0, "all"),
    "growing": ({"resolution": 32}, 0.8, "all"),
    "growing, corners": ({"resolution": 64, "field": {**FIELD, "align_corners": True}}, 0.55, "all"),
    "no rgb between": ({"resolution": 32, "upsampler": {**UPSAMPLER, "architecture": "orig"}}, 1.0, "all"),
    "no image below": ({"upsampler": {**UPSAMPLER, "image_skip": False}}, 1.0, "all"),
    "noise": ({"upsampler": {**UPSAMPLER, "noise": True}}, 1.0, "all"),
    "another upsampler": ({"upsampler": {**UPSAMPLER, "mode": "bilinear_ada"}}, 1.0, "all"),
}


@pytest.mark.parametrize("case", LIKE_THE_PATH)
def test_strict_pixels_are_those_of_the_nerf_path(case: str) -> None:
    changes, alpha, parts = LIKE_THE_PATH[case]
    model = tiny_model(**changes)
    synthesis = model.generator.synthesis
    synthesis.alpha.fill_(alpha)
    subjects, camera = scene(model)
    draws = StepDraws(path_offset=torch.tensor([[0.3, 0.9], [0.6, 0.1]]))  # all else is deterministic
    options = RenderOptions(parts=parts, path=True)
    with torch.no_grad():
        path = synthesis(subjects.ws, camera, z_bg=subjects.z_bg, options=options, draws=draws).path
    assert path is not None
    view = render_view(model, subjects, camera, ViewOptions(strict=True, parts=parts))
    assert view.image.shape[-1] == synthesis.growth().resolution
    got = view.image.flatten(2).gather(2, path.indices[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(got, path.colours, rtol=0, atol=1e-5)
    assert (got[0] - got[1]).abs().max() > 0.01  # two subjects, not twice a constant


@pytest.mark.parametrize("tile_rays", [1, 37, 10_000])
def test_the_tile_does_not_show(model: Model, tile_rays: int) -> None:
    options = ViewOptions(strict=True, resolution=9, tile_rays=tile_rays)
    for_all, want = render(model, options), render(model, ViewOptions(strict=True, resolution=9, tile_rays=18))
    torch.testing.assert_close(for_all, want, rtol=0, atol=1e-5)


def test_a_finer_picture_goes_through_the_same_points(model: Model) -> None:
    coarse, fine = (render(model, ViewOptions(strict=True, resolution=r)) for r in (13, 39))
    torch.testing.assert_close(fine.image[..., 1::3, 1::3], coarse.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(fine.depth[..., 1::3, 1::3], coarse.depth, rtol=0, atol=1e-5)
    assert coarse.opacity.shape == (2, 13, 13)


def test_a_finer_picture_of_a_model_with_pixels_on_the_corners() -> None:
    model = tiny_model(field={**FIELD, "align_corners": True})
    coarse, fine = (render(model, ViewOptions(strict=True, resolution=r)) for r in (None, 31))
    torch.testing.assert_close(fine.image[..., ::2, ::2], coarse.image, rtol=0, atol=1e-5)


def test_a_strict_volume_without_upsampler_is_the_fast_one() -> None:
    model = tiny_model(resolution=8)
    torch.testing.assert_close(render(model, STRICT), render(model, ViewOptions()), rtol=0, atol=1e-5)


def test_a_subject_is_strictly_the_same_in_any_company(model: Model) -> None:
    subjects, camera = scene(model, 3)
    both = render_view(model, subjects, camera, STRICT)
    alone = render_view(model, subjects[1], camera[1], STRICT)
    torch.testing.assert_close(both.image[1:2], alone.image, rtol=0, atol=1e-5)


def test_what_cannot_be_seen_is_left_out_and_makes_no_difference(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    features = stylenerf.models.renderer.StyledField.features
    monkeypatch.setattr(
        stylenerf.models.renderer.StyledField,
        "features",
        lambda field, hidden, total, ws: sizes.append(hidden.shape[1]) or features(field, hidden, total, ws),
    )
    few = render(model, STRICT)
    monkeypatch.setattr(stylenerf.models.renderer, "_LEAST_WEIGHT", -1.0)
    every = render(model, STRICT)
    torch.testing.assert_close(few, every, rtol=0, atol=1e-5)
    assert sizes[1] == 16 * 16 * 6 and sizes[0] < 0.8 * sizes[1]


REFUSED: dict[str, tuple[dict[str, Any], ViewOptions, str]] = {
    "wide layers": ({"upsampler": {**UPSAMPLER, "kernel_size": 3}}, STRICT, "--strict: wanted a model whose upsampler"),
    "residual": ({"upsampler": {**UPSAMPLER, "architecture": "resnet"}}, STRICT, "--strict: wanted a model whose"),
    "fast at will": ({}, ViewOptions(resolution=40), "--resolution: wanted the model's own 16 px, or --strict"),
    "too large": ({}, ViewOptions(strict=True, resolution=10**6), "--resolution: wanted 1 to"),
    "no pixel": ({}, ViewOptions(strict=True, resolution=0), "--resolution: wanted 1 to"),
    "no tile": ({}, ViewOptions(strict=True, tile_rays=0), "--tile-rays: wanted at least 1, got 0"),
    "few samples": ({}, ViewOptions(samples=2), "--samples: wanted 3 to 4096, got 2"),
    "nothing behind": (
        {"background": {**BACKGROUND, "kind": "none"}},
        ViewOptions(parts="background"),
        "--parts: wanted 'all' or 'foreground'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_cannot_do_is_one_line(case: str) -> None:
    changes, options, message = REFUSED[case]
    model = tiny_model(**changes)
    with pytest.raises(UserError, match=message) as error:
        render(model, options)
    assert "\n" not in str(error.value)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that ops made and that somebody still holds; ``peak`` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._hold(made)
        return out

    def _hold(self, made: Tensor) -> None:
        key, size = made.untyped_storage().data_ptr(), made.untyped_storage().nbytes()
        self.holders[key] = self.holders.get(key, 0) + 1
        if self.holders[key] == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        weakref.finalize(made, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            self.bytes -= size


def peak_bytes(model: Model, resolution: int, tile_rays: int, *, bake: bool = False) -> int:
    subjects, camera = scene(model, 1)
    with LiveBytes() as live:
        options = ViewOptions(strict=True, resolution=resolution, tile_rays=tile_rays, bake=bake)
        render_view(model, subjects, camera, options)
    return live.peak


@pytest.mark.slow
def test_memory_follows_the_tile_not_the_picture(model: Model) -> None:
    small, large = peak_bytes(model, 32, 512), peak_bytes(model, 64, 512)
    # A pixel itself takes 5 numbers, once in tiles and once joined, and 2 of its place; the samples of its ray 1.4 kB.
    assert large - small < (64**2 - 32**2) * 48
    assert peak_bytes(model, 64, 64**2) > 5 * small
    baked = [peak_bytes(model, edge, 512, bake=True) for edge in (64, 128)]
    assert baked[1] - baked[0] < (128**2 - 64**2) * 48 + 32**3 * 100  # and the grid, while its bounds are found
