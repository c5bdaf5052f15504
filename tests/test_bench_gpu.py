"""``python -m bench.gpu``: its plan, its way with processes that fail, its summary; made-up results, no GPU."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.gpu import __main__ as command
from bench.gpu import lines, runner, stages, summary, targets
from bench.gpu.runner import Outcome, Runner
from bench.gpu.stages import STAGES, Step
from bench.gpu.summary import Found
from tests.conftest import ROOT

STEPS = stages.steps(16, which=lambda name: f"/opt/{name}")
PYTHON = (sys.executable,)


def test_dry_run_names_every_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", dict)
    assert command.main(["--dry-run"], make=lambda cpus: STEPS) == 0
    text = capsys.readouterr().out
    assert "device: none, so nothing would run here" in text
    assert all(f"{step.stage}: {step.name}, at most" in text for step in STEPS)
    assert "python -m bench.gpu.experiments tiles --compiled WORK/experiments-compile.jsonl" in text
    assert "/opt/compute-sanitizer --tool memcheck --error-exitcode 9 python -m bench.gpu.experiments odd" in text


def test_dry_run_says_what_is_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", dict)
    monkeypatch.setattr(command, "absent", lambda chosen: ["pytest_benchmark"])
    assert command.main(["--dry-run", "--only", "bench", "--only", "train"], make=lambda cpus: STEPS) == 0
    text = capsys.readouterr().out
    assert "not installed: pytest_benchmark\n" in text
    assert "bench: rays, at most 120 s, left out (not installed: pytest_benchmark)" in text
    assert "train: quickstart, at most 65 s\n" in text and "tests:" not in text


@pytest.mark.parametrize("found", [{}, {"torch": "2.11", "cuda": False, "device": None}])
def test_needs_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    monkeypatch.setattr(command, "probe", lambda: found)
    assert command.main([]) == 2
    text = capsys.readouterr().out
    assert text.count("\n") == 1 and text.startswith("bench.gpu needs a GPU: wanted a CUDA device, got none (")


def test_probe_asks_torch() -> None:
    import torch

    found = command.probe()
    assert found["torch"] == torch.__version__ and found["cuda"] == torch.cuda.is_available()


def test_the_command_itself_needs_nothing_and_keeps_off_the_gpu() -> None:
    look = "import sys, bench.gpu.__main__; print(sorted({'torch', 'numpy', 'triton', 'pytest'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_lists_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(STAGES)


def test_unknown_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "lunch"])
    assert "'lunch'" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "python -m bench.gpu --dry-run" in text and "exit status" in text and "summary.json" in text


@pytest.mark.parametrize(("venv", "python"), [("nowhere", "python3"), (".", "bin/python")])
def test_make_gpu_takes_the_python_that_is_there(tmp_path: Path, venv: str, python: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    folder = tmp_path / venv
    asked = ["make", "--no-print-directory", "-n", "-C", str(ROOT), "gpu", f"VENV={folder}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"{python} -m bench.gpu")


def test_plan() -> None:
    waves = stages.waves(STEPS)
    assert len({step.key for step in STEPS}) == len(STEPS) == sum(map(len, waves))
    assert {step.stage for step in STEPS} == set(STAGES)
    assert [step.stage for step in waves[0]] == ["environment"]
    assert all(len(wave) == 1 for wave in waves[2:]) and len(waves[1]) > 8
    assert not any(step.alone for step in waves[1])  # nothing that takes times
    assert sum("kernels" in step.name for step in STEPS) == 12
    assert all(step.needs for step in STEPS)


def test_plan_of_a_small_machine_without_sanitizer() -> None:
    found = stages.steps(2, which=lambda name: None)
    assert [step.name for step in found if step.stage == "determinism"] == ["repeat", "resume"]
    assert sum("kernels" in step.name for step in found) == 1


def test_plan_names_what_exists() -> None:
    from bench.gpu.checks import CHECKS
    from bench.gpu.experiments import EXPERIMENTS

    used = {(step.argv[1], step.argv[2]) for step in STEPS if step.argv[1].startswith("bench.gpu.")}
    assert {name for module, name in used if module.endswith("experiments")} == set(EXPERIMENTS)
    assert {name for module, name in used if module.endswith("checks")} == set(CHECKS)
    files = {part for step in STEPS for part in step.argv if part.endswith(".py")}
    assert all((ROOT / file).is_file() for file in files)
    assert {f"bench/{path.name}" for path in (ROOT / "bench").glob("bench_*.py")} <= files
    assert "tests/test_graphs.py" in files and "tests/test_fused_linear.py" in files


def test_results_fit_what_comes_back_from_a_machine() -> None:
    assert len(STAGES) + 2 <= 8  # one file each, a summary, a page


def script(name: str, code: str, **changes: Any) -> Step:
    return replace(Step("experiments", name, ("-c", code, "{lines}"), 20.0), **changes)


EMIT = "import sys; open(sys.argv[1], 'a').write('{\"value\": 3}\\n')"


def make_runner(folder: Path, seconds: float = 60.0, **more: Any) -> Runner:
    return Runner(folder, time.monotonic() + seconds, report=lambda line: None, **more)


def test_step_leaves_lines_and_output(tmp_path: Path) -> None:
    (outcome,) = make_runner(tmp_path).wave([script("ok", EMIT + "; print('done')")])
    assert (outcome.status, outcome.exit_code, outcome.lines, outcome.tail) == ("ok", 0, [{"value": 3}], "done\n")


@pytest.mark.parametrize(
    ("code", "changes", "status", "reason"),
    [
        (EMIT + "; sys.exit(7)", {}, "failed", "exit code 7"),
        (EMIT + "; import time; time.sleep(30)", {"limit_s": 0.8}, "out of time", "ended after 1 s"),
        (EMIT + "; import os; os.kill(os.getpid(), 9)", {}, "failed", "exit code -9"),
    ],
)
def test_bad_ends_keep_what_was_found(
    tmp_path: Path, code: str, changes: dict[str, Any], status: str, reason: str
) -> None:
    bad, good = make_runner(tmp_path).wave([script("bad", code, **changes), script("good", EMIT)])
    assert (bad.status, bad.reason, bad.lines) == (status, reason, [{"value": 3}])
    assert good.status == "ok"


def ends(stat: Path, patience_s: float = 5.0) -> bool:
    """Whether a process is dead, if nobody took notice: soon, since a busy machine lets signals wait."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_limits_reach_what_a_step_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60'])"
    note = f"open({str(child)!r}, 'w').write(str(p.pid))"
    make_runner(tmp_path).step(script("parent", f"{start}; {note}; time.sleep(30)", limit_s=1.5))
    assert ends(Path(f"/proc/{child.read_text()}/stat"))


def test_no_time_left(tmp_path: Path) -> None:
    outcome = make_runner(tmp_path, seconds=4).step(script("late", EMIT))
    assert (outcome.status, outcome.reason, outcome.lines) == ("skipped", "no time left", [])


def test_kernels_are_compiled_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    show = "import os; print(os.environ.get('TRITON_INTERPRET'), os.environ.get('TORCH_THING'))"
    outcome = make_runner(tmp_path).step(script("show", show, extra={"TORCH_THING": "on"}))
    assert outcome.tail == "None on\n"


def test_stopping_ends_what_runs(tmp_path: Path) -> None:
    run = make_runner(tmp_path)
    threading.Timer(0.5, run.stop).start()
    begin = time.monotonic()
    outcome = run.step(script("long", "import time; time.sleep(30)"))
    assert outcome.status == "out of time" and time.monotonic() - begin < 10
    assert run.step(script("next", EMIT)).status == "skipped"


HOSTILE = """\
import os, time, pytest

def test_passes(): pass
def test_kills_its_process(): os._exit(9)
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="no moon")
def test_is_skipped(): pass
def test_hangs(): time.sleep(60)
def test_spoils_the_gpu(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_comes_after(): pass
@pytest.fixture
def broken(): raise ValueError("no cup")
def test_cannot_start(broken): pass
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A test file that does all that can go wrong on a GPU."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "test_hostile.py").write_text(HOSTILE)
    argv = stages.pytest("-p", "no:hypothesispytest", "-p", "no:benchmark", str(folder / "test_hostile.py"))
    step = Step("tests", "hostile", argv, 60.0, tests=True, stall_s=3.0)
    return make_runner(folder).step(step)


@pytest.mark.parametrize(
    ("name", "outcome", "message"),
    [
        ("passes", "passed", ""),
        ("kills_its_process", "crashed", "the process ended with exit code 9"),
        ("fails", "failed", "assert 1 == 2"),
        ("is_skipped", "skipped", "no moon"),
        ("hangs", "crashed", "no line for 3 s"),
        ("spoils_the_gpu", "failed", "an illegal memory access"),
        ("comes_after", "passed", ""),
        ("cannot_start", "error", "no cup"),
    ],
)
def test_every_test_gets_a_verdict(hostile: Outcome, name: str, outcome: str, message: str) -> None:
    (line,) = [found for found in hostile.lines if found.get("test", "").endswith(f"::test_{name}")]
    assert line["outcome"] == outcome and message in line["message"]


def test_a_run_that_could_go_on_is_a_result(hostile: Outcome) -> None:
    assert hostile.status == "ok"
    assert sum("sticky" in line for line in hostile.lines) == 1
    assert command.exit_status([hostile]) == 1


def test_shards_share_the_tests(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(7))\ndef test(i): pass\n"
    )
    plain = ("-p", "no:hypothesispytest", "-p", "no:benchmark", str(tmp_path / "test_many.py"))
    parts = [
        Step("tests", f"{i}", stages.pytest(f"--shard={i}/3", *plain), 60.0, tests=True, alone=False) for i in (1, 2, 3)
    ]
    counts = [runner.tally(outcome.lines) for outcome in make_runner(tmp_path).wave(parts)]
    assert counts == [{"passed": 3}, {"passed": 2}, {"passed": 2}]


def test_lines_survive_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "l"
    lines.emit(path, start="a")
    lines.emit(path, test="a", outcome="passed")
    lines.emit(path, start="b")
    path.write_text(path.read_text() + '{"test": "b", "outco')
    assert lines.unfinished(lines.read(path)) == ["b"] and lines.begun(lines.read(path)) == {"a", "b"}
    assert lines.read(tmp_path / "none") == []


def row(shape: str, direction: str, impl: str, ms: float, **more: Any) -> dict[str, Any]:
    facts = {"op": "render_rays", "shape": shape, "direction": direction, "impl": impl, "baseline": impl == "ref"}
    times = {"p20_ms": ms, "p50_ms": ms, "p80_ms": 1.1 * ms, "peak_mib": 4000.0, "peak_before_mib": 100.0}
    return {**facts, **times, "device": "abacus", "threads": 1, "torch": "2.11", "error": 1e-3, **more}


def outcome(stage: str, name: str, *found: dict[str, Any], status: str = "ok", **more: Any) -> Outcome:
    return Outcome(f"{stage}-{name}", stage, name, status, seconds=1.0, lines=list(found), **more)


def filtered(shape: str, impl: str, share: float, bytes_moved: float = 67e6) -> dict[str, Any]:
    return row(shape, "fwd", impl, 0.1, op="upfirdn2d", share_copy=share, bytes=bytes_moved)


def phases(impl: str, ms: float, mib: float) -> list[dict[str, Any]]:
    """G main 14 ``ms``, path length 8 every 4th step, D main 10, R1 32 every 16th."""
    times = {"G main": (14, 1), "path length": (8, 4), "D main": (10, 1), "R1": (32, 16)}
    return [
        row(targets.STEP, name, impl, ms * share, op="train step", every=every, batch=8, peak_mib=mib)
        for name, (share, every) in times.items()
    ]


SIXTEEN, ONE = (targets.FFHQ.format(batch) for batch in (16, 1))
MADE_UP = [
    outcome(
        "environment",
        "environment",
        {"name": "properties", "value": {"name": "abacus"}},
        {"name": "packages", "value": {"torch": "2.11", "hypothesis": None}},
        {"name": "ceilings", "value": {"copy_GB_per_s": 3000.0, "matmul_bf16_GFLOP_per_s": 7.9e5}},
        {"name": "reads_GB_per_s", "error": "RuntimeError: no"},
    ),
    outcome(
        "tests",
        "kernels 1/1",
        {"start": "t::a"},
        {"test": "t::a", "outcome": "passed", "message": ""},
        {"test": "t::b", "outcome": "failed", "message": "def b\nE   assert 3 < 2\nt.py:3: AssertionError"},
    ),
    outcome(
        "bench",
        "rays",
        {"row": row(SIXTEEN, "fwd", "ref", 5.0)},
        {"row": row(SIXTEEN, "fwd", "triton fp16", 0.4)},
        {"row": row(SIXTEEN, "fwd", "triton fp16 graph", 0.3)},
        {"row": row(SIXTEEN, "fwd+bwd", "ref", 12.0)},
        {"row": row(SIXTEEN, "fwd+bwd", "triton fp16", 2.0, peak_mib=500.0)},
        {"row": row(ONE, "fwd", "triton fp16 graph", 0.0401)},
        {"test": "bench/b.py::test_rays[x]", "outcome": "skipped", "message": "Skipped: no Kernel"},
        status="out of time",
        reason="ended after 170 s",
    ),
    outcome(
        "bench",
        "filters",
        {"row": filtered("blur, fp32", "triton graph", 0.9)},
        {"row": filtered("up 2, fp32", "triton graph", 0.7)},
        {"row": filtered("small, fp32", "triton graph", 0.1, 15e6)},  # the launch counts
        {"row": filtered("blur, fp16", "triton graph", 0.61)},
        {"row": filtered("blur, fp16", "triton", 0.3)},
    ),
    outcome(
        "bench",
        "models",
        {"row": row(targets.IMAGE.format(16), "fwd", "triton", 6.7, op="generator", images=16, images_per_s=2400)},
        {"row": row(targets.IMAGE.format(1), "fwd", "graph", 0.95, op="generator", images=1, images_per_s=1053)},
        *({"row": phase} for phase in phases("ref", 4.0, 5000.0)),
        *({"row": phase} for phase in phases("triton", 1.0, 2000.0)),
    ),
    outcome(
        "bench",
        "bytes",
        {
            "moved": {
                "op": "blur",
                "shape": "large",
                "direction": "fwd",
                "target": 90,
                "launches": 1,
                "minimum": 5e6,
                "memory": 5e6,
                "halos": 6e6,
                "programs": 7e6,
                "parts": [],
            }
        },
    ),
    outcome("experiments", "tiles", {"kind": "rays", "tile": [128, 4, 2], "us_per_image": 12.5, "registers": 240}),
    outcome("experiments", "sincos", {"octave": None, "error": 2e-7}, {"octave": 9, "error": 6e-7}),
    outcome("determinism", "repeat", {"call": "FFHQ, fwd", "times": 20, "unequal": 0, "finite": True}),
    outcome("determinism", "resume", {"question": "the same run twice", "tensors": 600, "differing": ["a"]}),
    outcome("train", "quickstart", {"images_per_s": 61.2, "peak_mib": 512.0, "images": 3000, "finite": True}),
    outcome("bench", "ops", status="skipped", reason="no time left"),
]


def test_targets() -> None:
    verdicts = [(measured, verdict) for _, _, measured, verdict in summary.judge(Found(MADE_UP).rows)]
    assert verdicts == [
        ("12.5", "met"),  # 5 / 0.4
        ("", "not measured"),  # torch.compile
        ("25", "missed"),  # 0.4 ms / 16
        ("18.8", "met"),  # 0.3 ms / 16
        ("6", "met"),
        ("0.103", "missed"),  # (500 - 100) / (4000 - 100)
        ("40.1", "missed"),
        ("70%", "missed"),  # upfirdn2d in float32
        ("61%", "met"),
        *[("", "not measured")] * 2,  # bias_act
        ("2.4e+03", "missed"),
        ("0.95", "met"),
        ("4", "met"),  # training: 14 + 10 + 32 / 16 + 8 / 4 ms against four times that
        ("0.4", "met"),
        ("4.2", "missed"),  # (10 + 32) / 10
    ]


def test_a_training_step_needs_all_its_phases() -> None:
    rows = [r for r in Found(MADE_UP).rows if (r["op"], r["impl"]) != ("train step", "ref")]
    assert report.training_steps(rows)[0].images_per_s == pytest.approx(8 / 0.028)
    assert report.training_steps(rows[:-1])[0].images_per_s is None  # no R1
    verdicts = {name: verdict for name, _, _, verdict in summary.judge(rows)}
    assert verdicts["training 512 px: times faster than eager"] == "not measured"
    assert verdicts["training 512 px: D with R1 over D without"] == "missed"


def test_nothing_measured_is_said() -> None:
    assert {verdict for *_, verdict in summary.judge([])} == {"not measured"}
    assert "tests on the device: not measured" in summary.short_table(Found([]))
    page = summary.tuning_log(Found([]), "2026-01-01")
    assert "# Tuning log, 2026-01-01, unknown device" in page and "not measured" in page


def test_short_table_is_short_and_says_it_all() -> None:
    text = summary.short_table(Found(MADE_UP))
    assert "tests on the device: 1 passed, 1 failed" in text
    assert "  failed: t::b: E   assert 3 < 2" in text
    assert "  out of time: bench-rays: ended after 170 s" in text
    assert "repeated 20 times, FFHQ, fwd: 0 differ" in text and "the same run twice: 1 of 600 tensors differ" in text
    assert "quickstart: 61.2 images per second, peak 512 MiB, 3000 images, losses finite" in text
    assert "left out: bench-ops (no time left)" in text
    assert len(text) < 5000


def test_tuning_log_sets_measured_beside_predicted() -> None:
    page = summary.tuning_log(Found(MADE_UP), "2026-01-01")
    (tile,) = [line for line in page.splitlines() if "28 samples, 128 rows in 4 warps" in line]
    assert [cell.strip() for cell in tile.strip("|").split("|")][1:] == ["11.8 modelled", "12.5", ""]
    (sines,) = [line for line in page.splitlines() if "sine and cosine" in line]
    assert "6.3e-7" in sines and "6.0e-07" in sines
    assert "| rays   |  128 |     4 |      2 |         12.5 |       240 |" in page
    assert "* failed: `t::b`" in page and "| render_rays | FFHQ" in page
    assert "| blur | large | fwd       |        1 |          5 |   1.00 |       1.20 |         1.40 |" in page


def test_files_can_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.write(tmp_path, MADE_UP, 12.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"{stage}.json" for stage in STAGES), "summary.json", "tuning.md"]
    )
    assert report.main([str(tmp_path / "bench.json")]) == 0
    text = capsys.readouterr().out
    assert "12.50" in text and "* no Kernel: rays (1)" in text
    assert "| blur | large | fwd " in text and "Whole training steps" in text and "Whole images" in text
    whole = json.loads((tmp_path / "summary.json").read_text())
    assert whole["tests"] == {"passed": 1, "failed": 1} and whole["failures"][0]["name"] == "t::b"
    assert whole["targets"][0] == {
        "target": "rays, batch 16: times faster than eager", "wanted": ">= 10", "measured": "12.5", "verdict": "met"
    }  # fmt: skip
    assert all("start" not in line for line in json.loads((tmp_path / "tests.json").read_text())["steps"][0]["lines"])


def fake_steps(cpus: int) -> list[Step]:
    good = script("sincos", "import sys; open(sys.argv[1], 'a').write('{\"octave\": 0, \"error\": 1e-7}\\n')")
    return [
        replace(script("environment", EMIT), stage="environment"),
        replace(good, alone=False),
        script("broken", "raise SystemExit(3)", alone=False),
        replace(script("quickstart", EMIT), stage="train", needs=("a_package_that_is_not",)),
    ]


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", lambda: {"torch": "2.11", "cuda": True, "device": "NVIDIA Abacus 3000"})
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert command.main([], make=fake_steps) == 1  # a step failed
    text = capsys.readouterr().out
    assert "NVIDIA Abacus 3000; results in" in text and "not installed: a_package_that_is_not" in text
    assert "experiments: broken: failed, exit code 3" in text
    assert "left out: train-quickstart (not installed: a_package_that_is_not)" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "environment.json", "experiments.json", "train.json", "summary.json", "tuning.md"
    }  # fmt: skip
    assert "1.0e-07" in (tmp_path / "out" / "tuning.md").read_text()


def test_only_some_stages_and_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", lambda: {"torch": "2.11", "cuda": True, "device": "NVIDIA Abacus 3000"})
    assert command.main(["--only", "environment", "--out", str(tmp_path)], make=fake_steps) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"environment.json", "summary.json", "tuning.md"}


def test_an_interruption_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", lambda: {"torch": "2.11", "cuda": True, "device": "NVIDIA Abacus 3000"})

    def make(cpus: int) -> list[Step]:
        first = replace(script("environment", EMIT), stage="environment")
        return [first, script("long", "import os, time; os.kill(os.getppid(), 15); time.sleep(30)")]

    begin = time.monotonic()
    assert command.main(["--out", str(tmp_path)], make=make) == 130
    assert time.monotonic() - begin < 15
    whole = json.loads((tmp_path / "summary.json").read_text())
    assert [step["status"] for step in whole["steps"]] == ["ok", "out of time"]


def test_folder_is_named_after_the_device() -> None:
    assert command._slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
