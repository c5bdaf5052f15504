"""Pictures of a model, as figures are taken of them: sample i is a function of (seed, i) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ....models.camera import Camera
from ...data import Dataset
from ...errors import UserError
from ...model_io import Model
from ...pictures import to_uint8
from ...randomness import generator_for
from ..render.conditions import condition
from ..render.subjects import Subjects, draw_latents
from ..render.views import ViewOptions, render_view


@torch.no_grad()
def model_images(
    model: Model,
    count: int,
    *,
    seed: int,
    truncation_psi: float,
    options: ViewOptions,
    batch: int,
    data: Dataset | None = None,
) -> Iterator[Tensor]:
    """``count`` samples by cameras of the model's prior, [n, 3, R, R] uint8, a batch at a time.

    A model with camera labels sees under the label of the rendering camera; classes and vectors are those of items of
    ``data``, drawn at random.
    Raises: UserError if a conditional model gets no labels.
    """
    device = next(model.generator.parameters()).device
    for first in range(0, count, batch):
        numbers = range(first, min(first + batch, count))
        subjects, camera = _drawn(model, numbers, seed, truncation_psi, data)
        yield to_uint8(render_view(model, subjects, camera.to(device), options).image)


def _drawn(
    model: Model, numbers: range, seed: int, truncation_psi: float, data: Dataset | None
) -> tuple[Subjects, Camera]:
    device = next(model.generator.parameters()).device
    generators = [generator_for(seed, "evaluate", i) for i in numbers]
    cameras = [model.prior.sample(1, rng) for rng in generators]
    camera = Camera(*(torch.cat([getattr(c, name) for c in cameras]) for name in ("cam2world", "tan_half_fov")))
    z, codes = draw_latents(model.generator, [int(torch.randint(2**31, (), generator=rng)) for rng in generators])
    label = None
    if model.label_kind == "camera":
        label = condition(model, None, len(camera), camera)
    elif model.config.label_dim:
        if data is None or data.label_dim != model.config.label_dim:
            raise UserError("--data: wanted a set with the model's labels (dataset.json), got one without")
        picks = [int(torch.randint(len(data), (), generator=rng)) for rng in generators]
        label = torch.stack([torch.as_tensor(data.label(i)) for i in picks]).to(device)
    ws = model.generator.mapping(z.to(device), label, truncation_psi=truncation_psi)
    return Subjects(ws, None if codes is None else codes.to(device) * truncation_psi), camera
