"""How StyleGAN's arguments become those of our ops."""

from collections.abc import Sequence
from operator import index
from typing import Any

from ...base.checks import check_choice
from ...base.dispatch import Impl

IMPLS: dict[str, Impl] = {"cuda": "auto", "ref": "ref", "auto": "auto", "triton": "triton"}


def implementation(impl: str) -> Impl:
    """ "cuda", the default of every StyleGAN op, runs in plain torch on a CPU too: that is our "auto"."""
    check_choice("impl", impl, tuple(IMPLS))
    return IMPLS[impl]


def integers(value: Any) -> int | list[int]:
    """Factors and paddings, which may be integers of numpy or of torch, alone or in a list, tuple or array."""
    if isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0:
        return [index(v) for v in value]
    return index(value)
