"""Style mixing: some rows of the styles from one subject, the others from another.

A style is one w for each layer: first the layers of the radiance field (trunk, density, features), then two for each
block of the upsampler and one for the last colours. The field decides about geometry, the upsampler only about
appearance: subjects that share the field's rows have the same depth (StyleNeRF, section 5, "style mixing").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ...errors import UserError, short
from ...model_io import Model
from ..render.subjects import Subjects

Side = Literal["coarse", "fine"]


def layer_groups(model: Model) -> dict[str, range]:
    """Named rows of the styles.

    ``shape``: the field up to its density. ``coarse``, also ``field``: all of the field. ``middle``: the first half of
    the upsampler's blocks (of one block its two layers). ``fine``: the other blocks and the last colours. ``32px`` and
    so on: the block that makes this resolution.
    """
    volume, total = model.generator.synthesis.volume.num_ws, model.generator.synthesis.num_ws
    blocks = model.config.block_resolutions
    split = volume + 2 * max(len(blocks) // 2, 1) if blocks else total
    groups = {
        "shape": range(model.config.field.depth + 1),
        "coarse": range(volume),
        "field": range(volume),
        "middle": range(volume, split),
        "fine": range(split, total),
    }
    for i, resolution in enumerate(blocks):
        first = volume + 2 * i
        groups[f"{resolution}px"] = range(first, total if i == len(blocks) - 1 else first + 2)
    return groups


def row_ranges(rows: Sequence[int]) -> str:
    """Ascending rows as ``layer_rows`` reads them: 0, 1, 2, 5 is "0-2,5"."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and parts[-1][-1] == row - 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def layer_rows(model: Model, text: str) -> list[int]:
    """Rows that a text such as "coarse", "0-6,9" or "shape,64px" names, ascending.

    Raises: UserError for what is neither a row of this model nor a name, or names none or all rows.
    """
    groups, total = layer_groups(model), model.generator.synthesis.num_ws
    rows: set[int] = set()
    for part in (p.strip() for p in text.split(",")):
        low, dash, high = part.partition("-")
        if part in groups:
            rows.update(groups[part])
        elif low.isdecimal() and (high.isdecimal() or not dash) and int(low) <= int(high or low) < total:
            rows.update(range(int(low), int(high or low) + 1))
        else:
            raise UserError(f"--layers: wanted rows of 0 to {total - 1}, or {', '.join(groups)}, got {short(part)}")
    if not 0 < len(rows) < total:
        raise UserError(
            f"--layers: wanted some of the {total} rows, not {'all' if rows else 'none'}, got {short(text)}"
        )
    return sorted(rows)


def mix(coarse: Subjects, fine: Subjects, rows: Sequence[int], *, background: Side = "coarse") -> Subjects:
    """Subjects with ``rows`` of ``coarse`` and the other rows of ``fine``.

    Args:
        coarse, fine: N subjects each.
        background: whose background code they get, where backgrounds have one.
    Raises: ValueError if their numbers differ.
    """
    if len(coarse) != len(fine):
        raise ValueError(f"coarse and fine must be equally many, got {len(coarse)} and {len(fine)}")
    ws = fine.ws.clone()
    ws[:, list(rows)] = coarse.ws[:, list(rows)]
    return Subjects(ws, (coarse if background == "coarse" else fine).z_bg)


def mix_grid(coarse: Subjects, fine: Subjects, rows: Sequence[int], *, background: Side = "coarse") -> Subjects:
    """Every one of ``coarse`` with every one of ``fine``: [len(coarse) * len(fine)], row by row."""
    places = torch.arange(len(fine), device=fine.ws.device).repeat(len(coarse))
    return mix(coarse.repeat(len(fine)), fine[places], rows, background=background)
