"""What a sheet of pictures says: how much its pictures differ from each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pictures import sheet_columns

_PAD = 2  # pixels between the pictures of a sheet
_EDGE = 16  # pixels of the pictures that are compared: coarse, so that noise and sharpness do not count


class Sheets:
    """Sheets of samples against the sheet of training images.

    variety = mean |x - mean over pictures of x| of the samples / the same of the training images, on 16 x 16 pixels. 1:
    samples differ as the images do; 0: all are one picture.
    """

    def __init__(self, reals: Path, count: int) -> None:
        self.count = count
        self._real = self._spread(reals)

    def variety(self, path: Path) -> float:
        """Variety of a sheet of samples; NaN if it or that of the training images cannot be read."""
        return self._spread(path) / self._real if self._real > 0 else math.nan

    def _spread(self, path: Path) -> float:
        try:
            with Image.open(path) as image:
                tiles = self._tiles(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return math.nan
        return float(np.abs(tiles - tiles.mean(axis=0)).mean())

    def _tiles(self, sheet: Image.Image) -> NDArray[np.float32]:
        """Pictures of a sheet [count, 16, 16, 3], averaged down. Raises: ValueError if the sheet has another form."""
        columns = min(self.count, sheet_columns(self.count))
        edge, left = divmod(sheet.width - _PAD, columns)
        edge -= _PAD
        if left or edge < 1 or sheet.height != math.ceil(self.count / columns) * (edge + _PAD) + _PAD:
            raise ValueError(f"sheet of {sheet.size} has not {self.count} pictures")
        tiles = []
        for i in range(self.count):
            row, column = divmod(i, columns)
            x, y = _PAD + column * (edge + _PAD), _PAD + row * (edge + _PAD)
            tile = sheet.crop((x, y, x + edge, y + edge)).resize((_EDGE, _EDGE), Image.Resampling.BOX)
            tiles.append(np.asarray(tile, dtype=np.float32))
        return np.stack(tiles)
