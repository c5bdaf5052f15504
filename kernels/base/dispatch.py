"""The only place that decides which implementation runs an op."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from torch import Tensor
from torch.autograd import forward_ad

from .choices import choice

Impl = Literal["auto", "triton", "ref"]
Precision = Literal["fp16", "bf16", "tf32", "fp32"]
FORWARD_MODE = "derivatives in forward mode (torch.func.jvp, jacfwd)"
PRECISIONS = ("fp16", "bf16", "tf32", "fp32")  # of matrix operands; accumulators are float32

FORMS = ("triton", "ref")  # the default first
# names of the ops that have a Triton kernel
TRITON_OPS: frozenset[str] = frozenset(
    {
        "bias_act",
        "composite",
        "conv2d_resample",
        "encode_positions",
        "evaluate_density",
        "evaluate_field",
        "filtered_lrelu",
        "importance_sample",
        "mean_square",
        "modulated_conv",
        "modulated_layer",
        "modulated_mlp",
        "refine_to_rgb",
        "render_points",
        "render_rays",
        "upfirdn2d",
        "upsample_block",
        "volume_weights",
    }
)


class Decision(NamedTuple):
    """What ``resolve`` answered to "auto" for an op, and why it was not the kernel; "" if it was."""

    op: str
    form: Literal["triton", "ref"]
    why: str


_decisions: list[Decision] | None = None


def resolve(op: str, impl: Impl, x: Tensor, *, unsupported: str | None = None) -> Literal["triton", "ref"]:
    """'auto' follows the device of ``x``; an explicit request is obeyed or refused, never replaced.

    ``unsupported`` says why the kernel does not cover this call (a dtype, a width), None if it does: "auto" then takes
    the plain form, "triton" refuses with that reason. So it is under forward-mode differentiation, where torch would
    take the derivative of a registered op to be zero. "auto" takes the plain form as well where this machine's
    self-test or timing chose it (:mod:`.choices`).
    """
    if impl == "ref":
        return "ref"
    if unsupported is None and forward_ad._current_level >= 0:
        unsupported = FORWARD_MODE
    if impl == "auto":
        covered = x.is_cuda and op in TRITON_OPS and unsupported is None
        form: Literal["triton", "ref"] = "triton" if covered and choice(op, x, FORMS) == "triton" else "ref"
        if _decisions is not None:
            _decisions.append(Decision(op, form, "" if form == "triton" else _why(op, x, unsupported)))
        return form
    if impl != "triton":
        raise ValueError(f"{op}: impl must be 'auto', 'triton' or 'ref', got {impl!r}")
    if op not in TRITON_OPS:
        raise RuntimeError(f"{op}: impl='triton' is not available, this op has a plain torch form only; use impl='ref'")
    if not may_launch(x):
        raise RuntimeError(f"{op}: impl='triton' needs CUDA tensors, got device {x.device}")
    if unsupported is not None:
        raise RuntimeError(f"{op}: impl='triton' does not cover {unsupported}; use impl='ref'")
    return "triton"


def _why(op: str, x: Tensor, unsupported: str | None) -> str:
    if op not in TRITON_OPS:
        return "has no kernel"
    if not x.is_cuda:
        return "no CUDA device"
    return f"no kernel for {unsupported}" if unsupported is not None else "chosen for this machine"


@contextmanager
def record_decisions() -> Iterator[list[Decision]]:
    """Collect what :func:`resolve` answers to "auto"."""
    global _decisions
    before, _decisions = _decisions, []
    try:
        yield _decisions
    finally:
        _decisions = before


def may_launch(x: Tensor) -> bool:
    """Whether a kernel could run on ``x``: on CUDA, or anywhere under Triton's interpreter."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
