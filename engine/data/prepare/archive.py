"""The files of a set: an archive of pictures, labels and a manifest; a contact sheet."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ...pictures import grid
from ..labels import LABELS_FILE
from ..photos import MANIFEST_FILE
from .source import Source

if TYPE_CHECKING:
    from .job import Kept, Made

FORMAT = "stylenerf dataset 1"
_SHEET_COLUMNS, _SHEET_SIDE = 8, 128
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever they are written


def picture_name(number: int) -> str:
    """Where picture ``number`` lies in the archive, as StyleGAN's tool would put it."""
    return f"{number // 1000:05d}/img{number:08d}.png"


def write_set(source: Source, settings: dict[str, Any], made: Made, png: Callable[[Kept], bytes], path: Path) -> None:
    """Write the archive; the same bytes for the same pictures, labels and settings."""
    labels = None
    if made.kind != "none":
        table = [[picture_name(i), kept.label] for i, kept in enumerate(made.kept)]
        labels = json.dumps({"labels": table}).encode()
    manifest = {
        "format": FORMAT,
        "source": {"name": source.name, "kind": source.kind, **source.facts},
        "settings": settings,
        "labels": None if labels is None else {"kind": made.kind, "sha256": hashlib.sha256(labels).hexdigest()},
        "statistics": made.statistics(),
        "images": [_entry(i, kept) for i, kept in enumerate(made.kept)],
        "left_out": [missing._asdict() for missing in made.left_out],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for i, kept in enumerate(made.kept):
            _add(archive, picture_name(i), png(kept), zipfile.ZIP_STORED)
        if labels is not None:
            _add(archive, LABELS_FILE, labels, zipfile.ZIP_DEFLATED)
        _add(archive, MANIFEST_FILE, json.dumps(manifest, indent=1).encode(), zipfile.ZIP_DEFLATED)


def contact_sheet(pngs: Sequence[bytes]) -> bytes:
    """Pictures of one size side by side, small, as a PNG."""
    tiles = []
    for png in pngs:
        image = Image.open(io.BytesIO(png))
        image.thumbnail((_SHEET_SIDE, _SHEET_SIDE), Image.Resampling.LANCZOS)
        tiles.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    buffer = io.BytesIO()
    grid(torch.stack(tiles), columns=_SHEET_COLUMNS).save(buffer, "PNG")
    return buffer.getvalue()


def _entry(number: int, kept: Kept) -> dict[str, Any]:
    return {
        "file": picture_name(number),
        "sha256": kept.facts.png_sha256,
        "source": kept.source,
        "source_sha256": kept.facts.source_sha256,
        "source_size": kept.facts.size,
        "square": kept.facts.square,
    }


def _add(archive: zipfile.ZipFile, name: str, data: bytes, kind: int) -> None:
    member = zipfile.ZipInfo(name, _BEGINNING)
    member.compress_type = kind
    member.create_system, member.external_attr = 3, 0o644 << 16  # Unix, whatever system writes it
    archive.writestr(member, data)
