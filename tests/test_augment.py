"""Augmentation in training: what is drawn, that p = 0 is nothing, how p moves, labels, exact resumption."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stylenerf.engine.data import camera_from_label, label_from_camera
from stylenerf.engine.data.labels import label_fault, mirror_label
from stylenerf.engine.errors import UserError
from stylenerf.engine.training import augment
from stylenerf.engine.training.augment import Augment, AugmentState, Draws, draw, move_label, transform
from stylenerf.engine.training.config import AUGMENT_KINDS, PRESETS, AugmentConfig, load_config
from stylenerf.engine.training.step import Interrupted, Stepper
from stylenerf.models.camera import CameraPrior
from tests.checkpoints import assert_state_equal
from tests.tiny import CPU, build, tiny_config

ALL = "augment.kinds=[" + ", ".join(AUGMENT_KINDS) + "]"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, p: float | Tensor, *kinds: str, edge: int = 16, seed: int = 0) -> Draws:
    return draw(n, edge, p, kinds or AUGMENT_KINDS, rng(seed))


def pictures(n: int = 4, edge: int = 16) -> Tensor:
    return torch.randn(n, 3, edge, edge, generator=rng(9))


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may not look whether any image is concerned."""
    monkeypatch.setattr(augment, "_some", lambda chosen: True)


def test_presets_do_not_augment() -> None:
    assert {load_config(path.stem, None, []).augment for path in PRESETS.glob("*.yaml")} == {AugmentConfig()}
    assert AugmentConfig().mode == "none"


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("p", [0.0, torch.zeros([])], ids=["number", "tensor"])
def test_nothing_at_p_0_bit_for_bit(p: float | Tensor) -> None:
    """Images, labels and gradients; also what the transforms would do, were one image of the batch concerned."""
    images, cotangent = pictures().requires_grad_(), pictures().flip(0)
    label = label_from_camera(CameraPrior(yaw=(-1, 1)).sample(4, rng()))
    pipeline = Augment(AugmentConfig(mode="ada", kinds=AUGMENT_KINDS), "camera")
    out, moved = pipeline(images, label, p, rng())
    assert moved is not None and torch.equal(moved, label) and torch.equal(out, images)
    assert torch.equal(torch.autograd.grad(out, images, cotangent)[0], cotangent)
    draws = drawn(4, p)
    assert torch.equal(draws.inverse, torch.eye(3).expand(4, 3, 3))
    assert torch.equal(draws.colour, torch.eye(3, 4).expand(4, 3, 4))


def test_a_step_at_p_0_is_that_without_augmentation() -> None:
    """With the target 1 the mean sign is never above it, so p stays 0."""
    plain, held = build(tiny_config()), build(tiny_config("augment.mode=ada", "augment.target=1", ALL))
    for stepper in (plain, held):
        stepper.run()
    state = held.state.state_dict()
    assert float(state.pop("augment")["p"]) == 0
    assert_state_equal(state, plain.state.state_dict())
    assert "augment" not in plain.state.state_dict() and "Score/real_sign" not in plain.stats.summarise()


def test_everything_at_p_1() -> None:
    draws = drawn(64, 1.0)
    assert draws.moves.all() and draws.warps.all() and draws.recolours.all()
    out = transform(pictures(64), draws)
    assert torch.isfinite(out).all() and (out != pictures(64)).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", AUGMENT_KINDS)
def test_a_kind_happens_with_probability_p(kind: str) -> None:
    """n p images, give or take 4 deviations; a flip happens to half of those."""
    n, p = 4000, 0.3
    draws = drawn(n, p, kind)
    identity = torch.eye(3).expand(n, 3, 3)
    changed = draws.flip | (draws.quarters != 0) | (draws.shift != 0).any(1)
    changed |= ((draws.inverse - identity).abs() > 0).flatten(1).any(1)
    changed |= ((draws.colour - torch.eye(3, 4)).abs() > 1e-6).flatten(1).any(1)
    share = p * {"flip": 0.5, "luma_flip": 0.5, "rotate90": 0.75, "translate": 15 / 16}.get(kind, 1.0)
    deviation = math.sqrt(share * (1 - share) / n)
    assert changed.float().mean().item() == pytest.approx(share, abs=4 * deviation)
    place = AUGMENT_KINDS.index(kind)
    groups = [bool(group.any()) for group in (draws.moves, draws.warps, draws.recolours)]
    assert groups == [place < 3, 3 <= place < 7, place >= 7]
    assert not ((draws.moves | draws.warps | draws.recolours) < changed).any()


SIZES = {  # of a draw at p = 1: what is measured, its mean and deviation in the paper
    "scale": (lambda d: d.inverse[:, 0, 0].log2(), 0, 0.2),
    "stretch": (lambda d: d.inverse[:, 0, 0].log2(), 0, 0.2),
    "shift": (lambda d: d.inverse[:, 0, 2] / 16, 0, 0.125),
    "translate": (lambda d: d.shift[:, 0], 0, math.sqrt(1.5)),  # -2..2 of 16 pixels, the outer ones half as likely
    "brightness": (lambda d: d.colour[:, 0, 3], 0, 0.2),
    "contrast": (lambda d: d.colour[:, 0, 0].log2(), 0, 0.5),
    "saturation": (lambda d: ((d.colour[:, 0, 0] - 1 / 3) * 1.5).log2(), 0, 1),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_the_paper_s(kind: str) -> None:
    measure, mean, deviation = SIZES[kind]
    values = measure(drawn(4000, 1.0, kind))
    assert values.mean().item() == pytest.approx(mean, abs=4 * deviation / math.sqrt(4000))
    assert values.std().item() == pytest.approx(deviation, rel=0.06)
    assert drawn(4000, 1.0, "translate").shift.abs().max() == 2


def test_leaving_a_kind_out_changes_none_of_the_others() -> None:
    whole, some = drawn(32, 0.7), drawn(32, 0.7, "hue", "flip", "rotate90")
    assert torch.equal(whole.flip, some.flip) and torch.equal(whole.quarters, some.quarters)
    assert not torch.equal(whole.colour, some.colour) and not some.warps.any() and not some.shift.any()


def test_hue_keeps_grey_and_luma() -> None:
    linear = drawn(50, 1.0, "hue").colour[:, :, :3]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(3).expand(50, 3, 3))
    torch.testing.assert_close(linear.sum(2), torch.ones(50, 3))
    assert torch.linalg.det(linear).min() > 0.99


def test_rotation_by_the_numbers_of_a_draw() -> None:
    """turn_rad is from right to down: what was right of the middle at p moves below it."""
    draws = drawn(64, 0.9, "rotate", "rotate90")
    forward = torch.linalg.inv(draws.inverse)[:, :2, :2]
    quarter = draws.quarters * (-math.pi / 2)
    total = forward @ torch.stack([quarter.cos(), -quarter.sin(), quarter.sin(), quarter.cos()], -1).view(-1, 2, 2)
    want = torch.stack([draws.turn_rad.cos(), draws.turn_rad.sin()], 1)
    torch.testing.assert_close(total[:, :, 0], want, atol=1e-5, rtol=0)


def test_second_order_of_the_whole() -> None:
    draws = drawn(2, 1.0, edge=8)
    double = {f.name: getattr(draws, f.name) for f in dataclasses.fields(draws)}
    draws = Draws(**{k: v if v.dtype == torch.bool else v.double() for k, v in double.items()})
    images = pictures(2, 8).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: transform(x, draws).pow(3), images, fast_mode=True)


def project(label: Tensor, points: Tensor) -> Tensor:
    """Picture coordinates [N, P, 2] (right, down; the picture is -1..1) of world points by camera labels."""
    camera = camera_from_label(label)
    local = torch.einsum("nij,npj->npi", camera.cam2world[:, :3, :3].mT, points - camera.position[:, None])
    return torch.stack([local[..., 0], -local[..., 1]], -1) / (-local[..., 2:]) / camera.tan_half_fov[:, None]


def test_a_moved_label_sees_the_moved_picture() -> None:
    """Where a label's camera shows points, transformed, is where the moved label's camera shows them."""
    n = 32
    label = label_from_camera(CameraPrior(yaw=(-1, 1), pitch=(1.2, 1.8), fov_deg=20).sample(n, rng(1)))
    points = 0.2 * torch.randn(1, 20, 3, generator=rng(2))
    draws = drawn(n, 0.8, "flip", "rotate90", "rotate", "scale", edge=16)
    moved = move_label(label, draws)
    assert label_fault(moved) is None
    before = project(label, points)
    mirrored_world = points * torch.tensor([1.0, -1, 1])  # the flipped picture shows the mirrored object
    after = torch.where(draws.flip[:, None, None], project(moved, mirrored_world), project(moved, points))
    flat = torch.where(draws.flip[:, None, None], before * torch.tensor([-1.0, 1]), before)
    c, s = draws.turn_rad.cos()[:, None], draws.turn_rad.sin()[:, None]
    want = torch.stack([c * flat[..., 0] - s * flat[..., 1], s * flat[..., 0] + c * flat[..., 1]], -1)
    torch.testing.assert_close(after, want * draws.zoom[:, None, None], atol=2e-5, rtol=1e-4)
    assert draws.flip.any() and (draws.turn_rad != 0).any() and (draws.zoom != 1).any()


def test_a_flip_moves_the_label_as_mirrored_data_does() -> None:
    label = label_from_camera(CameraPrior(yaw=(-1, 1)).sample(8, rng()))
    draws = drawn(8, 1.0, "flip")
    want = np.stack([mirror_label(v.numpy()) if f else v.numpy() for v, f in zip(label, draws.flip)])
    assert torch.equal(move_label(label, draws), torch.from_numpy(want))


def test_camera_labels_leave_out_what_they_cannot_say() -> None:
    cfg = AugmentConfig(mode="fixed", p=0.5, kinds=AUGMENT_KINDS)
    camera, free = Augment(cfg, "camera"), Augment(cfg, "class")
    assert set(free.kinds) - set(camera.kinds) == {"translate", "stretch", "shift"}
    assert camera.describe().endswith("left out, as no camera label says it: translate, stretch, shift")
    label = torch.eye(3)
    assert free(pictures(3), label, 0.5, rng())[1] is label


def test_p_moves_towards_the_target() -> None:
    """20 logits of 1000 kimg = 2000 images: p moves by 0.01 up, down, not at the target, and stays within 0..limit."""
    cfg = AugmentConfig(mode="ada", p=0.1, target=0.5, kimg=2, limit=0.115)

    def after(state: AugmentState, positive: int) -> AugmentState:
        logits = torch.cat([torch.full((positive, 1), 3.0), torch.full((20 - positive, 1), -0.1)])
        return state.saw(logits[:7]).saw(logits[7:]).adapted(cfg)

    state = AugmentState.begin(cfg, CPU)
    assert float(after(state, 16).p) == pytest.approx(0.11)  # r = 0.6
    assert float(after(state, 15).p) == pytest.approx(0.1)  # r = 0.5
    assert float(after(state, 14).p) == pytest.approx(0.09)
    assert float(after(after(state, 16), 16).p) == pytest.approx(0.115)
    for _ in range(11):
        state = after(state, 0)
    assert (float(state.p), float(state.signs), state.looked) == (0, 0, 0)


def test_logits_that_are_nan_do_not_stay_in_p() -> None:
    state = AugmentState.begin(AugmentConfig(mode="ada", p=0.3), CPU).saw(torch.tensor([[math.nan], [1.0], [math.inf]]))
    assert (float(state.signs), state.looked) == (2, 3)


def test_state_goes_into_a_checkpoint_and_back() -> None:
    state = AugmentState(torch.tensor(0.123), torch.tensor(-7.0), 12)
    assert AugmentState.begin(AugmentConfig(mode="ada"), CPU).loaded(state.state_dict()) == state


def ada(*more: str) -> Stepper:
    cfg = ("augment.mode=ada", "augment.p=0.5", "augment.interval=2", "augment.kimg=0.1", "augment.target=-1", ALL)
    return build(tiny_config(*cfg, "loss.path_length_weight=0", "loss.r1_gamma=0", *more))


def test_p_moves_every_interval() -> None:
    """8 of 100 images in two steps; any sign above -1 raises p."""
    stepper = ada()
    stepper.state.discriminator.epilogue.out.bias.fill_(50.0)
    seen = []
    for _ in range(4):
        stepper._discriminator_main()
        stepper.state.step += 1
        assert stepper.state.augment is not None
        seen.append((float(stepper.state.augment.p), stepper.state.augment.looked))
    assert seen == [(0.5, 4), (pytest.approx(0.58), 0), (pytest.approx(0.58), 4), (pytest.approx(0.66), 0)]
    row = stepper.stats.summarise()
    assert row["Augment/p"] == pytest.approx(0.54) and row["Score/real_sign"] == 1


def test_resumption_between_two_moves_of_p_is_exact() -> None:
    whole = ada()
    whole.run()
    saved = copy.deepcopy(whole.state.state_dict())
    whole.run()
    again = ada("augment.p=0.1")
    again.state.load_state_dict(saved)
    again.run()
    assert whole.state.augment is not None and float(whole.state.augment.p) != 0.5
    assert_state_equal(again.state.state_dict(), whole.state.state_dict())


def test_p_begins_anew_where_none_is_saved() -> None:
    plain, begun = ada("augment.mode=none"), ada()
    begun.state.load_state_dict(plain.state.state_dict())
    assert begun.state.augment is not None and float(begun.state.augment.p) == 0.5


def test_an_interrupted_step_leaves_the_state() -> None:
    stepper = ada()
    before = copy.deepcopy(stepper.state.state_dict())

    def stop(now: str, number: int) -> None:
        if (now, number) == ("discriminator", 1):
            raise Interrupted

    stepper.before_round = stop
    with pytest.raises(Interrupted):
        stepper.run()
    assert_state_equal(stepper.state.state_dict(), before)


def test_the_discriminator_never_sees_a_plain_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """G main, D main (fakes and reals) and R1, each of two rounds with random numbers of its own; path length not."""
    stepper = build(tiny_config("augment.mode=fixed", "augment.p=1", "train.reuse_fakes=true"))
    given, used, out = [], [], []
    real = Augment.__call__

    def spy(self: Augment, images: Tensor, label: Any, p: Any, rng: torch.Generator) -> Any:
        given.append(images)
        used.append((p, rng.initial_seed()))
        out.append(real(self, images, label, p, rng))
        return out[-1]

    monkeypatch.setattr(Augment, "__call__", spy)
    seen: list[Tensor] = []
    stepper.state.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    stepper.run()
    assert len(seen) == len(used) == len(set(used)) == 2 + 4 + 2 and {p for p, _ in used} == {1.0}
    assert all(a is b for a, (b, _) in zip(seen, out))
    assert all(not torch.equal(a, b) for a, b in zip(given, seen))
    assert torch.equal(given[0], given[2]) and not torch.equal(seen[0], seen[2])  # fakes shown again, anew transformed
    assert given[6].requires_grad and not given[6].grad_fn  # R1 is of the plain image


@pytest.mark.parametrize(("overrides", "match"), [
    (["augment.mode=on"], "augment.mode: wanted one of 'none', 'fixed', 'ada'"),
    (["augment.mode=fixed"], "p must be above 0 where mode is fixed, got 0"),
    (["augment.mode=fixed", "augment.p=1.5"], "p must be between 0 and 1, got 1.5"),
    (["augment.mode=ada", "augment.p=0.9"], "p must be between 0 and 0.8, augment.limit, got 0.9"),
    (["augment.kinds=[blur]"], "augment.kinds"),
    (["augment.kinds=[]"], "kinds must be some of flip, rotate90"),
    (["augment.kinds=[hue, hue]"], "each once"),
    (["augment.interval=0"], "interval must be at least 1"),
    (["augment.kimg=0"], "kimg must be positive"),
    (["augment.target=2"], "target must be between -1 and 1"),
    (["augment.limit=0"], "limit must be"),
])  # fmt: skip
def test_refused(overrides: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        tiny_config(*overrides)
