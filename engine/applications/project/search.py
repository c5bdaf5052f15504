"""Initialisation of a projection: many subjects are rendered once from many sides, and the closest are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...randomness import generator_for
from ..render.conditions import condition
from ..render.label_argument import Label
from ..render.poses import spread_poses
from .perceptual import Criterion
from .unknowns import Chart, Unknowns

_BATCH = 8


class Candidates(NamedTuple):
    """S subjects and C cameras for each photo."""

    style: Tensor  # [S, D] coordinates; the first is the average
    code: Tensor  # [S, Z]
    poses: Tensor  # [C, V, 4] in their own units


@torch.no_grad()
def draw_candidates(
    chart: Chart, given: Tensor, free: tuple[bool, ...], *, subjects: int, cameras: int, seed: int, label: Label | None
) -> Candidates:
    """The average and random subjects, truncated to 0.7, and cameras over the prior.

    Args:
        given: [V, 4] pose numbers that are known; NaN where one is not.
        free: which of the four may be looked for; the others stand in the prior's middle.
    """
    model, device = chart.model, chart.space.mean.device
    rng = generator_for(seed, "projection search")
    z = torch.randn(subjects, model.config.z_dim, generator=rng)
    code = torch.randn(subjects, chart.code_dim, generator=rng).to(device)
    w = model.generator.mapping(z.to(device), condition(model, label, subjects), truncation_psi=0.7)[:, 0]
    style = chart.space.whiten(w)
    style[0], code[0] = 0, 0
    looked_for = given.isnan() & torch.tensor(free)
    count = cameras if bool(looked_for[:, :2].any()) else 1  # only yaw and pitch are spread
    spread = spread_poses(model.prior, count)[:, None]  # [C, 1, 4]
    middle = chart.middle.cpu()
    poses = torch.where(looked_for, spread, torch.where(given.isnan(), middle, given))
    return Candidates(style, code, poses.to(device))


def pictures_each(candidates: Candidates) -> int:
    """How many pictures of each subject are rendered."""
    cameras, photos = candidates.poses.shape[:2]
    return cameras * (1 if _shared(candidates) else photos)


def _shared(candidates: Candidates) -> bool:
    """Whether the photos' cameras are the same, so that one picture serves all."""
    return bool((candidates.poses == candidates.poses[:, :1]).all())


@torch.no_grad()
def rate_candidates(
    chart: Chart, criterion: Criterion, candidates: Candidates, progress: Callable[[int], None] = lambda n: None
) -> Tensor:
    """[S, C, V] losses of every subject by every camera against every photo; ``progress`` gets pictures rendered."""
    photos, each = len(criterion.photos), candidates.poses.flatten(0, 1)
    shared = _shared(candidates)
    if shared:
        each = candidates.poses[:, 0]
    rows = []
    for style, code in zip(candidates.style, candidates.code):
        images = torch.cat(
            [chart.render_each(style.expand(len(p), -1), code.expand(len(p), -1), p) for p in each.split(_BATCH)]
        ).unflatten(0, (len(candidates.poses), -1))  # [C, 1 or V, 3, R, R]
        views = torch.arange(photos, device=images.device)
        seen = [criterion(images[:, 0 if shared else v], views[v].expand(len(images))) for v in views.tolist()]
        rows.append(torch.stack(seen, dim=1))
        progress(len(each))
    return torch.stack(rows)


def best_starts(chart: Chart, candidates: Candidates, losses: Tensor, starts: int) -> Unknowns:
    """The ``starts`` closest subjects, different ones, each with its closest camera: K hypotheses.

    Photos of one subject count together, others each for itself.
    """
    closest = losses.min(dim=1)  # over cameras: [S, V]
    subjects = int(chart.owner.max()) + 1
    style, code, pose = [], [], []
    v = torch.arange(losses.shape[2], device=losses.device)
    if subjects == 1:
        order = closest.values.sum(dim=1).argsort(stable=True)[:starts, None]  # [K, 1]
    else:
        order = closest.values.argsort(dim=0, stable=True)[:starts]  # [K, V], a subject per photo
    for pick in order:
        style.append(candidates.style[pick][:, None])
        code.append(candidates.code[pick])
        views = pick[chart.owner]
        pose.append(candidates.poses[closest.indices[views, v], v])
    poses = (torch.stack(pose) - chart.middle) / chart.scale
    return Unknowns(torch.stack(style), torch.stack(code), poses)
