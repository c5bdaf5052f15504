"""Whole training phases against train_phases.npz, every random draw replayed."""

import json

import pytest
import torch

from stylenerf.engine.training.losses import discriminator_fake_loss, discriminator_real_loss, generator_loss
from stylenerf.models.camera import CameraPrior
from stylenerf.models.official import camera_prior_from_official, discriminator_name
from tests.closeness import assert_relative
from tests.conftest import at_hand, load_fixture
from tests.recorded.phases import (
    FIXTURE,
    G_CASES,
    GENERATOR,
    LOSS_TOL,
    PHASES,
    build_discriminator,
    build_generator,
    check_gradients,
    compare_generator_step,
    compare_path_length_step,
    compare_r1_step,
    critic_options,
)


@pytest.mark.parametrize("case", at_hand(FIXTURE, G_CASES, "img"))
def test_generator_step(case: str) -> None:
    compare_generator_step(case)


@pytest.mark.parametrize("case", at_hand(FIXTURE, ["greg_a1"], "img"))
def test_path_length_step(case: str) -> None:
    compare_path_length_step(case)


@pytest.mark.usefixtures("rounded_to_the_nearest")
@pytest.mark.parametrize("case", at_hand(FIXTURE, ["dmain_a1", "dmain_a075"], "D0_img"))
def test_discriminator_step(case: str) -> None:
    f, g, d = PHASES, build_generator(), build_discriminator()
    options = critic_options(g, float(f[f"{case}/alpha"]))
    fake_logits = d(f[f"{case}/D0_img"], options=options)
    real_logits = d(f[f"{case}/real"], options=options)
    assert_relative("D0_logits", fake_logits, f[f"{case}/D0_logits"])
    assert_relative("D1_logits", real_logits, f[f"{case}/D1_logits"])
    assert_relative("scores.fake", fake_logits, f[f"{case}/stats/Loss.scores.fake"])
    assert_relative("scores.real", real_logits, f[f"{case}/stats/Loss.scores.real"])
    assert torch.equal(fake_logits.sign(), f[f"{case}/stats/Loss.signs.fake"])
    assert torch.equal(real_logits.sign(), f[f"{case}/stats/Loss.signs.real"])
    fake, real = discriminator_fake_loss(fake_logits), discriminator_real_loss(real_logits)
    # the public log adds the generator's NeRF-path term to the fake loss; no gradient reaches D through it
    logged = fake.mean() + f[f"{case}/stats/Loss.D.reg_loss"].mean()
    assert_relative("Dgen", logged, f[f"{case}/losses/Dgen"], LOSS_TOL)
    assert_relative("Dr1", real.mean(), f[f"{case}/losses/Dr1"], LOSS_TOL)
    assert_relative("D.loss", logged + real.mean(), f[f"{case}/stats/Loss.D.loss"], LOSS_TOL)
    (fake.mean() + real.mean()).backward()
    check_gradients(d, case, discriminator_name)


@pytest.mark.usefixtures("rounded_to_the_nearest")
@pytest.mark.parametrize("case", ["dreg_a1", "dreg_a025"])
def test_r1_step(case: str) -> None:
    compare_r1_step(case)


def test_softplus_losses() -> None:
    f = load_fixture("disc_tiny.npz")
    logits = f["softplus/logits"]
    assert_relative("G", generator_loss(logits), f["softplus/G"])
    assert_relative("D_fake", discriminator_fake_loss(logits), f["softplus/D_fake"])
    assert_relative("D_real", discriminator_real_loss(logits), f["softplus/D_real"])


@pytest.mark.parametrize(
    "case", [name.removesuffix("/world_mat") for name in PHASES.names if name.endswith("/world_mat")]
)
def test_recorded_cameras(case: str) -> None:
    prior: CameraPrior = camera_prior_from_official(json.loads(GENERATOR.text("meta/config_json")))
    uvr = PHASES[f"{case}/camera_uvr"]
    camera = prior.at(uvr[:, 0], uvr[:, 1], uvr[:, 2])
    assert_relative("world_mat", camera.cam2world, PHASES[f"{case}/world_mat"], 2e-6)
