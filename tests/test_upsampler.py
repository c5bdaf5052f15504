"""The 2-D half: reference numbers of layers and blocks, magnitude, noise, the NeRF path, errors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.models.config import UpsamplerConfig
from stylenerf.models.upsampler import BlockOptions, SynthesisBlock, SynthesisLayer, Upsampler
from tests.inputs import make_image, seeded, source
from tests.recorded.upsampler import (
    BLOCKS,
    LAYERS,
    NOISY,
    PLAIN,
    W_DIM,
    compare_block,
    compare_layer,
    compare_magnitude,
    compare_noise,
    compare_repeated_styles,
)

COMPARED = {
    "units.npz": [
        *(f"synlayer/{case}/{field}" for case in [*LAYERS, "plain_k3_up1"]
          for field in ("sd/*", "in0", "in1", "out_fused", "out_unfused")),
        *(f"synlayer/{case}/{field}" for case in LAYERS for field in ("out_gain", "out_skip_up")),
        *(f"synlayer/{case}/{field}" for case in NOISY for field in ("sd/*", "in0", "in1", *NOISY[case])),
        *(f"synlayer/train_ema/{field}" for field in ("sd/*", "in0", "in1", "out", "w_avg_after")),
        *(f"synlayer/repeat_styles_up1/{field}" for field in ("sd/*", "in0", "in1", "out_y")),
        *(f"synblock/{case}/{field}" for case in BLOCKS for field in ("sd/*", "x", "ws", "x_out", "img_out")),
        *(f"synblock/{case}/img" for case in BLOCKS if case != "resnet_default"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("case", [*LAYERS, "plain_k3_up1"])
def test_layer_reference_numbers(case: str) -> None:
    compare_layer(case)


@pytest.mark.parametrize("case, output", [(case, output) for case in NOISY for output in NOISY[case]])
def test_noise_reference_numbers(case: str, output: str) -> None:
    compare_noise(case, output)


def test_magnitude_reference_numbers() -> None:
    compare_magnitude()


def test_repeated_styles_reference_numbers() -> None:
    compare_repeated_styles()


@pytest.mark.parametrize("case", BLOCKS)
def test_block_reference_numbers(case: str) -> None:
    compare_block(case)


def small_layer(*, up: bool = True, **options: Any) -> SynthesisLayer:
    cfg = UpsamplerConfig(**options)
    return seeded(lambda: SynthesisLayer(4, 8, W_DIM, 12, cfg, up=up)).eval()


def styles(rows: int = 2, *, per_block: int = 0) -> Tensor:
    shape = (rows, per_block, W_DIM) if per_block else (rows, W_DIM)
    return torch.randn(shape, generator=source(1))


def test_layer_hand_computed() -> None:
    net = SynthesisLayer(1, 1, 1, 1, UpsamplerConfig(clamp=None), up=False).double().eval()
    one = torch.ones(1)
    state = {"weight": -7 * one.view(1, 1, 1, 1), "bias": -one, "magnitude": torch.tensor(4.0)}
    net.load_state_dict(state | {"affine.weight": torch.zeros(1, 1), "affine.bias": one})
    # 6 / sqrt 4 = 3; a lone demodulated weight is its sign; -3 - 1 = -4, leaky 0.2, gain sqrt 2
    got = net(torch.full((1, 1, 1, 1), 6.0, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), PLAIN)
    assert got.item() == pytest.approx(-0.8 * math.sqrt(2), abs=1e-7)


def test_magnitude_moves_before_it_divides() -> None:
    net = small_layer(up=False, magnitude_decay=0.75).train()
    start, x = net.magnitude.clone(), make_image((2, 4, 3, 3))
    net(x, styles(), PLAIN)
    torch.testing.assert_close(net.magnitude, 0.75 * start + 0.25 * x.square().mean())
    moved = net.magnitude.clone()
    net.eval()(x, styles(), PLAIN)
    assert torch.equal(net.magnitude, moved)


def test_magnitude_may_move_twice_before_the_backward() -> None:
    net = small_layer(up=False).train()
    x = make_image((2, 4, 3, 3)).requires_grad_()
    (net(x, styles(), PLAIN).square().mean() + net(2 * x, styles(), PLAIN).square().mean()).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_without_magnitude_nothing_is_kept() -> None:
    assert not [name for name, _ in small_layer(magnitude_decay=None).named_buffers() if name != "blur"]


@pytest.mark.parametrize("mode", ["default", "nn_cat"])
@pytest.mark.parametrize("up", [False, True])
def test_noise_modes(mode: str, up: bool) -> None:
    net, x, w = (
        small_layer(up=up, mode=mode, noise=True),
        make_image((2, 4, 6 if up else 12, 6 if up else 12)),
        styles(),
    )

    def run(noise: Any, seed: int = 0, enlarge: bool = True) -> Tensor:
        return net(x, w, BlockOptions(noise=noise, enlarge=enlarge, generator=source(seed)))

    assert torch.equal(run("const"), run("const", 1))
    assert torch.equal(run("random"), run("random")) and not torch.equal(run("random"), run("random", 1))
    assert not torch.equal(run("none"), run("const"))
    assert torch.equal(run("const", enlarge=False), run("none", enlarge=False))  # the NeRF path takes none


def block(architecture: Any, *, is_last: bool, mode: str = "nn_cat") -> SynthesisBlock:
    cfg = UpsamplerConfig(architecture=architecture, mode=mode)
    return seeded(lambda: SynthesisBlock(4, 8, W_DIM, 8, cfg, is_last=is_last)).eval()


@pytest.mark.parametrize("architecture, is_last, has_rgb", [("skip", False, True), ("resnet", False, False),
                                                            ("orig", False, False), ("orig", True, True)])  # fmt: skip
def test_where_rgb_is_read(architecture: str, is_last: bool, has_rgb: bool) -> None:
    net = block(architecture, is_last=is_last)
    x, image = net(make_image((2, 4, 4, 4)), None, styles(per_block=3), PLAIN)
    assert x.shape == (2, 8, 8, 8) and (image is not None) == has_rgb


def test_image_adds_up() -> None:
    net, ws, x = block("skip", is_last=True), styles(per_block=3), make_image((2, 4, 4, 4))
    alone, added = (net(x, image, ws, PLAIN)[1] for image in (None, torch.full((2, 3, 4, 4), 0.5)))
    # away from the border, where the filter reads zeros, a constant image stays what it is
    torch.testing.assert_close((added - alone)[..., 2:-2, 2:-2], torch.full((2, 3, 4, 4), 0.5))


@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle", "bilinear", "nearest"])
def test_path_is_the_same_for_every_sample(mode: str) -> None:
    net, ws = block("skip", is_last=True, mode=mode), styles(per_block=3)
    x, image = make_image((2, 4, 3, 5)), make_image((2, 3, 3, 5), seed=1)
    path = BlockOptions(enlarge=False)
    features, rgb = net(x, image, ws, path)
    assert features.shape == (2, 8, 3, 5) and rgb.shape == image.shape
    one = net(x[..., 1:2, 2:3], image[..., 1:2, 2:3], ws, path)
    torch.testing.assert_close(one, (features[..., 1:2, 2:3], rgb[..., 1:2, 2:3]))


def test_half_precision_keeps_its_image_in_single() -> None:
    net, ws, x, image = (
        block("skip", is_last=True),
        styles(per_block=3),
        make_image((2, 4, 4, 4)),
        make_image((2, 3, 4, 4)),
    )
    want, half = net(x, image, ws, PLAIN), net(x, image, ws, BlockOptions(torch.float16))
    assert half[0].dtype == torch.float16 and half[1].dtype == torch.float32
    torch.testing.assert_close(half[1], want[1], atol=2e-2, rtol=0)


def chain(**options: Any) -> Upsampler:
    cfg = UpsamplerConfig(channel_base=64, channel_max=8, **options)
    return seeded(lambda: Upsampler(4, W_DIM, (8, 16, 32), cfg)).eval()


def test_chain_yields_every_level() -> None:
    net = chain()
    ws = styles(per_block=net.num_ws)
    assert net.num_ws == 7
    x, image = make_image((2, 4, 4, 4)), make_image((2, 3, 4, 4), seed=1)
    levels = net(x, image, ws, blocks=3, options=PLAIN)
    assert [level.shape[-1] for level in levels] == [4, 8, 16, 32] and torch.equal(levels[0], image)
    torch.testing.assert_close(net(x, image, ws, blocks=2, options=PLAIN), levels[:3])


def test_rows_of_ws() -> None:
    net = chain()
    x, image = make_image((1, 4, 4, 4)), make_image((1, 3, 4, 4), seed=1)
    base = styles(1, per_block=7)
    before = net(x, image, base, blocks=3, options=PLAIN)
    first = []
    for row in range(7):
        ws = base.clone()
        ws[:, row] += 1
        levels = net(x, image, ws, blocks=3, options=PLAIN)
        first.append([not torch.equal(a, b) for a, b in zip(levels, before)].index(True))
    # rows 0, 1, 2 are conv0, conv1 and toRGB of the first block; row 2 is the next one's conv0 as well
    assert first == [1, 1, 1, 2, 2, 3, 3]


def test_no_image_skip_leaves_the_volume_out() -> None:
    net = chain(image_skip=False)
    ws, x = styles(per_block=7), make_image((2, 4, 4, 4))
    a, b = (net(x, make_image((2, 3, 4, 4), seed=s), ws, blocks=3, options=PLAIN) for s in (1, 2))
    assert not torch.equal(a[0], b[0]) and all(torch.equal(p, q) for p, q in zip(a[1:], b[1:]))


@pytest.mark.parametrize("options, wanted", [({}, True), ({"kernel_size": 3}, False), ({"mode": "default"}, False),
                                             ({"architecture": "resnet"}, False)])  # fmt: skip
def test_pointwise(options: dict[str, Any], wanted: bool) -> None:
    assert chain(**options).pointwise is wanted


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of .*nn_cat.* got 'cubic'"):
        UpsamplerConfig(mode="cubic")
    with pytest.raises(ValueError, match="channel_max must be at least 1, got 0"):
        UpsamplerConfig(channel_max=0)
    with pytest.raises(ValueError, match="the NeRF path needs an upsampler of 1x1 layers"):
        block("resnet", is_last=True)(
            make_image((1, 4, 4, 4)), None, styles(1, per_block=3), BlockOptions(enlarge=False)
        )
