"""Turn the JSON of pytest-benchmark or of bench.gpu into Markdown: ``python -m bench.report results.json``.

Two files are compared, row by row. ``--picture`` draws the results, or the comparison. ``--bytes`` counts the bytes
that kernels move instead, without timing and without a GPU.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
COLUMNS = (
    "op",
    "shape",
    "direction",
    "implementation",
    "ms p20 / p50 / p80",
    "times faster than ref",
    "GB/s",
    "of copy",
    "GFLOP/s",
    "of matmul",
    "peak MiB",
    "error",
)
LEFT_ALIGNED = 4


def render(rows: Sequence[Row], skipped: Mapping[str, Sequence[str]]) -> str:
    """The whole page: machines, table, comparison with the public implementation, skipped benches."""
    if not rows:
        return "\n".join(["Nothing was timed.", *_skip_lines(skipped)])
    lines = [*_machine_lines(rows), "", *_table(rows)]
    if any("images" in row for row in rows):
        lines += ["", *_images_table([row for row in rows if "images" in row], rows)]
    if any("every" in row for row in rows):
        lines += ["", *_steps_table([row for row in rows if "every" in row])]
    beside = [row for row in rows if row.get("public_implementation_s")]
    if beside:
        lines += ["", *_public_table(beside)]
    return "\n".join([*lines, *_skip_lines(skipped)])


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """Speed-up over the plain reference of the same op, shape and direction; None without one."""
    group = [other for other in rows if all(other[key] == row[key] for key in ("op", "shape", "direction"))]
    base = next((other for other in group if other.get("baseline")), None)
    return None if base is None else base["p50_ms"] / row["p50_ms"]


def _machine_lines(rows: Sequence[Row]) -> list[str]:
    """One paragraph per machine: rows of several runs may be mixed."""
    lines = []
    for machine in dict.fromkeys(_machine(row) for row in rows):
        row = next(r for r in rows if _machine(r) == machine)
        lines.append(f"{machine}.")
        formats = {"matmul": "float32", "matmul_bf16": "bfloat16", "matmul_tf32": "TF32"}
        rates = {name: row.get(f"ceiling_{key}_GFLOP_per_s") for key, name in formats.items()}
        matmul = ", ".join(f"{name} products {_number(rate)} GFLOP/s" for name, rate in rates.items() if rate)
        lines.append(f"Ceilings, same run: copy {_number(row.get('ceiling_copy_GB_per_s'))} GB/s, {matmul}.")
    return lines


def _machine(row: Row) -> str:
    facts = [f"Measured on {row.get('device')}", f"{row.get('threads')} threads", f"torch {row.get('torch')}"]
    facts.append(f"triton {row['triton']}" if row.get("triton") else "no triton")
    if row.get("tf32"):
        facts.append(f"TF32 {row['tf32']}")
    return ", ".join([*facts, f"commit {row.get('commit') or 'unknown'}"])


def _table(rows: Sequence[Row]) -> list[str]:
    return markdown(COLUMNS, [_cells(row, rows) for row in rows], LEFT_ALIGNED)


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    return [
        row["op"],
        row["shape"],
        row["direction"],
        row["impl"],
        _spread(row),
        _shown(speed_up(row, rows)),
        _number(row.get("GB_per_s")),
        _shown(row.get("share_copy"), "{:.0%}").replace("%", " %"),
        _number(row.get("GFLOP_per_s")),
        _shown(row.get("share_matmul"), "{:.0%}").replace("%", " %"),
        _peak(row),
        _shown(row.get("error"), "{:.0e}"),
    ]


def _peak(row: Row) -> str:
    total, before = row.get("peak_mib"), row.get("peak_before_mib")
    added = "" if total is None or before is None else f" (+{max(total - before, 0):.0f})"
    return _shown(total, "{:.0f}") + added


def _public_table(rows: Sequence[Row]) -> list[str]:
    note = rows[0].get("public_implementation_note", "measured elsewhere")
    body = [
        [
            f"{row['op']} {row['shape']} {row['direction']}",
            _number(row["p50_ms"] / 1e3),
            _number(row["public_implementation_s"]),
            _shown(row["public_implementation_s"] / (row["p50_ms"] / 1e3)),
            _peak(row),
        ]
        for row in rows
    ]
    head = ("", "s here", "s public implementation", "ratio", "peak MiB here")
    return [f"Beside the public implementation ({note}):", "", *markdown(head, body, 1)]


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table, padded so that it also reads well in a terminal."""
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(head), line(rule), *(line(cells) for cells in body)]


def _images_table(models: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    body = [
        [row["shape"], row["impl"], _number(row["images_per_s"]), _shown(speed_up(row, rows)), _peak(row)]
        for row in models
    ]
    head = ("generator", "implementation", "images/s", "times faster than ref", "peak MiB")
    return ["Whole images:", "", *markdown(head, body, 2)]


class TrainingStep(NamedTuple):
    """A whole training step, composed of its phases. ``ratio``: a step of D with R1 over one without."""

    shape: str
    impl: str
    images_per_s: float | None  # None where a phase is missing
    ratio: float | None
    nerf_path_ms: float | None
    peak_mib: float | None


def training_steps(rows: Sequence[Row]) -> list[TrainingStep]:
    """One per shape and implementation of the phases in ``rows``, each counted as often as a step has it."""
    by_variant: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if "every" in row:
            by_variant.setdefault((row["shape"], row["impl"]), {})[row["direction"]] = row
    expected = {shape: {d for s, i in by_variant if s == shape for d in by_variant[s, i]} for shape, _ in by_variant}
    steps = []
    for (shape, impl), phases in by_variant.items():
        ms = {name: row["p50_ms"] for name, row in phases.items()}
        part = [row["p50_ms"] / row["every"] for row in phases.values() if row["every"]]
        whole = {"G main", "D main", "R1"} <= set(ms) and set(ms) == expected[shape]
        batch = next(iter(phases.values()))["batch"]
        both = ("D main" in ms) and ("R1" in ms)
        peaks = [row.get("peak_mib") for row in phases.values()]
        steps.append(
            TrainingStep(
                shape,
                impl,
                batch / sum(part) * 1e3 if whole else None,
                (ms["D main"] + ms["R1"]) / ms["D main"] if both else None,
                next((ms["G main"] - ms[name] for name in ms if "without" in name and "G main" in ms), None),
                max((peak for peak in peaks if peak is not None), default=None) if whole else None,
            )
        )
    return steps


def _steps_table(rows: Sequence[Row]) -> list[str]:
    steps = training_steps(rows)
    body = []
    for step in steps:
        plain = next((s.images_per_s for s in steps if s.shape == step.shape and s.impl == "ref"), None)
        times = step.images_per_s / plain if step.images_per_s and plain else None
        figures = [_shown(times), _shown(step.ratio), _number(step.nerf_path_ms), _shown(step.peak_mib, "{:.0f}")]
        body.append([step.shape, step.impl, _number(step.images_per_s), *figures])
    head = (
        "training",
        "implementation",
        "images/s",
        "times faster than ref",
        "D with R1 / D",
        "NeRF path ms",
        "peak MiB",
    )
    return ["Whole training steps, put together from their phases:", "", *markdown(head, body, 2)]


def render_comparison(before: Sequence[Row], after: Sequence[Row]) -> str:
    """Rows that both runs have, with their times and their ratio; how many each has alone."""
    pairs = compared(before, after)
    lines = [*_machine_lines(before), "", "against", "", *_machine_lines(after), ""]
    if pairs:
        spread = [(_spread(a), _spread(b)) for a, b in pairs]
        body = [
            [*key(b), *spreads, f"{a['p50_ms'] / b['p50_ms']:.2f}", "" if apart(a, b) else "within the spread"]
            for (a, b), spreads in zip(pairs, spread)
        ]
        head = (*COLUMNS[:LEFT_ALIGNED], "before: " + COLUMNS[4], "after", "times faster", "")
        lines += markdown(head, body, LEFT_ALIGNED)
    else:
        lines.append("No row is in both.")
    alone = [len(rows) - len(pairs) for rows in (before, after)]
    return "\n".join([*lines, "", f"In the first alone: {alone[0]} rows; in the second alone: {alone[1]}."])


def compared(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The rows of the same op, shape, direction and implementation, in the second run's order."""
    known = {key(row): row for row in before}
    return [(known[key(row)], row) for row in {key(row): row for row in after}.values() if key(row) in known]


def key(row: Row) -> tuple[str, str, str, str]:
    return row["op"], row["shape"], row["direction"], row["impl"]


def apart(a: Row, b: Row) -> bool:
    """Whether the middle 60 % of the rounds of two rows do not overlap."""
    return bool(a["p80_ms"] < b["p20_ms"] or b["p80_ms"] < a["p20_ms"])


def _spread(row: Row) -> str:
    return " / ".join(_number(row[f"p{q}_ms"]) for q in (20, 50, 80))


MOVED_COLUMNS = ("op", "shape", "direction", "launches", "minimum MB", "memory", "with halos", "with weights")
MOVED = ("memory", "halos", "programs")


def render_moved(rows: Sequence[Row]) -> str:
    """Counted bytes over the minimum, by op; ``rows`` as ``bench.compiler.moved.rows`` gives them."""
    body = [
        [
            row["op"],
            row["shape"],
            row["direction"],
            str(row["launches"]),
            _number(row["minimum"] / 1e6),
            *(f"{row[name] / row['minimum']:.2f}" for name in MOVED),
        ]
        for row in rows
    ]
    targets = ", ".join(f"sm_{target}" for target in sorted({row["target"] for row in rows}))
    title = f"Bytes by the launch plan of {targets}, times the minimum (inputs read once, outputs written once):"
    return "\n".join([title, "", *markdown(MOVED_COLUMNS, body, 3)])


def render_launches(rows: Sequence[Row], least: float = 0.01) -> str:
    """The same per launch, relative to the launch's own inputs and outputs; without launches that move a ``least``
    part or less."""
    body = []
    for row in rows:
        for part in row["parts"]:
            if part["memory"] > least * row["memory"]:
                times = f" ({part['times']} calls)" if part["times"] > 1 else ""
                ratios = (f"{part[name] / part['memory']:.2f}" for name in MOVED[1:])
                name = f"{row['op']} {row['shape']} {row['direction']}"
                body.append([name, part["name"] + times, _number(part["memory"] / 1e6), *ratios])
    head = ("", "launch", "own minimum MB", "with halos", "with weights")
    return "\n".join(["Launch by launch, times the launch's own minimum:", "", *markdown(head, body, 2)])


def _skip_lines(skipped: Mapping[str, Sequence[str]]) -> list[str]:
    if not skipped:
        return ["", "Nothing was skipped."]
    lines = ["", "Not timed:", ""]
    for reason, names in skipped.items():
        counts = Counter(name.split("[")[0] for name in names)
        lines.append(f"* {reason}: {', '.join(f'{name} ({count})' for name, count in counts.items())}")
    return lines


def _number(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def _shown(value: float | None, form: str = "{:.2f}") -> str:
    return "" if value is None else form.format(value)


def load(path: Path) -> tuple[list[Row], dict[str, list[str]]]:
    """Rows and skips of one file. Raises: ValueError naming the file and its fault."""
    message = f"{path}: wanted JSON of pytest-benchmark or bench.gpu, got"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        parts = data.get("steps", [data])  # each step of bench.gpu has pytest-benchmark's output
        benches = [bench for part in parts for bench in part["benchmarks"]]
    except OSError as error:
        raise ValueError(f"{message}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{message} something that is no JSON") from None
    except (AttributeError, LookupError, TypeError):
        raise ValueError(f"{message} JSON without 'benchmarks'") from None
    rows = [bench["extra_info"] for bench in benches if "p50_ms" in bench["extra_info"]]
    if benches and not rows:
        raise ValueError(f"{path}: wanted results of `pytest bench/`, got benches without p50_ms in extra_info")
    skipped: dict[str, list[str]] = {}
    for part in parts:
        for reason, names in part.get("skipped", {}).items():
            skipped.setdefault(reason, []).extend(names)
    if len(rows) < len(benches):  # an interrupted run lists its last bench before its timing is complete
        unfinished = [bench["name"].removeprefix("test_") for bench in benches if "p50_ms" not in bench["extra_info"]]
        skipped["interrupted before it was timed to the end"] = unfinished
    return rows, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "results", nargs="*", type=Path, help="of pytest bench/ --benchmark-json=FILE, or bench.gpu; two are compared"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw a roofline and speed-ups, too")
    parser.add_argument("--bytes", action="store_true", help="count what kernels move; takes minutes, needs no GPU")
    parser.add_argument("--only", default="", metavar="TEXT", help="of --bytes: ops and shapes whose name contains it")
    parser.add_argument("--launches", action="store_true", help="of --bytes: launch by launch, too")
    parser.add_argument("--target", type=int, default=90, metavar="SM", help="of --bytes: sm_80 is 80 (default: 90)")
    options = parser.parse_args(argv)
    if options.bytes == bool(options.results) or len(options.results) > 2:
        parser.error(f"wanted one or two result files, or --bytes, got {len(options.results)} files")
    if options.picture is not None and (options.bytes or options.picture.suffix != ".png"):
        parser.error(f"--picture: wanted a .png of result files, got {options.picture}")
    try:
        pages = _bytes_pages(options) if options.bytes else [_results_page(options.results, options.picture)]
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n\n".join(pages))
    return 0


def _results_page(paths: Sequence[Path], picture: Path | None) -> str:
    loaded = [load(path) for path in paths]
    rows = [rows for rows, _ in loaded]
    if picture is not None:
        from bench.pictures import draw  # matplotlib is an extra

        draw(rows, picture)
    return render(*loaded[0]) if len(loaded) == 1 else render_comparison(*rows)


def _bytes_pages(options: argparse.Namespace) -> list[str]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are decorated, so before they are imported
    from bench.compiler import moved

    rows = list(moved.rows(options.only, options.target))
    if not rows:
        raise ValueError(f"--only: wanted a part of an op's or a shape's name, got {options.only!r}")
    return [render_moved(rows), *([render_launches(rows)] if options.launches else [])]


if __name__ == "__main__":
    sys.exit(main())
