"""Pictures that are the same, or look the same, as one that came before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .picture import Facts, LeftOut

LOOK_BITS = 64
COLOUR_LEVELS = 16  # the look knows no colour: without this, all plain areas would look alike
_ONES = np.array([i.bit_count() for i in range(2**16)], dtype=np.uint8)  # NumPy counts bits since version 2 only


class Duplicates:
    """Remembers the pictures kept so far.

    Near-duplicates have looks that differ in at most ``near`` bits, and mean colours that differ by at most 16 levels.

    Args:
        near: None to look for the same pixels only.
    """

    def __init__(self, near: int | None) -> None:
        self._near = near
        self._by_pixels: dict[str, str] = {}
        self._kept: list[tuple[str, Facts]] = []
        self._looks = np.zeros(2**10, dtype=np.uint64)  # of ``_kept``, with room for more

    def admit(self, name: str, facts: Facts) -> None:
        """Remember a picture. Raises: LeftOut naming the earlier one that it repeats."""
        if facts.pixels_sha256 in self._by_pixels:
            raise LeftOut("duplicates", f"the same pixels as {self._by_pixels[facts.pixels_sha256]}")
        if self._near is not None:
            self._admit_look(name, facts, self._near)
        self._by_pixels[facts.pixels_sha256] = name

    def _admit_look(self, name: str, facts: Facts, near: int) -> None:
        count = len(self._kept)
        bits = _differing_bits(self._looks[:count], facts.look)
        for i in np.flatnonzero(bits <= near).tolist():
            other_name, other = self._kept[i]
            if _same_colour(facts, other):
                raise LeftOut("near-duplicates", f"looks like {other_name} ({bits[i]} of {LOOK_BITS} bits differ)")
        if count == len(self._looks):
            self._looks = np.concatenate([self._looks, np.zeros_like(self._looks)])
        self._looks[count] = facts.look
        self._kept.append((name, facts))


def _differing_bits(looks: NDArray[np.uint64], look: int) -> NDArray[np.uint8]:
    ones = _ONES[(looks ^ np.uint64(look)).view(np.uint16)]
    return ones[0::4] + ones[1::4] + ones[2::4] + ones[3::4]


def _same_colour(a: Facts, b: Facts) -> bool:
    return all(abs(x / a.pixels - y / b.pixels) <= COLOUR_LEVELS for x, y in zip(a.sums, b.sums))
