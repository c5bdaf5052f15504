"""Pictures that are the same, or look the same, as one that came before."""

from __future__ import annotations

from itertools import pairwise

from .picture import Facts, LeftOut

LOOK_BITS = 64
COLOUR_LEVELS = 16  # the look knows no colour: without this, all plain areas would look alike


class Duplicates:
    """Remembers the pictures kept so far.

    Near-duplicates have looks that differ in at most ``near`` bits, and mean colours that differ by at most 16 levels.
    Two such looks agree in at least one of near + 1 groups of bits, so only pictures that share a group are compared:
    exact, and quick for many pictures.

    Args:
        near: None to look for the same pixels only.
    """

    def __init__(self, near: int | None) -> None:
        self._near = near
        self._by_pixels: dict[str, str] = {}
        self._groups: list[dict[int, list[tuple[str, Facts]]]] = [{} for _ in range(0 if near is None else near + 1)]

    def admit(self, name: str, facts: Facts) -> None:
        """Remember a picture. Raises: LeftOut naming the earlier one that it repeats."""
        if facts.pixels_sha256 in self._by_pixels:
            raise LeftOut("duplicates", f"the same pixels as {self._by_pixels[facts.pixels_sha256]}")
        if self._near is not None:
            self._admit_look(name, facts, self._near)
        self._by_pixels[facts.pixels_sha256] = name

    def _admit_look(self, name: str, facts: Facts, near: int) -> None:
        places = list(zip(self._groups, _groups_of_bits(facts.look, near + 1)))
        alike = [
            ((facts.look ^ other.look).bit_count(), other_name)
            for group, bits in places
            for other_name, other in group.get(bits, ())
            if (facts.look ^ other.look).bit_count() <= near and _same_colour(facts, other)
        ]
        if alike:
            bits, other_name = min(alike)
            raise LeftOut("near-duplicates", f"looks like {other_name} ({bits} of {LOOK_BITS} bits differ)")
        for group, bits in places:
            group.setdefault(bits, []).append((name, facts))


def _groups_of_bits(look: int, count: int) -> list[int]:
    edges = [LOOK_BITS * i // count for i in range(count + 1)]
    return [look >> low & (1 << high - low) - 1 for low, high in pairwise(edges)]


def _same_colour(a: Facts, b: Facts) -> bool:
    return all(abs(x / a.pixels - y / b.pixels) <= COLOUR_LEVELS for x, y in zip(a.sums, b.sums))
