"""``stylenerf render --check-consistency``: a table, a picture and the figures as JSON."""

import json
from pathlib import Path

import pytest
from PIL import Image

from stylenerf.engine.command_line.main import main
from stylenerf.engine.model_io import save_model
from tests.models_at_hand import PRIOR, tiny_model


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "tiny", tiny_model().generator, PRIOR)
    return "tiny"


def test_the_check_writes_what_it_prints(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["render", saved, "--out", "check", "--check-consistency", "--seeds", "0,1", "--no-progress"]
    assert main([*command, "--samples", "12", "--resolution", "20", "--apart", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = json.loads(Path("check/consistency.json").read_text())
    assert written["apart_rad"] == 0.1 and [r["mode"] for r in written["rows"]] == ["fast", "strict"] * 2
    assert [line.split()[-5] for line in lines[1:5]] == [f"{r['residual']:.4f}" for r in written["rows"]]
    assert lines[5:] == ["wrote:       check/consistency.png", "wrote:       check/consistency.json"]
    with Image.open("check/consistency.png") as picture:
        assert picture.height == 4 * 24 and picture.width > 4 * 22
    assert sorted(p.name for p in Path("check").iterdir()) == ["consistency.json", "consistency.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--apart 4", "--apart: wanted an angle"),
        ("--samples 1", "--samples: wanted 3 to 4096"),
        ("--resume", "--resume: wanted without --check-consistency"),
    ],
)
def test_a_wrong_check_is_one_line(
    saved: str, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(["render", saved, "--out", "check", "--check-consistency", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("check").exists()
