"""Target figures, and whether the rows of a run reach them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.report import training_steps

FFHQ = "FFHQ 32x32 rays, 14+14 samples, batch {}"
IMAGE = "FFHQ 1024 px, batch {}, fp16"
STEP = "FFHQ 512 px, batch 8"
NOT_MEASURED = "not measured"
KERNEL, GRAPH = "triton fp16", "triton fp16 graph"
LARGE_BYTES = 30e6  # some 10 us on an H100, more than a launch takes


class Rows:
    """The rows of a run's benches. Missing figures raise LookupError, or TypeError in arithmetic."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.all = rows
        self.rows = {(row["shape"], row["direction"], row["impl"]): row for row in rows}
        self.steps: dict[tuple[str, str], Any] = {(step.shape, step.impl): step for step in training_steps(rows)}

    def ms(self, shape: str, impl: str, direction: str = "fwd") -> Any:
        return self.rows[shape, direction, impl]["p50_ms"]

    def faster(self, impl: str, direction: str = "fwd") -> Any:
        """Speed-up of our ray pass over another implementation."""
        shape = FFHQ.format(16)
        return self.ms(shape, impl, direction) / self.ms(shape, KERNEL, direction)

    def added(self, impl: str) -> Any:
        """Memory that a ray pass with its backward adds."""
        row = self.rows[FFHQ.format(16), "fwd+bwd", impl]
        return row["peak_mib"] - row["peak_before_mib"]

    def share_of_copy(self, op: str, dtype: str) -> Any:
        """The lowest share of the measured copy bandwidth that a replayed forward of ``op`` reaches at large shapes."""
        shares = [
            row["share_copy"]
            for row in self.all
            if (row["op"], row["direction"], row["impl"]) == (op, "fwd", "triton graph")
            and row["shape"].endswith(dtype)
            and row["bytes"] >= LARGE_BYTES
        ]
        return min(shares, default=None)


class Target(NamedTuple):
    name: str
    bound: float
    at_least: bool
    measure: Callable[[Rows], Any]


TARGETS = (
    Target("rays, batch 16: times faster than eager", 10, True, lambda r: r.faster("ref")),
    Target("rays, batch 16: times faster than torch.compile", 3, True, lambda r: r.faster("compile")),
    Target("rays, batch 16: us per image, call", 20, False, lambda r: r.ms(FFHQ.format(16), KERNEL) * 1e3 / 16),
    Target("rays, batch 16: us per image, CUDA graph", 20, False, lambda r: r.ms(FFHQ.format(16), GRAPH) * 1e3 / 16),
    Target("rays and backward, batch 16: times faster", 6, True, lambda r: r.faster("ref", "fwd+bwd")),
    Target("rays and backward, batch 16: memory over eager's", 0.1, False, lambda r: r.added(KERNEL) / r.added("ref")),
    Target("rays, batch 1, CUDA graph: us", 40, False, lambda r: r.ms(FFHQ.format(1), GRAPH) * 1e3),
    Target("upfirdn2d fp32: share of copy", 0.8, True, lambda r: r.share_of_copy("upfirdn2d", "fp32")),
    Target("upfirdn2d fp16: share of copy", 0.6, True, lambda r: r.share_of_copy("upfirdn2d", "fp16")),
    Target("bias_act fp32: share of copy", 0.8, True, lambda r: r.share_of_copy("bias_act", "fp32")),
    Target("bias_act fp16: share of copy", 0.6, True, lambda r: r.share_of_copy("bias_act", "fp16")),
    Target("generator 1024 px, batch 16: images/s", 2500, True, lambda r: 16e3 / r.ms(IMAGE.format(16), "triton")),
    Target("generator 1024 px, batch 1, CUDA graph: ms", 1, False, lambda r: r.ms(IMAGE.format(1), "graph")),
    Target("training 512 px: times faster than eager", 3, True,
           lambda r: r.steps[STEP, "triton"].images_per_s / r.steps[STEP, "ref"].images_per_s),
    Target("training 512 px: peak memory over eager's", 0.5, False,
           lambda r: r.steps[STEP, "triton"].peak_mib / r.steps[STEP, "ref"].peak_mib),
    Target("training 512 px: D with R1 over D without", 2, False, lambda r: r.steps[STEP, "triton"].ratio),
)  # fmt: skip


def judge(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(target, wanted, measured, "met" | "missed" | "not measured")."""
    known, judged = Rows(rows), []
    for target in TARGETS:
        try:
            value = target.measure(known)
            met = value >= target.bound if target.at_least else value <= target.bound
        except (LookupError, TypeError):
            value = met = None
        verdict = NOT_MEASURED if met is None else "met" if met else "missed"
        wanted = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        judged.append((target.name, wanted, "" if value is None else f"{value:.3g}", verdict))
    return judged
