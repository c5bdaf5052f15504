"""The whole generator: every run of the reference numbers, determinism, growth, draws, sizes, errors."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.importance import importance_sample
from kernels.rays import RaySpan, depth_from_fraction, evaluate_field
from kernels.volume import volume_weights
from models.camera import Camera, pixel_grid
from models.config import BackgroundConfig, FieldConfig, GeneratorConfig
from models.generator import Generator, Rendered, RenderOptions
from models.growth import growth_at
from models.official import camera_prior_from_official, generator_from_official
from models.sampling import inverted_sphere_points
from tests.closeness import assert_image_close, assert_relative
from tests.conftest import Fixture, load_fixture
from tests.inputs import cameras, seeded, source, tiny_generator_config

FIXTURE = "gen_ffhq_tiny.npz"
# what each run asks for beyond its own growth and camera; alpha -1 is full growth with more samples
RUNS: dict[str, dict[str, Any]] = {
    "a1_c": {},
    "a1_o": {},
    "a1_r": {},
    "a0_c": {},
    "a025_c": {},
    "a05_o": {},
    "a075_o": {},
    "trunc07_c": {},
    "am1_c": {"alpha": 1.0, "samples": 20},
    "nobg_c": {"parts": "foreground"},
    "onlybg_c": {"parts": "background"},
    "theta03_c": {"roll_rad": 0.3},
    "steps8_c": {"samples": 8},
}
HALF = ("fp16_b1_c", "fp16_b2_c")
WAYS: dict[str, Callable[[Rendered], Any]] = {
    "img": lambda out: out.image,
    "img_nerf": lambda out: out.image_raw,
    "feat": lambda out: out.features,
    "fg_weights": lambda out: out.volume.foreground.weights,
    "fg_depths": lambda out: out.volume.foreground.depths,
    "fg_di": lambda out: out.volume.foreground.fractions,
    "bg_weights": lambda out: out.volume.background.weights,
    "bg_depths": lambda out: out.volume.background.depths,
    "bg_lambda": lambda out: out.volume.foreground.transmittance,
    "b32_img": lambda out: out.levels[1],
    "b64_img": lambda out: out.levels[2],
}
GIVEN = ("alpha", "camera_mat", "world_mat")
TAPS = tuple(f"b{edge}_x_{part}" for edge in (32, 64) for part in ("s0", "c2", "s0c2"))
RAW = ("sigma_raw_coarse", "sigma_raw_fine", "sigma_raw_bg", "vol_pixels", "pixels_world", "camera_world", "ray_vector")
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


@cache
def reference() -> tuple[Fixture, Generator]:
    f = load_fixture(FIXTURE)
    return f, generator_from_official(json.loads(f.text("meta/config_json")), f.state("sd/"))


def camera_of(f: Fixture, run: str) -> Camera:
    return Camera(f[f"{run}/world_mat"], f[f"{run}/camera_mat"][:, [0, 1], [0, 1]])


@cache
def rendered(run: str) -> tuple[Rendered, dict[str, Tensor]]:
    """A run's output and the features after every block."""
    f, g = reference()
    options = RenderOptions(**{"alpha": float(f[f"{run}/alpha"]), **RUNS[run]})
    taps: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, name=name: taps.__setitem__(name, out[0]))
        for name, block in g.synthesis.upsampler.blocks.items()
    ]
    ws = f["ws_trunc07" if run.startswith("trunc") else "ws"]
    out = g.synthesis(ws, camera_of(f, run), z_bg=f["z_shape_bg"], options=options)
    for hook in hooks:
        hook.remove()
    return out, taps


@pytest.mark.parametrize("run", RUNS)
def test_reference_numbers(run: str) -> None:
    f = reference()[0]
    out, taps = rendered(run)
    names = [name for name in f.keys(f"{run}/") if name not in (*GIVEN, *RAW, "theta")]
    assert "img" in names
    for name in names:
        if name in TAPS:
            block, part = name.split("_x_")
            got = taps[block][: 1 if "s0" in part else None, : 2 if "c2" in part else None]
        else:
            got = WAYS[name](out)
        assert_image_close(name, got, f[f"{run}/{name}"])


def test_reference_densities() -> None:
    f, g = reference()
    out, ws = rendered("a1_c")[0], f["ws"][:, : g.synthesis.volume.num_ws]
    fore, volume = out.volume.foreground, g.synthesis.volume
    assert fore is not None and volume.background is not None
    rays = camera_of(f, "a1_c").rays(pixel_grid(16))

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
    assert_image_close("coarse", found, f["a1_c/sigma_raw_coarse"])
    assert_image_close("fine", density(fine), f["a1_c/sigma_raw_fine"], mean_tol=1e-3, max_tol=0.3)
    both = torch.cat([density(fine), found], dim=-1)
    assert_image_close("used in the run", fore.density.sort(-1).values, both.sort(-1).values)

    unit = torch.nn.functional.normalize(rays.directions, dim=-1)
    depths = torch.linspace(-0.5, 0, 4).expand(2, 256, 4)
    points = inverted_sphere_points(rays.origins, unit, -depths).flatten(1, 2)
    behind = evaluate_field(points, volume.background.trunk(ws, f["z_shape_bg"]))[1].view_as(depths)
    assert_image_close("background", behind, f["a1_c/sigma_raw_bg"])


def test_reference_rays() -> None:
    f = reference()[0]
    rays = camera_of(f, "a1_c").rays(pixel_grid(16))
    assert_relative("pixels", pixel_grid(16).expand(2, -1, -1), f["a1_c/vol_pixels"])
    assert_relative("directions", rays.directions, f["a1_c/ray_vector"])
    assert_relative("origins", rays.origins, f["a1_c/camera_world"])
    assert_relative("at depth 1", rays.origins + rays.directions, f["a1_c/pixels_world"])
