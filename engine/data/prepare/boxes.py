"""Files of boxes: which square of a picture is cut out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError, os_reason, short
from ..decode import MIN_SIDE, Square
from ..names import plain_name

_COLUMNS = ["name", "left", "top", "side"]


@dataclass(frozen=True)
class Boxes:
    """Squares by the names of pictures, and the SHA-256 of the file they come from."""

    squares: dict[str, Square]
    sha256: str


def read_boxes(path: Path) -> Boxes:
    """A .json file {name: [left, top, side]} or a .csv file with the columns name, left, top, side.

    Numbers are pixels of the upright picture. Raises: UserError naming the file and the first bad entry.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--crop: wanted centre, none or a readable file of boxes, got {path}: {os_reason(error)}"
                        ) from error  # fmt: skip
    entries = _from_csv(content, path) if path.suffix.lower() == ".csv" else _from_json(content, path)
    squares: dict[str, Square] = {}
    for name, numbers in entries:
        if plain_name(name) in squares:
            raise UserError(f"--crop: {path}: wanted one box for each picture, got a second one for {short(name)}")
        squares[plain_name(name)] = _square(name, numbers, path)
    if not squares:
        raise UserError(f"--crop: {path}: wanted at least one box, got none")
    return Boxes(squares, hashlib.sha256(content).hexdigest())


def _from_json(content: bytes, path: Path) -> list[tuple[str, object]]:
    wanted = f'--crop: {path}: wanted JSON {{"name": [left, top, side], ...}}'
    try:
        pairs = json.loads(content, object_pairs_hook=list)  # pairs: a name that comes twice is seen
    except (ValueError, RecursionError) as error:
        raise UserError(f"{wanted}, got no readable JSON ({error})") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise UserError(f"{wanted}, got {short(pairs)}")
    return pairs


def _from_csv(content: bytes, path: Path) -> Iterable[tuple[str, object]]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (ValueError, csv.Error) as error:
        raise UserError(f"--crop: {path}: wanted CSV in UTF-8, got {error}") from error
    rows = [[field.strip() for field in row] for row in rows if row]
    if not rows or rows[0] != _COLUMNS:
        raise UserError(f"--crop: {path}: wanted the header {','.join(_COLUMNS)}, got {short(rows[0] if rows else '')}")
    return [(row[0], _numbers(row[1:])) for row in rows[1:]]


def _numbers(fields: list[str]) -> object:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return fields


def _square(name: str, numbers: object, path: Path) -> Square:
    if isinstance(numbers, list) and len(numbers) == 3 and all(_is_number(value) for value in numbers):
        square = Square(*numbers)
        if square.left >= 0 and square.top >= 0 and square.side >= MIN_SIDE:
            return square
    raise UserError(
        f"--crop: {path}: wanted [left, top, side] with left and top at least 0, side at least {MIN_SIDE} pixels, "
        f"got {short(numbers)} for {short(name)}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value < 2**31
