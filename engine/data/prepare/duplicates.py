"""Pictures that are the same, or look the same, as one that came before."""

from __future__ import annotations

from .picture import Facts, LeftOut

LOOK_BITS = 64
MAX_DIFFERENCE = 16  # two unrelated pictures differ in 32 of 64 bits, give or take 4


class Duplicates:
    """Remembers the pictures kept so far.

    Two looks that differ in at most n bits agree in at least one of n + 1 groups of bits, so only pictures that share
    such a group are compared: exact, and quick for many pictures.

    Args:
        near: bits in which the looks of near-duplicates differ at most; None looks for the same pixels only.
    """

    def __init__(self, near: int | None) -> None:
        self._near = near
        self._by_pixels: dict[str, str] = {}
        self._groups: list[dict[int, list[tuple[int, str]]]] = [{} for _ in range(0 if near is None else near + 1)]

    def admit(self, name: str, facts: Facts) -> None:
        """Remember a picture. Raises: LeftOut naming the earlier one that it repeats."""
        if facts.pixels_sha256 in self._by_pixels:
            raise LeftOut("duplicates", f"the same pixels as {self._by_pixels[facts.pixels_sha256]}")
        keys = self._keys(facts.look)
        alike = [
            ((facts.look ^ look).bit_count(), other)
            for group, key in zip(self._groups, keys)
            for look, other in group.get(key, ())
        ]
        if alike and self._near is not None and min(alike)[0] <= self._near:
            bits, other = min(alike)
            raise LeftOut("near-duplicates", f"looks like {other} ({bits} of {LOOK_BITS} bits differ)")
        self._by_pixels[facts.pixels_sha256] = name
        for group, key in zip(self._groups, keys):
            group.setdefault(key, []).append((facts.look, name))

    def _keys(self, look: int) -> list[int]:
        """The value of each group of bits."""
        n = len(self._groups)
        edges = [LOOK_BITS * i // n for i in range(n + 1)] if n else []
        return [look >> low & (1 << high - low) - 1 for low, high in zip(edges, edges[1:])]
