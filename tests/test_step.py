"""One training step: phases, options, accumulation, lazy regularisation, moving average, seeds, labels, precision."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from stylenerf.engine.data import camera_from_label
from stylenerf.engine.randomness import generator_for
from stylenerf.engine.training.config import OptimiserConfig
from stylenerf.engine.training.losses import PathLength
from stylenerf.engine.training.step import Latents, Stepper, TrainState, build_optimiser
from stylenerf.engine.training.trainer import open_training_data
from stylenerf.models.camera import Camera
from stylenerf.models.discriminator import DiscriminatorOptions
from stylenerf.models.generator import Rendered, RenderOptions
from stylenerf.models.sampling import StepDraws
from tests.checkpoints import assert_state_equal
from tests.picture_files import encoded, picture, write_zip
from tests.tiny import CPU, build, tiny_config

PHASES = {"_generator_main": "G", "_path_length": "P", "_discriminator_main": "D", "_r1": "R", "update_ema": "E"}
BLENDING = 20  # images shown at which the tiny configuration is in the midst of growth


def seeds(*places: tuple[int | str, ...]) -> list[int]:
    return [generator_for(*place).initial_seed() for place in places]


def test_seeds_are_known() -> None:
    """Computed once and written down: another value means that old runs cannot be resumed exactly."""
    assert seeds((0,), (3, 0, 64, "path length", 1)) == [4246866556266386882, 4142242794686948929]
    drawn = torch.rand(2, generator=generator_for(0, 0, 0, "generator", 0)).tolist()
    assert drawn == [0.09037446975708008, 0.24538445472717285]


def test_every_place_has_its_own_seed() -> None:
    places = [(0, 0, 4, "a", 0), (1, 0, 4, "a", 0), (0, 1, 4, "a", 0), (0, 0, 8, "a", 0), (0, 0, 4, "b", 0),
              (0, 0, 4, "a", 1), (0, 0, 4, "a"), (0, 0, 41, "a", 0), (0, 0, 4, 1, "a", 0)]  # fmt: skip
    assert len(set(seeds(*places))) == len(places)
    assert seeds(*places) == seeds(*places)


def test_steps_phases_and_rounds_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, used = build(tiny_config()), []
    draw = stepper._rng

    def spy(phase: str, number: int) -> torch.Generator:
        rng = draw(phase, number)
        used.append(rng.initial_seed())
        return rng

    monkeypatch.setattr(stepper, "_rng", spy)
    run(stepper, 2)
    assert len(used) == len(set(used)) == 2 * 3 + 2 * 2  # two rounds of G, path length and D, then of G and D


def run(stepper: Stepper, steps: int) -> Stepper:
    for _ in range(steps):
        stepper.run()
    return stepper


SCHEDULES = {
    "all": ([], "GPDRE GDE GPDE GDRE GPDE GDE GPDRE"),
    "no_path_length": (["loss.path_length_weight=0"], "GDRE GDE GDE GDRE"),
    "no_r1": (["loss.r1_gamma=0"], "GPDE GDE GPDE"),
    "every_step": (["loss.r1_interval=1", "loss.path_length_interval=1"], "GPDRE GPDRE"),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_phases_follow_their_intervals(case: str) -> None:
    overrides, wanted = SCHEDULES[case]
    stepper, happened = build(tiny_config(*overrides)), ""

    def note(letter: str) -> None:
        nonlocal happened
        happened += letter

    for name, letter in PHASES.items():
        setattr(stepper, name, lambda letter=letter: note(letter))
    run(stepper, len(wanted.split()))
    assert happened == wanted.replace(" ", "")


def test_counters_and_growth() -> None:
    stepper = build(tiny_config())
    seen = []
    stepper._generator_main = lambda: seen.append(float(stepper.state.generator.synthesis.alpha))  # type: ignore[method-assign]
    stepper._discriminator_main = stepper._r1 = stepper._path_length = lambda: None  # type: ignore[method-assign]
    assert stepper.state.average.synthesis.alpha == 0  # what a first picture shows is what training begins with
    run(stepper, 5)
    assert (stepper.state.images_shown, stepper.state.step) == (20, 5)
    assert seen == pytest.approx([0, 0, 4 / 24, 8 / 24, 12 / 24])
    assert stepper.state.average.synthesis.alpha == stepper.state.generator.synthesis.alpha


@pytest.fixture(scope="module")
def stepped() -> tuple[Stepper, dict[str, Any]]:
    """A stepper after three steps, and what its state was before."""
    stepper = build(tiny_config())
    before = {name: part.clone() for name, part in stepper.state.generator.state_dict().items()}
    before |= {f"D.{name}": part.clone() for name, part in stepper.state.discriminator.state_dict().items()}
    return run(stepper, 3), before


def test_a_step_moves_both_networks_and_leaves_no_gradients(stepped: tuple[Stepper, dict[str, Any]]) -> None:
    stepper, before = stepped
    state = stepper.state
    after = {**state.generator.state_dict(), **{f"D.{n}": p for n, p in state.discriminator.state_dict().items()}}
    still = [n for n in after if torch.equal(after[n], before[n]) and not n.startswith("D.")]
    assert still == []
    parameters = [*state.generator.parameters(), *state.discriminator.parameters(), *state.average.parameters()]
    assert [p for p in parameters if p.grad is not None or p.requires_grad] == []
    assert all(torch.isfinite(p).all() for p in after.values())
    row = stepper.stats.summarise()
    assert {name for name in row if name.endswith("_nonfinite")} == {
        f"Gradient/{phase}_nonfinite" for phase in ("generator", "path_length", "discriminator", "r1")
    }
    assert [value for name, value in row.items() if name.endswith("_nonfinite")] == [0, 0, 0, 0]


def test_same_seed_same_bits(stepped: tuple[Stepper, dict[str, Any]]) -> None:
    again, other = run(build(tiny_config()), 3), run(build(tiny_config("train.seed=1")), 3)
    assert_state_equal(again.state.state_dict(), stepped[0].state.state_dict())
    assert not torch.equal(other.state.average.mapping.w_avg, again.state.average.mapping.w_avg)


def test_torch_s_own_generator_plays_no_part(stepped: tuple[Stepper, dict[str, Any]]) -> None:
    torch.manual_seed(123)
    again = run(build(tiny_config()), 2)
    torch.rand(7)
    again.run()
    assert_state_equal(again.state.state_dict(), stepped[0].state.state_dict())


def test_state_goes_into_fresh_networks(stepped: tuple[Stepper, dict[str, Any]]) -> None:
    saved = stepped[0].state.state_dict()
    fresh = TrainState.create(tiny_config("train.seed=9"), 0, CPU)
    fresh.load_state_dict(saved)
    assert_state_equal(fresh.state_dict(), saved)


def test_rates_follow_the_configuration_not_the_checkpoint(stepped: tuple[Stepper, dict[str, Any]]) -> None:
    cfg = tiny_config("optimiser.generator_lr=0.01", "optimiser.beta2=0.9", "optimiser.eps=1e-6")
    fresh = TrainState.create(cfg, 0, CPU)
    fresh.load_state_dict(stepped[0].state.state_dict())
    group = fresh.generator_optimiser.param_groups[0]
    assert (group["lr"], group["eps"]) == (pytest.approx(0.01 * 2 / 3), 1e-6)
    assert group["betas"] == pytest.approx((0.0, 0.9 ** (2 / 3)))
    moments = stepped[0].state.generator_optimiser.state_dict()["state"]
    assert_state_equal(fresh.generator_optimiser.state_dict()["state"], moments)


@pytest.mark.parametrize(
    ("interval", "lr", "betas"),
    [
        (None, 0.002, (0.5, 0.99)),
        (4, 0.0016, (0.5743491774985174, 0.9919919678228657)),
        (1, 0.001, (0.5**0.5, 0.99**0.5)),
    ],
)
def test_lazy_scaling_of_adam(interval: int | None, lr: float, betas: tuple[float, float]) -> None:
    """r = i / (i + 1): with i = 4 the rate is 0.8 of itself and the betas are to the power 0.8."""
    adam = build_optimiser(nn.Linear(2, 2), 0.002, OptimiserConfig(beta1=0.5, beta2=0.99, eps=1e-7), interval)
    assert adam.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-12)
    assert adam.param_groups[0]["betas"] == pytest.approx(betas, rel=1e-12)
    assert adam.param_groups[0]["eps"] == 1e-7


@pytest.mark.parametrize(
    ("overrides", "ratios"),
    [([], (2 / 3, 3 / 4)), (["loss.path_length_weight=0"], (1, 3 / 4)), (["loss.r1_gamma=0"], (2 / 3, 1))],
)
def test_networks_get_their_own_scaling(overrides: list[str], ratios: tuple[float, float]) -> None:
    state = TrainState.create(tiny_config("optimiser.discriminator_lr=0.01", *overrides), 0, CPU)
    got = [o.param_groups[0]["lr"] for o in (state.generator_optimiser, state.discriminator_optimiser)]
    assert got == pytest.approx([0.0025 * ratios[0], 0.01 * ratios[1]])


@pytest.mark.parametrize(
    ("ema_kimg", "rampup", "shown", "beta"),
    [
        ("0.02", "null", 4, 0.5 ** (4 / 20)),
        ("0.02", "0.5", 4, 0.5 ** (4 / 2)),  # half-life 0.5 * 4 images
        ("0.02", "0.5", 4000, 0.5 ** (4 / 20)),  # the ramp has passed the half-life
        ("0", "null", 4, 0.0),
        ("0.02", "0", 4, 0.0),
    ],
)
def test_moving_average(ema_kimg: str, rampup: str, shown: int, beta: float) -> None:
    stepper = build(tiny_config(f"train.ema_kimg={ema_kimg}", f"train.ema_rampup={rampup}"))
    state = stepper.state
    state.images_shown = shown
    for parameter in state.generator.parameters():
        parameter.fill_(1.0)
    for mean in state.average.parameters():
        mean.fill_(3.0)
    for buffer in state.generator.buffers():
        buffer.fill_(7.0)
    stepper.update_ema()
    means = torch.cat([p.flatten() for p in state.average.parameters()])
    torch.testing.assert_close(means, torch.full_like(means, 1 + 2 * beta))
    assert {b for buffer in state.average.buffers() for b in buffer.flatten().tolist()} == {7.0}


def test_nonfinite_gradients_are_counted_and_replaced() -> None:
    stepper = build(tiny_config())
    module = nn.Linear(3, 2, bias=False)
    module.weight.grad = torch.tensor([[float("nan"), float("inf"), -float("inf")], [2.0, float("nan"), -3.0]])
    given: list[Tensor] = []
    adam = torch.optim.SGD(module.parameters(), lr=1.0)
    adam.register_step_pre_hook(lambda *_: given.append(module.weight.grad.clone()))  # type: ignore[union-attr]
    stepper._update("generator", module, adam)  # type: ignore[arg-type]
    assert given[0].tolist() == [[0.0, 1e5, -1e5], [2.0, 0.0, -3.0]]
    assert stepper.stats.summarise()["Gradient/generator_nonfinite"] == 4
    assert module.weight.grad is None and not module.weight.requires_grad


def test_norm_of_the_gradient() -> None:
    stepper = build(tiny_config())
    module = nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    stepper._update("r1", module, torch.optim.SGD(module.parameters()))  # type: ignore[arg-type]
    assert stepper.stats.summarise() == {"Gradient/r1_norm": 13.0, "Gradient/r1_nonfinite": 0.0}


def drawn(stepper: Stepper, rng: torch.Generator, n: int) -> tuple[Rendered, Tensor]:
    return stepper._fake(stepper._latents(rng, n, path=False), path=False)


class OneDraw(Stepper):
    """Draws for the whole batch at once and hands each round its share; collects gradients instead of stepping."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gradients: dict[str, dict[str, Tensor]] = {}
        self.round = 0

    def _rng(self, phase: str, number: int) -> torch.Generator:
        self.round = number
        if number == 0:
            self.source = super()._rng(phase, 0)
        return self.source

    def _latents(self, rng: torch.Generator, n: int, *, path: bool) -> Latents:
        g, whole = self.state.generator, torch.Generator().manual_seed(5)
        total, part = n * self.rounds, slice(self.round * n, (self.round + 1) * n)
        z = torch.randn(total, self.cfg.generator.z_dim, generator=whole)
        camera, z_bg = self.cfg.camera.sample(total, whole), g.synthesis.draw_background(total, whole)
        draws = vars(g.synthesis.draw(total, whole, alpha=self.alpha, path=path))
        share = StepDraws(**{name: None if draw is None else draw[part] for name, draw in draws.items()})
        assert z_bg is not None
        return Latents(z[part], None, None, None, camera[part], z_bg[part], share, None)

    def _update(self, phase: str, module: nn.Module, optimiser: torch.optim.Adam) -> None:
        self.gradients[phase] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        optimiser.zero_grad(set_to_none=True)
        module.requires_grad_(False)


def gradients(micro_batch: int) -> dict[str, dict[str, Tensor]]:
    """Gradients of every phase at one state, in rounds of ``micro_batch``.

    Without what ties the images of a batch together: statistics over groups in D, the upsampler's running magnitude,
    and the path length's running mean.
    """
    cfg = tiny_config(
        f"train.micro_batch={micro_batch}", "discriminator.group_size=1", "generator.upsampler.magnitude_decay=null",
        "loss.path_length_decay=0",
    )  # fmt: skip
    plain = build(cfg)
    stepper = OneDraw(cfg, plain.data, plain.state, plain.stats, CPU)
    stepper.state.images_shown = BLENDING
    stepper.run()
    return stepper.gradients


@pytest.fixture(scope="module")
def whole_and_rounds() -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    return gradients(4), gradients(2)


@pytest.mark.parametrize("phase", ["generator", "path_length", "discriminator", "r1"])
def test_rounds_add_up_to_the_whole_batch(
    phase: str, whole_and_rounds: tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]
) -> None:
    whole, rounds = (g[phase] for g in whole_and_rounds)
    assert whole.keys() == rounds.keys() and len(whole) > 10
    scale = {name: grad.abs().max() for name, grad in whole.items()}
    assert max(scale.values()) > 1e-3
    worst = {name: ((rounds[name] - whole[name]).abs().max() / (scale[name] + 1e-6)).item() for name in whole}
    assert max(worst.values()) < 2e-3, worst


@pytest.mark.parametrize("micro_batch", [2, 4])
def test_lazy_losses_are_weighted_by_their_interval(micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties replaced by the parameter itself: its gradient is then weight * interval, whatever the rounds."""
    cfg = tiny_config(
        f"train.micro_batch={micro_batch}", "loss.path_length_weight=3", "loss.path_length_interval=5",
        "loss.r1_gamma=0.5", "loss.r1_interval=7",
    )  # fmt: skip
    plain = build(cfg)
    stepper = OneDraw(cfg, plain.data, plain.state, plain.stats, CPU)
    g, d = stepper.state.generator.mapping.layers[0].bias, stepper.state.discriminator.epilogue.out.bias
    monkeypatch.setattr(
        "stylenerf.engine.training.step.path_length", lambda *a: PathLength(g.sum().repeat(2), torch.tensor(0.0))
    )
    monkeypatch.setattr("stylenerf.engine.training.step.r1_penalty", lambda *a: d.sum().repeat(2))
    stepper._path_length()
    stepper._r1()
    assert stepper.gradients["path_length"]["mapping.layers.0.bias"].tolist() == pytest.approx([15.0] * 8)
    assert stepper.gradients["r1"]["epilogue.out.bias"].tolist() == pytest.approx([0.25 * 7])


Seen = dict[str, list[tuple[RenderOptions, DiscriminatorOptions | None]]]


def options_seen(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Seen:
    """Per phase, the options of every rendering and of the judgement that follows it."""
    stepper = build(tiny_config("train.micro_batch=4", *overrides))
    stepper.state.images_shown = BLENDING
    g, d = stepper.state.generator.synthesis, stepper.state.discriminator
    phase, seen = "", Seen()
    render, judge = g.forward, d.forward

    def enter(name: str) -> None:
        nonlocal phase
        phase = name
        getattr(Stepper, name)(stepper)

    def spy_render(*args: Any, options: RenderOptions, **kwargs: Any) -> Rendered:
        seen.setdefault(phase, []).append((options, None))
        return render(*args, options=options, **kwargs)

    def spy_judge(*args: Any, options: DiscriminatorOptions, **kwargs: Any) -> Tensor:
        rendering = seen[phase][-1][0] if phase != "_r1" else RenderOptions()
        seen.setdefault(phase, []).append((rendering, options))
        return judge(*args, options=options, **kwargs)

    monkeypatch.setattr(g, "forward", spy_render)
    monkeypatch.setattr(d, "forward", spy_judge)
    for name in PHASES:
        monkeypatch.setattr(stepper, name, lambda name=name: enter(name))
    stepper.run()
    return seen


@pytest.mark.parametrize("public", [False, True])
def test_match_public_code_switches_what_it_says(public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = options_seen(monkeypatch, f"train.match_public_code={str(public).lower()}", "train.precision=bf16")
    judged = [options for pairs in seen.values() for _, options in pairs if options is not None]
    assert len(judged) == 1 + 2 + 1  # generator, fake and real, R1
    assert {(o.fade, o.entry_rgb_twice, o.precision) for o in judged} == {(not public, public, "bf16")}
    assert [o.growth.blend for o in judged if o.growth] == pytest.approx([16 / 24] * 4)
    path = {name: {o.path for o, _ in pairs} for name, pairs in seen.items() if name != "_r1"}
    assert path == {"_generator_main": {True}, "_path_length": {public}, "_discriminator_main": {public}}
    rendered = [o for name, pairs in seen.items() for o, _ in pairs if name != "_r1"]
    assert {(o.blend_path, o.precision, o.noise) for o in rendered} == {(not public, "bf16", "random")}
    assert [o.alpha for o in rendered] == pytest.approx([16 / 24] * len(rendered))


def test_no_path_is_rendered_without_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = options_seen(monkeypatch, "train.match_public_code=true", "loss.nerf_path_weight=0")
    assert {o.path for name, pairs in seen.items() for o, _ in pairs if name != "_r1"} == {False}


def test_reused_fakes_are_those_of_the_generator_s_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = build(tiny_config("train.reuse_fakes=true", "loss.r1_gamma=0", "loss.path_length_weight=0"))
    g, d = stepper.state.generator.synthesis, stepper.state.discriminator
    render, judge = g.forward, d.forward
    rendered: list[Tensor] = []
    judged: list[Tensor] = []

    def spy_render(*args: Any, **kwargs: Any) -> Rendered:
        result = render(*args, **kwargs)
        rendered.append(result.image)
        return result

    def spy_judge(image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        judged.append(image)
        return judge(image, *args, **kwargs)

    monkeypatch.setattr(g, "forward", spy_render)
    monkeypatch.setattr(d, "forward", spy_judge)
    stepper.run()
    assert len(rendered) == stepper.rounds == 2
    fakes = [judged[2], judged[4]]  # after two rounds of the generator, fake and real by turns
    assert all(torch.equal(*pair) for pair in zip(fakes, rendered))
    assert [image.requires_grad for image in judged] == [True, True, False, False, False, False]


def test_distortion_takes_part_in_the_generator_s_loss() -> None:
    moved = []
    for weight in (0, 5):
        stepper = build(tiny_config(f"loss.distortion_weight={weight}", "loss.path_length_weight=0"))
        stepper.run()
        moved.append(parameters_to_vector(stepper.state.generator.parameters()))
        assert ("Loss/distortion" in stepper.stats.summarise()) == (weight > 0)
    assert not torch.equal(*moved)


class Styles:
    """Styles that ``Stepper._fake`` makes, without rendering."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        self.stepper = build(tiny_config(*overrides))
        monkeypatch.setattr(self.stepper.state.generator.synthesis, "forward", lambda *a, **k: None)

    def at(self, seed: int) -> Tensor:
        return drawn(self.stepper, torch.Generator().manual_seed(seed), 3)[1]


def test_style_mixing_changes_only_rows_after_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, plain = Styles(monkeypatch, "loss.style_mixing=1"), Styles(monkeypatch, "loss.style_mixing=0")
    cuts = []
    for seed in range(60):
        one, other = mixed.at(seed), plain.at(seed)
        assert torch.equal(other, other[:, :1].expand_as(other))
        differ = (one != other).any(dim=2)  # [3, num_ws]
        assert torch.equal(differ, differ[:1].expand_as(differ))  # one cut for the batch
        cuts.append(int((~differ[0]).sum()))
        assert differ[0].tolist() == [False] * cuts[-1] + [True] * (one.shape[1] - cuts[-1])
        assert torch.equal(one[:, cuts[-1] :], one[:, cuts[-1] : cuts[-1] + 1].expand_as(one[:, cuts[-1] :]))
    assert set(cuts) == set(range(1, one.shape[1]))  # every cut happens, and none at 0 or beyond the last row
    averages = [s.stepper.state.generator.mapping.w_avg for s in (mixed, plain)]
    assert torch.equal(*averages)  # the second latent does not move the average


def test_style_mixing_is_as_frequent_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    styles = Styles(monkeypatch, "loss.style_mixing=0.3")
    mixed = [bool((styles.at(seed)[:, 0] != styles.at(seed)[:, -1]).any()) for seed in range(400)]
    assert abs(sum(mixed) - 0.3 * 400) < 4 * (0.3 * 0.7 * 400) ** 0.5  # four standard deviations


def test_rounds_take_their_share_of_the_data_s_order() -> None:
    stepper = build(tiny_config())
    stepper.state.images_shown = BLENDING
    stepper.alpha = 0.0
    images = torch.cat([stepper._real(number)[0] for number in range(2)])
    wanted = stepper.data.batch(0, BLENDING, 4, 8).images  # alpha 0 shows 8 px
    torch.testing.assert_close(images, wanted / 127.5 - 1)
    assert (images.min(), images.max()) < (-0.2, 1.01)
    stepper.alpha = 0.5
    assert stepper._real(0)[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_the_cpu(precision: str) -> None:
    """Two blocks of each network, so that both run one in half; R1 and path length are due in the first step."""
    wide = ["generator.resolution=32", "discriminator.fp16_levels=2", "growth.enabled=false"]
    rows = {}
    for kind in ("fp32", precision):
        stepper = build(tiny_config(*wide, f"train.precision={kind}"))
        stepper.run()
        rows[kind] = stepper.stats.summarise()
        state = [*stepper.state.generator.state_dict().values(), *stepper.state.discriminator.state_dict().values()]
        assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in state)
    assert rows["fp32"].keys() == rows[precision].keys()
    assert {v for k, v in rows[precision].items() if k.endswith("_nonfinite")} == {0.0}
    losses = [k for k in rows["fp32"] if k.startswith("Loss/")]
    assert len(losses) == 5
    assert rows[precision] != rows["fp32"]
    assert [rows[precision][k] for k in losses] == pytest.approx([rows["fp32"][k] for k in losses], rel=0.1)


def test_class_labels_of_a_zip(tmp_path: Path) -> None:
    classes = {f"{i}.png": i % 3 for i in range(6)}
    files = {name: encoded(picture(int(name[0]))) for name in classes}
    files["dataset.json"] = json.dumps({"labels": list(classes.items())}).encode()
    check_labels(str(write_zip(tmp_path / "a.zip", files)), label_dim=3)


def test_camera_labels_of_procedural_scenes() -> None:
    check_labels("procedural", label_dim=25)


def check_labels(path: str, label_dim: int) -> None:
    """Two conditional steps; every label that a network sees is one of the data's."""
    cfg = tiny_config("data.labels=true", "data.mirror=false", f"data.path={json.dumps(path)}")
    stepper = build(cfg)
    known = {tuple(stepper.data.label(i).tolist()) for i in range(len(stepper.data))}
    seen: list[Tensor] = []
    mapping, judge = stepper.state.generator.mapping, stepper.state.discriminator
    assert (mapping.label_dim, judge.cfg.label_dim) == (label_dim, label_dim)
    for network in (mapping, judge):
        network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    embed = mapping.embed.weight.clone()
    run(stepper, 2)
    assert {tuple(label) for labels in seen for label in labels.tolist()} <= known
    assert len(torch.cat(seen).unique(dim=0)) > 2
    assert not torch.equal(embed, mapping.embed.weight)
    assert all(torch.isfinite(p).all() for p in judge.parameters())


@pytest.mark.parametrize("labels", ["true", "false"])
def test_fakes_are_rendered_from_the_camera_of_their_label(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrored ones too; without labels the cameras are the prior's."""
    stepper = build(tiny_config(f"data.labels={labels}", "data.scenes=3", "train.batch=16", "train.micro_batch=16"))
    synthesis, used, conditions = stepper.state.generator.synthesis, [], []
    mapping, render = stepper.state.generator.mapping.forward, synthesis.forward

    def label_spy(z: Tensor, label: Tensor | None, **options: Any) -> Tensor:
        conditions.append(label)
        return mapping(z, label, **options)

    def camera_spy(ws: Tensor, camera: Camera, **options: Any) -> Rendered:
        used.append(camera)
        return render(ws, camera, **options)

    monkeypatch.setattr(stepper.state.generator.mapping, "forward", label_spy)
    monkeypatch.setattr(synthesis, "forward", camera_spy)
    latents = stepper._latents(stepper._rng("generator", 0), 16, path=False)
    stepper._fake(latents, path=False)
    label = latents.label
    if label is None:
        rng = stepper._rng("generator", 0)
        torch.randn(16, 8, generator=rng)
        assert stepper.cfg.loss.style_mixing > 0
        if torch.rand(2, generator=rng)[0] < stepper.cfg.loss.style_mixing:
            torch.randn(16, 8, generator=rng)
        assert torch.equal(used[0].cam2world, stepper.cfg.camera.sample(16, rng).cam2world)
        return
    want = camera_from_label(label)
    assert torch.equal(used[0].cam2world, want.cam2world) and torch.equal(used[0].tan_half_fov, want.tan_half_fov)
    assert all(torch.equal(given, label) for given in conditions)
    data = stepper.data
    own = {tuple(data.label(i).tolist()) for i in range(3)}
    seen = {tuple(row) for row in label.tolist()}
    assert seen & own and seen - own, "16 draws of 6 items hold plain and mirrored ones"
    y = want.position[:, 1].sort().values.unique()
    assert len(y) == 6 and torch.allclose(y, -y.flip(0), atol=1e-6), "mirrored at the plane of yaw 0"


def test_labels_belong_to_the_images(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(picture(i)) for i in range(4)}
    files["dataset.json"] = json.dumps({"labels": [[f"{i}.png", [i, 0.5]] for i in range(4)]}).encode()
    cfg = tiny_config("data.labels=true", "growth.enabled=false", "data.mirror=false")
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, path=str(write_zip(tmp_path / "a.zip", files))))
    stepper = build(cfg, open_training_data(cfg, print))
    images, labels = stepper._real(0)
    assert labels is not None
    numbers = labels[:, 0].int().tolist()
    wanted = torch.stack([torch.tensor(stepper.data.image(i, 16)) for i in numbers]).permute(0, 3, 1, 2)
    torch.testing.assert_close(images, wanted / 127.5 - 1)
