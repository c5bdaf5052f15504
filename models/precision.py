"""The one rule of every model: float32 inside, autocast disabled; ``precision`` options choose 16 bit."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from ..kernels.base.autocast import autocast_enabled, cast_floats

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def in_float32(method: Callable[Concatenate[M, P], T]) -> Callable[Concatenate[M, P], T]:
    """Decorate a public method of a model: floating inputs become float32, autocast is disabled inside.

    Raises: TypeError for parameters of another dtype, such as after ``.half()`` or ``.double()``.
    """
    call: Callable[..., T] = method

    @wraps(method)
    def wrapped(self: M, *args: P.args, **kwargs: P.kwargs) -> T:
        weight = next(self.parameters())
        if weight.dtype != torch.float32:
            raise TypeError(
                f"{type(self).__name__}: parameters must be float32, got {weight.dtype}; call .float(), and choose "
                "16 bit by the option 'precision'"
            )
        floats: list[Any] = [cast_floats(a, torch.float32) for a in args]
        named = {k: cast_floats(v, torch.float32) for k, v in kwargs.items()}
        if not autocast_enabled(weight.device):
            return call(self, *floats, **named)
        with torch.autocast(weight.device.type, enabled=False):
            return call(self, *floats, **named)

    return wrapped
