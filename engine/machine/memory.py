"""What is remembered about machines, in the user's cache: a JSON file, an entry for each machine and kernels' hash.

Whatever is lost here is found out again, so a file that cannot be read counts as empty, and one that cannot be written
is no error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_whole

Identity = Mapping[str, str | None]


def cache_file() -> Path:
    """``machines.json`` in the user's cache folder for this program."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stylenerf" / "machines.json"


def recall(machine: Identity) -> dict[str, Any]:
    """What is known of exactly this machine, these versions and kernels; empty if nothing is."""
    for entry in _entries():
        if entry["machine"] == dict(machine):
            return entry
    return {}


def remember(machine: Identity, **what: Any) -> None:
    """Add to the entry of a machine."""
    entry = {**recall(machine), "machine": dict(machine), **what}
    others = [old for old in _entries() if old["machine"] != dict(machine)]
    text = json.dumps([*others, entry], indent=1, allow_nan=False) + "\n"
    with contextlib.suppress(UserError, OSError):
        write_whole(cache_file(), lambda part: part.write_text(text, encoding="utf-8"))


def _entries() -> list[dict[str, Any]]:
    try:
        read = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return (
        [e for e in read if isinstance(e, dict) and isinstance(e.get("machine"), dict)]
        if isinstance(read, list)
        else []
    )
