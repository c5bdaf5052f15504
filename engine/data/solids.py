"""Solids that a ray meets in closed form: ellipsoid, box, cylinder and capsule.

Every solid is the image of a unit solid under an affine map ``p = centre + axes @ (size * q)``. A ray keeps its
parameter ``t`` under an affine map, so the intersection is solved in the unit solid's coordinates ``q`` as it stands.
Points and directions are [3, R], so that each coordinate lies in one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["ellipsoid", "box", "cylinder", "capsule"]
Floats = NDArray[np.floating[Any]]
Chosen = NDArray[np.intp]  # numbers of rays

CAPSULE_HALF_LENGTH = 0.7  # of the unit capsule's axis, whose radius is 1
_TINY = 1e-12  # keeps a ray that is parallel to an axis from dividing by zero


class Hit(NamedTuple):
    """Intersections of rays with a solid."""

    t: Floats  # [R], +inf for a ray that misses
    normals: Callable[[Chosen], Floats]  # of n rays that hit -> outward normals [3, n], world axes, length 1


class _Span(NamedTuple):
    """Interval of rays inside a unit solid: enter < t < leave; empty for a miss."""

    enter: Floats  # [R]
    leave: Floats  # [R]
    normals: Callable[[Chosen], Floats]  # of n rays that enter -> [3, n] in unit coordinates, of any length


@dataclass(frozen=True)
class Solid:
    """One convex solid in the world.

    Attributes:
        kind:   which unit solid: ball of radius 1, cube |q_i| < 1, cylinder of radius 1 and |z| < 1, or capsule of
                radius 1 around the z axis from -0.7 to 0.7.
        centre: [3] world position.
        axes:   [3, 3] rotation, columns are the solid's axes in the world.
        size:   [3] world length of one unit along each axis; a capsule's are equal.
    """

    kind: Kind
    centre: Floats
    axes: Floats
    size: Floats

    def to_unit(self, points: Floats) -> Floats:
        """World points [3, R] in the unit solid's coordinates."""
        return self._turn_to_unit(points - self.centre[:, None].astype(points.dtype))

    def meet(self, origin: Floats, directions: Floats) -> Hit:
        """Intersections of rays from one ``origin`` [3], outside the solid, along ``directions`` [3, R]."""
        span = _UNIT_SOLIDS[self.kind](self.to_unit(origin[:, None]), self._turn_to_unit(directions))
        t = np.where((span.enter < span.leave) & (span.enter > 0), span.enter, np.inf)

        def normals(rays: Chosen) -> Floats:
            """Normals follow the inverse transpose of the map from unit to world coordinates."""
            world = (self.axes / self.size).astype(directions.dtype) @ span.normals(rays)
            return world / np.sqrt(_dot(world, world))

        return Hit(t, normals)

    def _turn_to_unit(self, vectors: Floats) -> Floats:
        return (self.axes / self.size).T.astype(vectors.dtype) @ vectors


def _dot(a: Floats, b: Floats) -> Floats:
    total: Floats = a[0] * b[0]
    for x, y in zip(a[1:], b[1:]):
        total = total + x * y
    return total


def _round_span(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    """Where |o + t d| < 1, for o [k, 1] and d [k, R] in 2 or 3 coordinates; (inf, -inf) for a miss."""
    a = np.maximum(_dot(d, d), _TINY)
    half_b = _dot(o, d)
    square = half_b * half_b - a * (_dot(o, o) - 1)
    width = np.sqrt(np.maximum(square, 0))
    missed = square <= 0
    return np.where(missed, np.inf, (-half_b - width) / a), np.where(missed, -np.inf, (width - half_b) / a)


def _slab_span(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    """Interval in which one coordinate, o + t d, lies between -1 and 1."""
    inverse = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
    one, other = (-1 - o) * inverse, (1 - o) * inverse
    return np.minimum(one, other), np.maximum(one, other)


def _ellipsoid(o: Floats, d: Floats) -> _Span:
    enter, leave = _round_span(o, d)
    return _Span(enter, leave, lambda rays: o + enter[rays] * d[:, rays])


def _box(o: Floats, d: Floats) -> _Span:
    enters, leaves = zip(*(_slab_span(o[i], d[i]) for i in range(3)))
    enter = np.maximum(np.maximum(enters[0], enters[1]), enters[2])

    def normals(rays: Chosen) -> Floats:
        """The face of the slab that is entered last."""
        facing = np.stack([slab[rays] == enter[rays] for slab in enters])
        return np.where(facing, -np.sign(d[:, rays]), 0).astype(d.dtype)

    return _Span(enter, np.minimum(np.minimum(leaves[0], leaves[1]), leaves[2]), normals)


def _cylinder(o: Floats, d: Floats) -> _Span:
    wall, wall_leave = _round_span(o[:2], d[:2])
    cap, cap_leave = _slab_span(o[2], d[2])
    enter = np.maximum(wall, cap)

    def normals(rays: Chosen) -> Floats:
        points = o + enter[rays] * d[:, rays]
        through_cap = cap[rays] >= wall[rays]
        level = np.where(through_cap, 0, points[:2])
        upright = np.where(through_cap, -np.sign(d[2, rays]), 0)
        return np.concatenate([level, upright[None]]).astype(d.dtype)

    return _Span(enter, np.minimum(wall_leave, cap_leave), normals)


def _capsule(o: Floats, d: Floats) -> _Span:
    """The wall where the infinite cylinder is entered between the ends, else the ball at the nearer end."""
    half = CAPSULE_HALF_LENGTH
    wall, wall_leave = _round_span(o[:2], d[:2])
    z = o[2] + np.where(np.isfinite(wall), wall, 0) * d[2]
    end = np.clip(z, -half, half)
    on_wall = np.isfinite(wall) & (end == z)
    from_end = np.broadcast_to(o, d.shape).copy()
    from_end[2] -= np.sign(z) * half
    ball, ball_leave = _round_span(from_end, d)
    enter = np.where(on_wall, wall, ball)

    def normals(rays: Chosen) -> Floats:
        points = o + enter[rays] * d[:, rays]
        points[2] -= np.clip(points[2], -half, half)
        return points

    return _Span(enter, np.where(on_wall, wall_leave, ball_leave), normals)


_UNIT_SOLIDS: dict[Kind, Callable[[Floats, Floats], _Span]] = {
    "ellipsoid": _ellipsoid,
    "box": _box,
    "cylinder": _cylinder,
    "capsule": _capsule,
}
