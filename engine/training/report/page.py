"""The report of a run as one HTML page without anything outside it, and its curves as one picture."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from ...errors import UserError, one_line
from ...extras import missing
from ...files import write_whole
from ...pictures import save_png
from ...plots import line_chart
from ..config_io import to_dict
from ..stats import Row
from .catalogue import Chart, charts
from .next_steps import Step, next_steps
from .record import Record, is_number, read_record
from .signs import Sign, signs
from .svg import COLOURS, line_chart_svg, number

PAGE, CURVES = "report.html", "curves.png"
MOST_SHOTS = 24  # snapshots shown, spread over the run, the first and the last among them
_SMALL_BYTES = 150_000  # a picture up to this size is embedded as it is
_WIDEST = 1280  # pixels of larger ones, which become JPEGs
_SMALL_PX = 480  # a picture narrower than this is shown enlarged, pixel by pixel
_CURVE_SIZE, _CURVE_COLUMNS = (640, 400), 3
_KINDS = {
    "samples": "Samples: one latent each, always the same ones.",
    "turn": "One latent per row under a turning camera.",
    "depth": "Depth of the same views; warm is near.",
    "views": "Two views, the first carried into the second by its depth, and five times what is left.",
}


def write_report(record: Record, out: Path, report: Callable[[str], None]) -> tuple[list[Sign], list[Step]]:
    """Write ``out``/report.html and ``out``/curves.png; returns the signs and the next steps that it names.

    Without matplotlib there is no curves.png, and one line says so; the page has its charts in any case.
    Raises: UserError naming the file that cannot be written.
    """
    found = signs(record)
    steps = next_steps(record, found)
    drawn = charts(record)
    text = page(record, found, steps, drawn)
    write_whole(out / PAGE, lambda part: part.write_text(text, encoding="utf-8"))
    report(f"report:      {out / PAGE}")
    hint = missing("plots")
    if hint is not None:
        report(f"curves:      {out / CURVES} not drawn, wants {hint}")
    elif drawn:
        save_png(curves(drawn), out / CURVES)
        report(f"curves:      {out / CURVES}")
    return found, steps


def report_run(run_dir: Path, report: Callable[[str], None]) -> None:
    """Write the report at the end of a training, name its signs and next commands; a failure is one line."""
    try:
        found, steps = write_report(read_record(run_dir), run_dir, report)
    except (UserError, OSError, ValueError) as error:  # a report that fails must not fail a training of weeks
        report(f"report:      not written: {one_line(error)}")
        return
    for line in summary(found, steps):
        report(line)


def summary(found: list[Sign], steps: list[Step]) -> list[str]:
    """Signs and next commands as lines for a terminal."""
    lines = [f"{sign.level + ':':12s} {sign.title}. {sign.seen}" for sign in found]
    width = max((len(step.command) for step in steps), default=0)
    return lines + [f"next:        {step.command:{min(width, 72)}s}  # {step.why}" for step in steps]


def page(record: Record, found: list[Sign], steps: list[Step], drawn: list[Chart]) -> str:
    """The page's text."""
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    name = record.folder.resolve().name
    return template.substitute(
        title=html.escape(f"{name} - report"),
        name=html.escape(name),
        state=html.escape(_state(record)),
        facts="".join(f"<li>{html.escape(what)} <b>{html.escape(value)}</b></li>" for what, value in _facts(record)),
        signs="".join(_sign(sign) for sign in found),
        steps="".join(f"<li>{html.escape(s.why)}<code>{html.escape(s.command)}</code></li>" for s in steps),
        pictures=_pictures(record),
        charts="".join(_chart(chart) for chart in drawn),
        table=_table(record.rows),
        config=html.escape(json.dumps(to_dict(record.config), indent=2)),
    )


def curves(drawn: list[Chart]) -> Image.Image:
    """All charts as one picture. Raises: UserError if matplotlib is missing."""
    tiles = [_curve(chart) for chart in drawn]
    (width, height), columns = _CURVE_SIZE, min(_CURVE_COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (column * width, row * height))
    return sheet


def _curve(chart: Chart) -> Image.Image:
    log_y = chart.log_y and any(y > 0 for points in chart.lines.values() for _, y in points)
    return line_chart(chart.lines, chart.title, "thousand images", chart.unit, log_y, size=_CURVE_SIZE)


def _state(record: Record) -> str:
    total, shown = record.config.train.total_kimg, record.images_shown / 1000
    if record.finished:
        return f"Finished: {shown:g} thousand images."
    return f"{shown:g} of {total:g} thousand images ({shown / total:.0%})."


def _facts(record: Record) -> list[tuple[str, str]]:
    cfg = record.config
    images = "" if record.data_images is None else f", {record.data_images} images"
    seconds = sum((y * (x - before)) for (x, y), before in _with_before(record.points("Time/sec_per_kimg")))
    seconds += sum(y for _, y in record.points("Time/snapshot_s"))
    facts = [
        ("data", f"{cfg.data.path}{images}{', mirrored' if cfg.data.mirror else ''}"),
        ("resolution", f"{cfg.generator.resolution} px from {cfg.generator.volume_resolution} px of rays"),
        ("batch", f"{cfg.train.batch}, {cfg.train.precision}"),
        ("seed", str(cfg.train.seed)),
    ]
    if seconds:
        facts.append(("time", _clock(seconds)))
    memory = record.last("Memory/peak_mib")
    if memory is not None and math.isfinite(memory):
        facts.append(("peak memory", f"{memory:.0f} MiB"))
    return facts


def _with_before(points: list[tuple[float, float]]) -> list[tuple[tuple[float, float], float]]:
    return list(zip(points, [0.0, *(x for x, _ in points)]))


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _sign(sign: Sign) -> str:
    helps = f'<p class="soft">{html.escape(sign.helps)}</p>' if sign.helps else ""
    title, seen = html.escape(sign.title), html.escape(sign.seen)
    return f'<div class="card sign {sign.level}"><b>{title}</b><p>{seen}</p>{helps}</div>'


def _chart(chart: Chart) -> str:
    drawn = line_chart_svg(chart.lines, log_y=chart.log_y, label=chart.title)
    if not drawn:
        return ""
    names = [name for name, points in chart.lines.items() if points]
    key = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{html.escape(name)}</span>'
        for i, name in enumerate(names)
    )
    unit = f' <span class="soft">{html.escape(chart.unit)}</span>' if chart.unit else ""
    healthy = f"<p><b>Healthy:</b> {html.escape(chart.healthy)}</p>" if chart.healthy else ""
    return (
        f'<div class="card chart"><h3>{html.escape(chart.title)}{unit}</h3><span class="tip"></span>{drawn}'
        f'<div class="key">{key}</div><p>{html.escape(chart.meaning)}</p>{healthy}</div>'
    )


def _table(rows: list[Row]) -> str:
    keys = sorted({key for row in rows for key, value in row.items() if is_number(value) or value is None})
    lines = []
    for key in keys:
        values = [row[key] for row in rows if key in row]
        first, last = (number(float(v)) if is_number(v) else "not finite" for v in (values[0], values[-1]))
        lines.append(f'<tr><td>{html.escape(key)}</td><td class="n">{first}</td><td class="n">{last}</td></tr>')
    return "".join(lines)


def _pictures(record: Record) -> str:
    """Pictures over time with a slider, beside the training images; nothing if there are none."""
    by_time: dict[int, dict[str, Path]] = {}
    for kind, found in record.pictures.items():
        for shown, path in found:
            by_time.setdefault(shown, {})[kind] = path
    shots = []
    for shown in _spread(sorted(by_time), MOST_SHOTS):
        data = {kind: text for kind, path in by_time[shown].items() if (text := embedded(path))}
        if data:
            shots.append({"kimg": f"{shown / 1000:g}", **data})
    reals = embedded(record.folder / "images" / "reals.png")
    if not shots and not reals:
        return ""
    figures = [_figure("reals", reals, "Training images.")] if reals else []
    for kind, about in _KINDS.items():
        last = next((shot[kind] for shot in reversed(shots) if kind in shot), "")
        if last:
            figures.append(_figure(kind, last, about))
    slider = ""
    if shots:
        slider = (
            f'<div class="slide"><label for="when">Pictures over time</label><input id="when" type="range" min="0" '
            f'max="{len(shots) - 1}" value="{len(shots) - 1}"><output id="kimg">{shots[-1]["kimg"]} kimg</output></div>'
        )
    script = json.dumps(shots).replace("<", "\\u003c")
    return (
        f'<h2>Pictures</h2><div class="card">{slider}<div class="shots">{"".join(figures)}</div></div>'
        f'<script type="application/json" id="shots">{script}</script>'
    )


def _figure(name: str, data: str, about: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as image:
        small = ' class="small"' if image.width < _SMALL_PX else ""
    return f'<figure><img id="{name}"{small} src="{data}" alt="{about}"><figcaption>{about}</figcaption></figure>'


def embedded(path: Path) -> str:
    """A picture as a data: address, a large one as a JPEG of at most 1280 pixels; empty if it cannot be read."""
    try:
        with Image.open(path) as image:
            if path.stat().st_size <= _SMALL_BYTES:
                image.verify()
                return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            image.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, format="JPEG", quality=88)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _spread(values: list[int], most: int) -> list[int]:
    """At most ``most`` of ``values``, evenly, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
