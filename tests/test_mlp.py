"""modulated_mlp: hand-computed values, the layer-by-layer formula, derivatives, errors."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor

from stylenerf.kernels.rays.encode import encode_positions
from stylenerf.kernels.rays.mlp import modulated_mlp
from stylenerf.kernels.rays.render import FieldWeights
from tests.inputs import FIELD_CASES, GRADIENT_CASE, FieldCase, make_field, make_points

CASES = [name for name in FIELD_CASES if name != "skip"]  # a chain alone has no second input


def layer_by_layer(x: Tensor, field: FieldWeights) -> Tensor:
    """The definition, one image and one layer at a time."""
    images = []
    for b, h in enumerate(x):
        for weight, bias in zip(field.weights, field.biases):
            w = weight[b] if weight.ndim == 3 else weight
            c = bias[b] if bias.ndim == 2 else bias
            z = h @ w.t() + c
            h = field.gain * torch.where(z > 0, z, field.negative_slope * z)
        images.append(h)
    return torch.stack(images)


def chain(x: Tensor, field: FieldWeights) -> Tensor:
    return modulated_mlp(x, field.weights, field.biases, gain=field.gain, negative_slope=field.negative_slope)


def inputs(case: FieldCase) -> tuple[Tensor, FieldWeights]:
    return encode_positions(make_points(case).flatten(1, 2), case.num_freqs), make_field(case)


def test_hand_computed() -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    first = torch.tensor([[1.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    biases = [torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([-3.5], dtype=torch.float64)]
    # (1 - 2, 2 + 1) = (-1, 3) -> 2 (-0.5, 3) = (-1, 6); then -1 + 6 - 3.5 = 1.5 -> 3
    got = modulated_mlp(x, [first, second], biases, gain=2.0, negative_slope=0.5)
    assert got.tolist() == [[3.0]]


def test_default_activation_is_leaky_relu_with_gain_root_two() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    got = modulated_mlp(torch.tensor([[1.0], [-1.0]], dtype=torch.float64), [one], [torch.zeros_like(one[0])])
    torch.testing.assert_close(got, torch.tensor([[2**0.5], [-0.2 * 2**0.5]], dtype=torch.float64))


def test_a_decoder_by_hand() -> None:
    x, one = torch.tensor([[1.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    # softplus(2 - 2) = log 2; then 3 log 2 - 1, neither activation nor gain
    biases = [torch.tensor([-2.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)]
    got = modulated_mlp(x, [2 * one, 3 * one], biases, act="softplus", linear_end=True)
    assert got.item() == pytest.approx(3 * math.log(2) - 1, abs=1e-12)
    # lrelu(2 - 4) = -2 * 0.2, times sqrt 2; then the linear layer, without the gain
    got = modulated_mlp(x, [2 * one, 3 * one], [2 * biases[0], biases[1]], linear_end=True)
    assert got.item() == pytest.approx(-3 * 0.4 * 2**0.5 - 1, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(case: str) -> None:
    x, field = inputs(FIELD_CASES[case])
    torch.testing.assert_close(chain(x, field), layer_by_layer(x, field), atol=1e-12, rtol=1e-12)


def test_one_image_without_batch_dim() -> None:
    x, field = inputs(FIELD_CASES["shared"])
    biases = [b[0] if b.ndim == 2 else b for b in field.biases]
    torch.testing.assert_close(modulated_mlp(x[1], field.weights, biases), modulated_mlp(x, field.weights, biases)[1])


def test_input_is_left_alone() -> None:
    x, field = inputs(FIELD_CASES["odd"])
    before = x.clone()
    chain(x, field)
    assert torch.equal(x, before)


@pytest.mark.parametrize("act", ["lrelu", "softplus"])
def test_derivatives_of_any_order(act: Literal["lrelu", "softplus"]) -> None:
    x, field = inputs(GRADIENT_CASE)
    tensors = [t.detach().requires_grad_() for t in (x[:, :3], *field.weights, *field.biases)]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        depth = len(rest) // 2
        return modulated_mlp(x, rest[:depth], rest[depth:], act=act, linear_end=act == "softplus")

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


X, W, B = torch.zeros(2, 5, 3), torch.zeros(4, 3), torch.zeros(4)
BAD: dict[str, tuple[type[Exception], str, Callable[[], Tensor]]] = {
    "rank of x": (ValueError, r"x must be \[B, N, D\] or \[N, D\], got \[3\]", lambda: mlp(X[0, 0], [W], [B])),
    "gain": (ValueError, "gain must be positive, got 0", lambda: modulated_mlp(X, [W], [B], gain=0.0)),
    "biases": (ValueError, r"biases must have one entry per layer \(2\), got 1", lambda: mlp(X, [W, W], [B])),
    "width": (
        ValueError,
        r"weights\[1\] must be \[O, 4\] or \[2, O, 4\], got \[4, 3\]",
        lambda: mlp(X, [W, W], [B, B]),
    ),
    "images": (ValueError, r"weights\[0\] must be .* got \[3, 4, 3\]", lambda: mlp(X, [W.expand(3, 4, 3)], [B])),
    "bias": (ValueError, r"biases\[0\] must be \[4\] or \[2, 4\], got \[3\]", lambda: mlp(X, [W], [B[:3]])),
    "dtype": (
        TypeError,
        r"weights\[0\] must be one of .*float32.* got torch.float64",
        lambda: mlp(X, [W.double()], [B]),
    ),
    "integers": (TypeError, "x must be one of .* got torch.int64", lambda: mlp(X.long(), [W], [B])),
}


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return modulated_mlp(x, weights, biases)


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    kind, text, call = BAD[name]
    with pytest.raises(kind, match=text):
        call()
