"""The only place that decides which implementation runs an op."""

import os
from typing import Literal

from torch import Tensor

Impl = Literal["auto", "triton", "ref"]
Precision = Literal["fp16", "bf16", "tf32", "fp32"]
PRECISIONS = ("fp16", "bf16", "tf32", "fp32")  # of matrix operands; accumulators are float32

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


def resolve(op: str, impl: Impl, x: Tensor, *, unsupported: str | None = None) -> Literal["triton", "ref"]:
    """'auto' follows the device of ``x``; an explicit request is obeyed or refused, never replaced.

    ``unsupported`` says why the kernel does not cover this call (a dtype, a width), None if it does: "auto" then takes
    the plain form, "triton" refuses with that reason.
    """
    if impl == "ref":
        return "ref"
    if impl == "auto":
        return "triton" if x.is_cuda and op in TRITON_OPS and unsupported is None else "ref"
    if impl != "triton":
        raise ValueError(f"{op}: impl must be 'auto', 'triton' or 'ref', got {impl!r}")
    if op not in TRITON_OPS:
        raise RuntimeError(f"{op}: impl='triton' is not available, this op has a plain torch form only; use impl='ref'")
    if not may_launch(x):
        raise RuntimeError(f"{op}: impl='triton' needs CUDA tensors, got device {x.device}")
    if unsupported is not None:
        raise RuntimeError(f"{op}: impl='triton' does not cover {unsupported}; use impl='ref'")
    return "triton"


def may_launch(x: Tensor) -> bool:
    """Whether a kernel could run on ``x``: on CUDA, or anywhere under Triton's interpreter."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
