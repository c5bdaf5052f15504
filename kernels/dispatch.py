"""The only place that decides which implementation runs an op."""

import os
from typing import Literal

from torch import Tensor

Impl = Literal["auto", "triton", "ref"]

TRITON_OPS: frozenset[str] = frozenset()  # names of the ops that have a Triton kernel


def resolve(op: str, impl: Impl, x: Tensor) -> Literal["triton", "ref"]:
    """'auto' follows the device of ``x``; an explicit request is obeyed or refused, never replaced."""
    if impl == "ref":
        return "ref"
    if impl == "auto":
        return "triton" if x.is_cuda and op in TRITON_OPS else "ref"
    if impl != "triton":
        raise ValueError(f"{op}: impl must be 'auto', 'triton' or 'ref', got {impl!r}")
    if op not in TRITON_OPS:
        raise RuntimeError(f"{op}: impl='triton' is not available, this op has a plain torch form only; use impl='ref'")
    if not (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise RuntimeError(f"{op}: impl='triton' needs CUDA tensors, got device {x.device}")
    return "triton"
