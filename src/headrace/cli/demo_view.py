"""What `headrace demo` shows while it runs: one panel that is redrawn a few times a second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace.online import deep
from headrace.types import Report

BARS = "▁▂▃▄▅▆▇█"
BESIDE = {"logistic_regression": "logistic regression", "position_only": "position alone"}
Status = Mapping[str, object]


@dataclass(slots=True)
class Snapshot:
    """Everything the panel shows, gathered at one moment."""

    name: str
    seconds: float
    events_per_s: float
    requests: int
    actions: int
    event_time: int
    learner: Status = field(default_factory=dict)
    joiner: Status = field(default_factory=dict)
    health: Status = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    auc_history: list[float] = field(default_factory=list)
    phase: str = "streaming"


def shown(value: float, form: str = ",.0f", unit: str = "") -> str:
    """Format a number, or a dash when there is none."""
    return "–" if math.isnan(value) else f"{value:{form}}{unit}"


def sparkline(values: list[float], width: int = 32) -> str:
    """Return the newest values as a line of bars."""
    tail = [value for value in values if not math.isnan(value)][-width:]
    if not tail:
        return ""
    low, high = min(tail), max(tail)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[int((value - low) * scale)] for value in tail)


def table_totals(learner: Status) -> dict[str, float]:
    """Sum the statistics of all tables."""
    tables = learner.get("tables")
    totals = dict.fromkeys(("rows", "bytes", "admitted", "filtered", "evicted"), 0.0)
    for stats in tables.values() if isinstance(tables, Mapping) else ():
        for name in totals:
            value = deep(stats, name) if isinstance(stats, Mapping) else 0.0
            totals[name] += 0.0 if math.isnan(value) else value
    return totals


def comparison(report: Report) -> RenderableType:
    """Return the final numbers for people: the model beside its baselines, then speed of feedback."""
    figures = {name: figure.value for name, figure in report.figures.items()}

    def value(name: str, form: str = ".4f") -> str:
        return shown(figures.get(name, math.nan), form)

    table = Table(title="Progressive AUC, each example judged before it was learned", title_justify="left")
    placed = "position_only/auc" in figures
    for head in ("", "position known", "without position") if placed else ("", "AUC"):
        table.add_column(head, justify="right" if head else "left")
    known, unknown = ("logged_auc", "auc") if placed else ("auc", "")
    rows = {"[bold]the served model[/]": (known, unknown), "logistic regression": ("logistic_regression/auc",
            "logistic_regression_without_position/auc"), "position alone": ("position_only/auc", ""),
            "the world's truth (nothing can beat it)": ("logged_bayes_auc", "bayes_auc")}  # fmt: skip
    for name, pair in rows.items():
        if any(part in figures for part in pair):
            table.add_row(name, *(value(part) for part in pair[: 2 if placed else 1]))
    logged = known if known in figures else "auc"
    lines = Text.assemble(
        f"last window: {value('window_' + logged)}   ",
        f"normalised entropy {value('logged_ne' if logged != 'auc' else 'ne')}\n",
        f"feedback to served: p50 {value('freshness_p50_s', '.2f')} s, p99 {value('freshness_p99_s', '.2f')} s   "
        f"(negatives: p50 {value('negative_delay_p50_s', '.2f')} s, p99 {value('negative_delay_p99_s', '.2f')} s)\n",
        f"{value('examples', ',.0f')} examples learned, each once; version {value('version', ',.0f')}; "
        f"{value('joiner/positives', ',.0f')} clicks joined, {value('joiner/late', ',.0f')} too late",
    )
    return Group(table, lines)


def draw(snapshot: Snapshot) -> RenderableType:
    """Return the panel."""
    metrics = snapshot.learner.get("metrics")
    scores: Status = metrics if isinstance(metrics, Mapping) else {}
    totals = table_totals(snapshot.learner)
    stream_time = "–"
    if snapshot.event_time > 0:
        stream_time = datetime.fromtimestamp(snapshot.event_time / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    kind = "logged_" if "logged_auc" in scores else ""
    auc = f"[bold green]{shown(deep(scores, f'{kind}auc'), '.4f')}[/]"
    auc += f", window {shown(deep(scores, f'window_{kind}auc'), '.4f')}"
    if kind:
        auc += f", without position {shown(deep(scores, 'auc'), '.4f')}"
    fresh = ("freshness", "positives")
    restarts = ", ".join(f"{name} {count}" for name, count in snapshot.restarts.items() if count) or "none"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row("events/s", f"[bold]{snapshot.events_per_s:,.0f}[/]   stream time {stream_time}")
    grid.add_row("shown, clicked", f"{snapshot.requests:,}, {snapshot.actions:,}")
    grid.add_row("examples", f"{shown(deep(snapshot.learner, 'examples'))} learned, "
                             f"{shown(deep(snapshot.joiner, 'pending'))} waiting for a click")  # fmt: skip
    grid.add_row("progressive AUC", auc)
    beside = [f"{short} {shown(deep(scores, f'{name}/auc'), '.4f')}" for name, short in BESIDE.items()]
    grid.add_row("beside it", ", ".join(beside))
    p50, p99 = (shown(deep(snapshot.health, *fresh, name), ".2f", " s") for name in ("p50_s", "p99_s"))
    grid.add_row("feedback to served", f"p50 {p50}, p99 {p99}")
    grid.add_row("version served", f"{shown(deep(snapshot.health, 'version'))}, process restarts: {restarts}")
    grid.add_row("tables", f"{totals['rows']:,.0f} rows, {totals['bytes'] / 2**20:,.1f} MiB")
    grid.add_row("ids", f"{totals['admitted']:,.0f} admitted, {totals['filtered']:,.0f} filtered, "
                        f"{totals['evicted']:,.0f} evicted")  # fmt: skip
    line = Text(f"AUC by window  {sparkline(snapshot.auc_history)}", style="cyan")
    title = f"headrace · {snapshot.name} · {snapshot.phase} · {snapshot.seconds:,.0f} s"
    return Panel(Group(grid, line, Text("Ctrl-C stops and loses nothing; running again resumes.", style="dim")),
                 title=title, border_style="blue")  # fmt: skip
