"""The request of a page, parsed from the query of its address; errors are one line that names the parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from ...errors import UserError

Show = Literal["colour", "depth", "normals", "opacity"]
SHOWS = ("colour", "depth", "normals", "opacity")
PARTS = ("all", "foreground", "background")
FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
ROWS = ("geometry", "appearance", "fine")

MAX_SEED = 2**53 - 1  # the largest whole number that a browser counts exactly
MAX_YAW_RAD = 100.0
FOV_DEG = (1.0, 120.0)
TRUNCATION = (0.0, 1.5)
MAX_PARAMETERS = 40


class Limits(NamedTuple):
    """Limits that depend on the model."""

    edge: int  # of a picture, at most
    samples: tuple[int, int]  # per ray and pass
    radius: tuple[float, float]  # world units
    labels: int  # classes; 0 for a model without


@dataclass(frozen=True)
class Look:
    """One picture; None is the model's own.

    Attributes:
        seed, truncation, label: the subject.
        mix: seed of a second subject, of which ``mix_rows`` take ``mix_amount``.
        yaw, pitch: radians, pitch from +z; None is the middle of the model's ranges.
        fov: degrees.  radius: world units.
        show: what of the view.  parts: with or without what is behind the object.
        strict: every pixel by a ray of its own.  resolution: of a strict picture, pixels.  samples: per ray and pass.
    """

    seed: int = 0
    truncation: float = 0.7
    label: int | None = None
    mix: int | None = None
    mix_rows: tuple[str, ...] = ROWS
    mix_amount: float = 1.0
    yaw: float | None = None
    pitch: float | None = None
    fov: float | None = None
    radius: float | None = None
    show: Show = "colour"
    parts: Literal["all", "foreground", "background"] = "all"
    strict: bool = False
    resolution: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Delivery:
    """How a picture wants to be sent.

    Attributes:
        format: of the file.  download: as a file to keep.
        client, turn: who asks, and a number that grows with each of its requests; a later one makes this one stale.
    """

    format: str = "png"
    download: bool = False
    client: str = ""
    turn: int = 0


@dataclass(frozen=True)
class Shot:
    """A moving picture: a path of the camera, frames, frames per second, kind of file."""

    path: str = "turntable"
    frames: int = 48
    fps: float = 24.0
    kind: str = "webp"


class BadQuery(UserError):
    """A parameter that cannot be served."""

    def __init__(self, parameter: str, text: str) -> None:
        super().__init__(f"{parameter}: {text}")
        self.parameter = parameter


_Reader = Callable[[str, str], Any]


def read_query(query: str, readers: Mapping[str, _Reader]) -> dict[str, Any]:
    """The parameters of a query, each read by the reader of its name.

    Raises: BadQuery naming the parameter: unknown, given twice, or of another kind than wanted.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise BadQuery("query", f"wanted name=value&..., got {_short(query)}") from None
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in readers:
            raise BadQuery(_plain(name), f"wanted one of {', '.join(readers)}, got another parameter")
        if name in values:
            raise BadQuery(name, "wanted once, got twice")
        values[name] = readers[name](name, text)
    return values


def look_readers(limits: Limits) -> dict[str, _Reader]:
    """Readers of everything in a :class:`Look`."""
    readers: dict[str, _Reader] = {
        "seed": _whole(0, MAX_SEED),
        "truncation": _number(*TRUNCATION),
        "mix": _whole(0, MAX_SEED),
        "mix_rows": _some_of(ROWS),
        "mix_amount": _number(0, 1),
        "yaw": _number(-MAX_YAW_RAD, MAX_YAW_RAD, "radians"),
        "pitch": _number(0, math.pi, "radians"),
        "fov": _number(*FOV_DEG, "degrees"),
        "radius": _number(*limits.radius, "world units"),
        "show": _one_of(SHOWS),
        "parts": _one_of(PARTS),
        "strict": _flag,
        "resolution": _whole(8, limits.edge),
        "samples": _whole(*limits.samples),
    }
    return readers | ({"label": _whole(0, limits.labels - 1)} if limits.labels else {})


def delivery_readers() -> dict[str, _Reader]:
    """Readers of everything in a :class:`Delivery`."""
    return {"format": _one_of(tuple(FORMATS)), "download": _flag, "client": _name, "turn": _whole(0, MAX_SEED)}


def shot_readers(paths: tuple[str, ...], kinds: tuple[str, ...], most_frames: int) -> dict[str, _Reader]:
    """Readers of everything in a :class:`Shot`."""
    return {
        "path": _one_of(paths),
        "frames": _whole(2, most_frames),
        "fps": _number(1, 50, "frames a second"),
        "kind": _one_of(kinds),
    }


def make_look(values: dict[str, Any], limits: Limits) -> Look:
    """The values of a query, the class that a conditional model needs filled in."""
    if limits.labels:
        values = {"label": 0, **values}
    if values.get("resolution") is not None and not values.get("strict"):
        raise BadQuery("resolution", "wanted with strict=1 only (else the model has its own), got without")
    return Look(**values)


def _whole(low: int, high: int) -> _Reader:
    def read(name: str, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 20 and low <= int(text) <= high):
            raise BadQuery(name, f"wanted a whole number of {low} to {high}, got {_short(text)}")
        return int(text)

    return read


def _number(low: float, high: float, unit: str = "") -> _Reader:
    def read(name: str, text: str) -> float:
        try:
            value = float(text) if len(text) <= 40 and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            wanted = f"a number of {low:.6g} to {high:.6g}{unit and f' {unit}'}"
            raise BadQuery(name, f"wanted {wanted}, got {_short(text)}")
        return value

    return read


def _one_of(known: tuple[str, ...]) -> _Reader:
    def read(name: str, text: str) -> str:
        if text not in known:
            raise BadQuery(name, f"wanted one of {', '.join(known)}, got {_short(text)}")
        return text

    return read


def _some_of(known: tuple[str, ...]) -> _Reader:
    def read(name: str, text: str) -> tuple[str, ...]:
        given = text.split(",")
        if not set(given) <= set(known) or len(set(given)) < len(given):
            raise BadQuery(name, f"wanted some of {','.join(known)}, got {_short(text)}")
        return tuple(k for k in known if k in given)

    return read


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise BadQuery(name, f"wanted 0 or 1, got {_short(text)}")
    return text == "1"


def _name(name: str, text: str) -> str:
    if not (text.isascii() and text.isalnum() and len(text) <= 40):
        raise BadQuery(name, f"wanted at most 40 letters and digits, got {_short(text)}")
    return text


def _plain(text: str) -> str:
    """A name that came over the wire, fit for one line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:40] or "(empty)"


def _short(text: str) -> str:
    return repr(_plain(text)) if text else "nothing"
