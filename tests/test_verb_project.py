"""``stylenerf project``: what lies in the folder, what goes on after Ctrl-C, and what is refused."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylenerf.engine.applications.project.projection import Projector
from stylenerf.engine.applications.render.outputs import to_pillow
from stylenerf.engine.applications.render.subjects import load_subjects, save_subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import load_model, save_model
from stylenerf.engine.pictures import save_png
from tests.models_at_hand import PRIOR, tiny_model
from tests.runs import digests

SMALL = "--subjects 2 --cameras 2 --starts 2 --steps 8 --polish 1"


@pytest.fixture
def desk(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of somebody who has a model, two pictures and their truth."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(saved_model)
    model = tiny_model()
    subjects, camera = subjects_from_seeds(model, [0, 3]), PRIOR.at(torch.tensor([0.3, 0.7]), 0.5)
    for name, picture in zip("ab", to_pillow(render_view(model, subjects, camera).image)):
        save_png(picture, tmp_path / f"{name}.png")
    save_subjects(tmp_path / "truth.npz", subjects, camera)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("keep me")
    (tmp_path / "text.jpg").write_text("no picture")
    yield tmp_path


def project(arguments: str) -> int:
    return main(["project", "--no-progress", *arguments.split()])


def test_everything_is_written(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(Path("tiny"))
    assert project(f"tiny a.png b.png --out out {SMALL} --tune 2 --truth truth.npz --video webp") == 0
    printed = capsys.readouterr().out
    files = {name for name in digests(Path("out")) if not name.startswith("checkpoints/")}
    names = {"latents.npz", "sheet.png", "progress.webp", "loss.png", "losses.json", "images/a.png", "images/b.png"}
    assert files == names | {f"model/{name}" for name in digests(Path("tiny"))}
    assert digests(Path("tiny")) == before
    assert "found:       " in printed and "rad from the true camera" in printed and "wrote:       out/model" in printed
    record = json.loads(Path("out/losses.json").read_text())
    assert record["photos"] == ["a.png", "b.png"] and len(record["losses"]) == 1 + 8 + 1 + 2
    # the picture is what the tuned model makes of what was found
    tuned = load_model("out/model")
    subjects, camera = load_subjects("out/latents.npz", tuned)
    assert camera is not None and len(subjects) == 2
    with Image.open("out/images/b.png") as image:
        want = np.array(to_pillow(render_view(tuned, subjects, camera).image)[1])
        assert np.abs(np.array(image).astype(int) - want).max() <= 1
    assert record["cameras"][0]["radius"] == pytest.approx(float(camera.position[0].norm()))


def test_an_interrupted_projection_goes_on_exactly(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project(f"tiny a.png b.png --out through --same-subject {SMALL} --tune 2") == 0
    advance = Projector.advance

    def stopped(self: Projector) -> Any:
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Projector, "advance", stopped)
    assert project(f"tiny a.png b.png --out cut --same-subject {SMALL} --tune 2") == 130
    monkeypatch.undo()
    monkeypatch.chdir(desk)
    assert sorted(os.listdir("cut")) == ["checkpoints"]
    Path("a.png").unlink()  # the folder holds what it needs
    assert project("--resume cut") == 0
    ours, theirs = digests(Path("cut")), digests(Path("through"))
    assert ours.keys() - theirs.keys() == {n for n in ours if n.startswith("checkpoints/")} - theirs.keys()
    same = [n for n in theirs if not n.startswith("checkpoints/")]
    assert {n: ours[n] for n in same} == {n: theirs[n] for n in same}
    assert project("--resume cut") == 2


def test_a_model_that_changed_is_refused(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_model().generator
    save_model(desk / "mine", other, PRIOR)
    assert project(f"mine a.png --out out {SMALL}") == 0
    (desk / "out" / "losses.json").unlink()  # as if it had not ended
    with torch.no_grad():
        other.mapping.w_avg += 1
    (desk / "mine").rename(desk / "before")
    save_model(desk / "mine", other, PRIOR)
    assert project("--resume out") == 2
    assert "--resume: wanted the model that the projection began with, got another" in capsys.readouterr().err


REFUSED = {
    "nothing": ("", "MODEL, PHOTO: wanted a model and at least one photograph"),
    "no photo": ("tiny --out out", "MODEL, PHOTO: wanted"),
    "no folder": ("tiny a.png", "--out: wanted a new or empty folder, got nothing"),
    "full folder": ("tiny a.png --out full", "full: wanted a new or empty folder"),
    "no model": ("none a.png --out out", "none: wanted a run, a checkpoint or a converted model"),
    "no picture": ("tiny text.jpg --out out", "text.jpg: wanted a photograph, got: not an image"),
    "missing": ("tiny c.png --out out", "c.png: wanted a photograph, got: No such file"),
    "angle": ("tiny a.png --out out --yaw left", "--yaw: wanted a number, or one for each photo"),
    "not finite": ("tiny a.png --out out --yaw nan", "--yaw: wanted a number"),
    "free": ("tiny a.png --out out --free fov", "--free: wanted some of yaw, pitch, radius, roll, got fov"),
    "both": ("tiny a.png --out out --camera fixed --free yaw", "--free: has no meaning for --camera fixed"),
    "steps": ("tiny a.png --out out --steps -1", "--steps: wanted 0 to"),
    "saving": ("tiny a.png --out out --save-every 0", "--save-every: wanted at least 1, got 0"),
    "network": ("tiny a.png --out out --perceptual a.png", "--perceptual: wanted a network"),
    "truth": ("tiny a.png --out out --truth truth.npz", "--truth: wanted styles and cameras of 1 or 1 photos"),
    "label": ("tiny a.png --out out --label 1", "--label: wanted none (the model is not conditional), got 1"),
    "resume nothing": ("--resume none", "--resume: wanted the folder of a projection, got none"),
    "resume other": ("--resume full", "--resume: wanted the folder of a projection, got full"),
    "resume and more": ("tiny a.png --resume full", "--resume: wanted alone"),
    "resume otherwise": ("--resume full --steps 3", "--resume: wanted alone (the projection has its own choices), got"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(desk: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, message = REFUSED[case]
    before = digests(desk)
    assert project(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert digests(desk) == before


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["project", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "stylenerf project runs/ffhq256 me.jpg --out me" in out and "TorchScript is a program" in out
