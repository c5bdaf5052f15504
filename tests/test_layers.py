"""Equalised layers: hand-computed values, reference numbers, gains and clamps."""

import math

import pytest
import torch

from stylenerf.models.layers import Conv2d, FullyConnected, normalize_second_moment
from tests.closeness import assert_relative
from tests.conftest import load_fixture
from tests.inputs import IMAGE_CASES, make_image

FULLY_CONNECTED = {"linear": {}, "lrelu_lr001": {"activation": "lrelu", "lr_multiplier": 0.01}}
CONVOLUTIONS = {
    "k3": {"kernel_size": 3, "activation": "lrelu", "clamp": 1.1},
    "k3_down": {"kernel_size": 3, "activation": "lrelu", "down": 2},
    "k1_down": {"kernel_size": 1, "bias": False, "down": 2},
    "k3_up": {"kernel_size": 3, "up": 2},
    "k1": {"kernel_size": 1},
}
COMPARED = {
    "units.npz": [
        *(f"fc/{case}/{field}" for case in FULLY_CONNECTED for field in ("sd/weight", "sd/bias", "in0", "out_y")),
        *(
            f"conv2dlayer/{case}/{field}"
            for case in CONVOLUTIONS
            for field in ("sd/weight", "in0", "out_y", "out_gain")
        ),
        *(f"conv2dlayer/{case}/sd/bias" for case in CONVOLUTIONS if case != "k1_down"),
        *("normalize_2nd_moment/x", "normalize_2nd_moment/out"),
    ]
}


def learned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("resample_filter")}


def test_second_moment_hand_computed() -> None:
    # mean of squares (9 + 16) / 2
    got = normalize_second_moment(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    want = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) / math.sqrt(12.5)
    torch.testing.assert_close(got, want, atol=1e-8, rtol=0)


def test_second_moment_reference_numbers() -> None:
    f = load_fixture("units.npz")
    got = normalize_second_moment(f["normalize_2nd_moment/x"])
    assert_relative("out", got, f["normalize_2nd_moment/out"])


def test_fully_connected_hand_computed() -> None:
    layer = FullyConnected(4, 1, activation="lrelu", lr_multiplier=0.5).double()
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "bias": torch.tensor([-6.0])})
    # weight times 0.5 / sqrt 4, bias times 0.5: 10 / 4 - 3 = -0.5, leaky 0.2, gain sqrt 2
    got = layer(torch.ones(1, 4, dtype=torch.float64))
    assert got.item() == pytest.approx(-0.1 * math.sqrt(2))


def test_fully_connected_starts_at_its_initial_bias() -> None:
    layer = FullyConnected(3, 2, lr_multiplier=0.01, bias_init=1.0)
    torch.testing.assert_close(layer(torch.zeros(1, 3)), torch.ones(1, 2))
    assert FullyConnected(3, 2, bias=False).bias is None


@pytest.mark.parametrize("case", FULLY_CONNECTED)
def test_fully_connected_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    layer = FullyConnected(6, 5, **FULLY_CONNECTED[case])
    layer.load_state_dict(f.state(f"fc/{case}/sd/"))
    assert_relative(case, layer(f[f"fc/{case}/in0"]), f[f"fc/{case}/out_y"])


def test_convolution_hand_computed() -> None:
    layer = Conv2d(1, 1, 3, activation="lrelu", clamp=2.0).double()
    layer.load_state_dict({"weight": torch.ones(1, 1, 3, 3), "bias": torch.tensor([-1.0])})
    # ones on a 2x2 image see four taps of 1/3: 4/3 - 1 = 1/3, times sqrt 2, times the gain
    image = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(image), torch.full_like(image, math.sqrt(2) / 3))
    torch.testing.assert_close(layer(image, gain=0.5), torch.full_like(image, math.sqrt(2) / 6))
    # 400/3 - 1 is clamped to 2, and the clamp follows the gain
    torch.testing.assert_close(layer(100 * image, gain=0.5), torch.full_like(image, 1.0))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_reference_numbers(case: str) -> None:
    f = load_fixture("units.npz")
    layer = Conv2d(6, 4, **CONVOLUTIONS[case])  # type: ignore[arg-type]
    layer.load_state_dict(learned(f.state(f"conv2dlayer/{case}/sd/")))
    x = f[f"conv2dlayer/{case}/in0"]
    assert_relative("y", layer(x), f[f"conv2dlayer/{case}/out_y"])
    assert_relative("gain", layer(x, gain=math.sqrt(0.5)), f[f"conv2dlayer/{case}/out_gain"])


@pytest.mark.parametrize("options, size", [({}, 8), ({"up": 2}, 16), ({"down": 2}, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_follows_the_dtype_of_its_input(options: dict[str, int], size: int, dtype: torch.dtype) -> None:
    y = Conv2d(3, 5, 3, **options)(make_image((2, 3, 8, 8), dtype=dtype))
    assert y.shape == (2, 5, size, size) and y.dtype == dtype


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_convolution_equals_torch(case: str) -> None:
    x = make_image(case, dtype=torch.float64)
    layer = Conv2d(x.shape[1], 5, 3).double()
    want = torch.nn.functional.conv2d(x, layer.weight / math.sqrt(9 * x.shape[1]), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), want)


def test_convolution_keeps_the_variance() -> None:
    torch.manual_seed(0)
    y = Conv2d(64, 64, 3, bias=False)(make_image((1, 64, 16, 16)))
    assert y[..., 2:-2, 2:-2].std().item() == pytest.approx(1, rel=0.1)
