"""One step of adversarial training: generator, path length, discriminator, R1, moving average.

Every random number is a function of (seed, images shown, phase, round); :class:`TrainState` is the only state between
steps.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...models.camera import Camera
from ...models.discriminator import Discriminator, DiscriminatorOptions
from ...models.generator import Generator, Rendered, RenderOptions
from ...models.sampling import StepDraws
from ..data import Dataset, camera_from_label
from ..device import upload
from ..nests import mapped
from ..randomness import generator_for, host_generator
from .augment import Augment, AugmentState
from .config import Config, OptimiserConfig
from .losses import (
    discriminator_fake_loss,
    discriminator_real_loss,
    generator_loss,
    nerf_path_loss,
    path_length,
    r1_penalty,
    ray_distortion,
)
from .phase_graphs import PassGraphs
from .stats import Accumulator
from .undo import StepUndo

RANK = 0  # part of every seed, so that several processes would draw different numbers


def build_optimiser(module: nn.Module, lr: float, cfg: OptimiserConfig, lazy_interval: int | None) -> torch.optim.Adam:
    """Adam; for lazy regularisation every i steps, learning rate and betas are corrected by r = i / (i + 1)."""
    ratio = 1.0 if lazy_interval is None else lazy_interval / (lazy_interval + 1)
    betas = (cfg.beta1**ratio, cfg.beta2**ratio)
    return torch.optim.Adam(module.parameters(), lr=lr * ratio, betas=betas, eps=cfg.eps, fused=True)


@dataclass
class TrainState:
    """Mutable state of a training run."""

    generator: Generator
    discriminator: Discriminator
    average: Generator  # G_ema
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    path_length_mean: Tensor
    augment: AugmentState | None = None  # where p adapts
    images_shown: int = 0
    step: int = 0

    @classmethod
    def create(cls, cfg: Config, label_dim: int, device: torch.device) -> "TrainState":
        """Fresh networks and optimisers for ``cfg``, seeded by ``cfg.train.seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.train.seed)
            g = Generator(dataclasses.replace(cfg.generator, label_dim=label_dim)).to(device)
            g.synthesis.set_alpha(cfg.growth.alpha(0))
            d = Discriminator(cfg.discriminator_config(label_dim)).to(device)
        loss, opt = cfg.loss, cfg.optimiser
        g_lazy = loss.path_length_interval if loss.path_length_weight > 0 else None
        d_lazy = loss.r1_interval if loss.r1_gamma > 0 else None
        return cls(
            generator=g.train().requires_grad_(False),
            discriminator=d.train().requires_grad_(False),
            average=copy.deepcopy(g).eval().requires_grad_(False),
            generator_optimiser=build_optimiser(g, opt.generator_lr, opt, g_lazy),
            discriminator_optimiser=build_optimiser(d, opt.discriminator_lr, opt, d_lazy),
            path_length_mean=torch.zeros([], device=device),
            augment=AugmentState.begin(cfg.augment, device) if cfg.augment.mode == "ada" else None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "path_length_mean": self.path_length_mean,
            "images_shown": self.images_shown,
            "step": self.step,
            **({} if self.augment is None else {"augment": self.augment.state_dict()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        _load_moments(self.generator_optimiser, state["generator_optimiser"])
        _load_moments(self.discriminator_optimiser, state["discriminator_optimiser"])
        self.path_length_mean.copy_(state["path_length_mean"])
        self.images_shown, self.step = int(state["images_shown"]), int(state["step"])
        if self.augment is not None and "augment" in state:  # absent where p did not adapt before
            self.augment = self.augment.loaded(state["augment"])


def _load_moments(optimiser: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Load Adam's moments; learning rate, betas and eps remain those of the configuration."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, options in zip(optimiser.param_groups, own):
        group.update(options)


@dataclass(frozen=True)
class Latents:
    """What is drawn for ``n`` fakes: latents, styles' mixing, label, camera, background code, jitter along the rays.

    ``cut`` is the first row of the second latent's styles, a tensor where a graph holds the pass, None without mixing.
    """

    z: Tensor
    z_mixed: Tensor | None
    cut: int | Tensor | None
    label: Tensor | None
    camera: Camera
    z_bg: Tensor | None
    draws: StepDraws
    rng: torch.Generator | None  # of noise in the upsampler


class Figures(NamedTuple):
    """Of one round. ``losses`` and ``scores`` are means by the name of their statistic; ``kept`` what others use."""

    loss: Tensor
    losses: dict[str, Tensor]
    scores: dict[str, Tensor]
    kept: tuple[Tensor, ...] = ()


class Interrupted(Exception):
    """A request to stop, raised between two rounds or two batches of pictures."""


class Stepper:
    """Runs training steps on a :class:`TrainState` and adds their statistics to an :class:`Accumulator`.

    ``before_round`` is called with the phase and the number of each round. If it raises :class:`Interrupted`, the step
    is rolled back and ``run`` re-raises. On a CPU, where a step may take minutes, it is called before every round;
    elsewhere, to save the memory for copies of weights and moments, only before the step's first update.
    """

    def __init__(self, cfg: Config, data: Dataset, state: TrainState, stats: Accumulator, device: torch.device) -> None:
        self.cfg, self.data, self.state, self.stats, self.device = cfg, data, state, stats, device
        self.augment = None if cfg.augment.mode == "none" else Augment(cfg.augment, data.label_kind)
        self.rounds = cfg.train.batch // cfg.train.micro_batch
        self.alpha = 1.0
        self.before_round: Callable[[str, int], None] = lambda phase, number: None
        self._undo: StepUndo | None = None
        self.nonfinite: dict[str, Tensor] = {}  # of the last step: loss or gradient -> whether it was not finite
        self._shown: dict[int, tuple[Tensor, Tensor | None]] = {}  # fakes and labels of the generator's rounds
        self.graphs: PassGraphs | None = None  # replays rounds, where nothing is blended in

    def run(self) -> None:
        """One step: every phase that is due, then the EMA update; adds the batch to ``images_shown``."""
        state, alpha, path_length_mean = self.state, self.alpha, self.state.path_length_mean
        augment = state.augment
        self._undo = undo = StepUndo([state.generator, state.discriminator], self.stats)
        try:
            self._phases()
        except Interrupted:
            undo.undo()
            self.alpha, state.path_length_mean, state.augment = alpha, path_length_mean, augment
            raise
        finally:
            self._undo = None
        state.images_shown += self.cfg.train.batch
        state.step += 1
        self.update_ema()

    def _phases(self) -> None:
        cfg, state = self.cfg, self.state
        self.nonfinite = {}
        self.alpha = cfg.growth.alpha(state.images_shown)
        state.generator.synthesis.set_alpha(self.alpha)
        self._generator_main()
        if cfg.loss.path_length_weight > 0 and state.step % cfg.loss.path_length_interval == 0:
            self._path_length()
        self._discriminator_main()
        if cfg.loss.r1_gamma > 0 and state.step % cfg.loss.r1_interval == 0:
            self._r1()
        if cfg.loss.path_length_weight > 0:  # a non-finite mean spoils all later path-length steps
            self._note("Loss/path_length", ~torch.isfinite(state.path_length_mean))

    def _rng(self, phase: str, number: int) -> torch.Generator:
        place = (self.cfg.train.seed, RANK, self.state.images_shown, phase, number)
        return generator_for(*place, device=self.device)

    def _judge_options(self) -> DiscriminatorOptions:
        cfg, growth = self.cfg.train, self.state.generator.synthesis.growth(self.alpha)
        public = cfg.match_public_code
        return DiscriminatorOptions(growth=growth, fade=not public, entry_rgb_twice=public, precision=cfg.precision)

    def _judge(self, image: Tensor, label: Tensor | None, purpose: str, number: int) -> Tensor:
        """The discriminator's logits [B, 1] of images, augmented where the run does so."""
        if self.augment is not None:
            p = self.cfg.augment.p if self.state.augment is None else self.state.augment.p
            image, label = self.augment(image, label, p, self._rng(f"augment {purpose}", number))
        return cast(Tensor, self.state.discriminator(image, label, options=self._judge_options()))

    def _replays(self) -> bool:
        """Whether rounds are replayed: a level that is blended in changes its weight every step."""
        if self.graphs is None:
            return False
        growth = self.state.generator.synthesis.growth(self.alpha)
        self.graphs.renew(growth)
        return self.graphs.on and growth.blend is None

    def _latents(self, rng: torch.Generator, n: int, *, path: bool) -> Latents:
        """Draw for ``n`` images. With camera labels, each image is rendered from the camera of its label."""
        g, cfg, host = self.state.generator, self.cfg, host_generator(rng)

        def latent() -> Tensor:
            return torch.randn(n, cfg.generator.z_dim, generator=rng, device=self.device)

        label, z = self._random_labels(host, n), latent()
        z_mixed, row, rows = None, None, g.synthesis.num_ws
        if cfg.loss.style_mixing > 0:
            chance, where = torch.rand(2, generator=host).tolist()
            if chance < cfg.loss.style_mixing:
                z_mixed, row = latent(), 1 + int(where * (rows - 1))
        graph, cut = self._replays(), cast(int | Tensor | None, row)
        if graph and cfg.loss.style_mixing > 0:  # the same launches, mixed or not
            z_mixed = torch.zeros_like(z) if z_mixed is None else z_mixed
            cut = torch.full((1, 1, 1), rows if row is None else row, device=self.device)
        if label is not None and self.data.label_kind == "camera":
            camera = camera_from_label(label, check=False)
        else:
            camera = cfg.camera.sample(n, rng)
        z_bg = g.synthesis.draw_background(n, rng)
        draws = g.synthesis.draw(n, rng, alpha=self.alpha, path=path)
        return Latents(z, z_mixed, cut, label, camera, z_bg, draws, None if graph else rng)

    def _fake(self, latents: Latents, *, path: bool) -> tuple[Rendered, Tensor]:
        """Render what was drawn; also returns the styles."""
        g, cfg, label, cut = self.state.generator, self.cfg, latents.label, latents.cut
        ws = g.mapping(latents.z, label)
        if latents.z_mixed is not None:
            mixed = g.mapping(latents.z_mixed, label, update_average=False)
            if isinstance(cut, Tensor):
                ws = torch.where(torch.arange(ws.shape[1], device=ws.device)[:, None] < cut, ws, mixed)
            else:
                ws = torch.cat([ws[:, :cut], mixed[:, cut:]], dim=1)
        options = RenderOptions(
            alpha=self.alpha,
            precision=cfg.train.precision,
            noise="random",
            path=path,
            blend_path=not cfg.train.match_public_code,
        )
        rendered = g.synthesis(
            ws, latents.camera, z_bg=latents.z_bg, options=options, draws=latents.draws, generator=latents.rng
        )
        return rendered, ws

    def _random_labels(self, host: torch.Generator, n: int) -> Tensor | None:
        if not self.data.label_dim:
            return None
        picks = torch.randint(len(self.data), (n,), generator=host).tolist()
        return upload(torch.stack([torch.as_tensor(self.data.label(i)) for i in picks]), self.device)

    def _real(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Real images and labels of one round, next in the data's order, at the current resolution."""
        size = self.cfg.train.micro_batch
        first = self.state.images_shown + number * size
        edge = self.state.generator.synthesis.growth(self.alpha).resolution
        batch = self.data.batch(self.cfg.train.seed, first, size, edge)
        images = upload(batch.images, self.device).float() / 127.5 - 1
        return images, upload(batch.labels, self.device) if self.data.label_dim else None

    def _generator_main(self) -> None:
        state, weight = self.state, self.cfg.loss.nerf_path_weight

        def inputs(number: int) -> Latents:
            return self._latents(self._rng("generator", number), self.cfg.train.micro_batch, path=weight > 0)

        def compute(number: int, latents: Latents) -> Figures:
            rendered, _ = self._fake(latents, path=weight > 0)
            logits = self._judge(rendered.image, latents.label, "generator", number)
            loss = generator_loss(logits).mean()
            losses = {"Loss/generator": loss}
            if rendered.path is not None:
                losses["Loss/nerf_path"] = weight * nerf_path_loss(rendered).mean()
                loss = loss + losses["Loss/nerf_path"]
            if (solid := self.cfg.loss.distortion_weight) > 0:
                losses["Loss/distortion"] = solid * ray_distortion(rendered).mean()
                loss = loss + losses["Loss/distortion"]
            kept = (rendered.image.detach(),) if self.cfg.train.reuse_fakes else ()
            return Figures(loss, losses, {"Score/fake": logits.mean()}, kept)

        def keep(number: int, latents: Latents, found: Figures) -> None:
            if found.kept:
                self._shown[number] = found.kept[0], latents.label

        self._phase("generator", state.generator, state.generator_optimiser, inputs, compute, keep)

    def _path_length(self) -> None:
        cfg, state = self.cfg.loss, self.state
        half, path = max(self.cfg.train.micro_batch // 2, 1), self._path_without_loss()
        edge = state.generator.synthesis.growth(self.alpha).resolution

        def inputs(number: int) -> tuple[Latents, Tensor | None, Tensor]:
            rng = self._rng("path length", number)
            latents = self._latents(rng, half, path=path)
            if self.cfg.generator.upsampler.noise:  # drawn in between
                return latents, None, state.path_length_mean
            return latents, torch.randn(half, 3, edge, edge, generator=rng, device=self.device), state.path_length_mean

        def compute(number: int, given: tuple[Latents, Tensor | None, Tensor]) -> Figures:
            latents, noise, mean = given
            rendered, ws = self._fake(latents, path=path)
            if noise is None:
                noise = torch.randn(rendered.image.shape, generator=latents.rng, device=self.device)
            result = path_length(rendered.image, ws, noise, mean, cfg.path_length_decay)
            loss = cfg.path_length_weight * result.penalty.mean()
            return Figures(loss, {"Loss/path_length": loss}, {}, (result.mean,))

        def keep(number: int, given: Any, found: Figures) -> None:
            (state.path_length_mean,) = found.kept

        interval = cfg.path_length_interval
        self._phase("path length", state.generator, state.generator_optimiser, inputs, compute, keep, interval)

    def _discriminator_main(self) -> None:
        state, path = self.state, self._path_without_loss()

        def inputs(number: int) -> tuple[Any, ...]:
            if number in self._shown:
                fakes: Any = self._shown.pop(number)
            else:
                rng = self._rng("discriminator", number)
                fakes = self._latents(rng, self.cfg.train.micro_batch, path=path)
            return fakes, *self._real(number)

        def compute(number: int, given: tuple[Any, ...]) -> Figures:
            fakes, images, real_label = given
            if isinstance(fakes, Latents):
                with torch.no_grad():
                    image, label = self._fake(fakes, path=path)[0].image, fakes.label
            else:
                image, label = fakes
            logits = self._judge(image, label, "fake", number)
            fake = discriminator_fake_loss(logits).mean()
            logits = self._judge(images, real_label, "real", number)
            loss = fake + discriminator_real_loss(logits).mean()
            return Figures(loss, {"Loss/discriminator": loss}, {"Score/real": logits.mean()}, (logits,))

        def keep(number: int, given: Any, found: Figures) -> None:
            self._watch_signs(found.kept[0])

        self._phase("discriminator", state.discriminator, state.discriminator_optimiser, inputs, compute, keep)
        adapting, cfg = state.augment, self.cfg.augment
        if adapting is not None and (state.step + 1) % cfg.interval == 0:
            state.augment = adapting.adapted(cfg)

    def _watch_signs(self, real_logits: Tensor) -> None:
        if self.augment is not None:
            self.stats.add("Score/real_sign", real_logits.sign().mean())
        if self.state.augment is not None:
            self.stats.add("Augment/p", self.state.augment.p)
            self.state.augment = self.state.augment.saw(real_logits)

    def _r1(self) -> None:
        cfg, state = self.cfg.loss, self.state

        def compute(number: int, given: tuple[Tensor, Tensor | None]) -> Figures:
            images, label = given[0].detach().requires_grad_(True), given[1]
            logits = self._judge(images, label, "R1", number)
            loss = r1_penalty(images, logits).mean() * (cfg.r1_gamma / 2)
            return Figures(loss, {"Loss/r1": loss}, {})

        optimiser, interval = state.discriminator_optimiser, cfg.r1_interval
        self._phase("R1", state.discriminator, optimiser, self._real, compute, interval=interval)

    def _path_without_loss(self) -> bool:
        """Whether to run the NeRF path also in passes without its loss, as the public code does."""
        return self.cfg.train.match_public_code and self.cfg.loss.nerf_path_weight > 0

    def _phase(
        self,
        phase: str,
        module: nn.Module,
        optimiser: torch.optim.Adam,
        inputs: Callable[[int], Any],
        compute: Callable[[int, Any], Figures],
        keep: Callable[[int, Any, Figures], None] = lambda number, given, found: None,
        interval: int = 1,
    ) -> None:
        """Average the gradients of the rounds, times ``interval`` for a lazy regulariser, and update ``module``.

        Args:
            inputs: everything that is drawn or read for a round.  compute: its figures from its number, which only
                augmentation reads, and its inputs, so that a graph can hold it.
            keep: takes what later rounds and phases use.
        """
        module.requires_grad_(True)
        networks = (self.state.generator, self.state.discriminator)

        def backward(number: int, given: Any) -> Figures:
            found = compute(number, given)
            (found.loss * (interval / self.rounds)).backward()
            return mapped(found, torch.Tensor.detach)

        for number in range(self.rounds):
            if self._undo is not None:
                self.before_round(phase, number)
            given = inputs(number)
            if self.graphs is not None and self._replays():
                found = self.graphs.run(phase, partial(backward, number), given, networks)
            else:
                found = backward(number, given)
            for name, loss in found.losses.items():
                self.stats.add(name, loss)
                self._note(name, ~torch.isfinite(loss))
            for name, score in found.scores.items():
                self.stats.add(name, score)
            keep(number, given, found)
        self._update(phase.lower().replace(" ", "_"), module, optimiser)

    def _note(self, name: str, bad: Tensor) -> None:
        """Record on the device whether a loss or gradient was not finite in any round."""
        before = self.nonfinite.get(name)
        self.nonfinite[name] = bad if before is None else before | bad

    def _update(self, phase: str, module: nn.Module, optimiser: torch.optim.Adam) -> None:
        """Sanitise the gradients (count non-finite ones, replace them), step the optimiser, clear the gradients."""
        pairs = [(p, p.grad) for p in module.parameters() if p.grad is not None]
        flat = torch.cat([grad.flatten() for _, grad in pairs])  # one kernel per operation instead of one per parameter
        self.stats.add(f"Gradient/{phase}_norm", flat.norm())
        count = (~torch.isfinite(flat)).sum()
        self.stats.add(f"Gradient/{phase}_nonfinite", count)
        self._note(f"Gradient/{phase}", count > 0)
        flat = torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5)
        for (p, _), grad in zip(pairs, flat.split([p.numel() for p, _ in pairs])):
            p.grad = grad.view_as(p)
        if self._undo is not None and self.device.type == "cpu":
            self._undo.before_update(module, optimiser)
        else:
            self._undo = None  # no rollback after the first update
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        module.requires_grad_(False)

    @torch.no_grad()
    def update_ema(self) -> None:
        """G_ema <- lerp(G, G_ema, beta), beta = 0.5^(batch / half-life); buffers are copied."""
        cfg, state = self.cfg.train, self.state
        half_life = cfg.ema_kimg * 1000
        if cfg.ema_rampup is not None:
            half_life = min(half_life, state.images_shown * cfg.ema_rampup)
        beta = 0.5 ** (cfg.batch / max(half_life, 1e-8))
        for mean, now in zip(state.average.parameters(), state.generator.parameters()):
            mean.copy_(now.lerp(mean, beta))
        for average, buffer in zip(state.average.buffers(), state.generator.buffers()):
            average.copy_(buffer)
        state.average.synthesis.know_alpha_of(state.generator.synthesis)
