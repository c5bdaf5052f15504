"""``stylenerf mix``: a table that shows its sources, files to go on from, refusals in one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.edit.mixing import mix_grid
from stylenerf.engine.applications.render.subjects import load_subjects, save_subjects, subjects_from_seeds
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import load_model
from tests.models_at_hand import tiny_model
from tests.runs import digests


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    return tmp_path


def mix(arguments: str) -> int:
    return main(["mix", "tiny", "--no-progress", *arguments.split()])


def test_a_table_and_what_leads_on(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mix("--out out --coarse 1,2 --fine 3-5 --save image,depth --yaw 0.4 --batch 5") == 0
    assert capsys.readouterr().out.startswith("mixed:       rows 0-3 of 7 from 2 subjects, the others from 3\n")
    assert sorted(digests(Path("out"))) == ["cameras.json", "grid-depth.png", "grid.png", "latents.npz", "mix.json"]
    model = load_model("tiny")
    read, camera = load_subjects("out/latents.npz", model)
    wanted = mix_grid(subjects_from_seeds(model, [1, 2]), subjects_from_seeds(model, [3, 4, 5]), range(4))
    assert torch.equal(read.ws, wanted.ws) and camera is not None and len(camera) == 6
    told = json.loads(Path("out/mix.json").read_text())
    assert told == {"rows": [0, 1, 2, 3], "coarse": ["coarse 1", "coarse 2"], "fine": ["fine 3", "fine 4", "fine 5"],
                    "backdrop": "coarse"}  # fmt: skip
    with Image.open("out/grid-depth.png") as picture:
        pixels = np.array(picture)
    cells = [pixels[-128 - 2 : -2, -2 - 130 * i - 128 : -2 - 130 * i] for i in range(3)]
    assert np.array_equal(cells[0], cells[1]) and np.array_equal(cells[0], cells[2])  # a row has one geometry
    assert not np.array_equal(cells[0], pixels[-128 - 132 : -132, -130:-2])


def test_styles_from_a_file(desk: Path) -> None:
    save_subjects("me.npz", subjects_from_seeds(tiny_model(), [7, 8]))
    assert mix("--out out --coarse 1 --fine me.npz --layers 0-1,fine --backdrop fine") == 0
    assert json.loads(Path("out/mix.json").read_text())["fine"] == ["fine 0", "fine 1"]


BAD = {
    "no folder": ("", "--out: wanted a new or empty folder, got nothing"),
    "layers": ("--out new --layers 0-9", "--layers: wanted rows of 0 to 6, or shape, coarse, .*, got '0-9'"),
    "seeds": ("--out new --coarse x", "--coarse: wanted numbers"),
    "too many": ("--out new --coarse 0-99 --fine 0-99", "--coarse, --fine: wanted a table of at most 1024"),
    "far too many": ("--out new --coarse 0-9999", "--coarse: wanted at most 1024, got 10000"),
    "file": ("--out new --fine none.npz", "none.npz: wanted a .npz of subjects"),
    "kind": ("--out new --save foreground", "--save: wanted some of image, depth, normals, opacity, got foreground"),
    "batch": ("--out new --batch 0", "--batch: wanted 1 to 4096"),
    "yaw": ("--out new --yaw nan", "--yaw: wanted"),
    "camera twice": ("--out new --yaw 1 --cameras c.json", "--cameras: wanted alone .*, got also --yaw"),
    "truncation": ("--out new --truncation nan", "--truncation: wanted a number"),
    "strict": ("--out new --resolution 64", "--resolution: wanted the model's own 16 px, or --strict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, wanted = BAD[case]
    assert mix(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.match(f"error: {wanted}", err), err
    assert [p.name for p in desk.iterdir()] == ["tiny"]
