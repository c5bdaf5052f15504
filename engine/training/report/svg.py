"""Line charts as SVG, for a page that needs nothing else."""

from __future__ import annotations

import html
import json
import math

from .record import Points

COLOURS = ("#2f6fb0", "#d1662a", "#3a8f4d", "#a63d7d", "#7a5fb5", "#8a6d2f")
WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 26


def line_chart_svg(lines: dict[str, Points], *, log_y: bool = False, label: str = "") -> str:
    """Lines through the points (x, y) of each named series; ``data-lines`` has what a reader points at.

    Points that cannot be drawn are omitted: not finite, or with ``log_y`` not positive. Empty without any point.
    """
    shown = {name: kept for name, points in lines.items() if (kept := _drawable(points, log_y))}
    if not shown:
        return ""
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    to_y = math.log10 if log_y else float
    x_low, x_high = _widened(min(xs), max(xs), 0.0)
    y_low, y_high = _widened(to_y(min(ys)), to_y(max(ys)), 0.06)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (to_y(y) - y_low) / (y_high - y_low)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in log_ticks(y_low, y_high) if log_y else ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(x_low, x_high):
        x, _ = place(tick, ys[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 9}" text-anchor="middle">{number(tick)}</text>')
    places: list[dict[str, object]] = []
    for i, (name, points) in enumerate(shown.items()):
        at = [place(x, y) for x, y in points]
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>')
        if len(at) <= 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>' for x, y in at]
        values = [[round(px, 1), round(py, 1), x, y] for (px, py), (x, y) in zip(at, points)]
        places.append({"name": name, "colour": colour, "points": values})
    data = html.escape(json.dumps(places), quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}" '
        f'data-lines="{data}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten, at most ``most`` of them."""
    span = high - low
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(f for f in (1, 2, 5, 10, 20) if span / (step * f) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers whose logarithm lies in [low, high]: 1, 2 and 5 times powers of ten, or these alone over wide ranges."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    every = max(1, math.ceil((high - low) / 7))
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [f * 10.0**p for p in powers if p % every == 0 for f in factors if low <= math.log10(f * 10.0**p) <= high]
    return found or [10**v for v in ticks(low, high, 3)]


def number(value: float) -> str:
    """A number as a reader wants it: 3 or 4 digits, thousands with k, millions with M."""
    if math.isnan(value):
        return "not finite"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.4g}{name}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high), 1e-12):
        span = abs(high) or 1.0
        return low - span / 2, high + span / 2
    return low - share * span, high + share * span


def _drawable(points: Points, log_y: bool) -> Points:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y))
