"""One rule for every op under ``torch.autocast``: how arguments are cast. Inside the op, autocast is disabled.

Outside autocast nothing is cast, and the op refuses dtypes that differ. A cast is part of the graph, so every gradient
has the dtype of its own tensor.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from inspect import signature
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from .calls import note
from .checks import FLOATS

P = ParamSpec("P")
T = TypeVar("T")


def under_autocast(cast: Literal["others", "beside", "all"]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate an op whose first argument, x, is a tensor.

    "others": the other floating tensors are cast to the dtype of x.
    "beside": the others are cast to float32 (float64 if x is), x keeps its dtype: weights are modulated and normalised
        in float32, and the op itself rounds them to the dtype of x.
    "all": x too is cast to float32 (or stays float64): 16 bits cannot hold depths, densities and transmittance.
    """

    def decorate(op: Callable[P, T]) -> Callable[P, T]:
        first = next(iter(signature(op).parameters))
        call: Callable[..., T] = op

        @wraps(op)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            note(wrapped, args, kwargs)
            x = args[0] if args else kwargs.get(first)
            if not isinstance(x, Tensor) or x.dtype not in FLOATS or not autocast_enabled(x.device):
                return op(*args, **kwargs)
            dtype = x.dtype if cast == "others" else torch.promote_types(x.dtype, torch.float32)
            others = [cast_floats(a, dtype) for a in args[1:]]
            named: Any = {k: v if k == first else cast_floats(v, dtype) for k, v in kwargs.items()}
            x = x.to(dtype) if cast == "all" else x
            with torch.autocast(x.device.type, enabled=False):
                return call(**{**named, first: x}) if not args else call(x, *others, **named)

        return wrapped

    return decorate


def autocast_enabled(device: torch.device) -> bool:
    """Whether ``torch.autocast`` is on for tensors of ``device``."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with its floating tensors in ``dtype``, also those in tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in FLOATS else value
    if isinstance(value, tuple | list):
        parts = [cast_floats(v, dtype) for v in value]
        if all(a is b for a, b in zip(parts, value)):
            return value
        return type(value)(*parts) if isinstance(value, tuple) and hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        held = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        changed = {k: new for k, new in ((k, cast_floats(v, dtype)) for k, v in held.items()) if new is not held[k]}
        return replace(value, **changed) if changed else value
    return value
