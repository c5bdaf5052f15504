"""How figures came about, stored beside them: figures of different protocols do not compare, and are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, os_reason, short
from ...files import write_synced, write_whole
from .intervals import Figure

RESIZING = "centre square, LANCZOS (pillow), once, from the file"
VERSION = 1


@dataclass(frozen=True)
class Protocol:
    """All that decides about a figure besides the images that it is of.

    Attributes:
        detector:         SHA-256 of the network; None where no figure needs one.
        resolution:       pixels a side of both sets.
        resizing:         how files come to that resolution.
        images:           number of samples.
        reference_images: number of training images, mirrored copies included.
        truncation:       psi of a generator's styles; None for images from files.
        rendering:        fast or strict; None for images from files.
        seed:             of latents, cameras, patches and resampling.
        data:             SHA-256 of the training images.
        mirror:           whether they come a second time, flipped.
    """

    detector: str | None
    resolution: int
    resizing: str
    images: int
    reference_images: int
    truncation: float | None
    rendering: str | None
    seed: int
    data: str
    mirror: bool


@dataclass(frozen=True)
class Result:
    """Figures of one source under one protocol."""

    source: str
    protocol: Protocol
    figures: dict[str, Figure]

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all; figures that are not finite become null."""
        figures = {name: {k: _plain(v) for k, v in f._asdict().items()} for name, f in self.figures.items()}
        content = {
            "version": VERSION, "source": self.source, "protocol": dataclasses.asdict(self.protocol), "figures": figures
        }  # fmt: skip
        write_whole(path, lambda part: write_synced(part, (json.dumps(content, indent=2) + "\n").encode()))


def read_result(path: Path) -> Result:
    """Read what :meth:`Result.write` wrote. Raises: UserError naming the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: wanted a file of figures, got: {os_reason(error)}") from None
    except ValueError:
        raise UserError(f"{path}: wanted a file of figures, got one that is not JSON") from None
    names = {field.name for field in dataclasses.fields(Protocol)}
    protocol = content.get("protocol") if isinstance(content, dict) else None
    if not isinstance(protocol, dict) or set(protocol) != names or content.get("version") != VERSION:
        raise UserError(f"{path}: wanted figures as `stylenerf evaluate` writes them, got another file")
    figures = content.get("figures")
    if not isinstance(figures, dict) or not all(_is_figure(value) for value in figures.values()):
        raise UserError(f"{path}: wanted figures of value, low and high, got {short(figures)}")
    read = {name: Figure(*(_number(value[k]) for k in Figure._fields)) for name, value in figures.items()}  # type: ignore[arg-type]
    return Result(str(content.get("source")), Protocol(**protocol), read)


def check_comparable(results: dict[str, Result]) -> None:
    """Raises: UserError naming every field in which two protocols differ, unless all are the same."""
    names = list(results)
    for other in names[1:]:
        a, b = results[names[0]].protocol, results[other].protocol
        fields = [field.name for field in dataclasses.fields(Protocol)]
        apart = [name for name in fields if getattr(a, name) != getattr(b, name)]
        if apart:
            said = "; ".join(f"{n} {_shown(getattr(a, n))} and {_shown(getattr(b, n))}" for n in apart)
            raise UserError(f"compare: wanted figures of one protocol, got in {names[0]} and {other}: {said}")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _plain(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _is_figure(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == set(Figure._fields) and all(
        v is None or isinstance(v, int | float) for v in value.values()
    )  # fmt: skip
