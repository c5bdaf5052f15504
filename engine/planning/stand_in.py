"""Stands in for a device: tensors without memory on which a training step runs as on a GPU, and data without pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ...kernels.base import constants
from ...kernels.base.launch import Launch, record_launches
from ..data.base import Batch
from ..training.config import Config
from ..training.stats import Accumulator
from ..training.step import Stepper, TrainState

GPU, CPU = torch.device("meta"), torch.device("cpu")
TARGET = 90  # compute capability whose tiles are taken
PHASES = ("_generator_main", "_path_length", "_discriminator_main", "_r1", "update_ema")
GROWN = 10**9  # images shown: growth is over


class Pictures:
    """A data set without pixels; its batches lie on ``device``."""

    label_kind = "none"

    def __init__(self, device: torch.device = CPU, label_dim: int = 0) -> None:
        self.device, self.label_dim = device, label_dim

    def __len__(self) -> int:
        return 1000

    def label(self, number: int) -> list[float]:
        return [0.0] * self.label_dim

    def batch(self, seed: int, first: int, n: int, edge: int) -> Batch:
        images = torch.zeros(n, 3, edge, edge, dtype=torch.uint8, device=self.device)
        return Batch(images, torch.zeros(n, self.label_dim, device=self.device))


class DeviceGenerator:
    """Stands for a generator of a device that has none."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seed = device, 0

    def manual_seed(self, seed: int) -> DeviceGenerator:
        self.seed = seed
        return self

    def initial_seed(self) -> int:
        return self.seed


@contextmanager
def generators_of(device: torch.device) -> Iterator[None]:
    """Random numbers may be drawn on ``device``, and Adam's fused form accepts it."""
    real = torch.Generator

    class AnyGenerator:
        def __new__(cls, where: Any = "cpu") -> Any:
            return DeviceGenerator(device) if torch.device(where).type == device.type else real(where)

    draws: dict[str, Any] = {name: _drawing(getattr(torch, name)) for name in ("randn", "rand", "randint", "randperm")}
    with (
        patch.multiple(torch, Generator=AnyGenerator, **draws),
        patch("torch.optim.adam._device_dtype_check_for_fused", lambda *a, **k: None),
    ):
        yield


def _drawing(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(*args: Any, generator: Any = None, device: Any = None, **kwargs: Any) -> Tensor:
        where = CPU if device is None else torch.device(device)
        if generator is not None and generator.device.type != where.type:
            raise RuntimeError(f"expected a generator of {where.type}, got one of {generator.device.type}")
        if not isinstance(generator, DeviceGenerator) and not active_fake_mode():
            kwargs["generator"] = generator
        return real(*args, device=where, **kwargs)

    return draw


@contextmanager
def own_constants() -> Iterator[None]:
    """Constants made from here on are forgotten at the end, and those from before are back."""
    kept = dict(constants._kept)
    constants._kept.clear()
    try:
        yield
    finally:
        constants._kept.clear()
        constants._kept.update(kept)


@contextmanager
def stand_in(device: torch.device, *, kernels: bool = True) -> Iterator[list[Launch]]:
    """Tensors of ``device`` take no memory from here on; launches are recorded in the list.

    Args:
        device: :data:`GPU`, which passes for a CUDA device, or :data:`CPU`.
        kernels: False takes plain torch where a GPU runs kernels.
    """
    with ExitStack() as stack:
        stack.enter_context(own_constants())
        launches = stack.enter_context(record_launches(TARGET))
        if device == CPU:
            stack.enter_context(patch.object(FakeTensor, "tolist", numbers_of))
            stack.enter_context(fake_modules())
            stack.enter_context(FakeTensorMode())
        else:
            stack.enter_context(generators_of(GPU))
            passes = property(lambda x: kernels and x.device == GPU)
            stack.enter_context(patch.object(Tensor, "is_cuda", passes, create=True))
            stack.enter_context(patch.object(Tensor, "pin_memory", lambda x: x))
        yield launches


@contextmanager
def fake_modules() -> Iterator[None]:
    """Modules of fake tensors can be moved and copied."""
    with (
        patch.object(nn.Module, "to", move),
        patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True),
    ):
        yield


def move(module: nn.Module, device: torch.device) -> nn.Module:
    """``module.to(device)``; torch's own exchanges the memory of tensors, which these lack."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            part._buffers[name] = None if b is None else b.to(device)
    return module


def numbers_of(x: Tensor) -> Any:
    """Numbers that stand for those of a tensor without any, nested as ``x.tolist()`` is."""
    return _nested(list(x.shape), 0.3 if x.is_floating_point() else 1)


def _nested(shape: list[int], value: float) -> Any:
    return value if not shape else [_nested(shape[1:], value) for _ in range(shape[0])]


def one_round(cfg: Config) -> Config:
    """The configuration with one round a step: others repeat it."""
    return replace(cfg, train=replace(cfg.train, batch=cfg.train.micro_batch))


def stepper_of(cfg: Config, data: Any, device: torch.device, shown: int = GROWN) -> Stepper:
    """A stepper whose next step has every phase."""
    state = TrainState.create(cfg, data.label_dim, device)
    state.images_shown = shown
    return Stepper(cfg, data, state, Accumulator(), device)


def by_phase(stepper: Stepper, around: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Run one step, each phase through ``around(name, phase)``."""
    for attribute in PHASES:
        setattr(stepper, attribute, partial(around, attribute.strip("_"), getattr(stepper, attribute)))
    stepper.run()
