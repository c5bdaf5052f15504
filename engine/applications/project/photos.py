"""Photographs as the generator would have made them: upright, square, of its resolution, in -1..1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.decode import MAX_FILE_BYTES, UnusableImage, decode_square
from ...errors import UserError, os_reason


def load_photos(paths: Sequence[str | Path], resolution: int) -> Tensor:
    """Photographs of any size and format that Pillow reads, as [N, 3, resolution, resolution] float32.

    EXIF orientation is honoured, the middle square is cut out and resized with LANCZOS, transparency is laid over
    white. Byte u becomes u / 127.5 - 1, the middle of the values that ``pictures.to_uint8`` writes as u.
    Raises: UserError naming the file that cannot be read.
    """
    if not paths:
        raise UserError("PHOTO: wanted at least one photograph, got none")
    squares = []
    for path in map(Path, paths):
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{path}: wanted at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
            squares.append(decode_square(path.read_bytes(), resolution))
        except OSError as error:
            raise UserError(f"{path}: wanted a photograph, got: {os_reason(error)}") from None
        except UnusableImage as error:
            raise UserError(f"{path}: wanted a photograph, got: {error}") from None
    bytes_ = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    return bytes_.float() / 127.5 - 1
