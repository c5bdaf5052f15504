"""GPUs by name: memory and ceilings as their makers state them, for products without sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .step_plan import Phase

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """``half`` is of products of 16-bit operands with sums in float32, ``single`` of float32 ones without TF32."""

    memory_gib: int
    GB_per_s: float
    half_TFLOP_per_s: float
    single_TFLOP_per_s: float

    def least_ms(self, phase: Phase) -> float:
        """The longer of moving the phase's bytes and of doing its operations, both at the ceilings."""
        moving_s = phase.moved / (self.GB_per_s * 1e9)
        products_s = phase.half_flop / (self.half_TFLOP_per_s * 1e12)
        products_s += phase.single_flop / (self.single_TFLOP_per_s * 1e12)
        return 1e3 * max(moving_s, products_s)


GPUS = {
    "rtx3090": Gpu(24, 936, 71, 35.6),
    "rtx4090": Gpu(24, 1008, 165, 82.6),
    "l4": Gpu(24, 300, 121, 30.3),
    "l40s": Gpu(48, 864, 362, 91.6),
    "a100-40": Gpu(40, 1555, 312, 19.5),
    "a100": Gpu(80, 2039, 312, 19.5),
    "h100": Gpu(80, 3350, 989, 67),
    "h200": Gpu(141, 4800, 989, 67),
}


def gpu_named(name: str) -> Gpu:
    """Raises: UserError listing the known ones."""
    if name not in GPUS:
        raise UserError(f"--gpu: wanted one of {', '.join(GPUS)}, got {name!r}")
    return GPUS[name]


def memory_of(text: str) -> int:
    """Bytes of '24GiB', '24 GB', '800MiB' or '24', which is in GiB. Raises: UserError."""
    units = {"gib": 2**30, "gb": 10**9, "mib": 2**20, "mb": 10**6, "": 2**30}
    plain = text.replace(" ", "").lower()
    number = plain.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        size = float(number) * units[plain[len(number) :]]
    except (ValueError, KeyError):
        size = -1
    if not 0 < size < 2**60:
        raise UserError(f"--gpu-memory: wanted a size such as 24GiB, got {text!r}")
    return int(size)
