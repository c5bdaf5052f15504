"""Unknowns of a projection, scaled so that one step has a similar effect everywhere, and their rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ....models.camera import Camera
from ...model_io import Model
from ..render.latent_space import LatentSpace
from ..render.poses import pose_cameras, prior_poses
from ..render.subjects import Subjects


class Unknowns(NamedTuple):
    """K hypotheses of L subjects in V photographs; every number is about as far from 0 as a standard deviation."""

    style: Tensor  # [K, L, rows, D] coordinates of a LatentSpace; rows is 1 for w, num_ws for w+
    code: Tensor  # [K, L, Z] of the background; Z = 0 where it takes none
    pose: Tensor  # [K, V, 4] from the prior's middle, in halves of its ranges

    def pick(self, views: Tensor, subjects: Tensor) -> Unknowns:
        """One hypothesis: number ``views[v]`` for photo v and ``subjects[l]`` for subject l."""
        v, s = torch.arange(self.pose.shape[1]), torch.arange(self.style.shape[1])
        return Unknowns(self.style[subjects, s][None], self.code[subjects, s][None], self.pose[views, v][None])

    def detached(self) -> Unknowns:
        return Unknowns(*(t.detach().clone() for t in self))


class Chart:
    """The way from unknowns to subjects, cameras and pictures of a model.

    Args:
        space: of the model's styles.
        owner: [V] the subject in each photo.
        fov_deg: of every camera; None is the prior's.
    """

    def __init__(self, model: Model, space: LatentSpace, owner: Sequence[int], fov_deg: float | None = None) -> None:
        self.model, self.space = model, space
        device = space.mean.device
        self.owner = torch.tensor(list(owner), device=device)
        self.fov_deg = model.prior.fov_deg if fov_deg is None else fov_deg
        self.middle, self.scale = (t.to(device) for t in prior_poses(model.prior))
        background = model.config.background
        self.code_dim = background.z_dim if background.kind == "coded" else 0

    def poses(self, u: Unknowns) -> Tensor:
        """[K, V, 4] yaw, pitch, radius, roll in their own units."""
        return self.middle + u.pose * self.scale

    def cameras(self, u: Unknowns) -> Camera:
        """K * V cameras, photos fastest."""
        return pose_cameras(self.poses(u).flatten(0, 1), self.fov_deg)

    def subjects(self, u: Unknowns) -> Subjects:
        """K * V subjects, photos fastest."""
        num_ws = self.model.generator.synthesis.num_ws
        ws = self.space.colour(u.style)[:, self.owner].flatten(0, 1)  # [K * V, rows, D]
        codes = u.code[:, self.owner].flatten(0, 1) if self.code_dim else None
        return Subjects(ws.expand(-1, num_ws, -1), codes)

    def render(self, u: Unknowns) -> Tensor:
        """[K * V, 3, R, R] pictures, differentiable in the unknowns."""
        s = self.subjects(u)
        image: Tensor = self.model.generator.synthesis(s.ws, self.cameras(u), z_bg=s.z_bg).image
        return image

    def render_each(self, style: Tensor, code: Tensor, poses: Tensor) -> Tensor:
        """[N, 3, R, R] pictures of N styles [N, D], codes [N, Z] and poses [N, 4] in their own units."""
        ws = self.space.colour(style)[:, None].expand(-1, self.model.generator.synthesis.num_ws, -1)
        camera = pose_cameras(poses, self.fov_deg)
        image: Tensor = self.model.generator.synthesis(ws, camera, z_bg=code if self.code_dim else None).image
        return image

    def images(self, u: Unknowns) -> Tensor:
        """[V, 3, R, R] of a single hypothesis, without gradients."""
        with torch.no_grad():
            return self.render(u).float()

    def average(self, poses: Tensor) -> Unknowns:
        """The average style and a code of zeros, under poses [V, 4] in their own units."""
        subjects = int(self.owner.max()) + 1
        style = self.space.mean.new_zeros(1, subjects, 1, len(self.space.mean))
        code = style.new_zeros(1, subjects, self.code_dim)
        return Unknowns(style, code, ((poses.to(style) - self.middle) / self.scale)[None])
