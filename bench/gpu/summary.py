"""What a run found: targets met or missed, predictions beside measurements, one page of Markdown.

Everything here works on the dictionaries that the steps left, so it can be tried without a GPU.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.gpu.runner import Outcome, tally
from bench.gpu.targets import GRAPH, KERNEL, NOT_MEASURED, judge, microseconds, row
from bench.report import markdown, render, render_moved

Lines = list[dict[str, Any]]
TRAINING = "training 1024+256 rays, 14+14 samples, batch 4"
BACKGROUND = "background 32x32 rays, 4 samples, 4x64, batch 16"


class Found:
    """The lines of a run by step."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = list(outcomes)

    def lines(self, stage: str, name: str | None = None) -> Lines:
        return [
            line
            for outcome in self.outcomes
            if outcome.stage == stage and name in (None, outcome.name)
            for line in outcome.lines
        ]

    def has(self, stage: str) -> bool:
        return any(outcome.stage == stage for outcome in self.outcomes)

    @property
    def rows(self) -> Lines:
        """Of the benches."""
        return [line["row"] for line in self.lines("bench") if "row" in line]

    @property
    def moved(self) -> Lines:
        """Bytes counted."""
        return [line["moved"] for line in self.lines("bench") if "moved" in line]

    def fact(self, name: str) -> Any:
        """Of the environment."""
        found = [line.get("value") for line in self.lines("environment") if line.get("name") == name]
        return found[-1] if found else None

    def tile(self, kind: str, tile: tuple[int, int, int]) -> float | None:
        """Microseconds per image."""
        found = self.lines("experiments", "tiles")
        times = [
            f["us_per_image"]
            for f in found
            if f.get("kind") == kind and f.get("tile") == list(tile) and "us_per_image" in f
        ]
        return times[-1] if times else None


Prediction = tuple[str, str, str]  # question, predicted by counting or by a model, measured or ""


def predictions(found: Found) -> list[Prediction]:
    return [*_of_device(found), *_of_tiles(found), *_of_passes(found), *_of_calls(found)]


def _of_device(found: Found) -> Iterator[Prediction]:
    ceilings, reads = found.fact("ceilings") or {}, found.fact("reads_GB_per_s") or {}
    yield "copy, GB/s", "4300 assumed (H200)", _show(ceilings.get("copy_GB_per_s"))
    yield "16-bit products, TFLOP/s", "790 assumed", _show(ceilings.get("matmul_bf16_GFLOP_per_s"), 1e-3)
    yield "L2 reads, the same 256 KiB everywhere, GB/s", "5500 assumed", _show(reads.get("256 KiB"))
    yield "L2 reads over 24 MiB, GB/s", "5500 assumed", _show(reads.get("24 MiB"))


def _of_tiles(found: Found) -> Iterator[Prediction]:
    for rows, warps, stages, us in ((128, 4, 2, 11.8), (256, 8, 3, 15.3), (128, 8, 2, 15.9), (64, 4, 2, 23.6)):
        measured = found.tile("rays", (rows, warps, stages))
        yield f"28 samples, {rows} rows in {warps} warps: us per image", f"{us} modelled", _show(measured)
    waiting = found.tile("rays", (128, 4, 1))
    yield "28 samples, 128 rows, weights not loaded ahead: us per image", "more than with", _show(waiting)
    sines = [line["error"] for line in found.lines("experiments", "sincos") if "error" in line]
    yield "sine and cosine, largest error", "6.3e-7", f"{max(sines):.1e}" if sines else ""


def _of_passes(found: Found) -> Iterator[Prediction]:
    times = {line["batch"]: line["us_per_image"] for line in found.lines("experiments", "passes") if "batch" in line}
    for batch, pair in times.items() if times else ((1, None), (16, None)):
        yield f"14+14 samples, fused / two passes, batch {batch}: us per image", "fused less", _pair(pair)
    forms = {line["form"]: line["us_per_image"] for line in found.lines("experiments", "backward") if "form" in line}
    ours, torchs = (next((us for form, us in forms.items() if word in form), None) for word in ("one kernel", "bmm"))
    both = f"{_show(ours)} / {_show(torchs)}" if forms else ""
    yield (
        "trunk backward, our kernels / torch.bmm: us per image",
        "ours less: no dz and no gate through memory twice",
        both,
    )


def _of_calls(found: Found) -> Iterator[Prediction]:
    rows = found.rows
    yield "FFHQ forward, batch 16, graph: us per image", "16-19, floor 10.5", _show(microseconds(16, GRAPH)(rows))
    yield "FFHQ forward, batch 1, graph: us", "12-20 and packing the field", _show(microseconds(1, GRAPH)(rows))
    training = row(rows, TRAINING, "fwd+bwd", GRAPH)
    measured = _show(training["p50_ms"] * 1e3 / 4) if training else ""
    yield "training forward + backward, batch 4, graph: us per image", "floors 13 + 44; 100-120 at 50 %", measured
    background = row(rows, BACKGROUND, "fwd", KERNEL)
    measured = _show(background["p50_ms"] * 1e3 / 16) if background else ""
    yield "background, batch 16: us per image", "less than 1, or what launching takes", measured


def _show(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.3g}"


def _pair(times: Mapping[str, float] | None) -> str:
    return "" if not times else f"{_show(times.get('fused'))} / {_show(times.get('two passes'))}"


def failures(found: Found) -> list[tuple[str, str, str]]:
    """(test or step, outcome, last line of what it said), tests first."""
    bad: list[tuple[str, str, str]] = []
    for outcome in found.outcomes:
        for line in outcome.lines:
            if line.get("outcome") in ("failed", "error", "crashed"):
                bad.append((line["test"], line["outcome"], _last(line.get("message"))))
    bad += [(o.step, o.status, o.reason or _last(o.tail)) for o in found.outcomes if o.status not in ("ok", "skipped")]
    return bad


def _last(text: str | None) -> str:
    said = [line.strip() for line in (text or "").splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("E ")]
    return (errors or said or [""])[-1][:160]


def tests(found: Found) -> dict[str, int]:
    return tally([line for line in found.lines("tests") if "test" in line])


def short_table(found: Found) -> str:
    """What is printed last."""
    lines = [*markdown(("target", "wanted", "measured", ""), judge(found.rows), 1), ""]
    counts = tests(found)
    lines.append("tests on the device: " + (", ".join(f"{n} {name}" for name, n in counts.items()) or NOT_MEASURED))
    bad = failures(found)
    lines += [f"  {outcome}: {name}: {said}" for name, outcome, said in bad[:12]]
    if len(bad) > 12:
        lines.append(f"  and {len(bad) - 12} more in summary.json")
    for line in found.lines("determinism"):
        if "call" in line:
            lines.append(f"repeated {line['times']} times, {line['call']}: {line['unequal']} differ")
        elif "question" in line:
            lines.append(f"{line['question']}: {len(line['differing'])} of {line['tensors']} tensors differ")
    for line in found.lines("train"):
        pace, peak = _show(line.get("images_per_s")) or "?", _show(line.get("peak_mib")) or "?"
        finite = "finite" if line.get("finite") else "NOT FINITE"
        lines.append(
            f"quickstart: {pace} images per second, peak {peak} MiB, {line.get('images')} images, losses {finite}"
        )
    left_out = [f"{o.step} ({o.reason})" for o in found.outcomes if o.status == "skipped"]
    if left_out:
        lines.append("left out: " + ", ".join(left_out))
    return "\n".join(lines)


def tuning_log(found: Found, when: str) -> str:
    """A page to be completed by hand: what was predicted, what came, and what follows from it."""
    device = (found.fact("properties") or {}).get("name", "unknown device")
    versions = ", ".join(f"{name} {version}" for name, version in (found.fact("packages") or {}).items())
    table = [
        (question, predicted, measured or NOT_MEASURED, "") for question, predicted, measured in predictions(found)
    ]
    lines = [
        f"# Tuning log, {when}, {device}",
        "",
        f"`python -m bench.gpu`; {versions or 'versions unknown'}.",
        "Predictions were counted or modelled before any of this ran on a GPU; decisions are filled in by hand.",
        "",
        "## Targets",
        "",
        *markdown(("target", "wanted", "measured", ""), judge(found.rows), 1),
        "",
        "## Predictions",
        "",
        *markdown(("question", "prediction", "measured", "decision"), table, 1),
        *_tiles(found),
        *_profile(found),
        *_benches(found),
    ]
    bad = failures(found)
    lines += ["", "## Failures", "", *(f"* {outcome}: `{name}`: {said}" for name, outcome, said in bad)]
    return "\n".join(lines if bad else [*lines[:-1], "none"]) + "\n"


def _tiles(found: Found) -> Iterator[str]:
    yield from ("", "## Tiles", "")
    body = []
    for line in found.lines("experiments", "tiles"):
        if "tile" in line:
            rows, warps, stages = line["tile"]
            cost = [str(line.get(key, "")) for key in ("registers", "spills", "shared")]
            us = _show(line.get("us_per_image")) or str(line.get("error", ""))[:60]
            body.append([line["kind"], str(rows), str(warps), str(stages), us, *cost])
    head = ("kernel", "rows", "warps", "stages", "us per image", "registers", "spills", "shared bytes")
    yield from markdown(head, body, 1) if body else [NOT_MEASURED]


def _profile(found: Found) -> Iterator[str]:
    yield from ("", "## Where the device's time goes", "")
    body = []
    for line in found.lines("experiments", "profile"):
        if "largest" in line:
            body.append([line["call"], "all", f"{line['kernels']:.0f}", _show(line["device_us"])])
            body += [["", str(name)[:70], f"{count:.3g}", _show(us)] for name, count, us in line["largest"][:8]]
    yield from markdown(("call", "kernel", "launches", "us"), body, 2) if body else [NOT_MEASURED]


def _benches(found: Found) -> Iterator[str]:
    yield from ("", "## Benches", "")
    yield render(found.rows, {}) if found.rows else NOT_MEASURED
    yield from ("", "## Bytes", "")
    yield render_moved(found.moved) if found.moved else "not counted"


def summary(found: Found, seconds: float, when: str) -> dict[str, Any]:
    """summary.json: everything but the long lists, which the stages' own files have."""
    spread = [r["p80_ms"] / r["p20_ms"] for r in found.rows if r.get("p20_ms")]
    return {
        "when": when,
        "seconds": seconds,
        "targets": [dict(zip(("target", "wanted", "measured", "verdict"), entry)) for entry in judge(found.rows)],
        "predictions": [dict(zip(("question", "predicted", "measured"), entry)) for entry in predictions(found)],
        "tests": tests(found),
        "failures": [dict(zip(("name", "outcome", "said"), entry)) for entry in failures(found)],
        "median_p80_over_p20": statistics.median(spread) if spread else None,
        "steps": [{k: v for k, v in o.facts().items() if k not in ("lines", "tail")} for o in found.outcomes],
    }


def stage_file(stage: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A stage's own file; that of the benches can be read by ``python -m bench.report``."""
    own = [o for o in outcomes if o.stage == stage]
    found: dict[str, Any] = {"stage": stage, "steps": [o.facts() for o in own]}
    if stage == "bench":
        found["benchmarks"] = [{"extra_info": line["row"]} for o in own for line in o.lines if "row" in line]
        found["moved"] = [line["moved"] for o in own for line in o.lines if "moved" in line]
        skipped: dict[str, list[str]] = {}
        for line in (line for o in own for line in o.lines):
            if line.get("outcome") == "skipped":
                reason = str(line.get("message", "")).removeprefix("Skipped: ")
                skipped.setdefault(reason, []).append(line["test"].split("::")[-1].removeprefix("test_"))
        found["skipped"] = skipped
    for step in found["steps"]:  # rows are above, and what started has ended
        step["lines"] = [line for line in step["lines"] if not {"row", "moved", "start", "collected"} & set(line)]
    return found
