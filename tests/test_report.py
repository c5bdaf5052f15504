"""The report of a run: its signs, its next commands, its page, and what a folder that is no run gets."""

from __future__ import annotations

import html.parser
import json
import math
import shlex
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stylenerf.engine.command_line import main as cli
from stylenerf.engine.command_line.verbs import verb_module
from stylenerf.engine.pictures import grid, save_png, sheet_columns
from stylenerf.engine.training.config_io import to_dict
from stylenerf.engine.training.report import page as pages
from stylenerf.engine.training.report import tensorboard
from stylenerf.engine.training.report.catalogue import charts
from stylenerf.engine.training.report.next_steps import next_steps
from stylenerf.engine.training.report.record import read_record
from stylenerf.engine.training.report.signs import signs
from stylenerf.engine.training.report.svg import line_chart_svg, log_ticks, ticks
from tests.browser import Browser, find_browser
from tests.runs import config_file, train_here
from tests.tiny import tiny_config

Row = dict[str, Any]
COUNT = 6


def healthy_rows() -> list[Row]:
    """A run of 32 images in 8 rows, as a good one looks."""
    first = {"Progress/images": 0, "Data/images": 4096, "Metric/swd": 500.0, "Metric/depth_correlation": 0.1}
    rows: list[Row] = [first]
    for i in range(1, 9):
        rows.append({
            "Progress/images": 4 * i, "Growth/resolution": 8 if i < 4 else 16, "Growth/alpha": i / 8,
            "Loss/generator": 1.0 + 0.01 * i, "Loss/discriminator": 1.1, "Score/real": 0.6, "Score/fake": -0.6,
            "Gradient/generator_norm": 2.0, "Gradient/discriminator_norm": 1.0, "Gradient/generator_nonfinite": 0.0,
            "Time/sec_per_kimg": 50.0, "Memory/peak_mib": 300.0, "Stats/nonfinite_values": 0,
            "Metric/swd": 200.0 - 10 * i, "Metric/view_residual_ratio": 0.5, "Metric/view_overlap": 0.2,
            "Metric/pose_sensitivity": 0.3, "Metric/strict_psnr_db": 30.0, "Metric/depth_correlation": 0.95,
            "Time/snapshot_s": 1.0,
        })  # fmt: skip
    return rows


def make_run(folder: Path, rows: list[Row], *, spread: float = 1.0, checkpoint: bool = True, **config: Any) -> Path:
    """A run's folder with these statistics and with sheets whose samples differ ``spread`` times as much as images."""
    overrides = [
        f"monitor.grid_images={COUNT}",
        *(f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in config.items()),
    ]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(tiny_config(*overrides))))
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flat = torch.linspace(-0.8, 0.8, COUNT)[:, None, None, None].expand(COUNT, 3, 16, 16)
    sheet = {name: grid(part * flat, sheet_columns(COUNT)) for name, part in (("reals", 1.0), ("samples", spread))}
    save_png(sheet["reals"], folder / "images" / "reals.png")
    for shown in (0, 12, 32):
        save_png(sheet["samples"], folder / "images" / f"samples-{shown:08d}.png")
        turned = sheet["samples"].rotate(shown)
        save_png(turned, folder / "images" / f"depth-{shown:08d}.png")
        save_png(turned, folder / "images" / f"turn-{shown:08d}.png")
    if checkpoint:
        (folder / "checkpoints" / "00001-images-32").mkdir(parents=True)
    return folder


def every(**values: Any) -> Callable[[list[Row]], None]:
    """Set these figures in every row after the first; ``__`` stands for the slash."""

    def change(rows: list[Row]) -> None:
        for row in rows[1:]:
            row.update({key.replace("__", "/"): value for key, value in values.items()})

    return change


def last(**values: Any) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        rows[-1].update({key.replace("__", "/"): value for key, value in values.items()})

    return change


TROUBLE: dict[str, tuple[Callable[[list[Row]], None], dict[str, Any], str, str]] = {
    "d-ahead": (every(Loss__discriminator=0.3, Score__real=3.0), {}, "discriminator", "watch"),
    "d-won": (every(Loss__discriminator=0.05), {}, "discriminator", "bad"),
    "d-dead": (every(Loss__discriminator=2 * math.log(2), Score__real=0.0, Score__fake=0.0), {}, "blind", "bad"),
    "worse": (last(Metric__swd=190.0), {}, "distance", "watch"),
    "much-worse": (last(Metric__swd=400.0), {}, "distance", "bad"),
    "alike": (every(), {"spread": 0.4}, "variety", "watch"),
    "one-picture": (every(), {"spread": 0.0}, "variety", "bad"),
    "inside-out": (last(Metric__depth_correlation=-0.7), {}, "depth", "bad"),
    "poor-shapes": (last(Metric__depth_correlation=0.3), {}, "depth", "watch"),
    "fog": (last(Metric__view_overlap=0.0, Metric__view_residual_ratio=None), {}, "views", "bad"),
    "painted": (last(Metric__view_residual_ratio=1.1), {}, "views", "bad"),
    "flat": (last(Metric__pose_sensitivity=0.01), {}, "camera", "bad"),
    "unlike-strict": (last(Metric__strict_psnr_db=15.0), {}, "strict", "watch"),
    "spike": (last(Gradient__generator_norm=500.0), {}, "spike", "watch"),
    "diverged": (last(Loss__generator=None, Stats__nonfinite_values=1), {}, "nonfinite", "bad"),
    "nonfinite": (last(Gradient__generator_nonfinite=3.0), {}, "nonfinite", "watch"),
}  # fmt: skip


STILL_BETTER = ("none", "nonfinite", "spike", "alike", "d-ahead", "unlike-strict", "poor-shapes")  # than any before


def test_a_healthy_run_has_no_sign(tmp_path: Path) -> None:
    record = read_record(make_run(tmp_path / "run", healthy_rows()))
    (only,) = signs(record)
    assert only.level == "good" and only.kind == "distance" and "500 at the start, 120 now" in only.seen
    assert record.variety == [(0.0, 1.0), (0.012, 1.0), (0.032, 1.0)]


@pytest.mark.parametrize(("change", "config", "kind", "level"), TROUBLE.values(), ids=TROUBLE)
def test_each_trouble_is_named(
    tmp_path: Path, change: Callable[[list[Row]], None], config: dict[str, Any], kind: str, level: str
) -> None:
    rows = healthy_rows()
    change(rows)
    (only,) = signs(read_record(make_run(tmp_path / "run", rows, **config)))
    assert (only.kind, only.level) == (kind, level) and only.helps


@pytest.mark.parametrize(("count", "words"), [(20, "copied rather than learnt"), (200, "little variety")])
def test_few_images_are_a_sign(tmp_path: Path, count: int, words: str) -> None:
    rows = healthy_rows()
    rows[0]["Data/images"] = count
    every(Loss__discriminator=0.1)(rows)
    won, few = signs(read_record(make_run(tmp_path / "run", rows, data__path="photos")))
    assert won.kind == "discriminator" and f"with {count} training images it learns them by heart" in won.seen
    assert few.kind == "few" and words in few.seen and "by heart" not in few.seen
    last(Loss__discriminator=0.5)(rows)
    rows[1]["Loss/discriminator"] = 1.3
    *_, few = signs(read_record(make_run(tmp_path / "other", rows, data__path="photos")))
    assert "loss fell from 1.30 to 0.23" in few.seen


def steps_of(run: Path) -> list[str]:
    record = read_record(run)
    return [step.command for step in next_steps(record, signs(record))]


def accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parsers take the command, and a training's configuration holds together."""
    program, *arguments = shlex.split(command)
    if program == "stylenerf":
        monkeypatch.setattr(verb_module(arguments[0]), "run", lambda args: 0)
        assert cli.main(arguments) == 0
        return
    assert (program, arguments[0]) == ("python", "train.py")
    if "--resume" in arguments:
        monkeypatch.setattr(cli, "train", lambda args: 0)
    assert cli.train_main([*arguments[1:], "--dry-run"]) == 0


@pytest.mark.parametrize("name", [*TROUBLE, "none", "unfinished", "no-checkpoint"])
def test_three_commands_fit_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows = healthy_rows()
    change, config, _, _ = TROUBLE.get(name, (every(), {}, "", ""))
    change(rows)
    extra = {"train__total_kimg": 1.0} if name == "unfinished" else {}
    run = make_run(tmp_path / "a run", rows, checkpoint=name != "no-checkpoint", **config, **extra)
    commands = steps_of(run)
    assert len(commands) == len(set(commands)) == 3
    for command in commands:
        accepted(command, monkeypatch)
    lead = {"unfinished": "python train.py --resume", "diverged": "python train.py --resume", "none": "stylenerf view"}
    assert commands[0].startswith(lead.get(name, ""))
    wanted = {"inside-out": "density_scale=15", "d-won": "r1_gamma=2", "d-dead": "discriminator_lr=0.005"}
    assert wanted.get(name, "") in commands[0]
    assert ("train.total_kimg=0.048" in " ".join(commands)) == (name in STILL_BETTER)


@pytest.mark.slow
def test_curves_lie_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'stylenerf-engine[plots]'")
    some = charts(read_record(make_run(tmp_path / "run", healthy_rows())))[:4]
    sheet = pages.curves(some)
    assert sheet.size == (3 * 640, 2 * 400)
    assert sheet.crop((0, 400, 640, 800)).getcolors(1) is None and sheet.crop((640, 400, 1920, 800)).getcolors(1)


class Links(html.parser.HTMLParser):
    """Addresses that a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_outside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "missing", lambda extra: f"{extra}: pip install it")
    run, lines = make_run(tmp_path / "<b>&run", healthy_rows()), []
    found, steps = pages.write_report(read_record(run), run, lines.append)
    text = (run / pages.PAGE).read_text()
    links = Links()
    links.feed(text)
    assert links.sources and all(source.startswith("data:image/") for source in links.sources)
    assert "http" not in text.replace("http-equiv", "") and "<b>&run" not in text and "<b>&run" in links.text
    assert all(step.command in links.text for step in steps) and found[0].seen in links.text
    assert text.count("<svg") == len(charts(read_record(run)))
    assert lines == [f"report:      {run / pages.PAGE}",
                     f"curves:      {run / pages.CURVES} not drawn, wants plots: pip install it"]  # fmt: skip


def test_unknown_figures_and_broken_pictures_do_no_harm(tmp_path: Path) -> None:
    rows = healthy_rows()
    rows[-1]["Health/entropy"] = 0.25
    rows[-1]["Metric/swd"] = None
    run = make_run(tmp_path / "run", rows)
    for name in ("samples-00000012.png", "depth-00000032.png"):
        (run / "images" / name).write_bytes(b"\x89PNG no more")
    record = read_record(run)
    assert [x for x, _ in record.variety] == [0.0, 0.032] and math.isnan(record.last("Metric/swd") or 0)
    assert charts(record)[-1].title == "Health/entropy"
    text = pages.page(record, signs(record), next_steps(record, signs(record)), charts(record))
    assert "Health/entropy" in text and "not finite" in text
    shutil.rmtree(run / "images")
    record = read_record(run)
    assert record.variety == [] and "<h2>Pictures" not in pages.page(record, signs(record), [], charts(record))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "RUN: wanted the folder of a training run, got {run}, which is no folder"),
        (lambda run: (run / "stats.jsonl").unlink(), "which has no stats.jsonl"),
        (lambda run: (run / "stats.jsonl").write_text(""), "stats.jsonl: wanted statistics with Progress/images, got"),
        (lambda run: (run / "config.json").write_text("[1"), "config.json: wanted a run's configuration as JSON"),
        (lambda run: (run / "config.json").write_text("[1]"), "config.json: wanted a JSON object, got list"),
        (lambda run: (run / "out").write_text(""), "--out: wanted a folder, got {run}/out, which is a file"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], message: str
) -> None:
    run = make_run(tmp_path / "run", healthy_rows())
    spoil(run)
    assert cli.main(["report", str(run), "--out", str(run / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(run=run) in line


def test_ticks_are_round_and_points_are_where_they_belong() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(0.11, 0.19) == pytest.approx([0.12, 0.14, 0.16, 0.18])
    assert log_ticks(0, 2) == [1, 2, 5, 10, 20, 50, 100] and log_ticks(-3, 3)[0] == 1e-3
    drawn = line_chart_svg({"a": [(0, 1), (1, 10), (2, 100), (3, math.nan)], "b": []}, log_y=True)
    (points,) = [part.split('"')[0] for part in drawn.split('points="')[1:]]
    (x0, y0), (x1, y1), (x2, y2) = ([float(v) for v in p.split(",")] for p in points.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and y0 - y1 == pytest.approx(y1 - y2, abs=0.11) and y0 > y2
    assert line_chart_svg({"a": [(0, -1)]}, log_y=True) == ""
    assert line_chart_svg({"a": [(5, 3)]})


class Events:
    """Stands in for TensorBoard's writer."""

    scalars: list[tuple[str, float, int]] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int | None) -> None:
        Events.scalars = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        Events.scalars.append((name, value, step))

    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_tensorboard_has_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Events  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(tensorboard, "need", lambda extra, where: None)
    rows = healthy_rows()
    record = read_record(make_run(tmp_path / "run", rows))
    tensorboard.write_events(record, tmp_path / "events")
    wanted = [(k, v, row["Progress/images"]) for row in rows for k, v in row.items() if k != "Progress/images"]
    assert Events.scalars == [*wanted, *(("Samples/variety", 1.0, shown) for shown in (0, 12, 32))]


def test_real_events_are_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="not installed: pip install 'stylenerf-engine[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = read_record(make_run(tmp_path / "run", healthy_rows()))
    tensorboard.write_events(record, tmp_path / "events")
    tensorboard.write_events(record, tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("Metric/swd")][:2] == [(0, 500.0), (4, 190.0)]
    assert len(events.Scalars("Metric/swd")) == 9


def test_tensorboard_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "tensorboard" in sys.modules:
        pytest.skip("tensorboard is installed")
    run = make_run(tmp_path / "run", healthy_rows())
    hint = "wanted tensorboard: pip install 'stylenerf-engine[tensorboard]'"
    assert cli.main(["report", str(run), "--tensorboard", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: --tensorboard: {hint}\n" and not (tmp_path / "out").exists()
    arguments = ["--config", config_file(tmp_path), "--set", "monitor.tensorboard=true", "--out", tmp_path / "new"]
    assert train_here(*arguments) == 2
    assert capsys.readouterr().err == f"error: monitor.tensorboard: {hint}\n" and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_training_ends_with_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "missing", lambda extra: "matplotlib")  # drawing all charts takes seconds
    photos = Path("photos")
    photos.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 255 - 60 * i, 90)).save(photos / f"{i}.png")
    sets = ("monitor.report=true", "train.total_kimg=0.008", "data.path=photos", "monitor.swd_images=0")
    arguments = [part for value in sets for part in ("--set", value)]
    assert train_here("--config", config_file(tmp_path), "--out", "run", *arguments) == 0
    out = capsys.readouterr().out
    assert "few images:  4 pictures are too few to train from nothing" in out
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("report:")] == ["report:      run/report.html"]
    assert len([line for line in lines if line.startswith("next: ")]) == 3
    record = read_record(Path("run"))
    assert record.finished and record.data_images == 4 and [x for x, _ in record.variety] == [0, 0.008]
    assert Path("run/report.html").stat().st_size > 10_000
    (Path("run") / "images").rename("gone")
    (Path("run") / "stats.jsonl").write_text("no\nstatistics\n")
    pages.report_run(Path("run"), print)
    assert capsys.readouterr().out.startswith("report:      not written: run/stats.jsonl, line 1: wanted a JSON object")


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no chromium on this machine (apt-get install chromium)")
def test_the_page_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "missing", lambda extra: "plots")
    run = make_run(tmp_path / "run", healthy_rows())
    pages.write_report(read_record(run), run, lambda line: None)
    program = find_browser()
    assert program is not None
    browser = Browser(program, tmp_path / "profile")
    try:
        browser.open((run / pages.PAGE).as_uri())
        browser.wait("document.readyState === 'complete'")
        assert browser.run("document.getElementById('kimg').textContent") == "0.032 kimg"
        before = browser.run("document.getElementById('turn').src")
        browser.run("const s = document.getElementById('when'); s.value = 0; s.dispatchEvent(new Event('input'))")
        assert browser.run("document.getElementById('kimg').textContent") == "0 kimg"
        assert browser.run("document.getElementById('turn').src") != before
        assert browser.run("[...document.images].every((image) => image.naturalWidth > 0)")
        browser.run("document.querySelector('svg').scrollIntoView({block: 'center'})")
        box = "(({x, y, width}) => [x + width / 2, y + 50])(document.querySelector('svg').getBoundingClientRect())"
        x, y = browser.run(box)
        browser.mouse("mouseMoved", x, y)
        assert "kimg" in browser.wait("document.querySelector('.tip').textContent")
        assert browser.complaints() == []
    finally:
        browser.close()
