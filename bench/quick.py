"""Short runs and the time that is left: ``pytest bench/ --quick``.

A short run times the most telling row of each op, plain forms and kernels first. What is left of two minutes goes to
other projects' implementations, then to ``torch.compile``, whose compiler takes most of the time of a run on a CPU.
"""

import math
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

LIMIT_S = 120.0
SECONDS, ROUNDS = 0.2, 3  # per figure, instead of pytest-benchmark's options
SKIPPED = "skipped"
IF_TIME = ("peer", "compile")
REPORT_S = 10.0  # between two lines about the time left

# file of the bench -> pattern of the ids of its most telling rows; "16 bit" is float32 on a CPU
TELLING = {
    "bench_bias_act": "256 ch, 128 px-{dtype}-fwd+bwd-*",
    "bench_encode_positions": "*-fwd-*",
    "bench_evaluate_field": "features of *-fwd-*",
    "bench_filtered_lrelu": "512 ch, 36 px-fwd+bwd-*",
    "bench_generator": "256 px-batch 1-* {dtype}",
    "bench_importance_sample": "*",
    "bench_mean_square": "256 ch, 128 px-*",
    "bench_modulated_conv": "3x3, 256 ch, 64 px, batch 1-fwd+bwd-weights-*",
    "bench_modulated_layer": "128 px, 256 ch-{dtype}-fwd+bwd-*",
    "bench_modulated_mlp": "*-fwd-*",
    "bench_rays": "FFHQ 32x32 rays, 14+14 samples, batch 1-fwd-*",
    "bench_refine_to_rgb": "512 px, 64 ch-{dtype}-fwd+bwd-*",
    "bench_train_step": "quickstart 64 px, batch 4-*-G main",
    "bench_upfirdn2d": "blur 128 ch, 256 px-{dtype}-fwd+bwd-*",
    "bench_upsample_block": "128 px, 512 -> 256 ch-{dtype}-fwd+bwd-*",
    "bench_upsample_features": "256 ch -> 128 px-fwd+bwd-*",
    "bench_volume": "FFHQ *-fwd+bwd-*",
}


def telling(file: str, row: str, dtype: str) -> bool:
    """Whether ``row``, the part in brackets of a bench's name, is among the most telling of ``file``."""
    return fnmatchcase(row, TELLING.get(file, "").format(dtype=dtype))


def turn(kind: str) -> int:
    """The order of implementations in a short run."""
    return IF_TIME.index(kind) + 1 if kind in IF_TIME else 0


class Clock:
    """Estimates how long the benches that are left will take, from those of their kind that are done.

    ``kinds``: of each bench, its implementation, or SKIPPED where it is known that the machine cannot run it. Compiled
    forms take longest. ``limit_s``: when those of ``IF_TIME`` that are still open are skipped.
    """

    def __init__(
        self, kinds: Iterable[str], limit_s: float = math.inf, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._open, self._limit_s = list(kinds), limit_s
        self._total, self._now, self._start = len(self._open), now, now()
        self._reported = self._start
        self._seconds: dict[str, list[float]] = {}

    def done(self, kind: str, seconds: float) -> None:
        self._open.remove(kind)
        self._seconds.setdefault(kind, []).append(seconds)

    def elapsed(self) -> float:
        return self._now() - self._start

    def expected(self, kind: str) -> float:
        """Seconds of a bench of this kind, by those that are done; of any kind, where there is none."""
        if kind == SKIPPED:
            return 0.0
        of_kind = self._seconds.get(kind) or [s for k, each in self._seconds.items() if k != SKIPPED for s in each]
        return sum(of_kind) / len(of_kind) if of_kind else 0.0

    def line(self) -> str | None:
        """A line about the time left; None if there was one in the last seconds, or nothing is left."""
        if not self._open or self._now() - self._reported < REPORT_S:
            return None
        self._reported = self._now()
        perhaps = sum(self.expected(kind) for kind in self._open if kind in IF_TIME)
        left = sum(self.expected(kind) for kind in self._open if kind not in IF_TIME)
        left += min(perhaps, max(self._limit_s - self.elapsed() - left, 0))
        return f"{self._total - len(self._open)} of {self._total} benches, about {duration(left)} left"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
