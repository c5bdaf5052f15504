"""Launching a kernel, or recording the launch instead."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .choices import choice, choosing_now
from .faults import FAULTS

MOST_PROGRAMS, MOST_IN_SECOND = 2**31 - 1, 65535  # CUDA's limits on the dimensions of a grid


@dataclass(frozen=True)
class Launch:
    """One launch as the runtime would see it; what ``python -m bench.compiler.inspect`` compiles ahead of time."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    num_warps: int
    num_stages: int


_recording: list[Launch] | None = None
_target: int | None = None


def launch(kernel: Any, grid: tuple[int, ...], *, num_warps: int = 4, num_stages: int = 1, **args: Any) -> None:
    """Launch ``kernel`` by keyword on the device of its tensors.

    An empty grid launches nothing. Refused: a grid that CUDA cannot take, and tensors of several devices.
    """
    if 0 in grid:
        return
    if grid[0] > MOST_PROGRAMS or any(size > MOST_IN_SECOND for size in grid[1:]):
        raise RuntimeError(
            f"a launch may have {MOST_PROGRAMS} programs, and {MOST_IN_SECOND} along its second dimension, got "
            f"{list(grid)}: split the batch, or take impl='ref'"
        )
    device = _device_of(args)
    if _recording is not None:
        _recording.append(Launch(kernel, grid, args, num_warps, num_stages))
        return
    if choosing_now() and device is not None:
        num_warps = _warps(kernel, num_warps, device, args)
    with _current(device):
        kernel[grid](**args, num_warps=num_warps, num_stages=num_stages)


def _warps(kernel: Any, default: int, device: torch.device, args: Mapping[str, Any]) -> int:
    """Four warps or eight, as this machine's timing chose; what a launch offers goes by its sizes and its first tensor.

    A GPU for which a compiler's fault is known gets the default: its machine code is what was searched for the fault.
    """
    if default not in (4, 8) or any(compute_capability(device) in fault.targets for fault in FAULTS):
        return default
    sizes = ",".join(f"{k}={v}" for k, v in args.items() if k.isupper() and isinstance(v, int))
    first = next(x for x in args.values() if isinstance(x, Tensor))
    return choice(f"{kernel.__name__}({sizes})", first, (default, 12 - default))


def _device_of(args: Mapping[str, Any]) -> torch.device | None:
    """The device of all tensors among ``args``. Raises: ValueError if there are several."""
    first, device = "", None
    for name, x in args.items():
        if not isinstance(x, Tensor):
            continue
        if device is None:
            first, device = name, x.device
        elif x.device != device:
            raise ValueError(f"{name} must be on {device} like {first}, got {x.device}")
    return device


def _current(device: torch.device | None) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever device the tensors are on, so theirs becomes the current one."""
    return nullcontext() if device is None or device.type != "cuda" else torch.cuda.device(device)


@contextmanager
def record_launches(target: int) -> Iterator[list[Launch]]:
    """Record launches instead of running them, with the tiles of compute capability ``target`` (80, 90, ...).

    The tensors may be on the meta device, so that real shapes take no memory.
    """
    global _recording, _target
    before = _recording, _target
    _recording, _target = [], target
    try:
        yield _recording
    finally:
        _recording, _target = before


def compute_capability(device: torch.device) -> int:
    """80 for sm_80 and so on: of ``device``, or of the target of :func:`record_launches`; 90 under the interpreter."""
    if _target is not None:
        return _target
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def has_warp_group_products(device: torch.device) -> bool:
    """sm_90 and sm_100: warp-group products (four warps) and 227 KiB of shared memory; elsewhere products per warp."""
    return compute_capability(device) // 10 in (9, 10)
