"""Results line by line: what a process found is on the disk as soon as it is found, whatever becomes of the process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
