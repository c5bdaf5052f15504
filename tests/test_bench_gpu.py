"""``python -m bench.gpu``: its plan, its way with processes that fail, its results; tiny steps, no GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.gpu import __main__ as command
from bench.gpu import plan, runner, targets
from bench.gpu.plan import Step
from bench.gpu.runner import Outcome, Runner
from tests.conftest import ROOT

STEPS = plan.steps(which=lambda name: f"/opt/{name}")
ENVIRONMENT = {"device": "NVIDIA Abacus 3000", "commit": "0123456789ab", "torch": "2.11", "triton": "3.6"}


def script(name: str, code: str, limit_s: float = 60.0, **more: Any) -> Step:
    return Step(name, (sys.executable, "-c", code, "{work}"), limit_s, **more)


def timed(op: str, ms: float = 4.0, code: str = "") -> Step:
    """A step that leaves the figures of a bench."""
    facts = {"op": op, "shape": "3 ch", "direction": "fwd", "impl": "ref"} | {f"p{q}_ms": ms for q in (20, 50, 80)}
    found = {"benchmarks": [{"name": f"test_{op}", "extra_info": facts, "stats": {}}], "skipped": {"no moon": ["a"]}}
    write = f"import sys, time\nwith open(sys.argv[1] + '/bench.json', 'w') as f: f.write({json.dumps(found)!r})\n"
    return script(f"bench {op}", write + code)


def make_runner(seconds: float = 600.0) -> Runner:
    return Runner(time.monotonic() + seconds, jobs=2, report=lambda line: None)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """The command on a machine with a GPU, with other steps; its exit status and results."""
    monkeypatch.setattr(command, "probe", lambda: dict(ENVIRONMENT))

    def run(steps: list[Step], *arguments: str) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "results.json"
        where = () if "--resume" in arguments else ("--out", str(path))
        status = command.main([*where, *arguments], plan=lambda: steps)
        return status, json.loads(path.read_text()) if path.exists() else {}

    yield run


def test_list_shows_every_step_and_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--list", "--dry-run"):
        assert command.main([option], plan=lambda: STEPS) == 0
    text = capsys.readouterr().out
    assert all(f". {step.name}, at most {step.limit_s:.0f} s" in text for step in STEPS)
    assert "/opt/compute-sanitizer --tool memcheck --error-exitcode 9" in text and "bench/bench_rays.py" in text


def test_plan_is_in_order_of_worth_and_names_what_exists() -> None:
    kinds = [step.name.split()[0] for step in STEPS]
    assert list(dict.fromkeys(kinds)) == ["smoke", "tests", "sanitizer", "bench", "train", "tune"]
    assert all(step.shared == (kind in ("smoke", "tests", "sanitizer")) for step, kind in zip(STEPS, kinds))
    assert len({step.name for step in STEPS}) == len(STEPS)
    files = {part for step in STEPS for part in step.command if part.endswith(".py")}
    assert all((ROOT / file).is_file() for file in files)
    assert {f"bench/{path.name}" for path in (ROOT / "bench").glob("bench_*.py")} <= files
    lacking = [step for step in plan.steps(which=lambda name: None) if step.lacks]
    assert [step.name.split()[0] for step in lacking] == ["smoke", "sanitizer", "sanitizer"]


def test_tuning_step_is_a_command_that_the_verb_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stylenerf.engine.command_line import main as cli
    from stylenerf.engine.command_line.verbs import verb_module

    (step,) = [step for step in STEPS if step.name.startswith("tune")]
    monkeypatch.setattr(verb_module("tune"), "run", lambda args: 0)
    assert cli.main(step.command[3:]) == 0, capsys.readouterr().err


def test_smoke_takes_a_minute_side_by_side() -> None:
    smoke = [step for step in STEPS if step.name.startswith("smoke")]
    assert smoke == STEPS[:4] and {step.limit_s for step in smoke} == {60}
    assert "tests/test_fused_refine_to_rgb.py" in smoke[3].command and "memcheck" in smoke[3].command


def test_what_a_machine_lacks_is_listed_as_not_run(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, results = call([script("watched", "", lacks="no watcher"), script("works", "")])
    assert [step["status"] for step in results["steps"]] == ["skipped", "ok"]
    assert "not run, no watcher: watched" in capsys.readouterr().out


def test_results_are_read_by_strict_readers(tmp_path: Path) -> None:
    outcome = runner.Outcome("odd", "ok", benchmarks=[{"extra_info": {"error": float("nan"), "p50_ms": float("inf")}}])
    command.write(tmp_path / "out.json", [outcome], {}, 1.0)
    (step,) = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)["steps"]
    assert step["benchmarks"] == [{"extra_info": {"error": None, "p50_ms": None}}]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kimg"), [("train quickstart", 2), ("smoke training", 0.004)])
def test_training_step_is_a_command_that_train_takes(name: str, kimg: float, tmp_path: Path) -> None:
    (step,) = [step for step in STEPS if step.name == name]
    asked = [part.replace("{work}", str(tmp_path)).replace("cuda", "cpu") for part in step.command]
    done = subprocess.run([*asked, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train"]["total_kimg"] == kimg


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "python -m bench.gpu --list" in text and "exit status" in text and "--resume" in text


@pytest.mark.parametrize(("venv", "python"), [("nowhere", "python3"), (".", "bin/python")])
def test_make_gpu_takes_the_python_that_is_there(tmp_path: Path, venv: str, python: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    asked = ["make", "--no-print-directory", "-n", "-C", str(ROOT), "gpu", f"VENV={tmp_path / venv}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"{python} -m bench.gpu")


def test_the_command_itself_needs_nothing_and_keeps_off_the_gpu() -> None:
    look = "import sys, bench.gpu.__main__; print(sorted({'torch', 'numpy', 'triton', 'pytest'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('print(\'{"cuda": false, "torch": "2.11"}\')', "(torch 2.11)"),
        ("raise ImportError('no such thing')", "(ImportError: no such thing)"),
        ("import time; time.sleep(60)", "(no answer within 1 s)"),
    ],
)
def test_without_a_gpu_it_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, reason: str
) -> None:
    monkeypatch.setattr(command, "PROBE", answer)
    monkeypatch.setattr(command, "PROBE_LIMIT_S", 1 if "sleep" in answer else 60)
    assert command.main([]) == 2
    text = capsys.readouterr().err
    assert text == f"GPU: wanted a CUDA device, got none {reason}; --list shows what would run\n"


@pytest.mark.slow
def test_probe_asks_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(command, "PROBE", command.PROBE.replace('DEVICE.type == "cuda"', "True"))
    found = command.probe()
    assert found["torch"] == torch.__version__ and {"device", "python", "triton", "commit"} <= set(found)


def test_only_names_steps(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [script("bench lens", ""), script("bench blur", ""), script("train", "")]
    status, results = call(steps, "--only", "lens", "--only", "train")
    assert status == 0 and [step["step"] for step in results["steps"]] == ["bench lens", "train"]
    assert command.main(["--only", "lunch"]) == 2
    assert capsys.readouterr().err == "--only: wanted a part of a step's name (--list shows them), got 'lunch'\n"


def test_goes_on_after_steps_that_fail_or_hang(call: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    steps = [
        timed("lens"),
        script("broken", "raise SystemExit('no cup')"),
        script("killed", "import os; os.kill(os.getpid(), 9)"),
        script("hangs", "import time; time.sleep(60)", limit_s=0.5),
        Step("absent", ("/no/such/program",), 60.0),
        timed("blur"),
    ]
    status, results = call(steps)
    assert status == 1 and results["environment"] == ENVIRONMENT and results["seconds"] > 0
    got = {step["step"]: (step["status"], step["exit_code"], step["tail"]) for step in results["steps"]}
    assert list(got) == [step.name for step in steps]
    assert got["bench lens"] == got["bench blur"] == ("ok", 0, "")
    assert got["broken"] == ("failed", 1, "no cup") and got["killed"] == ("failed", -9, "")
    assert got["hangs"][:2] == ("out of time", None) and "KeyboardInterrupt" in got["hangs"][2]
    assert got["absent"] == ("failed", None, "/no/such/program: No such file or directory")
    text = capsys.readouterr().out
    assert "failed: broken: no cup\n" in text and "out of time: hangs: KeyboardInterrupt\n" in text
    assert report.main([str(tmp_path / "results.json")]) == 0
    text = capsys.readouterr().out
    assert "| lens | 3 ch" in text and "| blur | 3 ch" in text and "* no moon: a (2)" in text


def test_steps_that_take_no_times_run_beside_each_other() -> None:
    wait = "import pathlib, sys, time\nhere = pathlib.Path(sys.argv[1]).parent / {0!r}\nhere.touch()\n"
    wait += "while not here.with_name({1!r}).exists(): time.sleep(0.05)"
    names = [f"meet-{os.getpid()}-{i}" for i in range(2)]
    first, second = (script(a, wait.format(a, b), shared=True) for a, b in (names, names[::-1]))
    outcomes = list(make_runner().run([first, second]))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]


def ends(pid: str, patience_s: float = 50.0) -> bool:
    """Whether a process is dead, if nobody took notice: soon, since a busy machine lets signals wait."""
    stat, until = Path(f"/proc/{pid}/stat"), time.monotonic() + patience_s
    while time.monotonic() < until:
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_limits_reach_the_whole_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    monkeypatch.setattr(runner.end, "__defaults__", (0.5,))
    child = tmp_path / "child"
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
    code = f"{deaf}import subprocess, time\nwith open({str(child)!r}, 'w') as f:\n"
    code += "    f.write(str(subprocess.Popen(['sleep', '60']).pid))\ntime.sleep(60)"
    outcome = make_runner().step(script("parent", code, limit_s=3.0))
    assert outcome.status == "out of time" and outcome.seconds < 50 and ends(child.read_text())


def test_what_a_step_left_running_is_ended(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"import subprocess; open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    assert make_runner().step(script("parent", code)).status == "ok"
    assert ends(child.read_text())


def test_the_budget_cuts_the_plan(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([script("late", "")], "--minutes", "0.3")[0] == 1
    assert "not run, no time left: late" in capsys.readouterr().out
    outcome = make_runner(runner.GRACE_S + 9).step(script("next", ""))
    assert outcome.status == "ok" and outcome.limit_s == pytest.approx(9, abs=0.5)


def test_kernels_are_compiled_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert make_runner().step(script("look", "import os; os.environ['TRITON_INTERPRET']")).tail.startswith("Traceback")


HOSTILE = """
import pytest, time
def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="no moon")
def test_is_skipped(): pass
@pytest.fixture
def broken(): raise ValueError("no cup")
def test_cannot_start(broken): pass
def test_hangs(): time.sleep(60)
"""


@pytest.mark.slow
def test_verdicts_of_a_test_run_that_hangs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "test_hostile.py").write_text(HOSTILE)
    tests = plan.pytest("-p", "no:hypothesispytest", "-p", "no:benchmark", str(tmp_path / "test_hostile.py"))
    outcome = make_runner().step(Step("tests", tests, limit_s=15.0))
    assert outcome.status == "out of time"
    assert outcome.tests == {"passed": 1, "failed": 2, "skipped": 1}
    assert "test_hostile.py:10: KeyboardInterrupt" in outcome.tail  # where it hangs
    (fails, assertion), (start, cup) = outcome.failures.items()
    assert fails.endswith("test_hostile.test_fails") and assertion == "assert 1 == 2"
    assert start.endswith("test_hostile.test_cannot_start") and "no cup" in cup


def test_torn_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "junit.xml").write_text("<testsuites><testsuite><testcase na")
    (tmp_path / "bench.json").write_text('{"benchmarks": [{"na')
    (tmp_path / "run" / "stats.jsonl").write_text('{"Progress/images": 8, "Loss/generator": 1.0}\n{"Progress/im')
    outcome = Outcome("bench lens", "out of time")
    runner.collect(tmp_path, outcome)
    assert (outcome.benchmarks, outcome.tests, outcome.training["images"]) == ([], {}, 8)


def test_training_is_summed_up() -> None:
    rows: list[dict[str, Any]] = [
        {"Progress/images": 0},
        {"Progress/images": 200, "Loss/generator": 1.5, "Time/sec_per_kimg": 99.0, "Memory/peak_mib": 300.0},
        {"Progress/images": 400, "Loss/generator": 1.2, "Time/sec_per_kimg": 20.0, "Memory/peak_mib": 310.0},
        {"Progress/images": 600, "Loss/generator": 1.1, "Time/sec_per_kimg": 30.0, "Memory/peak_mib": 310.0},
    ]
    found = runner.training(rows)
    assert found["images"] == 600 and found["images_per_s"] == 40.0 and found["peak_mib"] == 310.0
    assert found["finite"] and found["losses"] == {"Loss/generator": [1.5, 1.1]}
    assert not runner.training([*rows, {**rows[-1], "Loss/generator": None}])["finite"]
    assert not runner.training([*rows, {**rows[-1], "Gradient/generator_nonfinite": 2}])["finite"]
    assert runner.training([])["images_per_s"] is None and not runner.training([])["finite"]


def test_losses_that_are_not_finite_are_a_failure(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.dumps({"Progress/images": 8, "Loss/generator": None})
    code = f"import os, sys; os.mkdir(sys.argv[1] + '/run'); open(sys.argv[1] + '/run/stats.jsonl', 'w').write({row!r})"
    status, results = call([script("train", code)])
    assert status == 1 and results["steps"][0]["training"]["images"] == 8
    assert "training: 8 images, 0 per second, peak 0 MiB, losses NOT FINITE" in capsys.readouterr().out


INTERRUPTED = """
import sys
from bench.gpu import __main__ as command
from tests.test_bench_gpu import ENVIRONMENT, script, timed
command.probe = lambda: dict(ENVIRONMENT)
path, ready = sys.argv[1:]
long = timed("blur", code=f"open({ready!r}, 'w'); time.sleep(60)")
sys.exit(command.main(["--out", path], plan=lambda: [timed("lens"), long, script("late", "")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_has_been_measured(tmp_path: Path, sign: signal.Signals) -> None:
    path, ready = tmp_path / "results.json", tmp_path / "ready"
    asked = [sys.executable, "-c", INTERRUPTED, str(path), str(ready)]
    process = subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not ready.exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(sign)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = json.loads(path.read_text())["steps"]
    assert [(s["step"], s["status"]) for s in steps] == [
        ("bench lens", "ok"), ("bench blur", "interrupted"), ("late", "skipped")
    ]  # fmt: skip
    assert [len(s["benchmarks"]) for s in steps] == [1, 1, 0] and "not run, interrupted: late" in text


def test_resuming_runs_what_is_missing(call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, broken = tmp_path / "results.json", [timed("lens", 4.0), timed("blur", 4.0, "sys.exit(3)")]
    assert call(broken)[0] == 1
    # no time left: what the first call measured before the step failed stays
    status, results = call([timed("lens", 8.0), timed("blur", 8.0)], "--resume", str(path), "--minutes", "0.1")
    assert status == 1 and [s["status"] for s in results["steps"]] == ["ok", "failed"]
    status, results = call([timed("lens", 8.0), timed("blur", 8.0)], "--resume", str(path))
    assert status == 0 and [s["status"] for s in results["steps"]] == ["ok", "ok"]
    assert [s["benchmarks"][0]["extra_info"]["p50_ms"] for s in results["steps"]] == [4.0, 8.0]
    path.write_text(path.read_text().replace("Abacus", "Slide Rule"))
    assert call([], "--resume", str(path))[0] == 2
    wanted = "--resume: wanted results with device NVIDIA Abacus 3000, got NVIDIA Slide Rule 3000\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize("content", [None, "{", "[]", '{"environment": {}, "steps": [{}]}'])
def test_resuming_something_else(call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    assert call([], "--resume", str(path))[0] == 2
    error = capsys.readouterr().err
    assert error.startswith(f"--resume: wanted results of bench.gpu, got {path}: ") and error.count("\n") == 1


def row(shape: str, direction: str, impl: str, ms: float, **more: Any) -> dict[str, Any]:
    facts = {"op": "render_rays", "shape": shape, "direction": direction, "impl": impl, "p50_ms": ms}
    return {**facts, "peak_mib": 4000.0, "peak_before_mib": 100.0, **more}


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
ROWS = [
    row(SIXTEEN, "fwd", "ref", 5.0),
    row(SIXTEEN, "fwd", "triton fp16", 0.4),
    row(SIXTEEN, "fwd", "triton fp16 graph", 0.3),
    row(SIXTEEN, "fwd+bwd", "ref", 12.0),
    row(SIXTEEN, "fwd+bwd", "triton fp16", 2.0, peak_mib=500.0),
    row(ONE, "fwd", "triton fp16 graph", 0.0401),
    filtered("blur, fp32", "triton graph", 0.9),
    filtered("up 2, fp32", "triton graph", 0.7),
    filtered("small, fp32", "triton graph", 0.1, 15e6),  # the launch counts
    filtered("blur, fp16", "triton graph", 0.61),
    filtered("blur, fp16", "triton", 0.3),
    row(targets.IMAGE.format(16), "fwd", "triton", 6.7, op="generator"),
    row(targets.IMAGE.format(1), "fwd", "graph", 0.95, op="generator"),
    *phases("ref", 4.0, 5000.0),
    *phases("triton", 1.0, 2000.0),
]


def test_targets() -> None:
    assert [(measured, verdict) for _, _, measured, verdict in targets.judge(ROWS)] == [
        ("12.5", "met"),  # 5 / 0.4
        ("", "not measured"),  # torch.compile
        ("25", "missed"),  # 0.4 ms / 16
        ("18.8", "met"),  # 0.3 ms / 16
        ("6", "met"),
        ("0.103", "missed"),  # (500 - 100) / (4000 - 100)
        ("40.1", "missed"),
        ("0.7", "missed"),  # upfirdn2d in float32
        ("0.61", "met"),
        *[("", "not measured")] * 2,  # bias_act
        ("2.39e+03", "missed"),
        ("0.95", "met"),
        ("4", "met"),  # training: 14 + 10 + 32 / 16 + 8 / 4 ms against four times that
        ("0.4", "met"),
        ("4.2", "missed"),  # (10 + 32) / 10
    ]


def test_a_training_step_needs_all_its_phases() -> None:
    rows = [r for r in ROWS if (r["op"], r["impl"]) != ("train step", "ref")]
    assert report.training_steps(rows)[0].images_per_s == pytest.approx(8 / 0.028)
    assert report.training_steps(rows[:-1])[0].images_per_s is None  # no R1
    verdicts = {name: verdict for name, _, _, verdict in targets.judge(rows)}
    assert verdicts["training 512 px: times faster than eager"] == "not measured"
    assert verdicts["training 512 px: D with R1 over D without"] == "missed"


def test_nothing_measured_is_said() -> None:
    assert {verdict for *_, verdict in targets.judge([])} == {"not measured"}
    assert command.summary([]) == "targets not measured: 16 of 16\ntests and benches: none ran"


def test_results_are_named_after_time_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "probe", lambda: dict(ENVIRONMENT))
    taken: list[Path] = []
    monkeypatch.setattr(command, "run", lambda *args: taken.append(args[3]) or 0)
    assert command.main([]) == 0
    assert taken[0].parent == ROOT / "bench" / "results" and taken[0].name.endswith("-nvidia-abacus-3000.json")
