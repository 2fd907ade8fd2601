"""What a search found: a table of trials, the best parameters, files for programs and a plot."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing

from headrace.evaluate.claims import ClaimTable, render_tables

DONE, PRUNED, FAILED = "complete", "pruned", "fail"
COLOUR, SOFT = "#1668a5", "#8b959d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One combination of parameters that was tried.

    Attributes:
        number: In the order of beginning.
        state: `complete`, `pruned` or `fail`.
        value: The metric, the mean over seeds; NaN unless complete (pruned: the last value seen).
        values: The metric of each seed.
        seconds: What it took.
        settings: The drawn parameters, as `headrace run` takes them.
        figures: Other figures of the first seed's report.
        looks: Intermediate values by step.
        error: Why it failed.
    """

    number: int
    state: str
    value: float
    values: tuple[float, ...] = ()
    seconds: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    looks: dict[int, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """A search: what was searched and every trial.

    Attributes:
        recipe: `package.module:function`.
        settings: The parameters that were fixed.
        metric: What was searched for.
        lower_is_better: Whether it is to be small.
        parameters: The searched parameters.
        logarithmic: Those of them on a logarithmic scale.
        trials: All trials, in order.
    """

    recipe: str
    settings: tuple[str, ...]
    metric: str
    lower_is_better: bool
    parameters: tuple[str, ...]
    logarithmic: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best value, the earliest of equals; None without any."""
        done = [trial for trial in self.trials if trial.state == DONE]
        sign = 1 if self.lower_is_better else -1
        return min(done, key=lambda trial: (sign * trial.value, trial.number)) if done else None

    @property
    def command(self) -> str:
        """The command that runs the recipe with the best parameters."""
        best = self.best
        words = [f"{name}={value}" for name, value in (best.settings if best else {}).items()]
        return " ".join(["headrace run", self.recipe, *self.settings, *(_quoted(word) for word in words)])

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        counts = {state: sum(trial.state == state for trial in self.trials) for state in (DONE, PRUNED, FAILED)}
        ended = ", ".join(
            f"{count} {name}" for count, name in zip(counts.values(), ("complete", "pruned", "failed"), strict=True)
        )
        notes = [f"{len(self.trials)} trials: {ended}"]
        notes.append(f"the best of {len(self.trials)} looks better than it is: it was chosen by this number")
        if self.best is not None and "test_auc" in self.best.figures:
            notes.append(f"its test AUC, not chosen by: {self.best.figures['test_auc']:.5f}")
        return (*notes, self.command)

    def table(self, most: int = 20) -> str:
        """Return the best trials as aligned text, the best first."""
        sign = 1 if self.lower_is_better else -1
        ranked = sorted(self.trials, key=lambda each: (each.state != DONE, _last(sign * each.value), each.number))
        rows = tuple(
            (str(trial.number), trial.state, "–" if math.isnan(trial.value) else f"{trial.value:.5f}",
             f"{_spread(trial.values):.5f}" if len(trial.values) > 1 else "", f"{trial.seconds:.1f}",
             *(trial.settings.get(name, "–") for name in self.parameters))
            for trial in ranked[:most]
        )  # fmt: skip
        columns = ("trial", "state", self.metric, "spread", "seconds", *self.parameters)
        title = f"{self.recipe}: {'smallest' if self.lower_is_better else 'largest'} {self.metric}"
        table = ClaimTable(title, columns, rows, self.notes())
        return render_tables({"tables": [asdict(table)]})

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        best = self.best
        return {
            "recipe": self.recipe, "settings": list(self.settings), "metric": self.metric,
            "lower_is_better": self.lower_is_better, "parameters": list(self.parameters),
            "best": None if best is None else _record(best), "command": self.command, "notes": list(self.notes()),
            "trials": [_record(trial) for trial in self.trials],
        }  # fmt: skip


def write_tuning(folder: Path, report: TuningReport) -> None:
    """Write `tuning.json`, `trials.parquet`, `trials.csv` and `tuning.svg`, each whole or not at all."""
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    _replace(folder / "tuning.json", text.encode() + b"\n")
    table = trial_table(report)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _replace(folder / "trials.parquet", sink.getvalue().to_pybytes())
    lines = [",".join(_cell(name) for name in table.column_names)]
    lines += [",".join(_cell(value) for value in row.values()) for row in table.to_pylist()]
    _replace(folder / "trials.csv", ("\n".join(lines) + "\n").encode())
    _replace(folder / "tuning.svg", draw(report))


def trial_table(report: TuningReport) -> pa.Table:
    """Return one row per trial: number, state, value, spread, seconds, every parameter, and the figures kept."""
    trials = report.trials
    figures = sorted({name for trial in trials for name in trial.figures})
    columns: dict[str, list[object]] = {
        "trial": [trial.number for trial in trials], "state": [trial.state for trial in trials],
        "value": [_finite(trial.value) for trial in trials],
        "spread": [_spread(trial.values) if len(trial.values) > 1 else None for trial in trials],
        "seconds": [trial.seconds for trial in trials],
        **{f"parameter/{name}": [_value(trial.settings.get(name)) for trial in trials] for name in report.parameters},
        **{name: [trial.figures.get(name) for trial in trials] for name in figures},
    }  # fmt: skip
    for name, values in columns.items():
        if any(isinstance(value, str) for value in values):
            columns[name] = [None if value is None else str(value) for value in values]
    return pa.table(columns)


def draw(report: TuningReport) -> bytes:
    """Return the search as an SVG: values in the order of the trials, and by each parameter."""
    done = [trial for trial in report.trials if trial.state == DONE]
    panels = 1 + len(report.parameters)
    wide = min(panels, 3)
    high = -(-panels // wide)
    drawing = Drawing(figsize=(4.2 * wide, 3.2 * high), layout="constrained")
    canvas = FigureCanvasSVG(drawing)
    axes = [drawing.add_subplot(high, wide, place + 1) for place in range(panels)]
    values = [trial.value for trial in done]
    sign = -1 if report.lower_is_better else 1
    line = (sign * np.maximum.accumulate(sign * np.array(values))).tolist() if values else []
    axes[0].plot([trial.number for trial in done], values, "o", color=COLOUR, markersize=4)
    axes[0].step([trial.number for trial in done], line, where="post", color=SOFT, linewidth=1.2)
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel(report.metric)
    for axis, name in zip(axes[1:], report.parameters, strict=True):
        places: list[Any] = [_value(trial.settings[name]) for trial in done]
        if any(isinstance(place, str) for place in places):
            texts = sorted({str(place) for place in places})
            axis.set_xticks(range(len(texts)), texts, rotation=20)
            places = [texts.index(str(place)) for place in places]
        elif name in report.logarithmic:
            axis.set_xscale("log")
        axis.plot(places, values, "o", color=COLOUR, markersize=4)
        axis.set_xlabel(name)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e8ecef", linewidth=0.8)
    sink = io.StringIO()
    cast(Any, canvas).print_svg(sink, metadata={"Date": None, "Creator": None})
    return sink.getvalue().encode()


def _record(trial: Trial) -> dict[str, object]:
    return {
        "trial": trial.number, "state": trial.state, "value": _finite(trial.value), "values": list(trial.values),
        "seconds": trial.seconds, "settings": trial.settings, "figures": trial.figures,
        "looks": {str(step): _finite(value) for step, value in trial.looks.items()}, "error": trial.error,
    }  # fmt: skip


def _value(text: str | None) -> object:
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _quoted(word: str) -> str:
    return f"'{word}'" if any(letter in word for letter in " |,") else word


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n') else text


def _spread(values: tuple[float, ...]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
