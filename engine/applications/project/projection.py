"""From photographs back to styles, background codes and cameras of a model (projection, or inversion).

Four stages: a coarse search over subjects and cameras, a short descent from each of the best, a long descent from the
one that then is best, and for the last digits Levenberg-Marquardt steps on pixels. A fifth, pivotal tuning, lets the
generator itself give way. Styles are counted in standard deviations along the principal directions of w, cameras in
halves of the prior's ranges: one learning rate then suits all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....kernels.base.constants import constant
from ....models.camera import Camera
from ...device import upload
from ...errors import UserError
from ...model_io import Model
from ...pictures import to_uint8
from ...randomness import generator_for
from ..render.choices import TERMS
from ..render.conditions import condition
from ..render.latent_space import latent_space
from ..render.subjects import Subjects
from .perceptual import Criterion, PerceptualNet
from .polish import FIRST_DAMPING, STEPS, PhotoResiduals, levenberg_marquardt
from .projection_options import ProjectionOptions
from .search import Candidates, best_starts, draw_candidates, pictures_each, rate_candidates
from .tuning import Tuner, adam_moments, load_adam_moments
from .unknowns import Chart, Unknowns

FRAMES = 40  # of the record of how a picture came about
FRAME_EDGE = 256


class Projector:
    """A projection under way: ``search()`` once, then ``advance()`` until ``step`` is ``total``.

    Every step is a function of the state alone, so that a projection that was saved and loaded ends with the bits of
    one that ran through (on the same device, with the same number of threads).
    """

    def __init__(
        self, model: Model, photos: Tensor, options: ProjectionOptions, net: PerceptualNet | None = None
    ) -> None:
        """photos: [V, 3, R, R] in -1..1, of the model's resolution. Raises: UserError naming the option."""
        self.options, self.source = options, model
        edge = model.generator.synthesis.growth().resolution
        if photos.ndim != 4 or photos.shape[1:] != (3, edge, edge):
            raise ValueError(f"photos must be [V, 3, {edge}, {edge}], got {list(photos.shape)}")
        condition(model, options.label, 1)  # refuses a label of another kind
        if net is None and options.pixel_weight == 0:
            raise UserError("--pixel-weight: wanted more than 0 without a perceptual network, got 0")
        device = next(model.generator.parameters()).device
        weight = options.pixel_weight if options.pixel_weight is not None else (1.0 if net is None else 0.1)
        self.criterion = Criterion(photos.to(device), net, weight)
        self.given = _given(options, len(photos))
        owner = [0] * len(photos) if options.same_subject else range(len(photos))
        self.chart = Chart(model, latent_space(model, label=options.label), owner, options.fov_deg)
        start = torch.where(self.given.isnan(), self.chart.middle.cpu(), self.given)
        self.average = self.chart.average(start.to(device))
        self.unknowns = self.found = self.projected = self.average
        self.step, self.history = 0, torch.zeros(0, len(photos))
        self.frames = torch.zeros(0, dtype=torch.uint8)
        self._damping = [FIRST_DAMPING] * self._subjects
        self._stalls = [0] * self._subjects  # polishing steps in a row that led nowhere
        self._optimiser: torch.optim.Adam | None = None
        self._tuner: Tuner | None = None

    @property
    def total(self) -> int:
        """Steps after the search."""
        return sum(self.options.stages.values())

    @property
    def _subjects(self) -> int:
        return int(self.chart.owner.max()) + 1

    @property
    def search_cost(self) -> int:
        """Pictures that the search renders."""
        candidates = self._candidates()
        return len(candidates.style) * pictures_each(candidates)

    def search(self, progress: Callable[[int], None] = lambda n: None) -> None:
        """Find the places to start from. ``progress`` gets the number of pictures rendered."""
        candidates = self._candidates()
        losses = rate_candidates(self.chart, self.criterion, candidates, progress)
        starts = best_starts(self.chart, candidates, losses, self.options.starts)
        rows = self.source.generator.synthesis.num_ws if self.options.space == "w+" else 1
        self.unknowns = starts._replace(style=starts.style.repeat(1, 1, rows, 1))
        best = torch.zeros(self.unknowns.pose.shape[1], dtype=torch.long)
        self.found = self.projected = self.unknowns.pick(best, torch.zeros(self._subjects, dtype=torch.long))
        if self.options.steps == 0:
            self.unknowns = self.found
        self.step = 0

    def advance(self) -> tuple[str, Tensor]:
        """One step: the name of its stage and the losses [V] that it started from.

        Raises: UserError once a loss is not a finite number.
        """
        stage, number, count = self._place()
        if stage == "tuning":
            losses = self._tune(number)
        elif stage == "polish":
            losses = self._polish(number)
        else:
            losses = self._descend(stage, number, count)
        if not bool(torch.isfinite(losses).all()):
            raise UserError(f"--rate: wanted one that the descent survives, got a loss that is no number at {stage} "
                            f"step {number}")  # fmt: skip
        self.history = torch.cat([self.history, losses.detach().float().cpu()[None]])
        self.step += 1
        if self.step == self.total or self._place()[1] == 0:
            self._end(stage)
        return stage, losses

    @property
    def model(self) -> Model:
        """The model, tuned as far as it is."""
        return self.source if self._tuner is None else self._tuner.model

    def result(self) -> tuple[Subjects, Camera]:
        """Result: a subject and a camera for each photo."""
        with torch.no_grad():
            return self.chart.subjects(self.projected), self.chart.cameras(self.projected)

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`load` needs, on the CPU."""
        unknowns = {"unknowns": self.unknowns, "found": self.found, "projected": self.projected}
        return {
            "step": self.step,
            "history": self.history,
            "frames": self.frames,
            "damping": list(self._damping),
            "stalls": list(self._stalls),
            "moments": None if self._optimiser is None else adam_moments(self._optimiser),
            "tuner": None if self._tuner is None else self._tuner.state(),
            **{name: [t.detach().cpu().clone() for t in u] for name, u in unknowns.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        device = self.criterion.photos.device
        for name in ("unknowns", "found", "projected"):
            setattr(self, name, Unknowns(*(t.to(device) for t in state[name])))
        self.step, self.history, self.frames = state["step"], state["history"], state["frames"]
        self._damping, self._stalls = list(state["damping"]), list(state["stalls"])
        if state["moments"] is not None:
            self._start_descent()
            assert self._optimiser is not None
            load_adam_moments(self._optimiser, state["moments"])
        if state["tuner"] is not None:
            self._tuner = self._new_tuner()
            self._tuner.load(state["tuner"])

    def _candidates(self) -> Candidates:
        o = self.options
        free = tuple(term in o.free for term in TERMS)
        return draw_candidates(
            self.chart, self.given, free, subjects=o.subjects, cameras=o.cameras, seed=o.seed, label=o.label
        )

    def _place(self) -> tuple[str, int, int]:
        """Stage, number of the next step in it, and how many it has."""
        left = self.step
        for name, count in self.options.stages.items():
            if left < count:
                return name, left, count
            left -= count
        raise RuntimeError(f"the projection has ended after its {self.total} steps")

    def _end(self, stage: str) -> None:
        """End of a stage."""
        self._optimiser = None
        if stage == "tuning":
            return
        self.unknowns = self._best(self.unknowns)
        self.projected = self.unknowns

    def _best(self, u: Unknowns) -> Unknowns:
        """The best hypothesis, of photos of one subject together, of others each for itself."""
        count, photos = u.pose.shape[:2]
        u = u.detached()
        if count == 1:
            return u
        views = torch.arange(photos, device=u.pose.device)
        losses = torch.stack([self.criterion(self.chart.images(Unknowns(*(t[k : k + 1] for t in u))), views)
                              for k in range(count)])  # fmt: skip
        if self.options.same_subject:
            best = losses.sum(dim=1).argmin()
            return u.pick(best.expand(photos), best.expand(1))
        best = losses.argmin(dim=0)
        return u.pick(best, best)

    def _start_descent(self) -> None:
        self.unknowns = Unknowns(*(t.requires_grad_(True) for t in self.unknowns.detached()))
        moving = [t for t in self.unknowns if t.numel()]
        self._optimiser = torch.optim.Adam(moving, lr=self.options.rate, betas=(0.9, 0.999))

    def _descend(self, stage: str, number: int, count: int) -> Tensor:
        if self._optimiser is None:
            self._start_descent()
        assert self._optimiser is not None
        o, u, done = self.options, self.unknowns, number / count
        ramp_up, ramp_down = (
            min(1.0, (done + 0.5 / count) / 0.05),
            0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / 0.4)),
        )
        self._optimiser.param_groups[0]["lr"] = o.rate * ramp_up * ramp_down
        self._optimiser.zero_grad(set_to_none=True)
        rng = generator_for(o.seed, "projection", stage, number)
        noise = upload(torch.randn(u.style.shape, generator=rng), u.style.device)
        noisy = u.style + o.noise * max(0.0, 1 - done / 0.75) ** 2 * noise
        images = self.chart.render(u._replace(style=noisy))
        hypotheses, photos = u.pose.shape[:2]
        views = torch.arange(photos, device=images.device)
        losses = self.criterion(images, views.repeat(hypotheses)).unflatten(0, (hypotheses, photos))
        apart = u.style.square().mean(dim=(-2, -1)).sum()
        if u.code.numel():
            apart = apart + u.code.square().mean(dim=-1).sum()
        (losses.sum() + o.regularise * apart).backward()
        assert u.pose.grad is not None
        u.pose.grad *= constant([float(term in o.free) for term in TERMS], like=u.pose)
        self._optimiser.step()
        losses = losses.detach()
        best = losses.argmin(dim=0) if not o.same_subject else losses.sum(dim=1).argmin().expand(photos)
        self._record(images.detach().unflatten(0, (hypotheses, photos))[best, views])
        return losses[best, views]

    def _polish(self, number: int) -> Tensor:
        self._record(images := self.chart.images(self.unknowns))
        losses = self.criterion(images, torch.arange(len(images), device=images.device))
        u = self.unknowns.detached()
        for subject in range(self._subjects):
            if self._stalls[subject] == len(STEPS):
                continue
            views = (self.chart.owner == subject).nonzero()[:, 0]
            start = Unknowns(u.style[:, [subject]], u.code[:, [subject]], u.pose[:, views])
            problem = PhotoResiduals(
                self.chart, self.criterion.photos[views], start, self.options.free, self.options.regularise
            )
            step = STEPS[number % len(STEPS)]
            end = levenberg_marquardt(problem.residuals, problem.start, self._damping[subject], step)
            stalled = end.damping == math.inf
            self._stalls[subject] = self._stalls[subject] + 1 if stalled else 0
            self._damping[subject] = FIRST_DAMPING if stalled else end.damping
            there = problem.unknowns(end.unknowns[None])
            u.style[:, subject], u.code[:, subject] = there.style[:, 0], there.code[:, 0]
            u.pose[:, views] = there.pose
        self.unknowns = u
        return losses

    def _new_tuner(self) -> Tuner:
        o, (subjects, camera) = self.options, self.result()
        return Tuner(
            self.source,
            subjects,
            camera,
            self.criterion,
            rate=o.tune_rate,
            locality=o.locality,
            seed=o.seed,
            label=o.label,
        )

    def _tune(self, number: int) -> Tensor:
        if self._tuner is None:
            self._tuner = self._new_tuner()
        losses, images = self._tuner.step(number)
        self._record(images)
        return losses

    def _record(self, images: Tensor) -> None:
        if self.step % max(self.total // FRAMES, 1) == 0:
            frame = _small_bytes(images)[None].cpu()
            self.frames = torch.cat([self.frames, frame]) if len(self.frames) else frame


def _small_bytes(images: Tensor) -> Tensor:
    """uint8, larger pictures averaged down."""
    if images.shape[-1] > FRAME_EDGE:
        images = torch.nn.functional.adaptive_avg_pool2d(images, FRAME_EDGE)
    return to_uint8(images)


def _given(options: ProjectionOptions, photos: int) -> Tensor:
    """[V, 4] of what is known about the cameras, NaN where nothing is."""
    given = torch.full((photos, 4), float("nan"))
    for i, term in enumerate(TERMS):
        values = getattr(options, term)
        if len(values) not in (0, 1, photos):
            raise UserError(f"--{term}: wanted one number, or one for each of the {photos} photos, got {len(values)}")
        if values:
            given[:, i] = torch.tensor(values)
    return given
