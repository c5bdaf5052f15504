"""Constants of ops and models, made once per device and kept.

They are made on the CPU, so that their bits are the same everywhere, and copied. Within a pass such a copy would make
the host wait for the device, and no CUDA graph could hold it. Nobody may write to what is returned here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_kept: dict[tuple[Any, ...], Tensor] = {}


def kept(make: Callable[..., Tensor], *args: Any, device: torch.device) -> Tensor:
    """``make(*args)`` on ``device``; ``make`` is a named function of hashable arguments, its result on the CPU."""
    key = (make, args, device)
    constant = _kept.get(key)
    if constant is None:
        with torch.inference_mode(False):
            constant = make(*args).to(device)
        if not torch.compiler.is_compiling():
            _kept[key] = constant
    return constant


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """``like.new_tensor(values)``, kept; ``values`` are tuples of numbers."""
    return kept(_tensor, tuple(values), like.dtype, device=like.device)


def _tensor(values: Sequence[Any], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device="cpu")
