"""A decorator that gives its function the name of the one inside, and nothing else."""

from collections.abc import Callable
from typing import Any

import torch


def profiled_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    def decorator(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    decorator.__name__ = fn.__name__
    return decorator
