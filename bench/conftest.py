"""The ``measure`` fixture, short runs, the time left, and the table at the end with what was skipped and why."""

import math
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import quick
from bench.harness import KERNELS, ROWS, Measure
from bench.machine import DEVICE, ceilings, environment
from bench.report import render

UNSELECTED = pytest.StashKey[list[str]]()
CLOCK = pytest.StashKey[quick.Clock]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--quick", action="store_true", help="the most telling row of each op, in about two minutes")
    group.addoption(
        "--peers",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="a checkout with other implementations to time beside ours, such as a StyleGAN3; may be given again",
    )


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    """Check, time and record an op; see :class:`bench.harness.Measure`."""
    return Measure(benchmark, request.config, telling=_telling(request.node))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[UNSELECTED] = []
    config.option.benchmark_quiet = True  # the table below has the same times, with explanations
    config.option.reportchars = "fE"  # skips are listed below the table, by reason
    for folder in config.getoption("peers"):
        if not folder.is_dir():
            raise pytest.UsageError(f"--peers: wanted a folder, got {folder}")
        sys.path.insert(0, str(folder.absolute()))
    if config.getoption("quick"):
        config.option.benchmark_max_time, config.option.benchmark_min_rounds = quick.SECONDS, quick.ROUNDS


def _telling(item: pytest.Item) -> bool:
    row = item.name.partition("[")[2].removesuffix("]")
    return quick.telling(item.path.stem, row, "fp16" if DEVICE.type == "cuda" else "fp32")


def _kind(item: pytest.Item) -> str:
    """The implementation that a bench times; ``quick.SKIPPED`` for a kernel without a GPU."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    impl = str(params.get("impl") or params.get("variant", "")).split(" ")[0]
    return quick.SKIPPED if impl in KERNELS and DEVICE.type != "cuda" else impl


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        left_out = [item for item in items if not _telling(item)]
        items[:] = sorted((item for item in items if _telling(item)), key=lambda item: quick.turn(_kind(item)))
        config.hook.pytest_deselected(items=left_out)


def pytest_runtestloop(session: pytest.Session) -> None:
    session.config.stash[CLOCK] = quick.Clock(
        map(_kind, session.items), quick.LIMIT_S if session.config.getoption("quick") else math.inf
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    clock, kind = item.config.stash[CLOCK], _kind(item)
    late = clock.elapsed() + clock.expected(kind) > quick.LIMIT_S
    if late and kind in quick.IF_TIME and item.config.getoption("quick"):
        pytest.skip(f"{kind}: --quick had used its {quick.LIMIT_S:.0f} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    clock = item.config.stash[CLOCK]
    start = clock.elapsed()
    result = yield
    clock.done(_kind(item), clock.elapsed() - start)
    line, reporter = clock.line(), item.config.pluginmanager.get_plugin("terminalreporter")
    if line and reporter:
        reporter.ensure_newline()
        reporter.write_line(line)
    return result


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if items:
        items[0].config.stash[UNSELECTED] += [item.name.removeprefix("test_") for item in items]


def skips(config: pytest.Config) -> dict[str, list[str]]:
    """Reason -> benches that it excluded."""
    excluded: dict[str, list[str]] = {}
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports: Iterable[Any] = reporter.stats.get("skipped", []) if reporter else []
    for report in reports:
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if report.longrepr else "skipped"
        excluded.setdefault(reason, []).append(report.nodeid.split("::")[-1].removeprefix("test_"))
    if config.stash[UNSELECTED]:
        quickly = ["--quick"] if config.getoption("quick") else []
        options = {"-m": config.getoption("markexpr"), "-k": config.getoption("keyword")}
        chosen = " ".join(quickly + [f"{flag} {value!r}" for flag, value in options.items() if value])
        excluded[f"not selected by {chosen or 'the command line'}"] = config.stash[UNSELECTED]
    return excluded


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # a host's name does not describe its speed
    machine_info.update(environment())
    machine_info["ceilings"] = ceilings()._asdict()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["skipped"] = skips(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    terminalreporter.section("bench")
    terminalreporter.write_line(render(rows, skips(config)))
    failed = [report.nodeid for report in terminalreporter.stats.get("failed", [])]
    if failed:
        terminalreporter.write_line(f"\n{len(failed)} failed and were not timed: {', '.join(failed)}")
