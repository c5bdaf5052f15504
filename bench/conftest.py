"""The ``measure`` fixture, and the table at the end of a run with the list of what was skipped and why."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.harness import ROWS, Measure
from bench.machine import ceilings, environment
from bench.report import render

UNSELECTED = pytest.StashKey[list[str]]()


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    """Check, time and record an op; see :class:`bench.harness.Measure`."""
    return Measure(benchmark, request.config)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[UNSELECTED] = []
    config.option.benchmark_quiet = True  # the table below has the same times, with explanations
    config.option.reportchars = "fE"  # skips are listed below the table, by reason


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
        options = {"-m": config.getoption("markexpr"), "-k": config.getoption("keyword")}
        chosen = " ".join(f"{flag} {value!r}" for flag, value in options.items() if value)
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
