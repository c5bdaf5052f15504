"""Short runs of the benches, the time left, other projects beside ours, and the comparison of two runs."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image

from bench import (
    bench_bias_act,
    bench_filtered_lrelu,
    bench_modulated_conv,
    bench_upfirdn2d,
    bench_volume,
    gate,
    harness,
    peers,
    pictures,
    quick,
    report,
    shapes,
)
from stylenerf.kernels.compat import nerf
from tests.conftest import ROOT
from tests.standins.training import networks_stylegan2
from tests.test_bench_report import ALONE, cells, row, write

CPU = torch.device("cpu")


def test_every_bench_has_a_telling_row() -> None:
    files = {path.stem for path in (ROOT / "bench").glob("bench_*.py")}
    assert set(quick.TELLING) == files - {"bench_ray_tiles"}  # which is for tuning


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("256 ch, 128 px-fp32-fwd+bwd-ref", "fp32", True),
        ("256 ch, 128 px-fp16-fwd+bwd-ref", "fp32", False),
        ("256 ch, 128 px-fp16-fwd+bwd-triton", "fp16", True),
        ("64 ch, 512 px-fp32-fwd+bwd-ref", "fp32", False),
    ],
)
def test_telling(name: str, dtype: str, expected: bool) -> None:
    assert quick.telling("bench_bias_act", name, dtype) == expected
    assert not quick.telling("bench_other", name, dtype)


class Now:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left() -> None:
    now = Now()
    clock = quick.Clock(["ref", "ref", "ref", "compile", "compile", quick.SKIPPED, quick.SKIPPED], now=now)
    assert clock.line() is None  # nothing is known yet
    clock.done(quick.SKIPPED, 0.01)
    clock.done("ref", 4.0)
    now.seconds = 9.0
    assert clock.line() is None  # too soon
    now.seconds = 12.0
    clock.done("compile", 30.0)
    assert clock.line() == "3 of 7 benches, about 38 s left"  # two of 4 s, one of 30 s
    now.seconds = 30.0
    clock.done("ref", 8.0)
    assert clock.line() == "4 of 7 benches, about 36 s left"  # one of 6 s, one of 30 s
    assert clock.expected("compile") == 30.0


def test_time_left_of_a_short_run() -> None:
    now = Now()
    clock = quick.Clock(["ref", "ref", *["compile"] * 9], limit_s=120.0, now=now)
    clock.done("ref", 20.0)
    now.seconds = 20.0
    assert clock.line() == "1 of 11 benches, about 1.7 min left"  # 20 s, and of 9 x 20 s those within 120 s


@pytest.fixture
def torch_utils(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-ins of the tests, under the name of the original."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "standins")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_utils"]:
        del sys.modules[name]


def subjects(monkeypatch: pytest.MonkeyPatch) -> dict[str, harness.Subject]:
    monkeypatch.setitem(bench_bias_act.CASES, "tiny", (3, 6, 1))
    monkeypatch.setitem(bench_filtered_lrelu.CASES, "tiny", (3, 14))
    for kind in ("blur", "up 2", "down 2"):
        monkeypatch.setitem(bench_upfirdn2d.CASES, kind, bench_upfirdn2d.Case(kind, 3, 8, last=kind == "blur"))  # type: ignore[arg-type]
    return {
        "bias_act": bench_bias_act.subject("tiny", "fp32"),
        "filtered_lrelu": bench_filtered_lrelu.subject("tiny"),
        **{kind: bench_upfirdn2d.subject(kind, "fp32") for kind in ("blur", "up 2", "down 2")},
    }


def assert_same(subject: harness.Subject, args: gate.Args, call: Any) -> None:
    definition = harness.eager_call(subject.plain or subject.run, "ref")
    assert gate.check(call, definition, args, both=True) < 1e-5


@pytest.mark.parametrize("name", ["bias_act", "filtered_lrelu", "blur", "up 2", "down 2"])
def test_nvidias_ops_compute_the_same(monkeypatch: pytest.MonkeyPatch, torch_utils: None, name: str) -> None:
    subject = subjects(monkeypatch)[name]
    assert subject.peer is not None and subject.peer.missing() is None
    assert_same(subject, subject.make(CPU, 0), subject.peer.run)


@pytest.mark.parametrize("form", bench_modulated_conv.FORMS)
def test_nvidias_modulated_convolution_computes_the_same(form: bench_modulated_conv.Form) -> None:
    args = shapes.convolution(CPU, 0, batch=2, channels=4, edge=5, kernel=3)
    subject = bench_modulated_conv.subject("3x3, 128 ch, 64 px, batch 4", form)
    assert subject.peer is not None and isinstance(subject.peer.run, partial)
    peer = subject.peer.run.args[1]  # the stand-in is no package of that name, as the original is
    assert_same(subject, args, lambda a: (peer(networks_stylegan2, a),))


def test_nerfacc_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By our functions of its names and signatures."""
    monkeypatch.setitem(sys.modules, "nerfacc", nerf)
    subject = bench_volume.subject("FFHQ 32x32 rays x 28 samples x 128")
    assert subject.peer is not None and subject.peer.missing() is None
    assert_same(subject, shapes.volume(CPU, 0, rays=6, samples=5), subject.peer.run)
    assert bench_volume.subject("packed 1024 rays x 0-56 samples x 128").peer is None


def test_a_missing_peer_is_named() -> None:
    where = "nowhere: no no_such_project here; --peers FOLDER names its checkout"
    assert peers.Peer("nowhere", "no_such_project.ops", lambda args: args).missing() == where


def test_a_broken_peer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "broken_project.py").write_text("raise OSError('libcudart.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    peer = peers.Peer("broken", "broken_project", lambda args: args)
    assert peer.missing() == "broken: OSError: libcudart.so: cannot open"


def test_two_runs_are_compared(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"p20_ms": 1.0, "p50_ms": 2.0, "p80_ms": 2.5}
    a = write(tmp_path / "a.json", [row(), row(op="lens", **times), row(op="warp")])
    b = write(tmp_path / "b.json", [row(**times), row(op="lens", **times)])
    assert report.main([str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert cells(text, "blur")[3:] == ["ref", "3 / 4 / 123", "1 / 2 / 2.5", "2.00", ""]
    assert cells(text, "lens")[-2:] == ["1.00", "within the spread"]
    assert "In the first alone: 1 rows; in the second alone: 0." in text


def test_runs_with_nothing_in_common(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / f"{name}.json", [row(op=name)]) for name in ("blur", "lens")]
    assert report.main([*map(str, paths)]) == 0
    assert "No row is in both." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["a", "b", "c"], "wanted one or two result files, or --bytes, got 3 files"),
        (["a", "--picture", "a.jpg"], "--picture: wanted a .png of result files, got a.jpg"),
        (["--bytes", "--picture", "a.png"], "--picture: wanted a .png of result files, got a.png"),
    ],
)
def test_bad_arguments(argv: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.main(argv)
    assert wanted in capsys.readouterr().err


def test_bars() -> None:
    one = [row(bytes=8, flops=2), row(impl="compile", baseline=False, p50_ms=2.0), row(op="lens", baseline=False)]
    assert pictures.speed_ups([one]) == [("blur · 3 ch · fwd · compile", 2.0)]  # the lens has no plain form
    other = [row(p50_ms=16.0)]
    assert pictures.speed_ups([other, one]) == [("blur · 3 ch · fwd · ref", 4.0)]


def test_a_picture_is_drawn(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, the extra plots")
    rows = [row(bytes=8, flops=2), row(op="lens", impl="compile", bytes=8, flops=200, baseline=False)]
    a, out = write(tmp_path / "a.json", rows), tmp_path / "a.png"
    assert report.main([str(a), str(a), "--picture", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.size == (1500, 600) and len(picture.convert("L").getcolors() or []) > 20


def test_nothing_to_draw(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, the extra plots")
    a = write(tmp_path / "a.json", [row()])
    assert report.main([str(a), "--picture", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err.startswith("--picture: wanted rows with bytes and operations")


@pytest.mark.slow
def test_a_short_run_with_peers(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "r.json"
    options = ["--quick", "--peers", "tests/standins", "-k", "mean_square or bias_act", f"--benchmark-json={results}"]
    python = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench/", *options]
    done = subprocess.run(python, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = [bench["extra_info"] for bench in json.loads(results.read_text())["benchmarks"]]
    rows = {(each["op"], each["impl"]) for each in measured}
    assert {("bias_act", "ref"), ("bias_act", "NVIDIA"), ("mean_square", "ref")} <= rows
    assert len({(each["op"], each["shape"]) for each in measured}) == 2  # one shape of each


@pytest.mark.slow
def test_peers_must_be_a_folder() -> None:
    python = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench/", "--peers", "no_such_folder"]
    done = subprocess.run(python, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 4 and "--peers: wanted a folder, got no_such_folder" in done.stderr
