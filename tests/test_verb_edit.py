"""``stylenerf edit``: lists, sheets, edited subjects, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.edit.directions import load_directions
from stylenerf.engine.applications.render.outputs import to_pillow
from stylenerf.engine.applications.render.subjects import load_subjects, save_subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.command_line.main import main
from tests.models_at_hand import PRIOR, tiny_model
from tests.runs import digests


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of somebody who has a model and two subjects seen from somewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    model = tiny_model()
    save_subjects(tmp_path / "two.npz", subjects_from_seeds(model, [4, 5]), PRIOR.at(torch.tensor([0.2, 0.9]), 0.5))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("keep me")
    yield tmp_path


def edit(arguments: str) -> int:
    return main(["edit", "tiny", "--no-progress", *arguments.split()])


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_list_writes_nothing(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(desk)
    assert edit("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("direction   eigenvalue") and len(lines) == 1 + 8
    assert edit("--list --method pca --pick 2,5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2", "5"]
    assert digests(desk) == before


def test_a_sweep_is_a_sheet_for_each_subject(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("--out swept --seeds 1,2 --pick 0-2 --columns 3 --reach 2 --layers shape") == 0
    assert set(digests(desk / "swept")) == {"sweep-seed-1.png", "sweep-seed-2.png", "directions.npz"}
    assert "directions:  8 by factor, layers 0-2" in capsys.readouterr().out
    # 16 px are shown eightfold; the middle column is the subject itself, in every row
    model = tiny_model()
    want = np.array(to_pillow(render_view(model, subjects_from_seeds(model, [2]), PRIOR.at(0.5, 0.5)).image)[0])
    sheet = pixels("swept/sweep-seed-2.png")[::-1, ::-1][2:, 2:]  # from the lower right corner, inside the gap
    rows = [sheet[r * 130 : r * 130 + 128, 130 : 130 + 128][4::8, 4::8][::-1, ::-1] for r in range(3)]
    assert [np.abs(row.astype(int) - want).max() <= 1 for row in rows] == [True] * 3
    assert np.abs(sheet[:128, :128].astype(int) - sheet[:128, 130:258]).max() > 10


def test_projected_photos_are_edited_where_they_were_seen_from(desk: Path) -> None:
    assert edit("--out first --latents two.npz --method pca --apply 1:2,0:-0.5") == 0
    names = {"images/two-0.png", "images/two-1.png", "sheet.png", "latents.npz", "directions.npz"}
    assert set(digests(desk / "first")) == names
    model = tiny_model()
    (before, camera), (after, same) = (load_subjects(p, model) for p in ("two.npz", "first/latents.npz"))
    assert camera is not None and same is not None and torch.equal(camera.cam2world, same.cam2world)
    d = load_directions("first/directions.npz", model)
    shift = 2 * d.stds[1] * d.vectors[1] - 0.5 * d.stds[0] * d.vectors[0]
    torch.testing.assert_close(after.ws - before.ws, shift.expand_as(before.ws), rtol=0, atol=1e-5)
    want = np.array(to_pillow(render_view(model, after, camera).image)[1])
    assert np.abs(pixels("first/images/two-1.png").astype(int) - want).max() <= 1
    # the same directions from their file
    assert edit("--out second --latents two.npz --directions first/directions.npz --apply 1:2,0:-0.5") == 0
    assert digests(desk / "second") == digests(desk / "first")
    # a camera that is named counts
    assert edit("--out third --latents two.npz --method pca --apply 1:2,0:-0.5 --yaw 0.1") == 0
    assert not np.array_equal(pixels("third/images/two-1.png"), pixels("first/images/two-1.png"))


REFUSED = {
    "no folder": ("", "--out: wanted a new or empty folder, got nothing"),
    "full folder": ("--out full", "full: wanted a new or empty folder"),
    "layers": ("--out out --layers head", "--layers: wanted rows of 0 to 6"),
    "pick": ("--list --pick 8", "--pick: wanted directions of 0 to 7, got 8"),
    "reach": ("--out out --reach 0", "--reach: wanted a strength of 0 to 100"),
    "columns": ("--out out --columns 1", "--columns: wanted 2 to 101, got 1"),
    "batch": ("--out out --batch 0", "--batch: wanted 1 to 4096, got 0"),
    "too many": ("--out out --seeds 0-999", "wanted at most 4096 pictures, got 30000"),
    "apply": ("--out out --apply 1", "--apply: wanted direction:strength such as 2:1.5,0:-2, got '1'"),
    "apply what": ("--out out --apply 1:2.3.4", "--apply: wanted direction:strength"),
    "apply where": ("--out out --apply 8:1", "--apply: wanted a direction of 0 to 7"),
    "apply and list": ("--list --apply 1:1", "--apply: wanted without --pick and --list"),
    "file and method": ("--out out --directions d.npz --method pca", "--method: wanted without --directions"),
    "no file": ("--out out --directions d.npz", "d.npz: wanted a .npz of directions, got: No such file"),
    "not directions": ("--out out --directions two.npz", "two.npz: wanted a .npz of directions, got none of vectors"),
    "strict size": ("--out out --resolution 64", "--resolution: wanted the model's own 16 px"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(desk: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, message = REFUSED[case]
    before = digests(desk)
    assert edit(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and message in captured.err
    assert digests(desk) == before and not os.path.exists("out")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["edit", "--help"])
    assert ended.value.code == 0
    assert "stylenerf edit runs/quickstart --out swept --seeds 3" in capsys.readouterr().out
