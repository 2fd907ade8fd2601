"""A run's report as files: `report.html`, one page with plots, and `report.json` for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headrace.evaluate.page import Plot, number, page, svg, table, text
from headrace.types import Figure, Report

Row: TypeAlias = Mapping[str, float]
Series: TypeAlias = "Sequence[Plot] | Sequence[Row] | Mapping[str, Sequence[Row]]"

US_PER_HOUR = 3.6e9
TILES = ("auc", "window_auc", "ne", "calibration", "logged_auc", "freshness_p99_s", "examples", "version")
PANELS = {
    "auc": ("AUC by cohort", "AUC", 0.5),
    "ne": ("Normalised entropy by cohort (lower is better)", "normalised entropy", 1.0),
    "calibration": ("Calibration by cohort: expected / observed positives", "ratio", 1.0),
    "ece": ("Expected calibration error by cohort", "error", None),
    "log_loss": ("Log-loss by cohort", "nats", None),
    "rows": ("Examples by cohort", "examples", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: a heading, paragraphs (cut at blank lines), and a table if there are rows."""

    title: str
    body: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def write_report(
    folder: Path, report: Report, series: Series = (), *, title: str = "Report",
    sections: Sequence[Section | str] = (),
) -> Path:  # fmt: skip
    """Write `report.html` and `report.json` and return the page's path.

    The page needs nothing from elsewhere. All text is escaped. Each file is replaced as a whole.

    Args:
        folder: Where to; made if absent.
        report: Numbers, notes and settings.
        series: Closed cohorts as `ProgressiveMetric.history` returns them, or several such histories by name, or plots.
        title: The page's heading.
        sections: Further parts; a plain sentence is listed among the notes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(series)
    notes = list(dict.fromkeys([*report.notes, *(part for part in sections if isinstance(part, str))]))
    parts = [f"<h1>{text(title)}</h1>", _tiles(report)]
    if plots:
        drawn = [
            f"<div class='card'><h3>{text(plot.title)}</h3>{svg(plot, f'plot{place}')}</div>"
            for place, plot in enumerate(plots)
        ]
        parts += ["<h2>Over the stream</h2>", "<div class='plots'>", *drawn, "</div>"]
    parts += [_section(part) for part in sections if isinstance(part, Section)]
    parts += _figures(report)
    if notes:
        parts += ["<h2>Notes</h2>", "<ul>", *(f"<li>{text(note)}</li>" for note in notes), "</ul>"]
    if report.settings:
        rows = [(name, json.dumps(_plain(value))) for name, value in report.settings.items()]
        parts += ["<h2>Settings</h2>", table(rows)]
    record = report.to_json() | {"title": title, "notes": notes, "series": [_line_record(plot) for plot in plots]}
    _replace(folder / "report.json", json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")
    return _replace(folder / "report.html", page(title, parts))


def history_plots(histories: Mapping[str, Sequence[Row]]) -> list[Plot]:
    """Return the plots of one or several histories of cohorts: one per kind of number, one line per history.

    Args:
        histories: Name (empty for a single one) to closed cohorts in order.
    """
    starts = [row["start"] for rows in histories.values() for row in rows if "start" in row]
    if not starts:
        return []
    first, hours = min(starts), (max(starts) - min(starts)) / US_PER_HOUR
    scale, unit = (24 * US_PER_HOUR, "days") if hours > 72 else (US_PER_HOUR, "hours")
    plots = []
    for column, (title, label, level) in PANELS.items():
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for prefix, suffix in (("", ""), ("logged_", "with logged values")):
            for name, rows in histories.items():
                found = [(row["start"], row[prefix + column]) for row in rows if prefix + column in row]
                if found:
                    line = ", ".join(word for word in (name, suffix or ("" if name else "as served")) if word)
                    lines[line] = ([(x - first) / scale for x, _ in found], [y for _, y in found])
        if lines:
            x_label = f"impression time, {unit} since the first cohort"
            plots.append(Plot(title=title, x_label=x_label, y_label=label, lines=lines, level=level))
    return plots


def _plots(series: Series) -> list[Plot]:
    if isinstance(series, Mapping):
        return history_plots(series)
    plots = [part for part in series if isinstance(part, Plot)]
    rows = [part for part in series if not isinstance(part, Plot)]
    return plots + (history_plots({"": rows}) if rows else [])


def _tiles(report: Report) -> str:
    tiles = []
    for name in TILES:
        figure = report.figures.get(name)
        if figure is not None and not math.isnan(figure.value):
            label = " ".join(part for part in (name.replace("_", " "), figure.unit and f"({figure.unit})") if part)
            tiles.append(f"<div class='tile'><b>{text(number(figure.value))}</b><span>{text(label)}</span></div>")
    return f"<div class='tiles'>{''.join(tiles)}</div>" if tiles else ""


def _figures(report: Report) -> list[str]:
    groups: dict[str, list[tuple[str, Figure]]] = {}
    for name, figure in report.figures.items():
        group, _, rest = name.rpartition("/")
        groups.setdefault(group, []).append((rest, figure))
    parts = []
    for group, figures in groups.items():
        rows = [(name, figure.value, _interval(figure), figure.unit, figure.source) for name, figure in figures]
        parts += [f"<h2>{text(group or 'Numbers')}</h2>"]
        parts += [table(rows, ("number", "value", "95 % interval", "unit", "where it comes from"))]
    return parts


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low)} to {number(figure.high)}"


def _section(section: Section) -> str:
    parts = [f"<h2>{text(section.title)}</h2>"]
    parts += [f"<p>{text(part.strip())}</p>" for part in section.body.split("\n\n") if part.strip()]
    if section.rows:
        parts.append(table(section.rows, section.head))
    return "\n".join(parts)


def _line_record(plot: Plot) -> dict[str, object]:
    lines = {name: {"x": list(x), "y": list(y)} for name, (x, y) in plot.lines.items()}
    return {"title": plot.title, "x_label": plot.x_label, "y_label": plot.y_label, "lines": lines}


def _plain(value: object) -> object:
    """Return a value as JSON knows it: no NaN, no infinities, no objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def _replace(path: Path, content: str) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
    return path
