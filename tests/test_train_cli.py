"""The training command: ordinary photographs go in, and every kind of bad input gets one clear line."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from stylenerf.engine.command_line.main import main, train_main
from stylenerf.engine.device import pick_device
from stylenerf.engine.errors import UserError
from stylenerf.engine.training import checkpoint
from stylenerf.engine.training.stats import read_stats
from tests.checkpoints import spoil
from tests.conftest import ROOT
from tests.picture_files import encoded, picture, some_pngs, write_folder, write_zip
from tests.runs import assert_same_run, config_file, digests, fresh, outcome, train_here
from tests.sweeps import slow, sweep
from tests.tiny import tiny_overrides

TWO_STEPS = ["train.batch=4", "train.micro_batch=2", "train.total_kimg=0.008"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: 32 images, checkpoints at 24 and 32."""
    return fresh(tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture
def desk(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who has a run, a configuration and some files."""
    monkeypatch.chdir(tmp_path)
    config_file(tmp_path)
    shutil.copytree(reference, tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("keep me")
    write_folder(tmp_path / "texts", {"a.txt": b"a", "b.md": b"b"})
    write_folder(tmp_path / "broken", {"a.jpg": b"no picture", "b.png": encoded(picture(1))[:100]})
    write_zip(tmp_path / "good.zip", some_pngs(3))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:-40])
    (tmp_path / "syntax.yaml").write_text("train: {batch: 4\n")
    (tmp_path / "latin.yaml").write_bytes(b"data: {path: caf\xe9}\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "orphan.yaml").write_text("base: nothing\n")
    shutil.copytree(reference, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "checkpoints").iterdir():
        spoil(path)
    state, meta = checkpoint.read_checkpoint(reference)
    state["state"]["average"]["mapping.layers.0.bias"][0] = math.nan
    checkpoint.write_checkpoint(tmp_path / "black", 32, state, {"config": meta["config"]})
    return tmp_path


NEW = "--config tiny.yaml --out new "
RESUME = "--resume mine "
BAD = {
    # what to train
    "nothing": ("", "--preset, --config: wanted exactly one of the two .*, got neither"),
    "two sources": ("--preset ffhq256 --config tiny.yaml", "--preset, --config: wanted exactly one .*, got both"),
    "unknown preset": ("--preset ffhq255", "--preset: wanted one of afhq512, .*, quickstart, got 'ffhq255'"),
    "unknown option": ("--preset quickstart --bogus 3", r"unrecognized arguments: --bogus 3 \(see train.py --help\)"),
    "option without a value": ("--preset", r"argument --preset: expected one argument \(see train.py --help\)"),
    # the configuration
    "no such file": ("--config no.yaml", "no.yaml: wanted a readable YAML file, got: No such file or directory"),
    "folder as file": ("--config empty", "empty: wanted a readable YAML file, got: Is a directory"),
    "syntax": ("--config syntax.yaml", "syntax.yaml, line 2: wanted valid YAML, got: "),
    "not UTF-8": ("--config latin.yaml", "latin.yaml: wanted UTF-8 text, got byte 0xe9 at 16"),
    "no mapping": ("--config list.yaml", r"list.yaml: wanted a mapping at the top level, got \['a'\]"),
    "unknown base": ("--config orphan.yaml", "orphan.yaml: base: wanted one of afhq512, .*, got 'nothing'"),
    "unknown key": (NEW + "--set generator.nope=1", "generator.nope: unknown key; known here: resolution, .*"),
    "misspelt key": (NEW + "--set generator.resolutoin=1", "generator.resolutoin: .*; did you mean resolution?"),
    "no value": (NEW + "--set train.batch", "--set: wanted key.name=value, got 'train.batch'"),
    "wrong type": (NEW + "--set train.batch=many", "train.batch: wanted int, got 'many'"),
    "no power of two": (NEW + "--set generator.resolution=24", "generator: resolution must be .* got 24 from 8"),
    "micro-batch": (NEW + "--set train.micro_batch=3", r"train: batch must be a multiple of micro_batch \(3\), got 4"),
    "label width": (NEW + "--set generator.label_dim=3", "generator.label_dim must be 0: .*data.labels.*, got 3"),
    # the data
    "no such data": (NEW + "--data nowhere", "data: wanted 'procedural', .*, got 'nowhere', which is not there"),
    "empty folder": (NEW + "--data empty", "data: wanted images .*, got none among the 0 files in empty"),
    "no images": (NEW + "--data texts", "data: wanted images .*, got none among the 2 files in texts"),
    "no usable image": (NEW + "--data broken", "data: wanted at least one usable image, got none of 2 in broken"),
    "truncated zip": (NEW + "--data cut.zip", "data: wanted .* a complete zip archive, got cut.zip .*"),
    "text as zip": (NEW + "--data note.txt", "data: wanted .* a complete zip archive, got note.txt .*"),
    "no labels": (NEW + "--data good.zip --set data.labels=true", "data: wanted labels in a dataset.json, got no such"),
    # the run's folder
    "folder in use": ("--config tiny.yaml --out mine", "--out: wanted a new or empty .*: --resume mine.*, got mine"),
    "file as folder": ("--config tiny.yaml --out note.txt", "--out: wanted a new or empty folder .*, got note.txt"),
    "below a file": ("--config tiny.yaml --out note.txt/run", "note.txt/run: cannot write here: Not a directory"),
    "name too long": ("--config tiny.yaml --out " + "x" * 300, "x+: cannot write here: File name too long"),
    # the machine
    "no such device": (NEW + "--device gpu", "--device: wanted a device of this machine, got 'gpu': "),
    "absent device": (NEW + "--device cuda:77", "--device: wanted a device of this machine, got 'cuda:77': "),
    "device without numbers": (NEW + "--device meta", "--device: wanted a device of this machine, got 'meta': "),
    # going on
    "no run": ("--resume nowhere", "--resume: wanted a run folder with a checkpoint, got nowhere, which is no folder"),
    "run name too long": ("--resume " + "x" * 300, "--resume: wanted a run folder .*, got x+, which is no folder"),
    "no checkpoint": ("--resume empty", "--resume: wanted a run folder with an intact checkpoint, got none in empty"),
    "preset too": (RESUME + "--preset ffhq256", "--resume: wanted alone .*, got also --preset, --config, --init or"),
    "folder too": (RESUME + "--out new", "--resume: wanted alone .*, got also --preset, --config, --init or --out"),
    "other networks": (
        RESUME + "--set generator.resolution=32",
        "generator.resolution: wanted 16, as in mine/checkpoints/00004-images-32, got 32",
    ),
    "other growth": (RESUME + "--set growth.enabled=false", "growth.enabled: wanted True, as in mine/.*, got False"),
    "other judge": (RESUME + "--set discriminator.channel_max=4", "discriminator.channel_max: wanted 8, .*, got 4"),
    "labels on": (RESUME + "--set data.labels=true", "--resume: wanted labels of kind none, as in the run, got camera"),
    "init too": (RESUME + "--init mine", "--resume: wanted alone .*, got also --preset, --config, --init or --out"),
    # a new run from a model
    "init nothing": ("--init nowhere --out new", "--init: nowhere: wanted a model, got: .*got nothing there"),
    "init empty": ("--init empty --out new", "--init: empty: wanted a model, got: .*wanted a run or checkpoint dir"),
    "init text": (NEW + "--init note.txt", "--init: note.txt: wanted a model, got: .*got another file"),
    "init damaged": (NEW + "--init damaged/checkpoints/00004-images-32", "--init: damaged/.*: wanted a model, .*SHA"),
    "init not finite": (NEW + "--init black", "--init: black: wanted a model, got: .*: wanted finite numbers, got 1"),
    "init in itself": ("--init mine --out mine", "--out: wanted a new or empty folder .*, got mine"),
    "resume unknown key": (RESUME + "--set train.bacth=1", "train.bacth: unknown key; .*; did you mean batch?"),
    "resume other data": (RESUME + "--data good.zip", "--data: wanted the data of the run, procedural, got good.zip; .*"
                          "--init mine --data good.zip --out NEW; .*--resume mine --set data.path=good.zip"),
    "resume moved data": (RESUME + "--set data.path=nowhere", "data: wanted 'procedural', .*, got 'nowhere', which is"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_harms_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, wanted = BAD[case]
    before = digests(desk)
    assert train_main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert_one_line(err, wanted)
    assert digests(desk) == before
    assert not (desk / "new").exists()


def assert_one_line(err: str, wanted: str) -> None:
    with pytest.raises(UserError, match=f"^error: {wanted}"):
        raise UserError(err)
    assert err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err


def test_both_checkpoints_damaged(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (desk / "mine" / "checkpoints").iterdir():
        spoil(path)
    before = digests(desk)
    assert train_main(["--resume", "mine"]) == 2
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"skipped checkpoint mine/checkpoints/{name}" for name in ("00004-images-32", "00003-images-24")
    ]
    assert_one_line(err, "--resume: wanted a run folder with an intact checkpoint, got none in mine")
    assert digests(desk) == before


def test_checkpoint_of_something_else(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.write_checkpoint(desk / "other", 5, {"x": torch.ones(2)}, {})
    assert train_main(["--resume", "other"]) == 2
    wanted = "--resume: wanted a training checkpoint, got other/checkpoints/00001-images-5 .its meta.json has no config"
    assert_one_line(capsys.readouterr().err, wanted)


PROCESSES = {
    "train.py": ([str(ROOT / "train.py"), "--preset", "ffhq255"], "--preset: wanted one of"),
    "module": (
        ["-m", "stylenerf", "train", "--preset", "quickstart", "--set", "train.batch=x"],
        "train.batch: wanted int",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sweep(list(PROCESSES), always=("train.py",)))
def test_bad_input_to_a_real_process(case: str, tmp_path: Path) -> None:
    arguments, wanted = PROCESSES[case]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr, wanted)
    assert list(tmp_path.iterdir()) == []


def test_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert_one_line(capsys.readouterr().err, r"the following arguments are required: verb \(see stylenerf --help\)")
    assert main(["trian"]) == 2
    assert_one_line(capsys.readouterr().err, "argument verb: invalid choice: 'trian'")
    assert main(["train", "--list-presets"]) == 0
    assert "quickstart" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    assert "Ctrl-C finishes the round" in capsys.readouterr().out


def test_dry_run_of_a_resumption_is_json_alone(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(desk)
    assert train_main(["--resume", "mine", "--dry-run", "--set", "train.total_kimg=1"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["train"]["total_kimg"] == 1
    assert err == "resuming from mine/checkpoints/00004-images-32 at 0.032 kimg\n"
    assert digests(desk) == before


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_runs_without_a_name_are_numbered(desk: Path) -> None:
    two_steps = [part for setting in TWO_STEPS for part in ("--set", setting)]
    for _ in range(2):
        assert train_here("--config", "tiny.yaml", "--set", "monitor.swd_images=0", *two_steps) == 0
    assert sorted(p.name for p in (desk / "runs").iterdir()) == ["tiny", "tiny-2"]


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A real limit on the size of a file: the kernel writes what fits, then fails (EFBIG; Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# state.pt has 170 000 bytes, stats.jsonl above 5 300, config.json 2 500
TOO_SMALL = {
    100_000: "mine/checkpoints: cannot write a checkpoint: File too large",
    5_300: "mine/stats.jsonl: cannot write statistics: File too large",
}


@pytest.mark.slow
@pytest.mark.parametrize("size", TOO_SMALL)
def test_files_that_the_kernel_cuts_short(
    size: int, desk: Path, reference: Path, small_files: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(desk / "mine" / "checkpoints" / "00004-images-32")
    older = digests(desk / "mine" / "checkpoints")
    small_files(size)
    code = train_here("--resume", "mine")
    small_files(resource.RLIM_INFINITY)
    assert code == 2
    assert_one_line(capsys.readouterr().err, TOO_SMALL[size])
    assert digests(desk / "mine" / "checkpoints") == older
    assert json.loads((desk / "mine" / "config.json").read_text()) == outcome(reference).meta["config"]
    assert train_here("--resume", "mine") == 0
    assert_same_run(desk / "mine", reference)


def test_configuration_that_the_kernel_cuts_short(
    desk: Path, small_files: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(desk)
    small_files(2_000)
    code = train_here(*NEW.split())
    small_files(resource.RLIM_INFINITY)
    assert code == 2
    assert_one_line(capsys.readouterr().err, "new/config.json: wanted a file that can be written, got File too large")
    assert digests(desk) == before  # not even half a file
    assert train_here(*NEW.split(), "--set", "train.total_kimg=0.004") == 0  # the folder is still empty


@pytest.mark.parametrize("call", [1, slow(2), slow(4), 6])
def test_disk_that_fills_up(
    call: int, desk: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the first sync (may we write here?), at a row of statistics, at a checkpoint; room later lets it go on."""
    shutil.rmtree(desk / "mine" / "checkpoints" / "00004-images-32")
    older = digests(desk / "mine" / "checkpoints")
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert train_here("--resume", "mine") == 2
    err = capsys.readouterr().err
    assert_one_line(err, "mine.*: (cannot write|wanted a file that can be written).*No space left on device")
    assert digests(desk / "mine" / "checkpoints") == older
    assert train_here("--resume", "mine") == 0
    assert_same_run(desk / "mine", reference)


def photographs() -> dict[str, bytes]:
    """What a person's folder may hold: several sizes and modes, and files that are not what they say."""
    grey, see_through = picture(3, 70, 41).convert("L"), picture(4, 33, 64).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    wide = encoded(picture(1, 120, 60), "jpeg", quality=90)
    return {
        "wide.jpg": wide,
        "tall.jpeg": encoded(picture(2, 31, 90), "jpeg"),
        "more/grey.jpg": encoded(grey, "jpeg"),
        "more/see-through.png": encoded(see_through),
        "small.PNG": encoded(picture(5, 9, 9)),
        "cut.jpg": wide[: len(wide) // 2],
        "words.jpg": b"These are words.\n",
        "readme.txt": b"About these photographs.\n",
    }


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_ordinary_photographs(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "photos"
    source = write_folder(path, photographs()) if kind == "folder" else write_zip(path, photographs())
    settings = [part for setting in TWO_STEPS for part in ("--set", setting)]
    run = tmp_path / "run"
    assert train_here("--preset", "ffhq256", "--data", source, "--out", run, *tiny_overrides(), *settings) == 0
    out = capsys.readouterr().out
    assert "data: 1 files are not images by their names and are ignored (1 .txt)" in out
    assert "data: cut.jpg is left out: " in out
    assert "data: words.jpg is left out: " in out
    assert "data: 1 images are smaller than 16 pixels and are enlarged" in out
    assert re.search(r"data: +5 images from .*photos.*16 px, mirrored to 10, no labels, 2 files unusable", out)
    assert out.count("is left out") == 2
    left = outcome(run)
    assert left.meta["images_shown"] == 8
    assert left.meta["config"]["data"]["path"] == str(source)
    assert {name.split("-")[0] for name in left.pictures} == {"reals.png", "samples", "turn", "depth", "views"}
    assert [row["Progress/images"] for row in read_stats(run / "stats.jsonl")] == [0, 8]
