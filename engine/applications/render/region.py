"""Which part of the world the cameras of a model's training see."""

from __future__ import annotations

import torch
from torch import Tensor

from ....models.camera import Camera, CameraPrior
from ...model_io import Model

Corner = tuple[float, float, float]


def prior_cameras(prior: CameraPrior, *, yaws: int = 9, pitches: int = 3) -> Camera:
    """A grid of cameras over a prior's ranges, over two standard deviations of a gaussian one; radii low and high."""
    reach = (-0.5, 1.5) if prior.distribution == "gaussian" else (0.0, 1.0)

    def spread(count: int) -> Tensor:
        return torch.linspace(*reach, count, dtype=torch.float64) if count > 1 else torch.full((1,), 0.5).double()

    radii = torch.tensor([0.0, 1.0] if prior.radius[0] < prior.radius[1] and pitches > 1 else [0.5]).double()
    yaw, pitch, radius = torch.meshgrid(spread(yaws), spread(pitches), radii, indexing="ij")
    return prior.at(yaw.flatten(), pitch.flatten(), radius.flatten())


def seen_bounds(model: Model) -> tuple[Corner, Corner]:
    """The box around what the training cameras see between the field's near and far ends, and within its ball."""
    field, cameras = model.config.field, prior_cameras(model.prior)
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    rays = cameras.rays(corners)
    points = torch.cat([rays.origins + t * rays.directions for t in (field.near, field.far)]).flatten(0, 1)
    reach = torch.inf if field.bound_radius is None else field.bound_radius
    low, high = (points.amin(0).clamp_min(-reach).tolist(), points.amax(0).clamp_max(reach).tolist())
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
