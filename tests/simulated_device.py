"""A device that is simulated: tensors that refuse to meet the CPU's, on which kernels run in the interpreter.

What a CUDA device would execute is executed: "auto" takes the kernels, the bodies of ops get the device's tensors, and
a tensor, generator or constant of the CPU among them is refused. The numbers are computed on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import triton.runtime.interpreter as interpreter
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from stylenerf.engine.planning.stand_in import move, own_constants
from stylenerf.kernels.base.register import namespace
from tests.fake_device import DEVICE, KIND, lend_device_guard

COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}  # CUDA takes indices from the CPU
DRAWS = ("randn", "rand", "randint", "randperm")


class Held(Tensor):
    """A tensor of the device; ``inner`` holds its numbers, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Held":
        held = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=DEVICE,
        )  # fmt: skip
        held.inner = inner
        return held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Held({self.inner})"


def inner(x: Any) -> Any:
    return x.inner if isinstance(x, Held) else x


def of_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == KIND


class Simulation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == namespace():
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """The op on the tensors' numbers; what it makes is on their device, or on the one it names."""
    name = func._overloadpacket.__name__
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    held = [x for x in tensors if isinstance(x, Held)]
    if held and name not in COPIES:
        for x in tensors:
            if not isinstance(x, Held) and x.ndim and not (name in INDEXING and x is not args[0]):
                raise RuntimeError(f"expected all tensors on {DEVICE}, got one on {x.device} ({func})")
    makes = bool(held)
    if kwargs.get("device") is not None:
        makes = of_device(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name == "copy_":
        makes = isinstance(args[0], Held)
    own = {id(x.inner): x for x in held}
    out = func(*tree_map(inner, args), **tree_map(inner, kwargs))

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or not makes:
            return x.clone() if isinstance(x, Tensor) and name == "_to_copy" and id(x) in own else x
        if x._is_zerotensor():  # autograd's zero without memory, which only its own dispatch key can read
            x = torch.zeros(x.shape, dtype=x.dtype)
        return own[id(x)] if id(x) in own else Held(x)

    return tree_map(wrapped, out)


class HeldGenerator:
    """A generator of the device: the CPU's numbers."""

    device = DEVICE

    def __init__(self) -> None:
        self.real = AnyGenerator.real("cpu")

    def manual_seed(self, seed: int) -> "HeldGenerator":
        self.real.manual_seed(seed)
        return self

    def initial_seed(self) -> int:
        return self.real.initial_seed()


class AnyGenerator:
    """torch.Generator, of this device too."""

    real = torch.Generator

    def __new__(cls, device: Any = "cpu") -> Any:
        return HeldGenerator() if of_device(device) else cls.real(device)


def _drawing(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(*args: Any, generator: Any = None, device: Any = None, **kwargs: Any) -> Tensor:
        if generator is not None and of_device(device) != isinstance(generator, HeldGenerator):
            raise RuntimeError(f"expected a generator of {device}, got one of {generator.device}")
        if not of_device(device):
            return real(*args, generator=generator, device=device, **kwargs)
        return real(*args, generator=getattr(generator, "real", None), **kwargs).to(DEVICE)

    return draw


def _making(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor and torch.as_tensor, which make tensors of a device beside the dispatcher."""

    def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not of_device(device):
            return real(*args, device=device, **kwargs)
        made = real(*args, **kwargs)
        return made if isinstance(made, Held) else made.to(DEVICE)

    return make


@contextmanager
def simulated_device() -> Iterator[None]:
    """:data:`DEVICE` exists from here on."""
    lend_device_guard()
    execute, tolist, numpy = interpreter.GridExecutor.__call__, Tensor.tolist, Tensor.numpy

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        for name, x in kwargs.items():
            if isinstance(x, Tensor) and not isinstance(x, Held):
                raise ValueError(f"{executor.fn.__name__}: {name} is a tensor of {x.device}")
        with _disable_current_modes():
            execute(executor, *args, **{name: inner(x) for name, x in kwargs.items()})

    def refused(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, Held):
            raise TypeError("a tensor of the device has no numpy array")
        return numpy(x, *args, **kwargs)

    made = {name: _drawing(getattr(torch, name)) for name in DRAWS}
    made |= {name: _making(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    with (
        own_constants(),
        patch.multiple(torch, Generator=AnyGenerator, **made),
        patch.multiple(Tensor, tolist=lambda x: tolist(inner(x)), numpy=refused, pin_memory=lambda x: x),
        patch.object(Held, "is_cuda", property(lambda x: True), create=True),
        patch.object(nn.Module, "to", move),
        patch.object(interpreter.GridExecutor, "__call__", launch),
        patch("torch.optim.adam._device_dtype_check_for_fused", lambda *a, **k: None),
        Simulation(),
    ):
        yield
