"""Captured calls: every refusal, and on a GPU the same numbers as the call itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stylenerf.engine.training.graphs import Captured, captured_training, check_like

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def twice(x: Tensor) -> Tensor:
    return 2 * x


@without_cuda
def test_needs_cuda() -> None:
    with pytest.raises(RuntimeError, match="Captured needs a CUDA device, this machine has none"):
        Captured(lambda: None)


@pytest.mark.parametrize("capture", [lambda *x: Captured(twice, *x), lambda *x: captured_training(twice, x)])
@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ((1.0,), TypeError, r"inputs\[0\] must be a tensor, got float"),
        ((torch.zeros(2),), ValueError, r"inputs\[0\] must be a CUDA tensor, got device cpu"),
    ],
)
def test_refuses_what_is_no_cuda_tensor(capture: Any, inputs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        capture(*inputs)


def test_inference_refuses_gradients() -> None:
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"inputs\[0\] requires a gradient.*torch.no_grad\(\).*captured_training"):
        Captured(twice, x)
    with torch.no_grad(), pytest.raises(ValueError, match="must be a CUDA tensor"):
        Captured(twice, x)  # past the refusal


def test_inference_refuses_gradients_of_a_call() -> None:
    captured = Captured.__new__(Captured)  # as after a capture, which needs a GPU
    captured.inputs = (torch.zeros(2),)
    with pytest.raises(RuntimeError, match=r"inputs\[0\] requires a gradient"):
        captured(torch.zeros(2, requires_grad=True))


def test_training_refuses_inputs_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with pytest.raises(ValueError, match="must require a gradient somewhere to be captured for training"):
        captured_training(twice, [torch.zeros(2)])


@without_cuda
def test_training_needs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with pytest.raises(RuntimeError, match="captured_training needs a CUDA device"):
        captured_training(twice, [torch.zeros(2, requires_grad=True)])


@pytest.mark.parametrize(
    ("got", "error", "match"),
    [
        ([torch.zeros(2, 3)], TypeError, "inputs must be 2 tensors, as captured, got 1"),
        ([torch.zeros(2, 3), None], TypeError, r"inputs\[1\] must be a tensor, got NoneType"),
        ([torch.zeros(2, 3), torch.zeros(4)], ValueError, r"inputs\[1\] must have shape \[5\], as captured, got \[4\]"),
        (
            [torch.zeros(2, 3).half(), torch.zeros(5)],
            TypeError,
            r"inputs\[0\] must have dtype torch.float32, as captured, got torch.float16",
        ),
        (
            [torch.zeros(2, 3), torch.zeros(5, device="meta")],
            ValueError,
            r"inputs\[1\] must have device cpu, as captured, got meta",
        ),
    ],
)
def test_calls_must_be_like_the_capture(got: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        check_like(got, [torch.zeros(2, 3), torch.zeros(5)])


def test_calls_like_the_capture_pass() -> None:
    check_like([torch.ones(3, 2).t(), torch.ones(5)], [torch.zeros(2, 3), torch.zeros(5)])  # strides may differ


def mixed(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return (x[:, :, None] * weight).sum(1).relu(), weight.sin().sum(0)


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(7, 5, generator=rng).cuda(), torch.randn(5, 3, generator=rng).cuda()


@pytest.mark.gpu
@needs_cuda
def test_replays_what_the_call_computes() -> None:
    captured = Captured(mixed, *drawn(0))
    first = [out.clone() for out in captured(*drawn(1))]
    second = captured(*drawn(2))
    assert all(torch.equal(a, b) for a, b in zip(first, mixed(*drawn(1)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(second, mixed(*drawn(2)), strict=True))
    assert captured(*drawn(3))[0] is second[0]  # the same tensors every time


@pytest.mark.gpu
@needs_cuda
def test_leaves_the_samples_alone_and_finds_its_own_inputs() -> None:
    x, weight = drawn(0)
    kept = x.clone()
    captured = Captured(mixed, x, weight)
    captured(*drawn(1))
    assert torch.equal(x, kept)
    closed = Captured(lambda: mixed(x, weight))
    x.mul_(2)
    assert torch.equal(closed()[0], mixed(x, weight)[0])  # read where they lie, at every replay


@pytest.mark.gpu
@needs_cuda
def test_training_gives_the_same_gradients() -> None:
    def leaves(seed: int) -> list[Tensor]:
        return [t.requires_grad_() for t in drawn(seed)]

    samples = leaves(0)
    kept = [t.detach().clone() for t in samples]
    captured = captured_training(mixed, samples)
    for seed in (1, 2):
        args = leaves(seed)
        weights = [torch.randn_like(out) for out in mixed(*args)]
        want = torch.autograd.grad(mixed(*args), args, weights)
        got = torch.autograd.grad(captured(*args), args, weights)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(samples, kept))


@pytest.mark.gpu
@needs_cuda
def test_training_is_differentiable_once() -> None:
    args = [t.requires_grad_() for t in drawn(0)]
    out = captured_training(mixed, args)(*args)
    (grad, _) = torch.autograd.grad(out, args, [torch.ones_like(o) for o in out], create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@pytest.mark.gpu
@needs_cuda
def test_the_ray_pass_can_be_captured() -> None:
    from stylenerf.kernels.rays.render import RayDraws, RaySpan, render_rays
    from tests.inputs import FieldCase, make_draws, make_field, make_rays

    case = FieldCase(batch=1, rays=40, samples=6, fine=6, hidden=32)
    like: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cuda")}
    origins, directions, fractions = make_rays(case, **like)
    field, draws = make_field(case, **like), RayDraws(make_draws(case, **like).fine_u)

    def render(origins: Tensor, directions: Tensor, fractions: Tensor) -> tuple[Tensor, ...]:
        out = render_rays(origins, directions, fractions, field, RaySpan(0.8, 1.2), draws=draws, impl="triton")
        return out.hidden, out.weights, out.transmittance

    captured = Captured(render, origins, directions, fractions)
    moved = origins + 0.1, directions, fractions
    got, want = captured(*moved), render(*moved)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
