"""A pytest plugin, ``-p bench.gpu.plugin``: a line when a test starts and when it ends, and every row of a bench.

After an error that leaves the GPU unusable for the process it stops, since every later test would fail of it; a second
run with the same file goes on behind the tests that the first one got to.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.lines import begun, emit, read

MESSAGE = 1500  # characters of a failure that are kept: its end says most
# a process that has seen one of these gets nothing but errors from then on
STICKY = (
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "device-side assert",
    "an illegal",
    "launch timed out",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lines")
    group.addoption("--lines", metavar="FILE", help="append results to this file, one JSON object per line")
    group.addoption("--shard", metavar="I/N", help="run every N-th test only, from the I-th on, counted from 1")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--lines"):
        config.pluginmanager.register(Reporter(config, Path(config.getoption("--lines"))), "lines-reporter")


class Reporter:
    """Writes lines while pytest runs."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config, self.path, self.rows = config, path, 0
        self.session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        shard = self.config.getoption("--shard")
        if shard:
            part, parts = (int(number) for number in shard.split("/"))
            items[:] = items[part - 1 :: parts]
        before = begun(read(self.path))
        items[:] = [item for item in items if item.nodeid not in before]
        emit(self.path, collected=len(items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            emit(self.path, test=report.nodeid, outcome="error", seconds=0.0, message=report.longreprtext[-MESSAGE:])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        emit(self.path, start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self._rows()
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        message = str(reason)[-MESSAGE:]
        emit(self.path, test=report.nodeid, outcome=outcome, seconds=report.duration, message=message)
        if report.failed and any(sign in report.longreprtext for sign in STICKY) and self.session is not None:
            emit(self.path, sticky=report.nodeid)
            self.session.shouldstop = "the GPU is of no more use to this process"

    def _rows(self) -> None:
        """What the benches have measured since the last line."""
        harness = sys.modules.get("bench.harness")
        if harness is not None:
            rows: list[dict[str, Any]] = self.config.stash.get(harness.ROWS, [])
            for row in rows[self.rows :]:
                emit(self.path, row=row)
            self.rows = len(rows)
