"""Pivotal tuning: the generator gives way to the photograph, around a latent that stays where it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ....models.camera import Camera
from ...model_io import Model
from ...randomness import generator_for
from ..render.conditions import condition
from ..render.label_argument import Label
from ..render.subjects import Subjects
from .perceptual import Criterion

_NEAR_PIVOT = 0.5  # of the way to another style


class Tuner:
    """Adam on the synthesis network's weights; the model that is given stays as it is.

    loss = criterion(G'(w_p, camera_p)) + locality mean (G'(w_r, camera_r) - G(w_r, camera_r))^2, w_r on the way from
    the pivot w_p to a random style and camera_r of the prior: other subjects, and this one from other sides, look as
    before.
    Source: Roich et al., Pivotal Tuning, ACM TOG 2022 (arXiv 2106.05744), eq. 2-5; differs in: w_r is half way to the
    random style instead of at a distance of 30, which means little for another width of w; cameras are drawn as well.
    """

    def __init__(
        self,
        model: Model,
        subjects: Subjects,
        camera: Camera,
        criterion: Criterion,
        *,
        rate: float,
        locality: float,
        seed: int = 0,
        label: Label | None = None,
    ) -> None:
        self.subjects, self.camera, self.criterion = subjects, camera, criterion
        self.locality, self.seed, self.label = locality, seed, label
        self._before = model
        self._network = copy.deepcopy(model.generator)
        self._network.synthesis.requires_grad_(True)
        self._parameters = list(self._network.synthesis.parameters())
        self._optimiser = torch.optim.Adam(self._parameters, lr=rate, betas=(0.9, 0.999))

    @property
    def model(self) -> Model:
        """The tuned model as it stands, ready to render."""
        tuned = copy.deepcopy(self._network).requires_grad_(False).eval()
        return Model(tuned, self._before.prior, self._before.path, self._before.meta)

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """Step ``number``; returns the losses [V] and the pictures [V, 3, R, R] that it started from."""
        self._optimiser.zero_grad(set_to_none=True)
        s = self.subjects
        images = self._network.synthesis(s.ws, self.camera, z_bg=s.z_bg).image
        losses = self.criterion(images, torch.arange(len(s), device=images.device))
        total = losses.sum()
        if self.locality > 0:
            total = total + self.locality * self._change(number)
        total.backward()
        self._optimiser.step()
        return losses.detach(), images.detach()

    def _change(self, number: int) -> Tensor:
        """Mean square change of a picture that should stay as it was."""
        rng = generator_for(self.seed, "tuning", number)
        cfg, device = self._network.cfg, self.subjects.ws.device
        z = torch.randn(1, cfg.z_dim, generator=rng)
        camera = self._before.prior.sample(1, rng).to(device)
        label = condition(self._before, self.label, 1, camera)
        pivot = number % len(self.subjects)
        with torch.no_grad():
            other = self._network.mapping(z.to(device), label)
            ws = torch.lerp(self.subjects.ws[pivot : pivot + 1], other, _NEAR_PIVOT)
        code = self._network.synthesis.draw_background(1, rng, device)
        with torch.no_grad():
            before = self._before.generator.synthesis(ws, camera, z_bg=code).image
        after: Tensor = self._network.synthesis(ws, camera, z_bg=code).image
        return (after - before).square().mean()

    def state(self) -> dict[str, Any]:
        """Tensors and numbers to go on from, on the CPU."""
        network = {n: t.detach().cpu().clone() for n, t in self._network.state_dict().items()}
        return {"network": network, "moments": adam_moments(self._optimiser)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._network.load_state_dict(state["network"])
        load_adam_moments(self._optimiser, state["moments"])


def adam_moments(optimiser: torch.optim.Adam) -> list[dict[str, Tensor]]:
    """Adam's moments of each parameter, on the CPU; empty before its first step."""
    remembered = [optimiser.state.get(p, {}) for group in optimiser.param_groups for p in group["params"]]
    return [{k: v.detach().cpu().clone() for k, v in moments.items()} for moments in remembered]


def load_adam_moments(optimiser: torch.optim.Adam, moments: list[dict[str, Tensor]]) -> None:
    """The inverse of :func:`adam_moments`."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for parameter, kept in zip(parameters, moments):
        if kept:  # Adam counts its steps on the CPU
            optimiser.state[parameter] = {
                k: v.clone() if k == "step" else v.to(parameter.device, copy=True) for k, v in kept.items()
            }
