"""Recorded training phases, every random draw replayed, and their comparison with ours."""

import json

import pytest
import torch

from stylenerf.engine.training.losses import generator_loss, nerf_path_loss, path_length, r1_penalty
from stylenerf.models.camera import Camera
from stylenerf.models.discriminator import Discriminator, DiscriminatorOptions
from stylenerf.models.generator import Generator, Rendered, RenderOptions
from stylenerf.models.official import (
    discriminator_from_official,
    discriminator_name,
    generator_from_official,
    generator_name,
)
from stylenerf.models.sampling import StepDraws
from tests.closeness import assert_image_close, assert_relative
from tests.conftest import Fixture, load_fixture

LOSS_TOL = 2e-4  # absolute, as the fixtures' notes ask
FIXTURE = "train_phases.npz"
PHASES = load_fixture(FIXTURE)
GENERATOR = load_fixture("gen_ffhq_tiny.npz")
CRITIC = load_fixture("disc_tiny.npz")
G_CASES = ["gmain_a1", "gmain_a075", "gmain_a025", "gmain_a0"]


def build_generator() -> Generator:
    kwargs = json.loads(GENERATOR.text("meta/config_json"))
    return generator_from_official(kwargs, GENERATOR.state("sd/")).train().requires_grad_(True)


def build_discriminator() -> Discriminator:
    kwargs = json.loads(CRITIC.text("meta/config_json"))
    return discriminator_from_official(kwargs, CRITIC.state("sd/")).train().requires_grad_(True)


def replay(f: Fixture, case: str) -> StepDraws:
    """The recorded draws in our containers; the fine pass's u comes flattened over rays."""
    draws = [f[f"{case}/rng/{name}"] for name in f.keys(f"{case}/rng/") if "accumulate" not in name]
    offset = draws.pop(0) if draws[0].shape[-1] == 2 else None
    coarse_u, coarse_n, fine_u, fine_n, bg_u, bg_n = draws
    return StepDraws(offset, coarse_u, coarse_n, fine_u.view_as(coarse_u), fine_n, bg_u, bg_n)


def render(g: Generator, case: str, ws: torch.Tensor) -> Rendered:
    f = PHASES
    camera = Camera(f[f"{case}/world_mat"], f[f"{case}/camera_mat"][:, [0, 1], [0, 1]])
    options = RenderOptions(alpha=float(f[f"{case}/alpha"]), path=True, blend_path=False)
    return g.synthesis(ws, camera, z_bg=f[f"{case}/z_shape_bg"], options=options, draws=replay(f, case))


def critic_options(g: Generator, alpha: float) -> DiscriminatorOptions:
    """The public training step's: no fade-in, fromRGB counted twice below the full resolution."""
    return DiscriminatorOptions(growth=g.synthesis.growth(alpha), fade=False, entry_rgb_twice=True)


def check_gradients(module: torch.nn.Module, case: str, rename) -> None:
    """Norm of every parameter's gradient, and the recorded gradients in full; -1 marks no gradient at all."""
    own = dict(module.named_parameters())
    names = json.loads(PHASES.text(f"{case}/param_names"))
    assert {rename(n) for n in names} == set(own)
    for name, norm in zip(names, PHASES[f"{case}/param_grad_norms"].tolist()):
        grad = own[rename(name)].grad
        if norm < 0:
            assert grad is None, f"{name}: has a gradient where the public step has none"
        else:
            got = 0.0 if grad is None else grad.norm().item()
            assert got == pytest.approx(norm, rel=5e-3, abs=1e-4), f"{name}: gradient norm {got} != {norm}"
    for name in PHASES.keys(f"{case}/grad/"):
        want = PHASES[f"{case}/grad/{name}"]
        got = own[rename(name)].grad.reshape(want.shape)
        scale = want.abs().max().item()
        assert (got - want).abs().max().item() <= 5e-3 * scale + 1e-6, f"{name}: gradient differs"


def check_buffers(g: Generator, case: str) -> None:
    buffers = dict(g.named_buffers())
    for name in PHASES.keys(f"{case}/buf_after/"):
        ours = "mapping.w_avg" if name == "mapping.w_avg" else generator_name(name)
        assert_relative(name, buffers[ours], PHASES[f"{case}/buf_after/{name}"], 2e-5)


def check_rendering(out: Rendered, case: str) -> None:
    f = PHASES
    assert_image_close("img", out.image, f[f"{case}/img"])
    assert_image_close("img_nerf", out.image_raw, f[f"{case}/img_nerf"])
    fore, back = out.volume.foreground, out.volume.background
    pairs = {"fg_weights": fore.weights, "fg_depths": fore.depths, "bg_weights": back.weights}
    for name, got in {**pairs, "bg_lambda": fore.transmittance}.items():
        assert_image_close(name, got, f[f"{case}/{name}"])
    if f"{case}/rand_probs" in f:
        B, S, n, _ = f[f"{case}/rand_probs"].shape
        probs = f[f"{case}/rand_probs"].flatten(2).transpose(1, 2)  # [B, P, S]
        assert_image_close("rand_probs", out.path.weights, probs)
        tiled = (
            f[f"{case}/rand_img_samples"].view(B, 3, S // 8, n, 8, n).permute(0, 1, 2, 4, 3, 5).reshape(B, 3, S, n * n)
        )
        assert_image_close("rand_img_samples", out.path.samples, tiled)


def compare_generator_step(case: str) -> None:
    f, g, d = PHASES, build_generator(), build_discriminator()
    alpha = float(f[f"{case}/alpha"])
    ws = g.mapping(f[f"{case}/z"])
    assert_relative("ws", ws, f[f"{case}/ws"])
    out = render(g, case, ws)
    check_rendering(out, case)
    logits = d(out.image, options=critic_options(g, alpha))
    assert_relative("D0_logits", logits, f[f"{case}/D0_logits"], 1e-4)
    assert_relative("scores", logits, f[f"{case}/stats/Loss.scores.fake"], 1e-4)
    assert torch.equal(logits.sign(), f[f"{case}/stats/Loss.signs.fake"])
    loss = generator_loss(logits)
    assert_relative("G.loss", loss, f[f"{case}/stats/Loss.G.loss"], LOSS_TOL)
    total = loss.mean()
    if f"{case}/stats/Loss.G.reg_loss" in f:
        reg = 2 * nerf_path_loss(out)
        assert_relative("reg_loss", reg[:, None], f[f"{case}/stats/Loss.G.reg_loss"], LOSS_TOL)
        total = total + reg.mean()
    else:
        assert out.path is None
    assert_relative("Gmain", total, f[f"{case}/losses/Gmain"], LOSS_TOL)
    total.backward()
    check_gradients(g, case, generator_name)
    check_buffers(g, case)


def compare_path_length_step(case: str) -> None:
    f, g = PHASES, build_generator()
    ws = g.mapping(f[f"{case}/z"][:2])
    assert_relative("ws", ws, f[f"{case}/ws"])
    out = render(g, case, ws)
    check_rendering(out, case)
    noise = f[f"{case}/rng/07_accumulate_gradients_randn_like"]
    result = path_length(out.image, ws, noise, torch.zeros([]))
    assert_relative("pl_penalty", result.penalty, f[f"{case}/stats/Loss.pl_penalty"], LOSS_TOL)
    assert_relative("G.reg", 2 * result.penalty, f[f"{case}/stats/Loss.G.reg"], LOSS_TOL)
    assert_relative("pl_mean", result.mean, f[f"{case}/pl_mean_after"], LOSS_TOL)
    total = 2 * result.penalty.mean()
    assert_relative("Gpl", total, f[f"{case}/losses/Gpl"], LOSS_TOL)
    total.backward()
    check_gradients(g, case, generator_name)
    check_buffers(g, case)


def compare_r1_step(case: str) -> None:
    f, g, d = PHASES, build_generator(), build_discriminator()
    images = f[f"{case}/real"].requires_grad_()
    logits = d(images, options=critic_options(g, float(f[f"{case}/alpha"])))
    assert_relative("D0_logits", logits, f[f"{case}/D0_logits"])
    assert_relative("scores.real", logits, f[f"{case}/stats/Loss.scores.real"])
    assert torch.equal(logits.sign(), f[f"{case}/stats/Loss.signs.real"])
    penalty = r1_penalty(images, logits)
    assert_relative("r1_penalty", penalty, f[f"{case}/stats/Loss.r1_penalty"])
    gamma = 2 * (f[f"{case}/stats/Loss.D.reg"] / f[f"{case}/stats/Loss.r1_penalty"]).mean()
    loss = (penalty * gamma / 2).mean()
    assert_relative("Dr1", loss, f[f"{case}/losses/Dr1"], LOSS_TOL)
    loss.backward()
    check_gradients(d, case, discriminator_name)
