"""Radiance fields: reference numbers, hand-computed values, heads after aggregation, gradients, errors."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylenerf.kernels.rays.mlp import modulated_mlp
from stylenerf.kernels.rays.render import RayFeatures, evaluate_field, render_rays
from stylenerf.kernels.rays.volume import composite
from stylenerf.models.field import CodedField, ColourHead, Field, ModulatedLayer, StyledField
from stylenerf.models.official import field_name
from stylenerf.models.renderer import VolumeRenderer
from stylenerf.models.upsampler import ToRGB
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import FIELD_CASES, cameras, make_draws, make_rays, seeded, source, tiny_generator_config
from tests.ray_runs import SPANS

NERF = {"fg": "ws", "bg": "z_shape", "fg_skip_ema": "ws"}
COMPARED = {
    "units.npz": [
        *(
            f"nerf/{case}/{field}"
            for case in NERF
            for field in ("sd/*", "points", "hws", "feat", "sigma_raw", NERF[case])
        ),
        *("style2/w/sd/*", "style2/w/in0", "style2/w/in1", "style2/w/out_eval"),
        *("style2/now/sd/*", "style2/now/in0", "style2/now/out_eval"),
        *("torgb/w/sd/*", "torgb/w/in0", "torgb/w/in1", "torgb/w/out_fused", "torgb/w/out_unfused"),
        *(f"torgb/{case}/{field}" for case in ("now", "now_2d") for field in ("sd/*", "in0", "out_y")),
    ]
}
W_DIM = 5


def load(module: nn.Module, state: dict[str, Tensor], rename: Callable[[str], str | None] = field_name) -> None:
    """Every name must be met; 1x1 convolutions become matrices."""
    own = module.state_dict()
    named = {ours: value for name, value in state.items() if (ours := rename(name)) is not None}
    module.load_state_dict({name: value.reshape(own[name].shape) for name, value in named.items()})


def layer_name(name: str) -> str | None:
    """The public name of a lone layer's tensor to ours."""
    return None if name == "resample_filter" else name.replace("w_avg", "magnitude")


def per_pixel(image: Tensor) -> Tensor:
    """[N, C, H, W] to [N, H W, C]."""
    return image.flatten(2).mT


def build(case: str) -> tuple[Field, Tensor, Tensor | None]:
    """A field of the reference numbers, its styles and its code."""
    f = load_fixture("units.npz")
    state, given = f.state(f"nerf/{case}/sd/"), f[f"nerf/{case}/{NERF[case]}"]
    hidden, features = state["fc_in.weight"].shape[0], state["feat_out.weight"].shape[0]
    depth = 1 + sum(name.startswith("blocks") and name.endswith(".bias") and "affine" not in name for name in state)
    dims, encoded = f[f"nerf/{case}/points"].shape[-1], state["fc_in.weight"].shape[1]
    field: Field
    if case == "bg":
        width = given.shape[1]
        freqs = (encoded - width) // (2 * dims)
        field = CodedField(width, hidden=hidden, depth=depth, features=features, num_freqs=freqs)
        load(field, state)
        return field.eval(), torch.zeros(len(given), 0, 1), given
    field = StyledField(
        given.shape[2],
        hidden=hidden,
        depth=depth,
        features=features,
        num_freqs=encoded // (2 * dims),
        skips=(3,) if case == "fg_skip_ema" else (),
        track_magnitude=case == "fg_skip_ema",
    )
    load(field, state)
    return field.eval(), given, None


@pytest.mark.parametrize("case", NERF)
def test_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    field, ws, z = build(case)
    points = f[f"nerf/{case}/points"]
    assert points.shape[1] == f[f"nerf/{case}/hws"].prod()
    hidden, density = evaluate_field(points, field.trunk(ws, z))
    one = torch.ones_like(density)
    features = field.features(hidden, one, ws)
    assert field.colour is not None
    assert_relative("density", density[..., None], f[f"nerf/{case}/sigma_raw"])
    got = torch.cat([field.colour(features, one), features], dim=-1)
    assert_relative("features", got, f[f"nerf/{case}/feat"])


def test_styled_layer_reference_numbers() -> None:
    f = load_fixture("units.npz")
    layer = ModulatedLayer(6, 8, 10, demodulate=True, track_magnitude=True)
    load(layer, f.state("style2/w/sd/"), layer_name)
    x, w, want = f["style2/w/in0"], f["style2/w/in1"], f["style2/w/out_eval"]
    rows = x.unflatten(0, (len(w), -1))  # sample n has the style of row n // 3
    got = modulated_mlp(rows.permute(0, 1, 3, 4, 2).flatten(1, 3), [layer.weights(w)], [layer.bias])
    assert_relative("out", got.unflatten(1, (-1, 36)).flatten(0, 1), per_pixel(want))


def test_plain_layer_reference_numbers() -> None:
    f = load_fixture("units.npz")
    state = f.state("style2/now/sd/")
    got = modulated_mlp(
        per_pixel(f["style2/now/in0"]), [state["weight"]], [state["bias"]], gain=1.0, negative_slope=0.0
    )
    assert_relative("out", got, per_pixel(f["style2/now/out_eval"]))


@pytest.mark.parametrize("case", ["now", "now_2d"])
def test_plain_head_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    field = CodedField(1, hidden=6, depth=1, features=3)
    load(field.feature, f.state(f"torgb/{case}/sd/"), layer_name)
    x, want = f[f"torgb/{case}/in0"], f[f"torgb/{case}/out_y"]
    if case == "now":
        x, want = per_pixel(x), per_pixel(want)
    assert_relative("out", field.features(x, torch.ones(x.shape[:-1]), torch.zeros(2, 0, 1)), want)


def test_styled_rgb_reference_numbers() -> None:
    f = load_fixture("units.npz")
    head = ToRGB(6, 10, clamp=0.8)
    head.load_state_dict({n: v for n, v in f.state("torgb/w/sd/").items() if n != "resample_filter"})
    got = head(f["torgb/w/in0"], f["torgb/w/in1"])
    for form in ("fused", "unfused"):
        assert_relative(form, got, f[f"torgb/w/out_{form}"])


def test_layer_hand_computed() -> None:
    layer = ModulatedLayer(2, 1, 1, demodulate=True, track_magnitude=True).double()
    layer.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1), "magnitude": torch.tensor(4.0),
                           "affine.weight": torch.tensor([[1.0], [0.0]]), "affine.bias": torch.ones(2)})  # fmt: skip
    # styles (1 + w, 1) = (3, 1): (9, 4) / sqrt 97, and half of it as the input is divided by sqrt 4
    want = torch.tensor([[[9.0, 4.0]]], dtype=torch.float64) / math.sqrt(97) / 2
    torch.testing.assert_close(layer.weights(torch.full((1, 1), 2.0, dtype=torch.float64)), want, atol=1e-9, rtol=0)


def test_head_layer_hand_computed() -> None:
    layer = ModulatedLayer(4, 1, 1, demodulate=False).double()
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "bias": torch.zeros(1),
                           "affine.weight": torch.zeros(4, 1), "affine.bias": torch.full((4,), 3.0)})  # fmt: skip
    # style 3 over sqrt 4
    got = layer.weights(torch.zeros(1, 1, dtype=torch.float64))
    torch.testing.assert_close(got, 1.5 * torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=torch.float64))


def test_colour_head_hand_computed() -> None:
    head = ColourHead(4, 1).double()
    head.load_state_dict({"weight": torch.ones(1, 4), "bias": torch.tensor([10.0])})
    # (1 + 2 + 3 + 4) / sqrt 4, and the bias as often as there is weight
    got = head(torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    assert got.item() == pytest.approx(5 + 5)


def styled(**changes: Any) -> StyledField:
    options = {"hidden": 7, "depth": 3, "features": 6, "num_freqs": 3, **changes}
    return seeded(lambda: StyledField(W_DIM, **options)).double()


def styles(rows: int) -> Tensor:
    return torch.randn(2, rows, W_DIM, generator=source(1), dtype=torch.float64)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("end", ["open", "opaque"])
def test_heads_after_aggregation_equal_heads_before(end: Any, fine: bool) -> None:
    field, ws = styled(), styles(5)
    shape = FIELD_CASES["odd"]
    draws = make_draws(shape)
    draws = draws if fine else replace(draws, fine_u=None, fine_noise=None)
    span, rays, trunk = replace(SPANS["linear"], far_end=end), make_rays(shape), field.trunk(ws)

    def shade(hidden: Tensor, total: Tensor) -> Tensor:
        features = field.features(hidden, total, ws)
        assert field.colour is not None
        return torch.cat([field.colour(features, total), features], dim=-1)

    out = render_rays(*rays, trunk, span, draws=draws)
    late = shade(out.hidden, out.weights.sum(-1))
    each = render_rays(*rays, trunk, span, draws=draws, sample_rays=shape.rays).sample_hidden
    assert each is not None
    early = composite(out.weights, shade(each, torch.ones_like(out.weights)))
    torch.testing.assert_close(late, early, atol=1e-12, rtol=1e-12)


def test_coded_heads_after_aggregation_equal_heads_before() -> None:
    field = seeded(lambda: CodedField(3, hidden=7, depth=2, features=6, num_freqs=2)).double()
    g = source(2)
    hidden = torch.randn(2, 5, 4, 7, generator=g, dtype=torch.float64)
    weights = torch.rand(2, 5, 4, generator=g, dtype=torch.float64)
    none = torch.zeros(2, 0, W_DIM, dtype=torch.float64)
    late = field.features(composite(weights, hidden), weights.sum(-1), none)
    early = composite(weights, field.features(hidden, torch.ones_like(weights), none))
    torch.testing.assert_close(late, early, atol=1e-12, rtol=1e-12)


def test_code_enters_like_extra_coordinates() -> None:
    field = seeded(lambda: CodedField(3, hidden=7, depth=2, features=6, num_freqs=2)).double()
    g = source(3)
    z, points = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 3), (2, 9, 4)))
    hidden, density = evaluate_field(points, field.trunk(torch.zeros(2, 0, 1), z))
    angles = torch.cat([f(2**i * math.pi * points) for i in range(2) for f in (torch.sin, torch.cos)], dim=-1)
    want = torch.cat([angles, z[:, None].expand(-1, 9, -1)], dim=-1)
    for layer in field.layers:
        want = torch.relu(layer(want))
    torch.testing.assert_close(hidden, want)
    torch.testing.assert_close(density, field.density(want)[..., 0])


def test_rows_of_ws() -> None:
    field = styled(depth=3)
    base = styles(5)
    assert field.num_ws == 5
    points = torch.rand(2, 4, 3, generator=source(4), dtype=torch.float64)

    def outputs(ws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, density = evaluate_field(points, field.trunk(ws))
        return hidden, density, field.features(torch.ones_like(hidden), torch.ones_like(density), ws)

    before = outputs(base)
    changes = []
    for row in range(5):
        ws = base.clone()
        ws[:, row] += 1
        changes.append(tuple(not torch.equal(a, b) for a, b in zip(outputs(ws), before)))
    layer, density, feature = (True, True, False), (False, True, False), (False, False, True)
    assert changes == [layer, layer, layer, density, feature]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["coded", "styled"])
def test_gradients_reach_every_parameter(kind: Any, training: bool) -> None:
    base = tiny_generator_config()
    cfg = replace(base, background=replace(base.background, kind=kind))
    volume = seeded(lambda: VolumeRenderer(cfg)).train(training)
    ws = torch.randn(2, volume.num_ws, cfg.w_dim, generator=source(1)).requires_grad_()
    z_bg = torch.randn(2, 3, generator=source(2)).requires_grad_()
    with torch.no_grad():
        volume.foreground.density.bias.fill_(1.0)  # so that both the foreground and what is behind it are seen
    out = volume(ws, cameras(2), 5, z_bg=z_bg if kind == "coded" else None)
    assert torch.isfinite(out.colours).all()
    (out.colours.square().sum() + out.features.square().sum()).backward()
    silent = [name for name, p in volume.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent
    assert ws.grad is not None and ws.grad.abs().amax((0, 2)).min() > 0
    assert kind == "styled" or (z_bg.grad is not None and z_bg.grad.abs().min() > 0)


def test_styled_background_shares_the_colour_head() -> None:
    base = tiny_generator_config()
    volume = seeded(lambda: VolumeRenderer(replace(base, background=replace(base.background, kind="styled"))))
    assert isinstance(volume.background, StyledField) and volume.background.colour is None
    ws = torch.randn(2, volume.num_ws, base.w_dim, generator=source(1))
    out = volume(ws, cameras(2), 4, parts="background")
    back = out.background
    assert isinstance(back, RayFeatures) and volume.foreground.colour is not None
    features = volume.background.features(back.hidden, back.weights.sum(-1), ws)
    torch.testing.assert_close(out.colours, volume.foreground.colour(features, back.weights.sum(-1)))


def test_depth_and_opacity() -> None:
    base = tiny_generator_config()
    volume = seeded(lambda: VolumeRenderer(base))
    ws = torch.randn(2, volume.num_ws, base.w_dim, generator=source(1))
    z_bg = torch.zeros(2, 3)
    for bias, opacity, depth in ((-1e4, 0.0, 1.5), (1e6, 1.0, 0.5)):  # nothing: the far end; a wall: the near end
        with torch.no_grad():
            volume.foreground.density.bias.fill_(bias)
        out = volume(ws, cameras(2), 3, z_bg=z_bg)
        torch.testing.assert_close(out.opacity, torch.full_like(out.opacity, opacity), atol=1e-4, rtol=0)
        torch.testing.assert_close(out.depth, torch.full_like(out.depth, depth), atol=1e-3, rtol=0)


@pytest.mark.parametrize("edge", [5, 33])
@pytest.mark.parametrize("kind", ["coded", "styled", "none"])
def test_odd_grids_of_a_centred_camera_are_finite(kind: Any, edge: int) -> None:
    base = tiny_generator_config()
    cfg = replace(base, background=replace(base.background, kind=kind))
    volume = seeded(lambda: VolumeRenderer(cfg))
    ws = torch.randn(2, volume.num_ws, cfg.w_dim, generator=source(1)).requires_grad_()
    out = volume(ws, cameras(2), edge, z_bg=torch.zeros(2, 3) if kind == "coded" else None)
    assert torch.isfinite(out.colours).all() and torch.isfinite(out.features).all()
    (grad,) = torch.autograd.grad(out.colours.square().sum(), ws)
    assert torch.isfinite(grad).all()


def test_errors() -> None:
    coded = CodedField(3, hidden=4, depth=1, features=2)
    with pytest.raises(ValueError, match=r"z_bg must be \[B, 3\], got None"):
        coded.trunk(torch.zeros(2, 0, 1))
    with pytest.raises(ValueError, match=r"z_bg must be \[B, 3\], got \[2, 4\]"):
        coded.trunk(torch.zeros(2, 0, 1), torch.zeros(2, 4))
    with pytest.raises(RuntimeError, match="can be evaluated but not trained"):
        StyledField(W_DIM, hidden=4, depth=2, features=2, track_magnitude=True).trunk(torch.zeros(1, 4, W_DIM))
    base = tiny_generator_config()
    volume = VolumeRenderer(replace(base, background=replace(base.background, kind="none")))
    with pytest.raises(ValueError, match="parts='background' needs a generator with a background"):
        volume(torch.zeros(1, volume.num_ws, W_DIM), cameras(1), 4, parts="background")
