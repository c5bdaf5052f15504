"""Projection: pictures of known subjects from known cameras are found again, alone and together; its pieces."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylenerf.engine.applications.project.perceptual import Criterion, PerceptualNet, pyramid_loss, saturate
from stylenerf.engine.applications.project.photos import load_photos
from stylenerf.engine.applications.project.polish import FIRST_DAMPING, levenberg_marquardt
from stylenerf.engine.applications.project.projection import Projector
from stylenerf.engine.applications.project.projection_job import camera_distance, latent_distance
from stylenerf.engine.applications.project.projection_options import ProjectionOptions
from stylenerf.engine.applications.project.tuning import Tuner
from stylenerf.engine.applications.project.unknowns import Unknowns
from stylenerf.engine.applications.render.latent_space import latent_space
from stylenerf.engine.applications.render.poses import pose_cameras, prior_poses, spread_poses
from stylenerf.engine.applications.render.subjects import Subjects, subjects_from_seeds
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import Model
from stylenerf.engine.pictures import to_uint8
from stylenerf.models.camera import Camera, CameraPrior
from stylenerf.models.generator import RenderOptions
from tests.inputs import source
from tests.models_at_hand import PRIOR, tiny_model

QUICK = {"steps": 80, "polish": 12}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def scene(model: Model, seeds: list[int], poses: list[tuple[float, float]]) -> tuple[Tensor, Subjects, Camera]:
    """Photographs, rounded to bytes, of seed i from pose i (yaw, pitch)."""
    s = subjects_from_seeds(model, seeds)
    camera = pose_cameras(torch.tensor([[yaw, pitch, 1.0, 0.0] for yaw, pitch in poses]), 30.0)
    with torch.no_grad():
        images = model.generator.synthesis(s.ws, camera, z_bg=s.z_bg).image
    return to_uint8(images).float() / 127.5 - 1, s, camera


def finished(model: Model, photos: Tensor, **options: object) -> Projector:
    p = Projector(model, photos, ProjectionOptions(**options))  # type: ignore[arg-type]
    p.search()
    while p.step < p.total:
        p.advance()
    return p


def errors(p: Projector, u: Unknowns, truth: tuple[Subjects, Camera]) -> tuple[Tensor, Tensor]:
    """Distances [V] of styles and cameras from the truth."""
    with torch.no_grad():
        return latent_distance(p.chart.subjects(u), truth[0]), camera_distance(p.chart.cameras(u), truth[1])


# known answers


def poses_of(seed: int, count: int) -> list[tuple[float, float]]:
    """Random (yaw, pitch) of the prior."""
    draws = torch.rand(count, 2, generator=source(seed)).tolist()
    return [(2 * a - 1, 1.2 + 0.7 * b) for a, b in draws]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 5))])
def test_a_generated_picture_is_found_again(model: Model, seed: int) -> None:
    photos, *truth = scene(model, [seed], poses_of(seed + 77, 1))
    p = finished(model, photos, **QUICK)
    start, end = errors(p, p.average, tuple(truth)), errors(p, p.projected, tuple(truth))
    assert end[0] < start[0] / 10 and end[1] < start[1] / 10  # ten times closer, style and camera
    assert p.history[-1] < p.history[0] / 100


@pytest.mark.slow
def test_photos_of_one_subject_share_its_style(model: Model) -> None:
    photos, *truth = scene(model, [0, 0], poses_of(77, 2))
    p = finished(model, photos, same_subject=True, **QUICK)
    subjects, _ = p.result()
    assert torch.equal(subjects.ws[0], subjects.ws[1]) and torch.equal(subjects.z_bg[0], subjects.z_bg[1])  # type: ignore[index]
    assert p.projected.style.shape == (1, 1, 1, 8)
    start, end = errors(p, p.average, tuple(truth)), errors(p, p.projected, tuple(truth))
    assert bool((end[0] < start[0] / 10).all()) and bool((end[1] < start[1] / 10).all())


def test_photos_of_several_subjects_do_not_touch_each_other(model: Model) -> None:
    photos, *_ = scene(model, [0, 3], [(-0.5, 1.7), (0.35, 1.5)])
    # without noise, which differs between a batch and its part; few steps, since rounding grows with each
    options = {"subjects": 8, "starts": 2, "steps": 5, "noise": 0.0}
    both, alone = finished(model, photos, **options), finished(model, photos[1:], **options)
    assert both.projected.style.shape == (1, 2, 1, 8)
    torch.testing.assert_close(both.result()[0].ws[1:], alone.result()[0].ws, rtol=0, atol=1e-4)
    torch.testing.assert_close(both.history[:, 1:], alone.history, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_known_camera_stays_where_it_is(model: Model) -> None:
    photos, *truth = scene(model, [0, 0], [(-0.5, 1.7), (0.4, 1.5)])
    p = finished(
        model, photos, same_subject=True, free=(), yaw=(-0.5, 0.4), pitch=(1.7, 1.5), starts=2, steps=40, polish=8
    )
    end = errors(p, p.projected, tuple(truth))
    assert float(end[1].max()) < 1e-6 and bool((end[0] < errors(p, p.average, tuple(truth))[0] / 10).all())


@pytest.mark.slow
def test_radius_and_roll_are_found_too(model: Model) -> None:
    s = subjects_from_seeds(model, [3])
    pose = torch.tensor([[0.35, 1.5, 1.03, 0.2]])
    with torch.no_grad():
        photo = model.generator.synthesis(s.ws, pose_cameras(pose, 30.0), z_bg=s.z_bg).image.clamp(-1, 1)
    p = finished(model, photo, free=("radius", "roll"), yaw=(0.35,), pitch=(1.5,), subjects=64, steps=40, polish=8)
    found = p.chart.poses(p.projected)[0]
    assert float((found - pose).abs().max()) < 0.02


@pytest.mark.slow
def test_every_layer_may_have_its_own_style(model: Model) -> None:
    """A picture whose layers have the styles of three subjects is fitted in W+, but not in W."""
    s = subjects_from_seeds(model, [0, 10, 20], truncation_psi=1.0)
    mixed = torch.stack([s.ws[i % 3, i] for i in range(7)])[None]
    with torch.no_grad():
        camera = pose_cameras(torch.tensor([[-0.5, 1.7, 1.0, 0.0]]), 30.0)
        image = model.generator.synthesis(mixed, camera, z_bg=s.z_bg[:1]).image  # type: ignore[index]
    photos = to_uint8(image).float() / 127.5 - 1
    options = {"free": (), "yaw": (-0.5,), "pitch": (1.7,), "subjects": 8, "starts": 1, "steps": 20, "polish": 20}
    layers, one = (finished(model, photos, space=space, **options) for space in ("w+", "w"))
    ws = layers.result()[0].ws
    assert ws.shape == (1, 7, 8) and float(ws.std(dim=1).max()) > 0.01
    assert layers.history[-1] < one.history[-1] / 2


@pytest.mark.slow
def test_a_style_is_drawn_towards_the_average(model: Model) -> None:
    photos, *_ = scene(model, [0], [(-0.5, 1.7)])
    options = {"subjects": 8, "starts": 1, "steps": 20, "noise": 0.0, "polish": 8}
    loose, tight = (finished(model, photos, regularise=r, **options) for r in (0.0, 1000.0))
    assert tight.projected.style.norm() < 0.2 * loose.projected.style.norm()


def test_a_conditional_model_wants_its_class(model: Model) -> None:
    conditional = tiny_model(label_dim=3)
    photos, *_ = scene(model, [0], [(0.0, 1.5)])
    assert finished(conditional, photos, label=2, subjects=2, steps=2).step == 3
    with pytest.raises(UserError, match="--label: wanted a class of 0 to 2, got None"):
        Projector(conditional, photos, ProjectionOptions())


# going on


@pytest.mark.parametrize(
    "stop", [*(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 6, 17)), 15]
)  # each stage
def test_a_state_goes_on_with_the_same_bits(model: Model, stop: int) -> None:
    photos, *_ = scene(model, [0, 3], [(-0.5, 1.7), (0.35, 1.5)])
    options = ProjectionOptions(subjects=4, cameras=2, starts=2, steps=10, polish=4, tune=3)
    through, first = (Projector(model, photos, options) for _ in range(2))
    for p in (through, first):
        p.search()
    while through.step < through.total:
        through.advance()
    while first.step < stop:
        first.advance()
    second = Projector(model, photos, options)
    second.load(copy.deepcopy(first.state()))
    while second.step < second.total:
        second.advance()
    assert torch.equal(second.history, through.history) and torch.equal(second.frames, through.frames)
    assert all(torch.equal(a, b) for a, b in zip(second.projected, through.projected))
    ours, theirs = (p.model.generator.state_dict() for p in (second, through))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tuning_lowers_the_loss_and_leaves_the_model_alone(model: Model) -> None:
    photos, *_ = scene(model, [0], [(-0.5, 1.7)])
    photos = photos.flip(-1).contiguous()  # nothing that this model makes
    before = {n: t.clone() for n, t in model.generator.state_dict().items()}
    p = finished(model, photos, subjects=8, starts=1, steps=10, tune=20, tune_rate=3e-3)
    assert p.history[-1] < 0.8 * p.history[10]
    assert all(torch.equal(before[n], t) for n, t in model.generator.state_dict().items())
    assert not any(t.requires_grad for t in p.model.generator.parameters())
    assert torch.equal(p.model.generator.mapping.w_avg, model.generator.mapping.w_avg)


def test_locality_brings_other_pictures_back(model: Model) -> None:
    photos, s, camera = scene(model, [0], [(-0.5, 1.7)])
    tuner = Tuner(model, s, camera, Criterion(photos, None, 0.0), rate=3e-3, locality=1.0)  # the photo does not count
    state = tuner.state()
    state["network"] = {n: t * 1.1 if n.endswith("weight") else t for n, t in state["network"].items()}
    tuner.load(state)
    others, sides = subjects_from_seeds(model, range(16)), PRIOR.at(torch.linspace(0, 1, 16), 0.5)

    def change() -> float:
        images = [m.generator.synthesis(others.ws, sides, z_bg=others.z_bg).image for m in (tuner.model, model)]
        return float((images[0] - images[1]).square().mean())

    start = change()
    for number in range(25):
        tuner.step(number)
    assert change() < start / 2


# pieces


def test_whitened_styles_have_unit_deviation(model: Model) -> None:
    space = latent_space(model, samples=2000)
    w = model.generator.mapping(torch.randn(4000, 8, generator=source(3)))[:, 0]
    c = space.whiten(w)
    torch.testing.assert_close(space.colour(c), w, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cov(c.t()), torch.eye(8), rtol=0, atol=0.15)
    torch.testing.assert_close(space.axes.t() @ space.axes, torch.eye(8), rtol=0, atol=1e-5)
    assert bool((space.stds.diff() <= 0).all())
    assert bool((space.axes.gather(0, space.axes.abs().argmax(0, keepdim=True)) > 0).all())


def test_poses_are_orbits_and_roll_turns_the_image(model: Model) -> None:
    pose = torch.tensor([[0.4, 1.3, 1.1, 0.0], [0.4, 1.3, 1.1, 0.3]])
    plain, rolled = (pose_cameras(p[None], 25.0) for p in pose)
    want = Camera.orbit(1.3, 0.4, 1.1, fov_deg=25.0)
    torch.testing.assert_close(plain.cam2world, want.cam2world, rtol=0, atol=1e-6)
    s = subjects_from_seeds(model, [1])
    one = model.generator.synthesis(s.ws, rolled, z_bg=s.z_bg).image
    other = model.generator.synthesis(s.ws, plain, z_bg=s.z_bg, options=RenderOptions(roll_rad=0.3)).image
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("term", range(4))
def test_pictures_follow_the_pose(model: Model, term: int) -> None:
    s = subjects_from_seeds(model, [1])
    cotangent = torch.randn(1, 3, 16, 16, generator=source(1))
    pose = torch.tensor([[0.3, 1.45, 1.0, 0.1]], requires_grad=True)

    def value(p: Tensor) -> Tensor:
        return (model.generator.synthesis(s.ws, pose_cameras(p, 30.0), z_bg=s.z_bg).image * cotangent).sum()

    value(pose).backward()
    shift = torch.zeros(1, 4)
    shift[0, term] = 1e-3
    with torch.no_grad():
        slope = (value(pose + shift) - value(pose - shift)) / 2e-3
    assert pose.grad is not None
    assert float(pose.grad[0, term]) == pytest.approx(float(slope), rel=0.02, abs=0.02 * float(pose.grad.abs().max()))


PRIORS = {
    "uniform": (CameraPrior("uniform", yaw=(-1.0, 0.5), pitch=(1.2, 1.8)), (-0.25, 1.5), (0.75, 0.3)),
    "gaussian": (CameraPrior("gaussian", yaw=(-0.3, 0.3), pitch=(1.4, 1.6)), (0.0, 1.5), (0.3, 0.1)),
    # a whole turn; pitch = arccos(1 - 2 v): 60 to 90 degrees
    "fractions": (
        CameraPrior("uniform", yaw=(0.0, 1.0), pitch=(0.25, 0.5), angular=False),
        (math.pi, 5 * math.pi / 12),
        (math.pi, math.pi / 12),
    ),
    "a point": (CameraPrior("uniform", yaw=(0.2, 0.2), pitch=(1.5, 1.5)), (0.2, 1.5), (0.05, 0.05)),
}


@pytest.mark.parametrize("case", PRIORS)
def test_a_prior_as_poses(case: str) -> None:
    prior, middle, halves = PRIORS[case]
    got = prior_poses(prior)
    assert got[0].tolist() == pytest.approx([*middle, 1.0, 0.0])
    assert got[1].tolist() == pytest.approx([*halves, 0.02, 0.2])
    assert spread_poses(prior, 1)[0].tolist() == pytest.approx([*middle, 1.0, 0.0])


def test_spread_poses_by_hand() -> None:
    # yaws in the middles of four parts of -1..1; pitches at 1/2, 1/4, 3/4, 1/8 of 1.2..1.9
    got = spread_poses(PRIOR, 4)
    assert got[:, 0].tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert got[:, 1].tolist() == pytest.approx([1.55, 1.375, 1.725, 1.2875])


def test_the_pyramid_by_hand() -> None:
    # 8x8 against black-and-white stripes of one pixel, off by 0.1 up and down: level 0 sees |e| = 0.1 everywhere,
    # 0.1 (sqrt 2 - 1); level 1 averages it away
    e = torch.tensor([0.1, -0.1]).repeat(4).expand(1, 3, 8, 8)
    loss = pyramid_loss(0.2 + e, torch.full((1, 3, 8, 8), 0.2))
    assert float(loss) == pytest.approx(0.1 * (math.sqrt(2) - 1) / 2, rel=1e-5)


def test_beyond_white_there_is_no_difference() -> None:
    photos = torch.tensor([1.0, 1.0, 0.5, -1.0, -1.0])
    images = torch.tensor([1.7, 0.8, 1.7, -3.0, -0.2], requires_grad=True)
    got = saturate(images, photos)
    assert got.tolist() == pytest.approx([1.0, 0.8, 1.7, -1.0, -0.2])
    got.sum().backward()
    assert images.grad is not None and images.grad.tolist() == [0, 1, 1, 0, 1]


def test_least_squares_take_one_step_where_the_problem_is_linear() -> None:
    a = torch.randn(20, 5, generator=source(2))
    wanted = torch.randn(5, generator=source(4))
    u, damping = torch.zeros(5), FIRST_DAMPING
    first = levenberg_marquardt(lambda x: (x - wanted) @ a.t(), u, 1e-9, 1e-3)
    torch.testing.assert_close(first.unknowns, wanted, rtol=0, atol=0.02)
    for _ in range(8):
        u, damping, _ = levenberg_marquardt(lambda x: (x - wanted) @ a.t(), u, damping, 1e-3)
    torch.testing.assert_close(u, wanted, rtol=0, atol=1e-5)
    stuck = levenberg_marquardt(lambda x: torch.ones(len(x), 3), u, damping, 1e-3)  # nothing can be lowered
    assert stuck.damping == math.inf and torch.equal(stuck.unknowns, u)


# photographs and networks


def test_photographs_are_cropped_and_laid_over_white(tmp_path: Path) -> None:
    wide = np.zeros((32, 64, 4), np.uint8)
    wide[:, 16:48] = (255, 0, 0, 255)  # the middle square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    got = load_photos([tmp_path / "wide.png", tmp_path / "clear.png"], 16)
    assert torch.equal(got[0], torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 16, 16))
    assert torch.equal(got[1], torch.ones(3, 16, 16))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_photograph_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.png: wanted a photograph, got: "):
        load_photos([tmp_path / "odd.png"], 16)


class Features(torch.nn.Module):
    """What a perceptual network looks like from outside."""

    def forward(self, images: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        assert not resize_images and return_lpips
        return torch.nn.functional.avg_pool2d(images / 255, 4).flatten(1)


def save_network(path: Path, module: torch.nn.Module) -> Path:
    with pytest.warns():  # torch would rather have another format
        torch.jit.script(module).save(str(path))
    return path


def test_a_perceptual_network_is_followed(model: Model, tmp_path: Path) -> None:
    net = PerceptualNet(save_network(tmp_path / "net.pt", Features()))
    photos, *_ = scene(model, [0], [(-0.5, 1.7)])
    assert float((net.features(photos) - Features()(photos * 127.5 + 127.5, False, True)).abs().max()) < 1e-6
    p = Projector(model, photos, ProjectionOptions(subjects=16, starts=1, steps=40, pixel_weight=0.0), net)
    p.search()
    while p.step < p.total:
        p.advance()
    assert p.history[-1] < p.history[0] / 2


class TwoD(torch.nn.Module):
    def forward(self, images: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        return images


class Plain(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("module", [TwoD, Plain])
def test_a_network_of_another_form_is_one_line(tmp_path: Path, module: type) -> None:
    with pytest.raises(UserError, match=r"--perceptual: wanted a network as of StyleGAN's projector, got .*net\.pt"):
        PerceptualNet(save_network(tmp_path / "net.pt", module()))


def test_a_file_that_is_no_network_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"text")
    with pytest.raises(UserError, match=r"--perceptual: wanted a network"):
        PerceptualNet(tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"--perceptual: wanted a TorchScript file"):
        PerceptualNet(tmp_path / "none.pt")


REFUSED = {
    "steps": ({"steps": -1}, "--steps: wanted 0 to 1000000, got -1"),
    "subjects": ({"subjects": 0}, "--subjects: wanted 1 to"),
    "rate": ({"rate": 0.0}, "--rate: wanted 1e-09 to"),
    "noise": ({"noise": math.nan}, "--noise: wanted 0 to"),
    "free": ({"free": ("yaw", "zoom")}, "--free: wanted some of yaw, pitch, radius, roll, got yaw,zoom"),
    "pitch": ({"pitch": (0.0,)}, "--pitch: wanted radians between 0 and pi"),
    "radius": ({"radius": (-1.0,)}, "--radius: wanted positive"),
    "fov": ({"fov_deg": 180.0}, "--fov: wanted degrees"),
    "too few": ({"yaw": (0.0, 0.1)}, "--yaw: wanted one number, or one for each of the 3 photos, got 2"),
    "label": ({"label": 1}, r"--label: wanted none \(the model is not conditional\), got 1"),
    "no loss": ({"pixel_weight": 0.0}, "--pixel-weight: wanted more than 0 without a perceptual network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options_are_one_line(model: Model, case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        Projector(model, torch.zeros(3, 3, 16, 16), ProjectionOptions(**options))  # type: ignore[arg-type]
