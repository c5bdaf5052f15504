"""Results as a PNG: a roofline with a point for each row, and bars of the speed-ups."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Row, compared, key, speed_up
from stylenerf.engine.extras import need

_DPI = 100
_BAR_INCHES = 0.24
_MOST_BARS = 60  # the largest and the smallest are left if there are more


def draw(runs: Sequence[Sequence[Row]], path: Path) -> None:
    """Write the picture of one run, with speed-ups over the plain forms, or of two, the second over the first.

    Raises: ValueError if there is nothing to draw, UserError if matplotlib is missing, OSError.
    """
    need("plots", "--picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, bars = runs[-1], speed_ups(runs)
    points = [row for row in rows if row.get("bytes") and row.get("flops")]
    if not points and not bars:
        raise ValueError("--picture: wanted rows with bytes and operations, or with something to compare, got neither")
    height = max(6.0, 1.6 + _BAR_INCHES * len(bars))
    figure = Figure(figsize=(15, height), dpi=_DPI, layout="constrained")
    canvas, (left, right) = FigureCanvasAgg(figure), figure.subplots(1, 2)
    roofline(left, points)
    over = "the plain form" if len(runs) == 1 else "the first run"
    barplot(right, bars, f"Times faster than {over}")
    figure.suptitle(f"{rows[0]['device']}, {rows[0].get('threads')} threads, torch {rows[0].get('torch')}", fontsize=10)
    canvas.print_png(path)


def speed_ups(runs: Sequence[Sequence[Row]]) -> list[tuple[str, float]]:
    """Label and ratio of each row that has something to be compared with, in order of the ratio."""
    if len(runs) == 2:
        named = [(" · ".join(key(after)), before["p50_ms"] / after["p50_ms"]) for before, after in compared(*runs)]
    else:
        rated = [(row, speed_up(row, runs[0])) for row in runs[0] if not row.get("baseline")]
        named = [(" · ".join(key(row)), ratio) for row, ratio in rated if ratio is not None]
    named.sort(key=lambda bar: bar[1])
    half = _MOST_BARS // 2
    return named if len(named) <= _MOST_BARS else named[:half] + named[-half:]


def roofline(axes: Any, rows: Sequence[Row]) -> None:
    """Rows by their operations per byte and per second, under the ceilings of copying and of float32 products."""
    axes.set(
        title="Roofline", xlabel="operations per byte that must move", ylabel="GFLOP/s", xscale="log", yscale="log"
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if not rows:
        return
    intensity = [row["flops"] / row["bytes"] for row in rows]
    copy, product = rows[0]["ceiling_copy_GB_per_s"], rows[0]["ceiling_matmul_GFLOP_per_s"]
    ends = min(*intensity, product / copy) / 16, max(*intensity, product / copy) * 2
    corner = product / copy
    axes.plot([ends[0], corner, ends[1]], [ends[0] * copy, product, product], color="black", linewidth=1.5)
    axes.annotate(f"copy {copy:.3g} GB/s", (ends[0], ends[0] * copy), (0, -12), textcoords="offset points", fontsize=8)
    axes.annotate(f"float32 products {product:.3g} GFLOP/s", (ends[1], product * 1.1), ha="right", fontsize=8)
    for impl in dict.fromkeys(row["impl"] for row in rows):
        mine = [(x, row) for x, row in zip(intensity, rows) if row["impl"] == impl]
        axes.plot([x for x, _ in mine], [row["GFLOP_per_s"] for _, row in mine], "o", label=impl, alpha=0.8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _name_points(axes, intensity, rows)


def _name_points(axes: Any, intensity: Sequence[float], rows: Sequence[Row]) -> None:
    """A number at the fastest point of each op; their names above the slope, where no point can be."""
    best: dict[str, tuple[float, Row]] = {}
    for x, row in zip(intensity, rows):
        if row["op"] not in best or row["GFLOP_per_s"] > best[row["op"]][1]["GFLOP_per_s"]:
            best[row["op"]] = (x, row)
    for i, (x, row) in enumerate(best.values(), 1):
        axes.annotate(str(i), (x, row["GFLOP_per_s"]), (4, 4), textcoords="offset points", fontsize=8)
    names = "\n".join(f"{i} {op}" for i, op in enumerate(best, 1))
    axes.text(0.02, 0.98, names, transform=axes.transAxes, va="top", fontsize=8)


def barplot(axes: Any, bars: Sequence[tuple[str, float]], title: str) -> None:
    axes.set(title=title, xscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    if not bars:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no row to compare", ha="center", transform=axes.transAxes)
        return
    names, ratios = zip(*bars)
    drawn = axes.barh(names, ratios, color=["tab:green" if ratio >= 1 else "tab:red" for ratio in ratios], alpha=0.8)
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(-0.7, max(len(bars), 12) - 0.3)  # no thicker where there are few
    axes.set_xlim(min(0.5, *ratios) / 1.2, max(2, *ratios) * 1.5)
