"""``stylenerf interpolate`` and ``zoom``: films and sheets, camera and subject moving, refusals in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.render.interpolation import between_seeds, between_subjects
from stylenerf.engine.applications.render.paths import PathOptions, bounced, camera_path
from stylenerf.engine.applications.render.subjects import load_subjects, save_subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import ViewOptions, render_view
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import load_model
from stylenerf.engine.pictures import to_uint8
from stylenerf.models.camera import Camera
from tests.models_at_hand import PRIOR, tiny_model
from tests.runs import digests


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    return tmp_path


def stylenerf(arguments: str) -> int:
    verb, *rest = arguments.split()
    return main([verb, "tiny", "--no-progress", *rest])


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def bytes_of(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image).permute(1, 2, 0).numpy().astype(int)


def test_a_walk_with_a_moving_camera(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stylenerf("interpolate --out out --seeds 3,1,4 --loop --frames 12 --path ellipse") == 0
    assert capsys.readouterr().out.startswith("rendered:    1 x 12 views, 16 px\nwrote:       out/frames\n")
    files = {p for p in digests(Path("out")) if not p.startswith("frames/")}
    assert files == {"cameras.json", "job.json", "latents.npz", "sheet.png", "interpolation-image.gif"}
    model = tiny_model()
    subjects = between_seeds(model, [3, 1, 4], 12, loop=True)
    camera = camera_path(PRIOR, "ellipse", PathOptions(frames=12)).camera
    view = render_view(model, subjects, camera)
    assert np.abs(pixels("out/frames/interpolation/image-0007.png") - bytes_of(view.image[7])).max() <= 1
    read, seen = load_subjects("out/latents.npz", model)
    torch.testing.assert_close(read.ws, subjects.ws)
    assert seen is not None and torch.equal(seen.cam2world, camera.cam2world)
    sheet = pixels("out/sheet.png")
    assert sheet.shape[0] == 3 * 132  # a row for each step, which ends where the next begins
    tiles = [[sheet[132 * r + 2 :][:128, -(130 * (5 - c)) :][:, :128] for c in (0, 4)] for r in range(3)]
    ends = [np.abs(tiles[r][1] - tiles[(r + 1) % 3][0]).max() for r in range(3)]
    assert max(ends) == 0 and not np.array_equal(tiles[0][0], tiles[0][1])


def test_in_w_from_a_file_with_a_still_camera(desk: Path) -> None:
    model = load_model("tiny")
    keys = subjects_from_seeds(model, [7, 8])
    save_subjects("two.npz", keys)
    assert stylenerf("interpolate --out out --latents two.npz --frames 3 --no-sheet --format png") == 0
    view = render_view(model, between_subjects(keys, 3), PRIOR.at(torch.full((3,), 0.5), 0.5))
    assert np.abs(pixels("out/frames/interpolation/image-0001.png") - bytes_of(view.image[1])).max() <= 1
    assert stylenerf("interpolate --out again --seeds 7,8 --space w --frames 3 --no-sheet --format png") == 0
    assert digests(Path("out/frames")) == digests(Path("again/frames"))


def test_a_walk_takes_its_time(desk: Path) -> None:
    assert stylenerf("interpolate --out out --seeds 1-2 --format gif --no-sheet") == 0
    with Image.open("out/interpolation-image.gif") as film:
        assert getattr(film, "n_frames", 1) == 25


def test_a_zoom_beside_its_strict_form(desk: Path) -> None:
    assert stylenerf("zoom --out out --seeds 5 --frames 3 --magnify 1 3 --bounce --compare") == 0
    assert "seed-5.gif" in digests(Path("out"))
    with Image.open("out/seed-5.gif") as film:
        assert film.size == (32, 16) and getattr(film, "n_frames", 1) == 4
    model = tiny_model()
    camera = bounced(camera_path(PRIOR, "zoom", PathOptions(frames=3, magnification=(1.0, 3.0)))).camera
    torch.testing.assert_close(Camera.from_json(Path("out/cameras.json")).tan_half_fov, camera.tan_half_fov)
    strict = render_view(model, subjects_from_seeds(model, [5]), camera[2], ViewOptions(strict=True))
    assert np.abs(pixels("out/frames/seed-5/strict-0002.png") - bytes_of(strict.image[0])).max() <= 1
    assert pixels("out/sheet.png").shape[0] == 2 * 132


BAD = {
    "one subject": ("interpolate --out new --seeds 1", "--seeds, --latents: wanted at least two"),
    "one frame": ("interpolate --out new --frames 1", "--frames: wanted at least 2, got 1"),
    "no frame": ("interpolate --out new --frames 0", "--frames: wanted"),
    "z of a file": ("interpolate --out new --latents x.npz --space z", "--space: wanted w with --latents"),
    "both": ("interpolate --out new --latents x.npz --seeds 1", "--seeds: wanted one of --seeds and --latents"),
    "cameras": ("interpolate --out new --frames 4 --cameras three.json", "--cameras: wanted a file of 1 or 4 cameras"),
    "path": ("interpolate --out new --path grid", "argument --path: invalid choice: 'grid'"),
    "no folder": ("interpolate", "--out: wanted a new or empty folder, got nothing"),
    "strict twice": ("zoom --out new --compare --strict", "--compare: wanted without --strict"),
    "saved twice": ("zoom --out new --compare --save depth", "--compare: wanted without .*, got --save"),
    "magnify": ("zoom --out new --magnify 1 0", "--magnify: wanted two positive factors"),
    "magnify a dolly": ("zoom --out new --path dolly --magnify 1 2", "--magnify: has no meaning for --path dolly"),
    "turntable": ("zoom --out new --path turntable", "argument --path: invalid choice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("three.json").write_text(camera_path(PRIOR, "sweep", PathOptions(frames=3)).camera.to_json())
    save_subjects("x.npz", subjects_from_seeds(tiny_model(), [1, 2]))
    arguments, wanted = BAD[case]
    assert stylenerf(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.match(f"error: {wanted}", err), err
    assert sorted(p.name for p in desk.iterdir()) == ["three.json", "tiny", "x.npz"]
