"""Device and precision of a command."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..models.layers import Precision
from .errors import UserError
from .training.config import Config


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA; fp32 elsewhere, where half precision is many times slower."""
    return "fp16" if device.type == "cuda" else "fp32"


def with_precision_of(
    cfg: Config, device: torch.device, overrides: Sequence[str], report: Callable[[str], None], *, began_on: str = ""
) -> Config:
    """The configuration with fp32 in place of half precision on a CPU, reported in one line.

    Args:
        overrides: the ``--set`` of the command line: a precision set there is kept.
        began_on: device type of a run to resume, which keeps its precision on that type.
    """
    chosen = any(text.partition("=")[0].strip() == "train.precision" for text in overrides)
    precision = cfg.train.precision
    if device.type != "cpu" or precision == "fp32" or chosen or began_on == "cpu":
        return cfg
    keep = f"--set train.precision={precision} keeps it"
    report(f"precision:   fp32, as {precision} is many times slower on a CPU ({keep})")
    return replace(cfg, train=replace(cfg.train, precision="fp32"))


def pick_device(name: str | None) -> torch.device:
    """The device called ``name``, else CUDA if available, else the CPU; disables TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on "meta", whose tensors hold no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: wanted a device of this machine, got {name!r}: {reason}") from None
    return device
