"""Line charts, drawn by matplotlib: the extra ``plots``."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from .extras import need

_Points = list[tuple[float, float]]

_DPI = 100
_MARKED = 40  # series with more points are drawn without markers, which would overlap


def line_chart(
    series: dict[str, _Points],
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    *,
    size: tuple[int, int] = (960, 540),
) -> Image.Image:
    """Lines through the points (x, y) of each named series, sorted by x, with axes and, for several, a legend.

    Points that cannot be drawn are omitted: not finite, or with ``log_y`` not positive.
    Raises: ValueError if nothing is left to draw; UserError if matplotlib is missing.
    """
    lines = {name: drawable for name, points in series.items() if (drawable := _drawable(points, log_y))}
    if not lines:
        raise ValueError(f"series must hold at least one point that can be drawn, got none in {list(series)}")
    need("plots", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for name, points in lines.items():
        axes.plot(*zip(*points), label=name, linewidth=2, marker="o" if len(points) <= _MARKED else "")
    axes.set(title=title, xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _drawable(points: _Points, log_y: bool) -> _Points:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y))
