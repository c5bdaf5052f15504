"""Device and precision of a command."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

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
    """The device called ``name``, else CUDA if available, else the CPU; it becomes the current one.

    Disables TF32, and makes cuDNN take algorithms that give the same bits every time.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if name is None:
        return use_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on "meta", whose tensors hold no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: wanted a device of this machine, got {name!r}: {reason}") from None
    return use_device(device)


def use_device(device: torch.device) -> torch.device:
    """Make a CUDA device the current one of this thread, and return it with its index.

    A new thread begins with device 0, whatever its parent uses.
    """
    if device.type != "cuda":
        return device
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    torch.cuda.set_device(device)
    return device


def upload(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``, copied from pinned memory, so that the host need not wait for the copy."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
