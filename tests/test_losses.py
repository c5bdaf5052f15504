"""Losses against hand-computed values, direct formulas and finite differences in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stylenerf.engine.training.losses import (
    discriminator_fake_loss,
    discriminator_real_loss,
    generator_loss,
    nerf_path_loss,
    path_length,
    r1_penalty,
    ray_distortion,
)
from stylenerf.models.generator import PathColours, Rendered

STEP = 1e-5  # of central differences in float64: truncation and rounding are both about 1e-10 then
FIRST_ORDER = {"rtol": 1e-7, "atol": 1e-9}
f64 = torch.float64


@pytest.mark.parametrize(
    ("loss", "logit", "want"),
    [
        (generator_loss, 0.0, math.log(2)),
        (discriminator_fake_loss, 0.0, math.log(2)),
        (discriminator_real_loss, 0.0, math.log(2)),
        # ln(1 + e^-1) = 0.313262, ln(1 + e) = 1.313262
        (generator_loss, 1.0, 0.31326168751822286),
        (discriminator_fake_loss, 1.0, 1.3132616875182228),
        (discriminator_real_loss, 1.0, 0.31326168751822286),
        (generator_loss, -1.0, 1.3132616875182228),
        # far out the loss is the logit itself, or nothing; no overflow
        (generator_loss, -1000.0, 1000.0),
        (discriminator_fake_loss, 1000.0, 1000.0),
        (discriminator_real_loss, 1000.0, 0.0),
    ],
)
def test_softplus_by_hand(loss: Callable[[Tensor], Tensor], logit: float, want: float) -> None:
    got = loss(torch.tensor([[logit], [logit]], dtype=f64))
    assert got.shape == (2, 1)
    assert got.tolist() == [[pytest.approx(want, abs=1e-15)]] * 2


@pytest.mark.parametrize("loss", [generator_loss, discriminator_fake_loss, discriminator_real_loss])
def test_softplus_slopes(loss: Callable[[Tensor], Tensor]) -> None:
    """Generator and real loss fall with the logit, by -sigmoid(-x); the fake loss rises, by sigmoid(x)."""
    logits = torch.linspace(-4, 4, 9, dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(logits).sum(), logits)
    x = logits.detach()
    torch.testing.assert_close(slope, x.sigmoid() if loss is discriminator_fake_loss else -(-x).sigmoid())


def central_differences(f: Callable[[], Tensor], x: Tensor) -> Tensor:
    """d f / d x, one entry after the other; ``x`` is changed in place and restored."""
    flat, slopes = x.detach().view(-1), []
    for i in range(flat.numel()):
        middle = flat[i].item()
        flat[i] = middle + STEP
        above = f().item()
        flat[i] = middle - STEP
        below = f().item()
        flat[i] = middle
        slopes.append((above - below) / (2 * STEP))
    return torch.tensor(slopes, dtype=x.dtype).view_as(x)


def critic() -> nn.Sequential:
    """A smooth discriminator of 3 x 4 x 4 images, curved in its input and in its parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 1)
    ).to(f64)


def test_r1_by_hand() -> None:
    """logit = sum(a x^2) has the gradient 2 a x: with a = 3 the penalty is 36 sum(x^2)."""
    images = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=f64).view(2, 1, 1, 2).requires_grad_()
    penalty = r1_penalty(images, (3 * images.square()).sum(dim=[1, 2, 3])[:, None])
    assert penalty.tolist() == [36 * 5.0, 36 * 0.25]


def test_r1_value_by_differences_of_the_logits() -> None:
    d = critic()
    images = torch.randn(2, 3, 4, 4, dtype=f64, requires_grad=True)
    penalty = r1_penalty(images, d(images))
    slopes = central_differences(lambda: d(images).sum(), images)
    torch.testing.assert_close(penalty, slopes.square().sum(dim=[1, 2, 3]), **FIRST_ORDER)


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "3.weight", "5.weight"])
def test_r1_gradient_by_differences_of_the_penalty(name: str) -> None:
    d = critic()
    parameter = d.get_parameter(name)
    images = torch.randn(2, 3, 4, 4, dtype=f64, requires_grad=True)

    def loss() -> Tensor:
        return r1_penalty(images, d(images)).mean()

    (grad,) = torch.autograd.grad(loss(), parameter)
    assert grad.norm() > 1e-3
    torch.testing.assert_close(grad, central_differences(loss, parameter), **FIRST_ORDER)


def test_path_length_by_hand() -> None:
    """Images 2 x 2 that are ws copied to one pixel: the gradient is the noise there / sqrt(4).

    Sample 0: noise (6, 8, 0) / 2 = (3, 4, 0), length 5; sample 1: (0, 0, 2) / 2, length 1; mean 3. From m = 1 with
    decay 0.5: m = 2, penalties (5 - 2)^2 = 9 and (1 - 2)^2 = 1.
    """
    ws = torch.zeros(2, 1, 3, dtype=f64, requires_grad=True)
    images = torch.nn.functional.pad(ws.view(2, 3, 1, 1), (0, 1, 0, 1))
    noise = torch.full((2, 3, 2, 2), 7.0, dtype=f64)
    noise[:, :, 0, 0] = torch.tensor([[6.0, 8.0, 0.0], [0.0, 0.0, 2.0]])
    result = path_length(images, ws, noise, torch.tensor(1.0, dtype=f64), decay=0.5)
    assert result.penalty.tolist() == [9.0, 1.0]
    assert result.mean.item() == 2.0
    assert not result.mean.requires_grad


def test_path_length_takes_the_mean_over_rows() -> None:
    """Four rows, of which one moves the image: l = sqrt(25 / 4)."""
    ws = torch.zeros(1, 4, 3, dtype=f64, requires_grad=True)
    noise = torch.tensor([3.0, 4.0, 0.0], dtype=f64).view(1, 3, 1, 1)
    result = path_length(ws[:, 2].view(1, 3, 1, 1), ws, noise, torch.tensor(0.0, dtype=f64), decay=0.0)
    assert result.penalty.tolist() == [6.25]


class Painter(nn.Module):
    """A smooth generator of 3 x 2 x 2 images from ws [B, 2, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Parameter(torch.randn(6, 5, dtype=f64))
        self.second = nn.Parameter(torch.randn(5, 12, dtype=f64))

    def forward(self, ws: Tensor) -> Tensor:
        return (torch.tanh(ws.flatten(1) @ self.first) @ self.second).sin().view(-1, 3, 2, 2)


def path_inputs() -> tuple[Painter, Tensor, Tensor, Tensor]:
    g = Painter()
    ws = torch.randn(2, 2, 3, dtype=f64, requires_grad=True)
    return g, ws, torch.randn(2, 3, 2, 2, dtype=f64), torch.tensor(0.7, dtype=f64)


def test_path_length_value_by_differences_of_the_images() -> None:
    g, ws, noise, mean = path_inputs()
    result = path_length(g(ws), ws, noise, mean, decay=0.01)
    slopes = central_differences(lambda: (g(ws) * noise).sum() / 2, ws)  # sqrt(H W) = 2
    lengths = (slopes.square().sum(2).sum(1) / 2).sqrt()
    new_mean = 0.7 + 0.01 * (lengths.mean() - 0.7)
    torch.testing.assert_close(result.mean, new_mean, **FIRST_ORDER)
    torch.testing.assert_close(result.penalty, (lengths - new_mean).square(), **FIRST_ORDER)


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.9])
@pytest.mark.parametrize("name", ["first", "second"])
def test_path_length_gradient_by_differences_of_the_penalty(name: str, decay: float) -> None:
    """With a large decay most of the gradient's error would be the share of the running mean."""
    g, ws, noise, mean = path_inputs()

    def loss() -> Tensor:
        return path_length(g(ws), ws, noise, mean, decay).penalty.mean()

    (grad,) = torch.autograd.grad(loss(), g.get_parameter(name))
    assert grad.norm() > 1e-3
    torch.testing.assert_close(grad, central_differences(loss, g.get_parameter(name)), **FIRST_ORDER)


def rendered(image: Tensor, path: PathColours | None) -> Rendered:
    none: list[None] = [None] * 7
    return Rendered(image, *none, path)  # type: ignore[arg-type]


def test_nerf_path_by_hand() -> None:
    """One pixel: fast (1, 2, 3), two samples (1, 0, 0) and (0, 2, 4) of weights 0.5 and 0.25 -> (0.5, 0.5, 1).

    (0.5^2 + 1.5^2 + 2^2) = 6.5; a second pixel that agrees brings the mean to 3.25.
    """
    image = torch.zeros(1, 3, 2, 2, dtype=f64)
    image[0, :, 1, 0] = torch.tensor([1.0, 2.0, 3.0])
    samples = torch.zeros(1, 3, 2, 2, dtype=f64)  # [B, 3, S, P]
    samples[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    samples[0, :, 1, 0] = torch.tensor([0.0, 2.0, 4.0])
    weights = torch.tensor([[[0.5, 0.25], [0.5, 0.5]]], dtype=f64)  # [B, P, S]
    path = PathColours(torch.tensor([[2, 1]]), samples, weights)  # pixel 2 is row 1, column 0
    assert nerf_path_loss(rendered(image, path)).tolist() == [3.25]


def direct_nerf_path(image: Tensor, path: PathColours, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss [B], and the gradients of its product with ``cotangent`` in image, samples and weights.

    With gap = fast - sum(w sample) at each of P pixels: d/dfast = 2 gap / P, d/dsample = -2 gap w / P,
    d/dw = -2 gap sample / P.
    """
    loss = torch.zeros(len(image), dtype=image.dtype)
    for_image, for_samples, for_weights = (torch.zeros_like(t) for t in (image, path.samples, path.weights))
    count, edge = path.indices.shape[1], image.shape[-1]
    for b in range(len(image)):
        for p in range(count):
            y, x = divmod(int(path.indices[b, p]), edge)
            gap = image[b, :, y, x] - path.samples[b, :, :, p] @ path.weights[b, p]
            loss[b] += gap @ gap / count
            slope = 2 * gap * cotangent[b] / count
            for_image[b, :, y, x] += slope
            for_samples[b, :, :, p] -= slope[:, None] * path.weights[b, p]
            for_weights[b, p] -= slope @ path.samples[b, :, :, p]
    return loss, [for_image, for_samples, for_weights]


def test_nerf_path_value_and_gradients_by_direct_formula() -> None:
    torch.manual_seed(2)
    image = torch.randn(2, 3, 4, 4, dtype=f64, requires_grad=True)
    samples = torch.randn(2, 3, 4, 3, dtype=f64, requires_grad=True)
    weights = torch.rand(2, 3, 4, dtype=f64, requires_grad=True)
    path = PathColours(torch.tensor([[0, 7, 15], [3, 3, 8]]), samples, weights)
    cotangent = torch.tensor([1.0, -0.3], dtype=f64)
    loss = nerf_path_loss(rendered(image, path))
    grads = torch.autograd.grad(loss, [image, samples, weights], cotangent)
    with torch.no_grad():
        want, want_grads = direct_nerf_path(image, path, cotangent)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(list(grads), want_grads)


def test_nerf_path_must_be_there() -> None:
    with pytest.raises(
        ValueError, match=r"^rendered must come with its NeRF path: render with RenderOptions\(path=True"
    ):
        nerf_path_loss(rendered(torch.zeros(1, 3, 2, 2), None))


def with_weights(weights: Tensor, fractions: Tensor) -> Rendered:
    """A rendering whose foreground has these weights at these fractions of its rays; nothing else is read."""
    nothing: list[None] = [None] * 7
    foreground = SimpleNamespace(weights=weights, fractions=fractions)
    return Rendered(*nothing, SimpleNamespace(foreground=foreground), None)  # type: ignore[arg-type]


def test_distortion_by_hand() -> None:
    """Weights 0.5, 0.25, 0.25 at 0, 0.5 and 1: twice 0.5 0.25 0.5 + 0.5 0.25 1 + 0.25 0.25 0.5, and 0 for one depth."""
    weights = torch.tensor([[[0.5, 0.25, 0.25]], [[0.0, 0.9, 0.0]]], dtype=f64)
    fractions = torch.tensor([0.0, 0.5, 1.0], dtype=f64).expand(2, 1, 3)
    assert ray_distortion(with_weights(weights, fractions)).tolist() == [0.4375, 0.0]


def test_distortion_and_its_gradient_by_all_pairs() -> None:
    torch.manual_seed(3)
    weights = torch.rand(2, 5, 7, dtype=f64, requires_grad=True)
    fractions = torch.rand(2, 5, 7, dtype=f64).sort(-1).values
    pairs = weights[..., :, None] * weights[..., None, :] * (fractions[..., :, None] - fractions[..., None, :]).abs()
    want, got = pairs.sum((-1, -2)).mean(1), ray_distortion(with_weights(weights, fractions))
    cotangent = torch.tensor([1.0, -0.3], dtype=f64)
    torch.testing.assert_close(got, want)
    slopes = [torch.autograd.grad(loss, weights, cotangent)[0] for loss in (got, want)]
    torch.testing.assert_close(*slopes)


def test_distortion_needs_a_foreground() -> None:
    nothing: list[None] = [None] * 7
    background = Rendered(*nothing, SimpleNamespace(foreground=None), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^rendered must come with a foreground: render with parts 'all'"):
        ray_distortion(background)
