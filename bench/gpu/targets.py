"""The figures to reach, and whether the rows of a run reach them."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bench.report import Step, training_steps

Rows = Sequence[Mapping[str, Any]]
FFHQ = "FFHQ 32x32 rays, 14+14 samples, batch {}"
IMAGE = "FFHQ 1024 px, batch {}, fp16"
STEP = "FFHQ 512 px, batch 8"
KERNEL, GRAPH = "triton fp16", "triton fp16 graph"
NOT_MEASURED = "not measured"
LARGE_BYTES = 30e6  # some 10 us on an H100


class Target(NamedTuple):
    """A figure to reach.

    ``measure`` takes the rows of the benches and returns the figure, None if a row that it needs is missing.
    """

    name: str
    wanted: str
    measure: Callable[[Rows], float | None]
    met: Callable[[float], bool]
    shown: str = "{:.3g}"


def row(rows: Rows, shape: str, direction: str, impl: str) -> Mapping[str, Any] | None:
    """The newest row of an implementation of a shape."""
    keys = {"shape": shape, "direction": direction, "impl": impl}
    found = [r for r in rows if all(r.get(key) == value for key, value in keys.items())]
    return found[-1] if found else None


def times_faster(batch: int, direction: str, than: str) -> Callable[[Rows], float | None]:
    def measure(rows: Rows) -> float | None:
        slow, fast = (row(rows, FFHQ.format(batch), direction, impl) for impl in (than, KERNEL))
        return slow["p50_ms"] / fast["p50_ms"] if slow and fast else None

    return measure


def microseconds(batch: int, impl: str) -> Callable[[Rows], float | None]:
    """Per image."""

    def measure(rows: Rows) -> float | None:
        found = row(rows, FFHQ.format(batch), "fwd", impl)
        return found["p50_ms"] * 1e3 / batch if found else None

    return measure


def memory_share(rows: Rows) -> float | None:
    """What a forward and backward adds to the memory in use, over what eager torch adds."""
    added = []
    for impl in (KERNEL, "ref"):
        found = row(rows, FFHQ.format(16), "fwd+bwd", impl)
        if found is None or found.get("peak_mib") is None:
            return None
        added.append(found["peak_mib"] - found["peak_before_mib"])
    return added[0] / added[1] if added[1] > 0 else None


def share_of_copy(op: str, dtype: str) -> Callable[[Rows], float | None]:
    """The lowest share of the measured copy bandwidth, on minimal bytes, that a replayed forward of the op reaches,
    over the shapes that take longer than it takes to launch anything."""

    def measure(rows: Rows) -> float | None:
        found = {
            r["shape"]: r["share_copy"]
            for r in rows
            if (r["op"], r["direction"], r["impl"]) == (op, "fwd", "triton graph")
            and r["shape"].endswith(dtype)
            and r["bytes"] >= LARGE_BYTES
        }
        return min(found.values(), default=None)

    return measure


def images_per_s(shape: str, impl: str) -> Callable[[Rows], float | None]:
    def measure(rows: Rows) -> float | None:
        found = row(rows, shape, "fwd", impl)
        return found["images_per_s"] if found else None

    return measure


def milliseconds(shape: str, impl: str) -> Callable[[Rows], float | None]:
    def measure(rows: Rows) -> float | None:
        found = row(rows, shape, "fwd", impl)
        return found["p50_ms"] if found else None

    return measure


def step(rows: Rows, impl: str) -> Step | None:
    return next((s for s in training_steps(rows) if (s.shape, s.impl) == (STEP, impl)), None)


def training_pace(rows: Rows) -> float | None:
    ours, plain = step(rows, "triton"), step(rows, "ref")
    if ours is None or plain is None or not ours.images_per_s or not plain.images_per_s:
        return None
    return ours.images_per_s / plain.images_per_s


def training_memory(rows: Rows) -> float | None:
    ours, plain = step(rows, "triton"), step(rows, "ref")
    return ours.peak_mib / plain.peak_mib if ours and plain and ours.peak_mib and plain.peak_mib else None


def r1_ratio(rows: Rows) -> float | None:
    ours = step(rows, "triton")
    return ours.ratio if ours else None


def at_least(value: float) -> Callable[[float], bool]:
    return partial(operator.le, value)


def at_most(value: float) -> Callable[[float], bool]:
    return partial(operator.ge, value)


TARGETS = (
    Target("rays, batch 16: times faster than eager", ">= 10", times_faster(16, "fwd", "ref"), at_least(10)),
    Target("rays, batch 16: times faster than torch.compile", ">= 3", times_faster(16, "fwd", "compile"), at_least(3)),
    Target("rays, batch 16: us per image, call", "<= 20", microseconds(16, KERNEL), at_most(20)),
    Target("rays, batch 16: us per image, CUDA graph", "<= 20", microseconds(16, GRAPH), at_most(20)),
    Target("rays and backward, batch 16: times faster", ">= 6", times_faster(16, "fwd+bwd", "ref"), at_least(6)),
    Target("rays and backward, batch 16: peak memory over eager's", "<= 0.1", memory_share, at_most(0.1)),
    Target("rays, batch 1, CUDA graph: us", "<= 40", microseconds(1, GRAPH), at_most(40)),
    *(
        Target(f"{op} {dtype}: of copy", f">= {least:.0%}", share_of_copy(op, dtype), at_least(least), "{:.0%}")
        for op in ("upfirdn2d", "bias_act")
        for dtype, least in (("fp32", 0.8), ("fp16", 0.6))
    ),
    Target(
        "generator 1024 px, batch 16: images/s", ">= 2500", images_per_s(IMAGE.format(16), "triton"), at_least(2500)
    ),
    Target("generator 1024 px, batch 1, CUDA graph: ms", "<= 1", milliseconds(IMAGE.format(1), "graph"), at_most(1)),
    Target("training 512 px: times faster than eager", ">= 3", training_pace, at_least(3)),
    Target("training 512 px: peak memory over eager's", "<= 0.5", training_memory, at_most(0.5)),
    Target("training 512 px: D with R1 over D without", "<= 2", r1_ratio, at_most(2)),
)


def judge(rows: Rows) -> list[tuple[str, str, str, str]]:
    """(target, wanted, measured, "met" | "missed" | "not measured")."""
    judged = []
    for target in TARGETS:
        value = target.measure(rows)
        if value is None:
            judged.append((target.name, target.wanted, "", NOT_MEASURED))
        else:
            verdict = "met" if target.met(value) else "missed"
            judged.append((target.name, target.wanted, target.shown.format(value), verdict))
    return judged
