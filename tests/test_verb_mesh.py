"""``stylenerf mesh``: the files and their names, the same ones again, refusals before anything is written."""

import importlib.util
import json
from pathlib import Path

import pytest

from stylenerf.engine.applications.render.paths import read_cameras
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import save_model
from stylenerf.models.camera import Camera
from tests.known_density import give_known_density
from tests.mesh_readers import read_mesh
from tests.models_at_hand import PRIOR, tiny_model


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "tiny", give_known_density(tiny_model()).generator, PRIOR)
    (tmp_path / "taken.ply").write_text("keep me")
    (tmp_path / "b-cameras.json").write_text("keep me too")
    return tmp_path


def mesh(arguments: str) -> int:
    return main(["mesh", "tiny", "--no-progress", "--grid", "12", *arguments.split()])


def test_one_subject(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mesh("--out new/solid.glb --no-texture --seeds 5 --level 12 --preview --views 2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 5:      level 12 per world unit, ") and lines[0].endswith(", closed")
    assert lines[1:] == [f"wrote:       new/solid{e}" for e in (".glb", ".png", "-cameras.json")]
    assert sorted(p.name for p in Path("new").iterdir()) == ["solid-cameras.json", "solid.glb", "solid.png"]
    read = read_mesh(Path("new/solid.glb"))
    assert f"{len(read.vertices)} vertices, {len(read.faces)} faces" in lines[0]
    assert len(Camera.from_json(Path("new/solid-cameras.json"))) == 2 == len(read_cameras("new/solid-cameras.json"))
    assert json.loads(Path("new/solid-cameras.json").read_text())[0]["resolution"] == [16, 16]


def test_several_subjects_have_a_file_each_and_always_the_same(desk: Path) -> None:
    assert (
        mesh("--out a.ply --seeds 0,2 --largest --level 12") == 0
        and mesh("--out c.ply --seeds 2 --largest --level 12") == 0
    )
    assert sorted(p.name for p in desk.glob("a*")) == ["a-cameras.json", "a-seed-0.ply", "a-seed-2.ply"]
    assert Path("a-seed-2.ply").read_bytes() == Path("c.ply").read_bytes()


def test_options_reach_the_mesh(desk: Path) -> None:
    assert mesh("--out d.obj --level 12 --bounds -0.1 -0.1 -0.1 0.1 0.1 0.1 --no-colours") == 0
    read = read_mesh(Path("d.obj"))
    assert read.colours is None and abs(read.vertices).max() == pytest.approx(0.1, abs=0.001)  # a box inside it


REFUSED = {
    "no file": ("", "--out: wanted FILE.ply, FILE.obj or FILE.glb, got nothing"),
    "format": ("--out a.stl", "--out: wanted a name that ends with .ply, .obj, .glb, got a.stl"),
    "taken": ("--out taken.ply", "--out: wanted names that are not taken, got taken.ply, which exists"),
    "cameras taken": ("--out b.ply", "--out: wanted names that are not taken, got b-cameras.json, which exists"),
    "grid": ("--out a.ply --grid 1", "--grid: wanted 2 to 2048 cells, got 1"),
    "level": ("--out a.ply --level -3", "--level: wanted a positive number, got -3.0"),
    "high level": ("--out a.ply --level 1e9", "--level: wanted one that the density crosses inside the bounds"),
    "bounds": ("--out a.ply --bounds 0 0 0 1 1 -1", "--bounds: wanted the low corner before the high one"),
    "views": ("--out a.ply --views 0", "--views: wanted 1 to 1000, got 0"),
    "seeds": ("--out a.ply --seeds x", "--seeds: wanted numbers and ranges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_one_line_and_write_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, message = REFUSED[case]
    before = {p: p.read_bytes() for p in desk.iterdir() if p.is_file()}
    assert mesh(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert {p: p.read_bytes() for p in desk.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(("module", "library"), [("skimage", "scikit-image"), ("trimesh", "trimesh")])
def test_a_missing_library_is_one_line(
    module: str, library: str, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert mesh("--out a.ply") == 2
    assert capsys.readouterr().err == f"error: mesh: wanted {library}: pip install 'stylenerf-engine[mesh]'\n"
