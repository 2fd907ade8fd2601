"""What a run amounted to: numbers of all four processes in one report, with plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from headrace.evaluate import write_report
from headrace.online.config import OnlineConfig
from headrace.online.layout import EVENTS, RunFolder
from headrace.online.roles import open_log
from headrace.types import Report

FRESHNESS = {"p50_s": "freshness_p50_s", "p99_s": "freshness_p99_s"}


def close_events(config: OnlineConfig, folder: RunFolder) -> None:
    """Say that no more events will come: joiner, learner and publisher then finish one after another."""
    with open_log(config, folder, EVENTS) as log:
        if not log.is_closed(EVENTS):
            log.close_topic(EVENTS)


def deep(values: Mapping[str, object], *path: str) -> float:
    """Return a number inside nested mappings, NaN when it is not there."""
    value: object = values
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else math.nan


def gather(config: OnlineConfig, folder: RunFolder) -> Report:
    """Collect the final numbers that the processes left behind."""
    report = Report()
    learner, joiner, final = (folder.read_status(name) for name in ("learner", "joiner", "final"))
    metrics = learner.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        report.add(str(name), float(value), source="progressive validation: judged as served, before it was learned")
    for name, place in FRESHNESS.items():
        report.add(place, deep(final, "health", "freshness", name), unit="s",
                   source="click accepted to served by a version that learned it")  # fmt: skip
        report.add(f"negative_delay_{name}", deep(final, "health", "negative_delay", name), unit="s",
                   source="impression accepted to served by a version that learned it as a negative")  # fmt: skip
    report.add("version", deep(final, "health", "version"), source="server")
    report.add("examples", deep(learner, "examples"), source="learner")
    for name in ("positives", "negatives", "late", "orphan", "duplicate"):
        report.add(f"joiner/{name}", deep(joiner, name), source="joiner")
    tables = learner.get("tables")
    for table, stats in tables.items() if isinstance(tables, Mapping) else ():
        for name in ("rows", "bytes", "admitted", "filtered", "evicted"):
            report.add(f"table/{table}/{name}", deep(stats, name) if isinstance(stats, Mapping) else math.nan,
                       source="learner")  # fmt: skip
    report.notes.extend(config.notes)
    report.settings["run"] = config.name
    return report


def summarise(config: OnlineConfig, folder: RunFolder) -> tuple[Report, Path]:
    """Write `report/report.html` and `report/report.json`, and return the report and the page's path."""
    report = gather(config, folder)
    history = folder.read_status("learner").get("history")
    page = write_report(
        folder.report, report, history if isinstance(history, list) else [],
        title=f"Headrace: {config.name}", sections=config.notes,
    )  # fmt: skip
    return report, page
