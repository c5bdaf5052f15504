"""Argument checks shared by every op. They read metadata only: no .item(), no device sync."""

import warnings
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def fixed(size: Any) -> Any:
    """``size`` as a number where ``torch.jit.trace`` or the ONNX exporter pass a tensor for it; else as it is.

    For what a graph cannot change anyway: filter taps, channels, paddings.
    """
    if not isinstance(size, Tensor) or not torch.jit.is_tracing() or size.ndim or size.is_floating_point():
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(size)


def check_shapes(**args: tuple[Tensor, str]) -> dict[str, int]:
    """Bind dimension names across arguments, first use wins; return {name: size}.

    A name that is a number must match exactly; a leading ``...`` binds nothing and matches any number of dims.
    """
    sizes: dict[str, int] = {}
    for arg, (t, spec) in args.items():
        names = spec.split()
        shape = list(t.shape)
        wanted = f"[{', '.join(names)}]"
        if names and names[0] == "...":
            names = names[1:]
            shape = shape[len(shape) - len(names) :] if len(shape) >= len(names) else shape
        if len(shape) != len(names):
            raise ValueError(f"{arg} must be {wanted}, got {t.ndim} dims {list(t.shape)}")
        for name, size in zip(names, shape):
            expected = int(name) if name.isdigit() else sizes.setdefault(name, size)
            if fixed(expected) != fixed(size):
                raise ValueError(f"{arg} must be {wanted} with {name}={expected}, got {list(t.shape)}")
    return sizes


def check_dtypes(allowed: tuple[torch.dtype, ...], **args: Tensor) -> None:
    """Refuse any argument whose dtype is not among ``allowed``."""
    for arg, t in args.items():
        if t.dtype not in allowed:
            raise TypeError(f"{arg} must be one of {[str(d) for d in allowed]}, got {t.dtype}")


def check_choice(arg: str, got: object, known: tuple[object, ...]) -> None:
    """Refuse an option that is not among ``known`` and list them."""
    if got not in known:
        raise ValueError(f"{arg} must be one of {list(known)}, got {got!r}")
