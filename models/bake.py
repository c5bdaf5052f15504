"""A subject's density, baked: bounds of it in the cells of a grid, which every view of the subject can use.

Where the upper bound is not positive, nothing absorbs light and no sample needs the field; where lower bounds add up to
an opaque ray, nothing behind can show. Bounds come from the field at the corners of the cells and are widened by its
variation around them, times a margin that grows until fresh random points all lie within the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from .camera import Rays

Density = Callable[[Tensor], Tensor]  # raw density [N] at world points [N, 3]

EMPTY = -1.0
_MARGINS = (0.5, 1.0, 2.0, 4.0)  # parts of the variation around a cell that are added to the range of its corners
_PROBES = 2**15
_BLOCK = 2**13  # points at a time: the activations of a narrow field stay in the cache of a CPU


class Bake(NamedTuple):
    """Lower bounds of the raw density in cubic cells, and which cells absorb nothing.

    Cell (i, j, k) has its low corner at ``low + cell (i, j, k)``. One more layer around the grid, number 0 and last
    of each axis, stands for all points outside.
    """

    low: Tensor  # [3] world units
    cell: float  # edge in world units
    floor: Tensor  # [X + 2, Y + 2, Z + 2] lower bound, at least 0; EMPTY where the upper bound is not positive
    box: Tensor  # [2, 3] corners of the box around all cells that are not empty, world units

    @property
    def empty(self) -> float:
        """Fraction of the cells that absorb nothing."""
        return float((self.floor[1:-1, 1:-1, 1:-1] < 0).float().mean())

    def inside(self, points: Tensor) -> Tensor:
        """Whether points [..., 3] lie in the grid."""
        size = points.new_tensor([n - 2 for n in self.floor.shape]) * self.cell
        return ((points >= self.low) & (points < self.low + size)).all(-1)

    def along(self, rays: Rays, depths: Tensor) -> Tensor:
        """``floor`` [M, A] at ``depths`` [M, A] of rays [3, A]; 0 outside the grid, where nothing is known."""
        number: Tensor | None = None
        for axis, size in enumerate(self.floor.shape):
            start = (rays.origins[axis] - self.low[axis]) / self.cell + 1
            place = torch.addcmul(start, depths, rays.directions[axis] / self.cell)
            place = place.clamp_(0, size - 1).to(torch.int32)  # positive: rounded down
            number = place if number is None else number.mul_(size).add_(place)
        assert number is not None
        return self.floor.flatten().index_select(0, number.flatten()).view_as(depths)


@torch.no_grad()
def bake_density(
    density: Density,
    low: Tensor,
    high: Tensor,
    *,
    cells: int,
    radius: float | None = None,
    before_block: Callable[[], None] | None = None,
) -> Bake:
    """Bounds of ``density`` in a box.

    Args:
        density: of the subject.
        low, high: [3] opposite corners of the box, world units.
        cells: along its longest edge.
        radius: where given, nobody asks for points farther than this from the world's origin.
        before_block: called before each block of points; what it raises ends the bake.
    Returns: bounds that all points tried lie within; where no margin achieves that, bounds that exclude nothing.
    """

    def values_at(points: Tensor) -> Tensor:
        parts = []
        for block in points.split(_BLOCK):
            if before_block is not None:
                before_block()
            parts.append(density(block))
        return torch.cat(parts) if parts else points.new_zeros(0)

    edges = (high - low).tolist()
    cell = max(edges) / cells
    shape = [max(math.ceil(e / cell - 1e-6), 1) for e in edges]
    points = torch.cartesian_prod(*(torch.arange(n + 1, device=low.device) * cell + a for n, a in zip(shape, low)))
    asked = slice(None) if radius is None else points.norm(dim=-1) < radius + 2 * cell
    values = points.new_zeros(len(points))
    values[asked] = values_at(points[asked])
    values = values.view([n + 1 for n in shape])
    most, least = max_pool3d(values[None], 2, stride=1)[0], -max_pool3d(-values[None], 2, stride=1)[0]
    variation = max_pool3d((most - least)[None], 3, stride=1, padding=1)[0]
    probes, number = _probes(low, cell, most, radius)
    wanted = values_at(probes)
    for margin in _MARGINS:
        lower, upper = least - margin * variation, most + margin * variation
        if bool(((wanted >= lower.flatten()[number]) & (wanted <= upper.flatten()[number])).all()):
            break
    else:
        lower, upper = torch.zeros_like(lower), torch.ones_like(upper)
    floor = torch.where(upper > 0, lower.clamp_min(0), EMPTY)
    return Bake(low, cell, pad(floor, (1,) * 6), _filled_box(floor, low, cell))


def _probes(low: Tensor, cell: float, most: Tensor, radius: float | None) -> tuple[Tensor, Tensor]:
    """Random points [P, 3] and the numbers of their cells; half lie anywhere, half where cells are nearly empty."""
    rng = torch.Generator().manual_seed(0)
    size = torch.tensor(most.shape)
    places = (torch.rand(_PROBES, 3, generator=rng) * size).long()
    flat = most.flatten().cpu()
    near = (flat.abs() <= flat.abs().median()).nonzero()[:, 0]
    chosen = near[torch.randint(len(near), (_PROBES // 2,), generator=rng)]
    places[: len(chosen)] = torch.stack(torch.unravel_index(chosen, most.shape), 1)
    points = low + (places + torch.rand(_PROBES, 3, generator=rng)).to(low.device) * cell
    number = ((places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2]).to(low.device)
    if radius is None:
        return points, number
    asked = points.norm(dim=-1) < radius
    return points[asked], number[asked]


def _filled_box(floor: Tensor, low: Tensor, cell: float) -> Tensor:
    """Corners [2, 3] of the box around all cells that are not empty; no extent where every cell is."""
    ends = []
    for axis in range(3):
        line = (floor >= 0).amax([a for a in range(3) if a != axis]).nonzero()
        ends.append(torch.stack([line.min(), line.max() + 1]) if len(line) else line.new_zeros(2))
    return low + torch.stack(ends, 1) * cell
