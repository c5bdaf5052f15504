"""Results line by line: what a process found is on the disk as soon as it is found, whatever becomes of the process.

Also a pytest plugin, ``-p bench.gpu.lines``: a line when a test starts and when it ends, and every row of a bench.
After an error that leaves the GPU unusable for the process it stops, since every later test would fail of it; a second
run with the same file goes on behind the tests that the first one got to.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


def emit(path: Path, **facts: Any) -> None:
    """Append one line."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts, default=str) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line; the last one may have been cut off."""
    return list(_whole(path)) if path.exists() else []


def _whole(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def begun(found: list[dict[str, Any]]) -> set[str]:
    """Tests that started or ended."""
    return {line[key] for line in found for key in ("start", "test") if key in line}


def unfinished(found: list[dict[str, Any]]) -> list[str]:
    """Tests that started and did not end, in order."""
    ended = {line["test"] for line in found if "test" in line}
    return [name for name in dict.fromkeys(line["start"] for line in found if "start" in line) if name not in ended]


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
