"""Where a kernel runs: on the device of its tensors, whatever device is the current one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenerf.engine import device as device_module
from stylenerf.engine.device import pick_device, upload, use_device
from stylenerf.engine.randomness import generator_for, host_generator
from stylenerf.kernels.base.constants import constant
from stylenerf.kernels.base.launch import launch
from stylenerf.kernels.rays.volume_ref import _RunningProduct
from stylenerf.models.resize import enlarge_bilinear, enlarge_by_filter, reduce_bilinear, reduce_by_filter


class Kernel:
    """Notes the device that was current at its launch."""

    def __init__(self) -> None:
        self.current = 0
        self.launched_on: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda **args: self.launched_on.append(self.current)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    spy = Kernel()

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        before, spy.current = spy.current, device.index
        yield
        spy.current = before

    monkeypatch.setattr(torch.cuda, "device", current)
    return spy


def on(device: str) -> Tensor:
    with FakeTensorMode():
        return torch.empty(2, device=device)


@pytest.mark.parametrize("index", [0, 1])
def test_a_launch_is_on_the_device_of_its_tensors(index: int, kernel: Kernel) -> None:
    launch(kernel, (1,), out_ptr=on(f"cuda:{index}"), x_ptr=on(f"cuda:{index}"), bias_ptr=None, size=2)
    assert kernel.launched_on == [index] and kernel.current == 0


@pytest.mark.parametrize("other", ["cuda:0", "cpu"])
def test_tensors_of_two_devices_are_refused(other: str, kernel: Kernel) -> None:
    with pytest.raises(ValueError, match=f"x_ptr must be on cuda:1 like out_ptr, got {other}"):
        launch(kernel, (1,), out_ptr=on("cuda:1"), size=2, x_ptr=on(other))
    assert not kernel.launched_on


def test_the_picked_device_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(device_module.torch, "zeros", lambda *a, **k: torch.ones(1))
    assert pick_device("cuda:1") == torch.device("cuda", 1) == chosen[-1]
    assert use_device(torch.device("cuda")) == torch.device("cuda", 2) == chosen[-1]
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert use_device(torch.device("cpu")) == torch.device("cpu") and len(chosen) == 2


def test_threads_of_the_viewer_use_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from stylenerf.engine.applications.view import film, studio
    from tests.models_at_hand import tiny_model

    used: list[torch.device] = []
    for module in (studio, film):
        monkeypatch.setattr(module, "use_device", used.append)
    shown = studio.Studio(tiny_model())
    shown._on_worker(lambda: None)
    assert used == [torch.device("cpu")]
    shown.close()


def test_a_constant_is_made_once() -> None:
    like = torch.zeros(1)
    first = constant((1.0, 2.0, 4.5), like=like)
    assert first is constant((1.0, 2.0, 4.5), like=like) and first.tolist() == [1.0, 2.0, 4.5]
    assert constant((1.0, 2.0, 4.5), like=like.double()).dtype == torch.float64
    with torch.inference_mode():
        assert not constant((7.0, 8.0), like=like).is_inference()


def test_on_a_cpu_the_host_draws_from_the_same_generator() -> None:
    rng = generator_for(3, "x")
    assert host_generator(rng) is rng
    image = torch.zeros(2)
    assert upload(image, torch.device("cpu")) is image


def test_bilinear_filters() -> None:
    """The device's filters are torch's bilinear resizing, edges included."""
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(enlarge_by_filter(image), enlarge_bilinear(image, 16))
    for factor in (2, 4, 8):
        torch.testing.assert_close(reduce_by_filter(image, factor), reduce_bilinear(image, 8 // factor))


def test_running_product_is_bitwise_that_of_torch() -> None:
    factors, cotangent = torch.rand(3, 5, 7).requires_grad_(), torch.randn(3, 5, 7).requires_grad_()
    found = []
    for product in (lambda x: x.cumprod(-1), _RunningProduct.apply):
        out = product(factors)
        (first,) = torch.autograd.grad(out, factors, cotangent, create_graph=True)
        found.append([out, first, *torch.autograd.grad(first.square().sum(), (factors, cotangent))])
    assert all(torch.equal(a, b) for a, b in zip(*found))
    x = torch.rand(2, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(_RunningProduct.apply, (x,))
