"""Tensors in nests: tuples, named tuples, lists, dicts and dataclasses, as ops and passes take and give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def mapped(value: Any, fn: Callable[[Any], Any], also: type = Tensor) -> Any:
    """The same nest with ``fn`` of each of its tensors, in their order, and of what is of the type ``also``."""
    if isinstance(value, Tensor | also):
        return fn(value)
    if isinstance(value, dict):
        return {key: mapped(part, fn, also) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [mapped(part, fn, also) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: mapped(getattr(value, name), fn, also) for name in names})
    return value


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of a nest, in its order."""
    found: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        found.append(x)
        return x

    mapped(value, take)
    return found
