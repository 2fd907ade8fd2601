"""The look of a report: one self-contained page, and plots as inline SVG."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

FEW_TICKS = 10
"""Measured places on a logarithmic axis up to which each is named."""
COLOURS = ("#1668a5", "#d1582b", "#3a8f5c", "#8257a8", "#b08a1e", "#5b6770")
STYLE = """
:root{--ink:#1d252c;--soft:#5b6770;--line:#dfe4e8;--paper:#fff;--wash:#f5f7f9;--accent:#1668a5}
*{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.15rem;margin:36px 0 12px}
h3{font-size:1rem;margin:0 0 8px}
p{max-width:46em;margin:0 0 12px}
.quiet{color:var(--soft);font-size:.88rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0}
.tile,.card{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}
.plots svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr:last-child td{border-bottom:0}
ul{margin:0;padding-left:1.2em}
li{margin:4px 0}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One diagram: lines over x, or bars by name.

    Attributes:
        title: What is shown.
        x_label, y_label: The axes; bars lie along x and have no y label.
        lines: By name, a pair of equally long sequences x and y; a NaN leaves a gap.
        bands: For lines, by the same names, the ends of their intervals, as long as the lines.
        bars: By name, a value with the ends of its interval (None where there is none). A plot has lines or bars.
        level: A line across everything: a goal, or what chance reaches.
        log_x, log_y: Logarithmic axes.
    """

    title: str
    x_label: str
    y_label: str = ""
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bars: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    level: float | None = None
    log_x: bool = False
    log_y: bool = False


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole HTML page without any outside reference."""
    head = f"<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>{text(title)}</title>\n"
    head += "<meta name='viewport' content='width=device-width,initial-scale=1'>\n"
    head += f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    return head + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"


def text(value: object) -> str:
    """Return a value as HTML text, every special character escaped."""
    return html.escape(str(value), quote=True)


def number(value: object) -> str:
    """Return a number as people write it: counts whole, the rest with four figures, NaN as a dash.

    Example:
        >>> number(1234567), number(0.123456), number(float("nan")), number("text")
        ('1,234,567', '0.1235', '–', 'text')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Return an HTML table; numbers stand to the right."""
    cells = []
    if head:
        cells.append("<tr>" + "".join(f"<th>{text(name)}</th>" for name in head) + "</tr>")
    for row in rows:
        cells.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    return "<div class='card wide'><table>" + "".join(cells) + "</table></div>"


def _cell(value: object) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td class='number'>{text(number(value))}</td>" if is_number else f"<td>{text(value)}</td>"


def svg(plot: Plot, identity: str) -> str:
    """Return a plot as an SVG element; text stays text, and the same data give the same bytes.

    Args:
        plot: What to draw.
        identity: Distinct per page: prefixed to the ids inside, which are global to it.
    """
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": identity, "text.parse_math": False, "font.size": 10,
        "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": "#8b959d", "axes.labelcolor": "#5b6770", "xtick.color": "#5b6770", "ytick.color": "#5b6770",
    }  # fmt: skip
    import matplotlib as mpl  # heavy: only those who draw wait for it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(settings):
        drawing = Drawing(figsize=(5.4, max(3.1, 0.7 + 0.26 * len(plot.bars))), layout="constrained")
        canvas, axes = FigureCanvasSVG(drawing), drawing.add_subplot()
        drawn = _draw_bars(axes, plot) if plot.bars else _draw_lines(axes, plot)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if plot.log_x:
            axes.set_xscale("log")
            measured = sorted({value for x, _ in plot.lines.values() for value in x})
            if 0 < len(measured) <= FEW_TICKS:
                axes.set_xticks(measured, labels=[f"{value:g}" for value in measured])
                axes.minorticks_off()
        if plot.log_y:
            axes.set_yscale("log")
        axes.grid(axis="x" if plot.bars else "y", color="#e8ecef", linewidth=0.8)
        axes.set_axisbelow(True)
        if not drawn:
            axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", color="#5b6770")
        elif len(plot.lines) > 1:
            axes.legend(frameon=False, fontsize=9)
        sink = io.StringIO()
        cast(Any, canvas).print_svg(sink, metadata={"Date": None, "Creator": None})
    element = sink.getvalue()[sink.getvalue().index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return _own_ids(element, identity).replace("<svg ", f"<svg role='img' aria-label='{text(plot.title)}' ", 1)


def _draw_lines(axes: Any, plot: Plot) -> int:
    """Draw the lines over their bands and return how many points there are."""
    if plot.level is not None:
        axes.axhline(plot.level, color="#8b959d", linewidth=0.8, linestyle=(0, (4, 3)))
    drawn = 0
    for place, (name, (x, y)) in enumerate(plot.lines.items()):
        points, colour = sum(not math.isnan(value) for value in y), COLOURS[place % len(COLOURS)]
        drawn += points
        if name in plot.bands:
            axes.fill_between(x, *plot.bands[name], color=colour, alpha=0.15, linewidth=0)
        (line,) = axes.plot(x, y, color=colour, linewidth=1.6, solid_capstyle="round",
                            marker="o" if points <= 30 else "", markersize=3.5)  # fmt: skip
        line.set_label(f"\u200b{name}" if name.startswith("_") else name)  # else it has no place in the legend
    return drawn


def _draw_bars(axes: Any, plot: Plot) -> int:
    """Draw horizontal bars, the first on top, and return how many there are."""
    if plot.level is not None:
        axes.axvline(plot.level, color="#8b959d", linewidth=0.8, linestyle=(0, (4, 3)))
    places = range(len(plot.bars))
    axes.barh(places, [value for value, _, _ in plot.bars.values()], height=0.62, color=COLOURS[0])
    for place, (_, low, high) in zip(places, plot.bars.values(), strict=True):
        if low is not None and high is not None:
            axes.plot((low, high), (place, place), color="#1d252c", linewidth=1.2)
    axes.set_yticks(places, labels=list(plot.bars))
    axes.invert_yaxis()
    return len(plot.bars)


def plain_plot(plot: Plot) -> dict[str, object]:
    """Return a plot as JSON knows it: what is not a finite number becomes null.

    Example:
        >>> plain_plot(Plot(title="gain", x_label="AUC", bars={"ours": (0.5, None, None)}))["bars"]
        {'ours': [0.5, None, None]}
    """
    pairs = {name: [_finite(x), _finite(y)] for name, (x, y) in plot.lines.items()}
    bands = {name: [_finite(low), _finite(high)] for name, (low, high) in plot.bands.items()}
    return {"title": plot.title, "x_label": plot.x_label, "y_label": plot.y_label, "lines": pairs, "bands": bands,
            "bars": {name: _finite(bar) for name, bar in plot.bars.items()}, "level": plot.level,
            "log_x": plot.log_x, "log_y": plot.log_y}  # fmt: skip


def read_plot(plain: Mapping[str, Any]) -> Plot:
    """Return the plot that `plain_plot` wrote; null in a line is a gap."""
    lines = {name: (_gaps(x), _gaps(y)) for name, (x, y) in plain["lines"].items()}
    bands = {name: (_gaps(low), _gaps(high)) for name, (low, high) in plain["bands"].items()}
    bars = {name: (value, low, high) for name, (value, low, high) in plain["bars"].items()}
    rest: dict[str, Any] = {name: plain[name] for name in ("title", "x_label", "y_label", "level", "log_x", "log_y")}
    return Plot(lines=lines, bands=bands, bars=bars, **rest)


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _own_ids(element: str, identity: str) -> str:
    element = re.sub(r'\bid="', f'id="{identity}-', element)
    element = re.sub(r'(xlink:href="#)', rf"\g<1>{identity}-", element)
    return re.sub(r"url\(#", f"url(#{identity}-", element)
