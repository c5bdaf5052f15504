"""Camera paths: where they stand, that they close, what they warn of; files of cameras, whole or one clear line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.engine.applications.render.paths import (
    PATHS,
    PathOptions,
    bounced,
    camera_path,
    prior_ranges,
    read_cameras,
    warn_of_radius,
)
from stylenerf.engine.errors import UserError
from stylenerf.models.camera import Camera, CameraPrior

SOME = CameraPrior("uniform", yaw=(-0.5, 1.0), pitch=(1.2, 1.8), radius=(0.9, 1.3), fov_deg=30.0)
ROUND = CameraPrior("uniform", yaw=(0.0, 1.0), pitch=(0.25, 0.5), fov_deg=16.0, angular=False)
SPAN = (0.7, 1.3)


def angles(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw, pitch and radius of cameras."""
    x, y, z = camera.position.double().unbind(-1)
    radius = camera.position.double().norm(dim=-1)
    return torch.atan2(y, x), torch.acos(z / radius), radius


def path(kind: str, prior: CameraPrior = SOME, **options: Any) -> Camera:
    return camera_path(prior, kind, PathOptions(**options), span=SPAN).camera


def test_a_model_that_knows_all_sides_turns_around() -> None:
    yaw, pitch, radius = angles(path("turntable", ROUND, frames=4))
    torch.testing.assert_close(yaw.remainder(2 * math.pi), torch.tensor([0, 0.5, 1, 1.5]).double() * math.pi)
    level = (math.acos(0.5) + math.acos(0.0)) / 2  # pitch = arccos(1 - 2 v), v = 0.25 and 0.5
    torch.testing.assert_close(pitch, torch.full_like(pitch, level))
    torch.testing.assert_close(radius, torch.ones_like(radius))


def test_a_model_that_knows_some_sides_swings() -> None:
    found = camera_path(SOME, "turntable", PathOptions(frames=4))
    yaw, pitch, radius = angles(found.camera)
    torch.testing.assert_close(yaw, torch.tensor([0.25, 1.0, 0.25, -0.5]).double())
    torch.testing.assert_close(pitch, torch.full_like(pitch, 1.5))
    torch.testing.assert_close(radius, torch.full_like(radius, 1.1))
    assert found.loops


def test_the_ellipse_touches_all_four_ends() -> None:
    yaw, pitch, _ = angles(path("ellipse", frames=4))
    torch.testing.assert_close(yaw, torch.tensor([0.25, 1.0, 0.25, -0.5]).double())
    torch.testing.assert_close(pitch, torch.tensor([1.8, 1.5, 1.2, 1.5]).double())


def test_a_sweep_has_both_ends() -> None:
    yaw, _, _ = angles(path("sweep", frames=3, yaw_rad=(0.0, 0.4)))
    torch.testing.assert_close(yaw, torch.tensor([0.0, 0.2, 0.4]).double())


def test_a_zoom_narrows_the_view_evenly() -> None:
    tan = path("zoom", frames=3, magnification=(1.0, 4.0)).tan_half_fov[:, 0]
    torch.testing.assert_close(tan, math.tan(math.radians(15)) / torch.tensor([1.0, 2.0, 4.0]))


def test_a_dolly_comes_nearer() -> None:
    torch.testing.assert_close(angles(path("dolly", frames=3))[2], torch.tensor([1.3, 1.1, 0.9]).double())
    at_one = angles(path("dolly", ROUND, frames=2))[2]  # a quarter of 0.7 to 1.3 either way
    torch.testing.assert_close(at_one, torch.tensor([1.15, 0.85]).double())


def test_a_grid_is_laid_out_from_above_to_below() -> None:
    found = camera_path(SOME, "grid", PathOptions(grid=(3, 2)))
    yaw, pitch, _ = angles(found.camera)
    torch.testing.assert_close(yaw, torch.tensor([-0.5, 0.25, 1.0] * 2).double())
    torch.testing.assert_close(pitch, torch.tensor([1.2] * 3 + [1.8] * 3).double())
    assert found.columns == 3 and not found.loops


def test_random_cameras_are_the_prior_s() -> None:
    drawn = path("random", frames=5, seed=3)
    assert torch.equal(drawn.cam2world, SOME.sample(5, torch.Generator().manual_seed(3)).cam2world)
    assert not torch.equal(drawn.cam2world, path("random", frames=5, seed=4).cam2world)
    yaw, pitch, _ = angles(path("random", frames=50, yaw_rad=(0.1, 0.2)))
    assert bool(((yaw >= 0.1) & (yaw <= 0.2)).all()) and float(pitch.std()) > 0.1


def test_there_and_back() -> None:
    there = camera_path(SOME, "sweep", PathOptions(frames=4))
    back = bounced(there)
    assert torch.equal(back.camera.cam2world, there.camera.cam2world[[0, 1, 2, 3, 2, 1]])
    assert back.loops and back.shown == 4
    assert len(bounced(camera_path(SOME, "sweep", PathOptions(frames=1))).camera) == 1


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATHS), st.integers(1, 9), st.sampled_from([SOME, ROUND]))
def test_every_path_looks_at_the_origin_from_within_the_prior(kind: str, frames: int, prior: CameraPrior) -> None:
    camera = path(kind, prior, frames=frames)
    assert bool(torch.isfinite(camera.cam2world).all())
    pixels, depth = camera.project(torch.zeros(len(camera), 1, 3))
    assert float(pixels.abs().max()) < 1e-5 and float(depth.min()) > 0
    if kind != "dolly":
        assert warn_of_radius(camera, prior) is None
    known = prior_ranges(prior)
    _, pitch, _ = angles(camera)
    assert known.pitch_rad[0] - 1e-5 <= float(pitch.min()) and float(pitch.max()) <= known.pitch_rad[1] + 1e-5


def test_a_radius_outside_the_prior_is_told() -> None:
    line = warn_of_radius(path("still", radius=(2.0, 2.0)), SOME)
    assert line is not None and line.startswith("cameras stand 2 from the origin, those of the training 0.9 to 1.3:")


OPTIONS: dict[str, dict[str, Any]] = {
    "--frames": {"frames": 0},
    "--yaw": {"yaw_rad": (1.0, 0.0)},
    "--pitch": {"pitch_rad": (-0.1, 1.0)},
    "--radius": {"radius": (1.0, float("inf"))},
    "--fov": {"fov_deg": float("nan")},
    "--magnify": {"magnification": (1.0, 0.0)},
    "--grid": {"grid": (400, 400)},
    "--path-seed": {"seed": -1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_make_no_path(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: wanted"):
        PathOptions(**OPTIONS[name])


def test_another_path() -> None:
    with pytest.raises(UserError, match=r"--path: wanted one of turntable, .*, random, got 'spiral'"):
        camera_path(SOME, "spiral")


def test_a_file_gives_back_the_cameras(tmp_path: Path) -> None:
    camera = path("ellipse", frames=5)
    (tmp_path / "c.json").write_text(camera.to_json())
    read = read_cameras(tmp_path / "c.json")
    assert torch.equal(read.cam2world, camera.cam2world)
    torch.testing.assert_close(read.tan_half_fov, camera.tan_half_fov)


GOOD = json.loads(path("still").to_json())[0]


def changed(row: int, column: int, value: Any) -> dict[str, Any]:
    matrix = [list(line) for line in GOOD["cam2world"]]
    matrix[row][column] = value
    return {**GOOD, "cam2world": matrix}


FILES: dict[str, tuple[Any, str]] = {
    "no list": (GOOD, "wanted a list of 1 to 100000 cameras, got dict"),
    "none": ([], "wanted a list of 1 to 100000 cameras, got a list of 0"),
    "number": ([GOOD, 3], "camera 1: wanted an object with cam2world and fov_deg, got 3"),
    "no fov": ([{"cam2world": GOOD["cam2world"]}], r"camera 0: wanted an object .*, got \['cam2world'\]"),
    "3 x 4": ([{**GOOD, "cam2world": GOOD["cam2world"][:3]}], "wanted cam2world of 4 rows of 4 finite numbers"),
    "nan": ([changed(0, 3, float("nan"))], "wanted cam2world of 4 rows of 4 finite numbers"),
    "huge": ([changed(0, 3, 10**400)], "wanted cam2world of 4 rows of 4 finite numbers"),
    "text": ([changed(0, 0, "1")], "wanted cam2world of 4 rows of 4 finite numbers"),
    "true": ([changed(3, 3, True)], "wanted cam2world of 4 rows of 4 finite numbers"),
    "sheared": ([changed(0, 0, 0.7)], "camera 0: wanted a rotation in cam2world .*, got one that is off by"),
    "mirrored": (
        [{**GOOD, "cam2world": [[-line[0], *line[1:]] for line in GOOD["cam2world"]]}],
        "wanted a right-handed rotation in cam2world, got a mirrored one",
    ),
    "singular": ([{**GOOD, "cam2world": [[0] * 4] * 3 + [[0, 0, 0, 1]]}], "wanted a rotation in cam2world"),
    "last row": ([changed(3, 0, 0.5)], "wanted 0 0 0 1 as the last row of cam2world, got"),
    "flat": ([{**GOOD, "fov_deg": 0}], "wanted fov_deg between 0 and 180 .*, got 0"),
    "half turn": ([{**GOOD, "fov_deg": 180}], "wanted fov_deg between 0 and 180 .*, got 180"),
    "no number": ([{**GOOD, "fov_deg": None}], "wanted fov_deg between 0 and 180 .*, got null"),
    "at the origin": (
        [{**GOOD, "cam2world": [[*line[:3], 0] for line in GOOD["cam2world"][:3]] + [[0, 0, 0, 1]]}],
        "wanted a position away from the origin",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_degenerate_camera_is_one_line(case: str, tmp_path: Path) -> None:
    rows, message = FILES[case]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"c.json: .*{message}") as caught:
        read_cameras(tmp_path / "c.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.json: wanted a JSON file of cameras, got"):
        read_cameras(tmp_path / "c.json")
