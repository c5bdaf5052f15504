"""Pictures and figures of a generator: sizes, repeatability, and figures whose value is known."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stylenerf.engine.data import ProceduralScenes, label_from_camera
from stylenerf.engine.training.monitor import Monitor
from stylenerf.engine.training.step import TrainState
from stylenerf.engine.training.trainer import open_training_data
from stylenerf.models.camera import Camera
from stylenerf.models.generator import Generator, Rendered, StrictPixels
from tests.checkpoints import assert_state_equal
from tests.picture_files import some_pngs, write_folder
from tests.tiny import CPU, tiny_config

PAD = 2  # white pixels around every picture of a sheet
FIGURES = {
    f"Metric/{name}"
    for name in ("swd", "view_difference", "view_residual", "view_residual_ratio", "view_overlap", "pose_sensitivity",
                 "strict_psnr_db")
}  # fmt: skip
OF_TRUTH = {
    f"Metric/{name}"
    for name in ("depth_correlation", "depth_error", "view_residual_ratio_true", "pose_sensitivity_true")
}


def monitored(folder: Path, *overrides: str) -> tuple[Monitor, Generator]:
    """A monitor and an untrained average, at the full resolution unless ``overrides`` let it grow."""
    cfg = tiny_config("growth.enabled=false", "monitor.grid_images=5", "monitor.turn_frames=3", *overrides)
    data = open_training_data(cfg, print)
    return Monitor(cfg, data, folder, CPU), TrainState.create(cfg, data.label_dim, CPU).average


def sheet(columns: int, rows: int, edge: int) -> tuple[int, int]:
    return columns * (edge + PAD) + PAD, rows * (edge + PAD) + PAD


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: Image.open(path).size for path in folder.iterdir()}


def test_pictures_have_the_expected_sizes(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path / "images")
    paths = [monitor.reals(), *monitor.pictures(g, 12345)]
    # 5 pictures fill 3 columns and 2 rows; four latents turn through 3 frames; depth has 8 px and is shown at 16
    assert sizes(tmp_path / "images") == {
        "reals.png": sheet(3, 2, 16),
        "samples-00012345.png": sheet(3, 2, 16),
        "turn-00012345.png": sheet(3, 4, 16),
        "depth-00012345.png": sheet(3, 4, 16),
        "views-00012345.png": sheet(4, 4, 16),
    }
    assert {path.name for path in paths} == set(sizes(tmp_path / "images"))


def test_pictures_during_growth(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path, "growth.enabled=true", "monitor.turn_frames=1", "monitor.grid_images=1")
    monitor.pictures(g, 0)
    assert sizes(tmp_path) == {
        "samples-00000000.png": sheet(1, 1, 8),
        "turn-00000000.png": sheet(1, 1, 8),
        "depth-00000000.png": sheet(1, 1, 16),
        "views-00000000.png": sheet(4, 1, 8),
    }


def test_real_sheet_shows_the_first_images_of_training(tmp_path: Path) -> None:
    monitor, _ = monitored(tmp_path)
    pixels = torch.tensor(bytearray(Image.open(monitor.reals()).tobytes()), dtype=torch.uint8).view(38, 56, 3)
    first = monitor.data.batch(0, 0, 1, 16).images[0].permute(1, 2, 0)
    assert torch.equal(pixels[PAD : PAD + 16, PAD : PAD + 16], first)


def test_figures_are_finite_and_the_same_every_time(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path)
    before = {name: part.clone() for name, part in g.state_dict().items()}
    random_state = torch.get_rng_state()
    figures = monitor.figures(g)
    assert set(figures) == FIGURES | OF_TRUTH
    assert all(math.isfinite(value) for value in figures.values())
    assert monitor.figures(g) == figures
    assert monitored(tmp_path)[0].figures(g) == figures  # and nothing of it was remembered from the first time
    assert_state_equal(dict(g.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_pictures_are_the_same_every_time(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path)
    first = [path.read_bytes() for path in monitor.pictures(g, 1)]
    assert [path.read_bytes() for path in monitor.pictures(g, 2)] == first
    assert len(set(first)) == 4


def test_figures_tell_generators_apart(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path)
    other = TrainState.create(tiny_config("growth.enabled=false", "train.seed=5"), 0, CPU).average
    one, two = monitor.figures(g), monitor.figures(other)
    assert {name for name in one if one[name] == two[name]} == OF_TRUTH - {
        "Metric/depth_correlation",
        "Metric/depth_error",
    }


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        (["monitor.swd_images=0"], {"Metric/swd"}),
        (["monitor.depth_scenes=0"], OF_TRUTH),
        (["generator.upsampler.kernel_size=3", "loss.nerf_path_weight=0"], {"Metric/strict_psnr_db"}),
    ],
)
def test_figures_that_are_off_or_impossible(overrides: list[str], left_out: set[str], tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path, *overrides)
    assert set(monitor.figures(g)) == (FIGURES | OF_TRUTH) - left_out


def test_photographs_have_no_true_depth(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", some_pngs(3))
    monitor, g = monitored(tmp_path / "images", f"data.path={photos}")
    assert set(monitor.figures(g)) == FIGURES


@pytest.mark.parametrize(
    "overrides", [["data.labels=true"], ["generator.background.kind=none"]], ids=["labels", "no_background"]
)
def test_other_kinds_of_generator(overrides: list[str], tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path, *overrides)
    monitor.pictures(g, 0)
    assert all(math.isfinite(value) for value in monitor.figures(g).values())


def test_more_scenes_wanted_than_there_are(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path, "data.scenes=3", "monitor.depth_scenes=8")
    assert -1 <= monitor.figures(g)["Metric/depth_correlation"] <= 1


def test_size_of_the_batches_does_not_matter(tmp_path: Path) -> None:
    (one, g), (many, _) = monitored(tmp_path, "monitor.batch=1"), monitored(tmp_path, "monitor.batch=7")
    torch.testing.assert_close(one.turning(g).image, many.turning(g).image, rtol=1e-4, atol=1e-4)


def test_turning_changes_the_camera_alone(tmp_path: Path) -> None:
    """Without a range to turn through, a latent's frames are one picture; two latents' are not."""
    monitor, g = monitored(tmp_path, "camera.yaw=[0.2, 0.2]", "monitor.batch=3")
    images = monitor.turning(g).image.unflatten(0, (4, 3))
    torch.testing.assert_close(images[:, 1:], images[:, :1].expand(-1, 2, -1, -1, -1), rtol=1e-4, atol=1e-4)
    assert (images[0, 0] - images[1, 0]).abs().max() > 0.01
    turned, g = monitored(tmp_path)
    images = turned.turning(g).image.unflatten(0, (4, 3))
    assert (images[:, 0] - images[:, 2]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_views_from_one_place_agree(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path, "camera.yaw=[0.2, 0.2]")
    figures = monitor.figures(g)
    assert figures["Metric/view_difference"] == pytest.approx(0, abs=1e-5)
    assert figures["Metric/view_residual"] == pytest.approx(0, abs=1e-3)
    assert figures["Metric/view_overlap"] > 0.5


def test_pictures_without_an_upsampler_are_strict(tmp_path: Path) -> None:
    """At the resolution of the volume only the order of the sums differs; a block blurs, and adds noise."""
    grown, g = monitored(tmp_path)
    small, same = monitored(tmp_path, "growth.enabled=true")
    assert small.figures(same)["Metric/strict_psnr_db"] > 80 > 60 > grown.figures(g)["Metric/strict_psnr_db"]


def test_the_scenes_themselves_have_the_figures_of_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, g = monitored(tmp_path, "monitor.depth_scenes=6", "monitor.batch=6")
    scenes, far = monitor.truth, monitor.cfg.generator.field.far
    assert isinstance(scenes, ProceduralScenes)

    def shown(purpose: str, count: int, camera: Camera) -> Tensor:
        views = [scenes.view(k, 16, camera[k]).image for k in range(count)]
        return torch.stack([torch.tensor(view) for view in views]).permute(0, 3, 1, 2) / 127.5 - 1

    def depth(purpose: str, count: int, camera: Camera) -> Tensor:
        return torch.stack([torch.tensor(scenes.view(k, 8, camera[k]).depth) for k in range(count)]).clamp(max=far)

    def opacity(purpose: str, count: int, camera: Camera) -> Tensor:
        return (depth(purpose, count, camera) < far).float()

    replace_rendering(monitor, monkeypatch, image=shown, depth=depth, opacity=opacity)
    monkeypatch.setattr(monitor, "_agreement_with_strict", lambda g: 0.0)
    figures = monitor._consistency(g)
    for name in ("view_residual_ratio", "pose_sensitivity"):
        assert figures[f"Metric/{name}"] == pytest.approx(figures[f"Metric/{name}_true"], rel=1e-5)
    assert 0 < figures["Metric/view_residual_ratio"] < 0.9 and figures["Metric/pose_sensitivity"] > 0.05
    replace_rendering(monitor, monkeypatch, image=lambda p, n, c: shown(p, n, _repeat_first(c)), depth=depth,
                      opacity=opacity)  # fmt: skip
    assert monitor._consistency(g)["Metric/pose_sensitivity"] == 0


def _repeat_first(camera: Camera) -> Camera:
    """One side, wherever it is seen from."""
    front = Camera(torch.eye(4)[None], camera.tan_half_fov[:1])
    front.cam2world[0, 2, 3] = 1.0
    return front[torch.zeros(len(camera), dtype=torch.long)]


def test_nothing_solid_gives_no_view_figures(tmp_path: Path) -> None:
    monitor, g = monitored(tmp_path)
    g.synthesis.volume.foreground.density.bias.fill_(-1e3)
    figures = monitor.figures(g)
    assert figures["Metric/view_overlap"] == 0
    assert math.isnan(figures["Metric/view_residual"])


@pytest.mark.parametrize(
    ("yaw", "wanted"),
    [("[-0.4, 0.8]", [-0.4, 0.0, 0.4, 0.8]), (f"[{-math.pi}, {math.pi}]", [-math.pi, -math.pi / 2, 0.0, math.pi / 2])],
)
def test_cameras_sweep_the_range_and_share_a_whole_turn(yaw: str, wanted: list[float], tmp_path: Path) -> None:
    """The ends of a whole turn are one view, which is shown once."""
    monitor, _ = monitored(tmp_path, f"camera.yaw={yaw}")
    x, y, _ = monitor._sweep(4).position.unbind(1)
    circle = torch.tensor([[math.cos(u) for u in wanted], [math.sin(u) for u in wanted]])
    torch.testing.assert_close(torch.stack([x, y]), circle * math.sin(1.55))  # the middle of the pitch, 1.4 to 1.7


def replace_rendering(monitor: Monitor, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Let ``_render`` give ``parts``, each a function of (purpose, count, camera)."""

    def render(g: Generator, purpose: str, count: int, camera: Camera, *, repeat: int = 1) -> SimpleNamespace:
        return SimpleNamespace(**{name: make(purpose, count, camera) for name, make in parts.items()})

    monkeypatch.setattr(monitor, "_render", render)


@pytest.mark.parametrize(("gain", "want"), [(1.0, 1.0), (0.2, 1.0), (-1.0, -1.0)])
def test_true_depth_correlates_with_itself(
    gain: float, want: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, g = monitored(tmp_path, "monitor.depth_scenes=6")
    scenes = monitor.truth
    assert isinstance(scenes, ProceduralScenes)

    def depth(purpose: str, count: int, camera: Camera) -> Tensor:
        assert (purpose, count) == ("depth", 6)
        true = torch.stack([torch.tensor(scenes.view(k, 8, camera[k]).depth) for k in range(count)])
        return 2 + gain * true.clamp(max=monitor.cfg.generator.field.far)

    replace_rendering(monitor, monkeypatch, depth=depth)
    assert monitor._depth(g, scenes)["Metric/depth_correlation"] == pytest.approx(want, abs=1e-5)
    assert (monitor._depth(g, scenes)["Metric/depth_error"] > 1) == (gain > 0)  # depths are 0.7 to 1.3 and 2 + these


def test_distance_of_the_data_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, g = monitored(tmp_path, "monitor.swd_images=16")
    reals = monitor.data.batch(monitor.cfg.train.seed, 0, 16, 16).images / 127.5 - 1
    replace_rendering(monitor, monkeypatch, image=lambda *_: reals)
    assert monitor._sliced_wasserstein(g) == pytest.approx(0, abs=1e-2)
    replace_rendering(monitor, monkeypatch, image=lambda *_: reals.roll(5, dims=2).flip(1))
    assert monitor._sliced_wasserstein(g) > 10


def test_growth_gets_a_distance_of_its_own(tmp_path: Path) -> None:
    """At each resolution the data are compared at that resolution."""
    monitor, g = monitored(tmp_path, "growth.enabled=true")
    monitor.figures(g)
    g.synthesis.alpha.fill_(1.0)
    monitor.figures(g)
    assert list(monitor._swd) == [8, 16]


def test_camera_labels_follow_the_rendering_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every picture and figure."""
    monitor, g = monitored(tmp_path, "data.labels=true")
    labels, cameras = [], []
    mapping, render, strict = g.mapping.forward, g.synthesis.forward, g.synthesis.strict

    def label_spy(z: Tensor, label: Tensor) -> Tensor:
        labels.append(label)
        return mapping(z, label)

    def camera_spy(ws: Tensor, camera: Camera, **options: Any) -> Rendered:
        cameras.append(camera)
        return render(ws, camera, **options)

    def strict_spy(ws: Tensor, camera: Camera, pixels: Tensor, **options: Any) -> StrictPixels:
        cameras.append(camera)
        return strict(ws, camera, pixels, **options)

    monkeypatch.setattr(g.synthesis, "strict", strict_spy)
    monkeypatch.setattr(g.mapping, "forward", label_spy)
    monkeypatch.setattr(g.synthesis, "forward", camera_spy)
    monitor.pictures(g, 0)
    monitor.figures(g)
    used = torch.cat([label_from_camera(c) for c in cameras])
    assert len(used) > 20 and torch.equal(torch.cat(labels), used)
