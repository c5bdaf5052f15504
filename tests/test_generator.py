"""The whole generator: every run of the reference numbers, determinism, growth, draws, sizes, errors."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.importance import importance_sample
from stylenerf.kernels.rays.render import RaySpan, depth_from_fraction, evaluate_field
from stylenerf.kernels.rays.volume import volume_weights
from stylenerf.models.camera import Camera, CameraPrior, pixel_grid
from stylenerf.models.config import BackgroundConfig, FieldConfig, GeneratorConfig
from stylenerf.models.generator import Generator, RenderOptions, _blend
from stylenerf.models.growth import growth_at
from stylenerf.models.official import camera_prior_from_official
from stylenerf.models.sampling import inverted_sphere_points
from tests.closeness import assert_image_close, assert_relative
from tests.conftest import at_hand, load_fixture
from tests.inputs import cameras, seeded, source, tiny_generator_config
from tests.recorded.generator import (
    FIXTURE,
    GIVEN,
    HALF,
    RAW,
    RUNS,
    TAPS,
    WAYS,
    camera_of,
    compare_run,
    reference,
    rendered,
)

COMPARED = {
    FIXTURE: [
        *(f"{run}/{field}" for run in RUNS for field in (*GIVEN, *WAYS, *TAPS)),
        *(f"{run}/{field}" for run in HALF for field in (*GIVEN, "img")),
        *(f"a1_c/{field}" for field in RAW),
        *("z", "ws", "ws_trunc07", "ws_trunc07_cut5", "z_shape_bg", "sd/*", "theta03_c/theta", "meta/config_json"),
        *("meta/num_ws", "camera_mode/c", "camera_mode/o", "camera_mode/r_uvr"),
    ],
    "units.npz": [*("resize/img", "resize/up16", "resize/up32", "resize/up8")],
}


@pytest.mark.parametrize("run", at_hand(FIXTURE, RUNS, "img"))
def test_reference_numbers(run: str) -> None:
    compare_run(run)


@pytest.mark.parametrize("run", at_hand(FIXTURE, ["a1_c"], "sigma_raw_fine"))
def test_reference_densities(run: str) -> None:
    f, g = reference()
    out, ws = rendered(run)[0], f["ws"][:, : g.synthesis.volume.num_ws]
    fore, volume = out.volume.foreground, g.synthesis.volume
    assert fore is not None and volume.background is not None
    rays = camera_of(f, run).rays(pixel_grid(16))

    def density(depths: Tensor) -> Tensor:
        points = rays.origins[:, :, None] + depths[..., None] * rays.directions[:, :, None]
        return evaluate_field(points.flatten(1, 2), volume.foreground.trunk(ws))[1].view_as(depths)

    line, span = torch.linspace(0, 1, 14).expand(2, 256, 14), RaySpan(0.88, 1.12)
    coarse = depth_from_fraction(line, span)
    found = density(coarse)
    weights = volume_weights(found, coarse, ray_norm=rays.directions.norm(dim=-1)).weights
    edges = (line[..., 1:] + line[..., :-1]) / 2
    fine = depth_from_fraction(importance_sample(edges, weights[..., 1:-1], line), span)
    # densities have a standard deviation of 14, and a fine position may move by 1e-4 where the ray is all but empty
    assert_image_close("coarse", found, f[f"{run}/sigma_raw_coarse"])
    assert_image_close("fine", density(fine), f[f"{run}/sigma_raw_fine"], mean_tol=1e-3, max_tol=0.3)
    both = torch.cat([density(fine), found], dim=-1)
    assert_image_close("used in the run", fore.density.sort(-1).values, both.sort(-1).values)

    unit = torch.nn.functional.normalize(rays.directions, dim=-1)
    depths = torch.linspace(-0.5, 0, 4).expand(2, 256, 4)
    points = inverted_sphere_points(rays.origins, unit, -depths).flatten(1, 2)
    behind = evaluate_field(points, volume.background.trunk(ws, f["z_shape_bg"]))[1].view_as(depths)
    assert_image_close("background", behind, f[f"{run}/sigma_raw_bg"])


def test_reference_rays() -> None:
    f = reference()[0]
    rays = camera_of(f, "a1_c").rays(pixel_grid(16))
    assert_relative("pixels", pixel_grid(16).expand(2, -1, -1), f["a1_c/vol_pixels"])
    assert_relative("directions", rays.directions, f["a1_c/ray_vector"])
    assert_relative("origins", rays.origins, f["a1_c/camera_world"])
    assert_relative("at depth 1", rays.origins + rays.directions, f["a1_c/pixels_world"])


def test_reference_poses() -> None:
    f, prior = reference()[0], camera_prior_from_official(json.loads(reference()[0].text("meta/config_json")))
    for name, run in (("c", "a1_c"), ("o", "a1_o")):
        u, v, r = f[f"camera_mode/{name}"].tolist()
        assert_relative(name, prior.at(u, v, r).cam2world.expand(2, -1, -1), f[f"{run}/world_mat"])
    assert_relative("random", prior.at(*f["camera_mode/r_uvr"].unbind(1)).cam2world, f["a1_r/world_mat"])
    assert_relative("view", prior.at(0.5, 0.5).tan_half_fov, camera_of(f, "a1_c").tan_half_fov[:1])
    assert f["theta03_c/theta"].item() == pytest.approx(RUNS["theta03_c"]["roll_rad"])


STYLES: dict[str, dict[str, Any]] = {
    "ws": {},
    "ws_trunc07": {"truncation_psi": 0.7},
    "ws_trunc07_cut5": {"truncation_psi": 0.7, "truncation_cutoff": 5},
}


@pytest.mark.parametrize("name", STYLES)
def test_reference_styles(name: str) -> None:
    f, g = reference()
    assert g.synthesis.num_ws == f["meta/num_ws"]
    assert_relative(name, g.mapping(f["z"], **STYLES[name]), f[name])


@pytest.mark.parametrize("run", at_hand(FIXTURE, HALF, "img"))
def test_half_precision(run: str) -> None:
    f, g = reference()
    size = 1 if run == "fp16_b1_c" else 2
    cameras, options = camera_of(f, run), RenderOptions(alpha=float(f[f"{run}/alpha"]), precision="fp16")
    parts = [slice(i, i + size) for i in range(0, 2, size)]
    half = torch.cat(
        [g.synthesis(f["ws"][p], cameras[p], z_bg=f["z_shape_bg"][p], options=options).image for p in parts]
    )

    def mean_and_max(a: Tensor, b: Tensor) -> tuple[float, float]:
        return (a - b).abs().mean().item(), (a - b).abs().max().item()

    public, single = f[f"{run}/img"], f["a1_c/img"]
    ours, theirs, apart = mean_and_max(half, single), mean_and_max(public, single), mean_and_max(half, public)
    assert ours[0] > 1e-4, "half precision leaves no trace: was it used?"
    assert ours[0] <= 2 * theirs[0] and ours[1] <= 2 * theirs[1]
    # independent errors of that size lie root 2 apart
    assert apart[0] <= 1.5 * theirs[0] and apart[1] <= 1.5 * theirs[1]


@pytest.mark.parametrize("edge", [8, 16, 32])
def test_blending_enlarges_bilinearly(edge: int) -> None:
    f = load_fixture("units.npz")
    image = f["resize/img"]
    # at a blend of 0 only the enlarged previous level shows
    shown = _blend([image, torch.zeros(2, 3, edge, edge)], replace(growth_at(1, 8, 8, 64), blend=0.0), enlarge=True)
    assert_relative(f"up{edge}", shown, f[f"resize/up{edge}"])


def tiny(**changes: Any) -> Generator:
    return seeded(lambda: Generator(tiny_generator_config(**changes))).eval()


def styles(g: Generator, n: int = 2) -> Tensor:
    return torch.randn(n, g.synthesis.num_ws, g.cfg.w_dim, generator=source(1))


Z_BG = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))


def test_same_latents_same_image_whatever_the_random_state() -> None:
    g, z = tiny(), torch.randn(2, 6, generator=source(0))
    images = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        images.append(g(z, cameras(2), z_bg=Z_BG).image)
    assert torch.equal(*images)


def test_background_code_comes_from_the_generator_given() -> None:
    g, z = tiny(), torch.randn(2, 6, generator=source(0))
    a, b, c = (g(z, cameras(2), generator=source(seed)).image for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    code = g.synthesis.draw_background(2, source(3))
    assert torch.equal(a, g(z, cameras(2), z_bg=code).image)


@pytest.mark.parametrize("kind", ["none", "styled"])
def test_other_backgrounds_need_no_code(kind: Any) -> None:
    g = tiny(background=replace(tiny_generator_config().background, kind=kind))
    assert g.synthesis.draw_background(2, source(0)) is None
    images = [g.synthesis(styles(g), cameras(2), generator=source(seed)).image for seed in (0, 1)]
    assert torch.equal(*images)


STAGES = {0.0: (4, 1), 0.25: (8, 2), 0.5: (16, 3), 0.75: (16, 3), 1.0: (16, 3)}


@pytest.mark.parametrize("alpha", STAGES)
def test_stages_of_growth(alpha: float) -> None:
    g = tiny()
    out = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(alpha=alpha))
    edge, count = STAGES[alpha]
    assert out.image.shape == (2, 3, edge, edge) and len(out.levels) == count
    assert out.features.shape == (2, 8, 4, 4) and out.depth.shape == out.opacity.shape == (2, 4, 4)
    f = out.growth.blend
    want = out.levels[-1]
    if f is not None:
        up = torch.nn.functional.interpolate(out.levels[-2], scale_factor=2, mode="bilinear", align_corners=False)
        want = (1 - f) * up + f * want
    torch.testing.assert_close(out.image, want)


def test_field_levels_are_rendered_not_blended() -> None:
    g = tiny(start_resolution=2)
    out = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(alpha=0.1))
    assert out.image.shape[-1] == 4 and out.growth.blend is None and torch.equal(out.image, out.image_raw)
    start = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(alpha=0.0))
    assert start.image.shape[-1] == 2


def test_buffer_is_the_default_of_alpha() -> None:
    g = tiny()
    g.synthesis.alpha.fill_(0.25)
    a = g.synthesis(styles(g), cameras(2), z_bg=Z_BG).image
    b = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(alpha=0.25)).image
    assert torch.equal(a, b) and "synthesis.alpha" in g.state_dict()


def test_the_host_knows_what_is_written_to_alpha() -> None:
    """By whom ever: a rendering on a device must not wait for it, and must not take an old value."""
    synthesis = tiny().synthesis
    synthesis.set_alpha(0.3)
    assert synthesis._stored_alpha() == synthesis.alpha.item() != 0.3  # as it is stored, in float32
    synthesis.alpha.fill_(0.5)
    assert synthesis._stored_alpha() == 0.5
    synthesis.load_state_dict(synthesis.state_dict() | {"alpha": torch.tensor(0.25)})
    assert synthesis._stored_alpha() == copy.deepcopy(synthesis)._stored_alpha() == 0.25
    synthesis.alpha = torch.tensor(0.75)
    assert synthesis._stored_alpha() == 0.75
    assert synthesis.to("meta")._stored_alpha() == 0.75  # where nothing can be read


def test_parts_add_up() -> None:
    g = tiny()
    with torch.no_grad():
        g.synthesis.volume.foreground.density.bias.fill_(2.0)
    out, back = (
        g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(alpha=0.0, parts=parts))
        for parts in ("all", "background")
    )
    fore, volume = out.volume.foreground, g.synthesis.volume
    assert fore is not None and volume.foreground.colour is not None
    total = fore.weights.sum(-1)
    front = volume.foreground.colour(volume.foreground.features(fore.hidden, total, styles(g)), total)
    behind = fore.transmittance[..., None] * back.volume.colours
    torch.testing.assert_close(out.volume.colours, front + behind)
    assert 0.05 < fore.transmittance.mean() < 0.95


@pytest.mark.parametrize("roll", [0.3, torch.tensor([0.3, 0.3])], ids=["number", "tensor"])
def test_roll_turns_the_rays(roll: Any) -> None:
    g, camera = tiny(), cameras(2)
    turned = g.synthesis(styles(g), camera, z_bg=Z_BG, options=RenderOptions(roll_rad=roll)).image_raw
    # turning pixels by the roll is turning the camera about its axis
    c, s = math.cos(0.3), math.sin(0.3)
    pose = camera.cam2world.clone()
    right, up = camera.cam2world[:, :, 0], camera.cam2world[:, :, 1]
    pose[:, :, 0], pose[:, :, 1] = c * right + s * up, c * up - s * right
    want = g.synthesis(styles(g), Camera(pose, camera.tan_half_fov), z_bg=Z_BG).image_raw
    torch.testing.assert_close(turned, want, atol=1e-4, rtol=1e-4)


def test_gradients_in_evaluation_mode() -> None:
    g = tiny()
    ws = styles(g).requires_grad_()
    camera = cameras(2)
    pose = camera.cam2world.clone().requires_grad_()
    g.synthesis(ws, Camera(pose, camera.tan_half_fov), z_bg=Z_BG).image.square().sum().backward()
    assert ws.grad is not None and (ws.grad.abs().amax((0, 2)) > 0).all()  # the field's rows among them
    assert pose.grad is not None and torch.isfinite(pose.grad).all() and pose.grad.abs().max() > 0


def test_space_is_the_field_configurations() -> None:
    def image(**changes: Any) -> Tensor:
        g = tiny(field=replace(tiny_generator_config().field, **changes))
        return g.synthesis(styles(g), cameras(2), z_bg=Z_BG).image

    plain = image()  # every sample lies inside the unit sphere
    torch.testing.assert_close(image(space="contracted"), plain)
    radial = [image(space="radial", centre=centre) for centre in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))]
    assert not torch.allclose(radial[0], plain) and not torch.allclose(*radial)


def test_density_bias_empties_a_new_field() -> None:
    def opacity(bias: float) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            g = Generator(tiny_generator_config(field=replace(tiny_generator_config().field, density_bias=bias))).eval()
        assert g.synthesis.volume.foreground.density.bias.item() == bias
        return g.synthesis(styles(g), cameras(2), z_bg=Z_BG).opacity

    full, thin = opacity(0.0), opacity(-1.5)  # the same weights otherwise
    assert (thin <= full).all() and thin.mean() < 0.5 * full.mean()


@pytest.mark.parametrize("hierarchical", [False, True])
def test_nothing_of_the_foreground_lies_outside_its_ball(hierarchical: bool) -> None:
    radius = 0.1
    field = replace(tiny_generator_config().field, bound_radius=radius, density_scale=50.0, hierarchical=hierarchical)
    g = tiny(field=field)
    camera, ws = CameraPrior(fov_deg=30).at(torch.tensor([0.3, 0.6]), torch.tensor([0.5, 0.2])), styles(g)
    out = g.synthesis(ws, camera, z_bg=Z_BG)
    rays = camera.rays(pixel_grid(out.depth.shape[-1]))
    through = torch.linalg.cross(rays.origins, rays.directions).norm(dim=-1) < radius * rays.directions.norm(dim=-1)
    fore = out.volume.foreground
    assert fore is not None and 0 < through.sum() < through.numel()
    assert (out.opacity.flatten(1)[~through] == 0).all() and (out.opacity.flatten(1)[through] > 0).any()
    points = rays.origins[:, :, None] + fore.depths[..., None] * rays.directions[:, :, None]
    assert (points[fore.weights > 0].norm(dim=-1) <= radius + 1e-5).all()
    alone = g.synthesis(ws, camera, z_bg=Z_BG, options=RenderOptions(parts="foreground"))
    torch.testing.assert_close(alone.opacity, out.opacity)  # no wall behind the ball either
    corner = torch.full((1, 1, 3), 2 * radius)
    assert g.synthesis.volume.extinction(ws[:1, : g.synthesis.volume.num_ws], corner).item() <= 0


def test_a_ball_needs_a_background() -> None:
    field = replace(tiny_generator_config().field, bound_radius=0.3)
    with pytest.raises(ValueError, match=r"^field.bound_radius must be null without a background"):
        tiny_generator_config(field=field, background=BackgroundConfig(kind="none"))


def test_render_samples_are_those_of_a_rendering_without_draws() -> None:
    g = tiny(field=replace(tiny_generator_config().field, samples=3, render_samples=7, hierarchical=True))
    camera, ws = cameras(2), styles(g)

    def count(**kwargs: Any) -> int:
        foreground = g.synthesis(ws, camera, z_bg=Z_BG, **kwargs).volume.foreground
        assert foreground is not None
        return foreground.depths.shape[-1] // 2

    assert count() == 7
    assert count(draws=g.synthesis.draw(2, source(0))) == 3
    assert count(options=RenderOptions(samples=4)) == 4
    pixels = pixel_grid(2)
    assert g.synthesis.strict(ws, camera, pixels, z_bg=Z_BG).depths.shape[-1] // 2 == 7
    g.synthesis.default_samples = 5
    assert count() == 5
    with pytest.raises(ValueError, match=r"^render_samples must be at least 3, got 2"):
        FieldConfig(render_samples=2)


def test_draws_make_a_step_repeatable() -> None:
    g = tiny()
    draws = [g.synthesis.draw(2, source(seed)) for seed in (5, 5, 6)]
    a, b, c = (g.synthesis(styles(g), cameras(2), z_bg=Z_BG, draws=d).image for d in draws)
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("kind", ["coded", "styled", "none"])
@pytest.mark.parametrize("hierarchical", [True, False])
def test_path_has_a_colour_per_sample(hierarchical: bool, kind: Any) -> None:
    base = tiny_generator_config()
    g = tiny(field=replace(base.field, hierarchical=hierarchical), background=replace(base.background, kind=kind))
    options = RenderOptions(path=True)
    draws = g.synthesis.draw(2, source(5), path=True)
    out = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=options, draws=draws)
    samples = (8 if hierarchical else 4) + (0 if kind == "none" else 3)
    assert out.path is not None and out.volume.path is not None
    assert out.path.samples.shape == (2, 3, samples, 4) and out.path.weights.shape == (2, 4, samples)
    torch.testing.assert_close(out.path.weights.sum(-1), torch.ones(2, 4), atol=1e-4, rtol=0)
    want = (out.path.samples * out.path.weights.mT[:, None]).sum(2)
    torch.testing.assert_close(out.path.colours, want)
    assert torch.equal(out.path.indices, out.volume.path.indices) and out.path.indices.max() < 16 * 16


def test_path_rays_are_pixels_of_the_image() -> None:
    # the lattice drawn at full size with the volume as large as the image meets the image's own rays
    base = tiny_generator_config()
    g = tiny(resolution=4)
    volume = g.synthesis.volume
    ws = styles(g)[:, : volume.num_ws]
    draws = replace(g.synthesis.draw(2, source(5)), coarse_jitter=None, coarse_noise=None, fine_u=None,
                    fine_noise=None, background_jitter=None, background_noise=None,
                    path_offset=torch.rand(2, 2, generator=source(0)))  # fmt: skip
    out = volume(ws, cameras(2), 4, z_bg=Z_BG, draws=draws)
    path = out.path
    assert path is not None and base.path_lattice == 2
    for name, want in (("colours", out.colours), ("features", out.features)):
        got = (getattr(path, name) * path.weights[..., None]).sum(2)
        index = path.indices[..., None].expand_as(got)
        torch.testing.assert_close(got, want.gather(1, index), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blend_path", [True, False])
def test_path_blends_like_the_image_if_asked(blend_path: bool) -> None:
    g = tiny()
    draws = g.synthesis.draw(2, source(5), alpha=0.75, path=True)

    def path(alpha: float) -> Tensor:
        options = RenderOptions(alpha=alpha, path=True, blend_path=blend_path)
        out = g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=options, draws=draws).path
        assert out is not None
        return out.samples

    newest = path(1.0)
    assert torch.equal(path(0.75), newest) is not blend_path


def test_path_needs_a_working_upsampler() -> None:
    g = tiny()
    possible = {alpha: g.synthesis.path_possible(g.synthesis.growth(alpha)) for alpha in (0.0, 0.25, 1.0)}
    assert possible == {0.0: False, 0.25: True, 1.0: True}
    assert not tiny(path_lattice=0).synthesis.path_possible(growth_at(1, 4, 4, 16))
    assert not tiny(path_lattice=32).synthesis.path_possible(growth_at(1, 4, 4, 16))
    draws = g.synthesis.draw(2, source(5), alpha=0.0, path=True)
    assert draws.path_offset is None and draws.coarse_jitter is not None and draws.coarse_jitter.shape == (2, 16, 4)


@pytest.mark.parametrize("kind", ["coded", "styled", "none"])
@pytest.mark.parametrize("edge", [5, 33])
def test_odd_volumes_are_finite(edge: int, kind: Any) -> None:
    base = tiny_generator_config().background
    g = tiny(resolution=2 * edge, volume_resolution=edge, start_resolution=edge, background=replace(base, kind=kind))
    out = g.synthesis(styles(g), cameras(2), z_bg=Z_BG if kind == "coded" else None)
    assert torch.isfinite(out.image).all() and out.image.shape == (2, 3, 2 * edge, 2 * edge)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_concerns_the_finer_blocks(precision: Any) -> None:
    g = tiny()
    single, low = (
        g.synthesis(styles(g), cameras(2), z_bg=Z_BG, options=RenderOptions(precision=p)) for p in ("fp32", precision)
    )
    assert torch.equal(single.levels[1], low.levels[1]) and not torch.equal(single.image, low.image)
    assert low.image.dtype == torch.float32
    torch.testing.assert_close(low.image, single.image, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "resolution, millions, rows", [(64, 4.17, 13), (256, 5.26, 17), (512, 5.41, 19), (1024, 5.48, 21)]
)
def test_sizes_of_the_released_models(resolution: int, millions: float, rows: int) -> None:
    g = Generator(GeneratorConfig(resolution=resolution))
    assert sum(p.numel() for p in g.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert g.synthesis.num_ws == g.mapping.num_ws == rows


G = tiny()
WS = styles(G)
PLAIN = tiny(upsampler=replace(tiny_generator_config().upsampler, kernel_size=3))
BAD: dict[str, tuple[str, Callable[[], Any]]] = {
    "rows": (r"ws must be \[B, 9, 5\], got \[2, 8, 5\]", lambda: G.synthesis(WS[:, 1:], cameras(2))),
    "cameras": ("camera must hold B=2 cameras, got 3", lambda: G.synthesis(WS, cameras(3))),
    "code": (r"z_bg must be \[B, 3\], got \[2, 2\]", lambda: G.synthesis(WS, cameras(2), z_bg=Z_BG[:, 1:])),
    "alpha": ("alpha must be between 0 and 1, got -1", lambda: G.synthesis.growth(-1)),
    "path": (
        "options.path needs an upsampler of 1x1 layers",
        lambda: PLAIN.synthesis(WS, cameras(2), options=RenderOptions(path=True)),
    ),
    "draws": (
        r"draws must be for B images of R rays \[2, 16\], got \[2, 20\]",
        lambda: G.synthesis(WS, cameras(2), draws=G.synthesis.draw(2, source(0), path=True)),
    ),
    "resolution": (
        "resolution must be volume_resolution times a power of two, got 24 from 4",
        lambda: tiny_generator_config(resolution=24),
    ),
    "volume": (
        "volume_resolution and start_resolution must be positive, got 0",
        lambda: tiny_generator_config(volume_resolution=0),
    ),
    "start": (
        r"start_resolution must be at most volume_resolution \(4\), got 8",
        lambda: tiny_generator_config(start_resolution=8),
    ),
    "width": ("w_dim must be at least 1, got 0", lambda: tiny_generator_config(w_dim=0)),
    "lattice": ("path_lattice must be at least 0, got -1", lambda: tiny_generator_config(path_lattice=-1)),
    "samples": ("samples must be at least 3, got 2", lambda: FieldConfig(samples=2)),
    "near": ("0 < near < far, got 2 and 1", lambda: FieldConfig(near=2, far=1)),
    "density": ("density_scale must be positive, got 0", lambda: FieldConfig(density_scale=0)),
    "start of background": (r"start must be in \(0, 1\], got 1.5", lambda: BackgroundConfig(start=1.5)),
    "background samples": ("samples must be at least 2, got 1", lambda: BackgroundConfig(samples=1)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    text, call = BAD[name]
    with pytest.raises(ValueError, match=text):
        call()
