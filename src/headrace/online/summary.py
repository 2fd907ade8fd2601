"""What a run amounted to: numbers of all four processes in one report, with plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from headrace.data.subjects import without_erased
from headrace.evaluate import write_report
from headrace.online.config import OnlineConfig
from headrace.online.layout import EVENTS, EXAMPLES, RunFolder
from headrace.online.logs import open_log
from headrace.types import Events, Report

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


def all_examples(config: OnlineConfig, folder: RunFolder) -> Events:
    """Return every example of a run; for reports on runs that fit in memory."""
    parts, offset = [], 0
    with open_log(config, folder, EXAMPLES) as log:
        while entries := log.read(EXAMPLES, offset):
            parts += [without_erased(entry.events) for entry in entries if entry.rows]
            offset = entries[-1].offset + 1
    return Events.concat(parts)


def gather(config: OnlineConfig, folder: RunFolder) -> Report:
    """Collect the final numbers that the processes left behind."""
    report = Report()
    learner, joiner, final = (folder.read_status(name) for name in ("learner", "joiner", "final"))
    metrics = learner.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        report.add(str(name), float(value), source="progressive validation: judged as served, before it was learned")
    for name, place in FRESHNESS.items():
        report.add(place, deep(final, "health", "freshness", "positives", name), unit="s",
                   source="click accepted to served by a version that learned it")  # fmt: skip
        report.add(f"negative_delay_{name}", deep(final, "health", "freshness", "negatives", name), unit="s",
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
    if config.best_auc is not None and folder.log(EXAMPLES).exists():
        examples = all_examples(config, folder)
        for name, at_reference in (("bayes_auc", True), ("logged_bayes_auc", False)):
            report.add(name, config.best_auc(examples, at_reference), source="the world's true probabilities")
    report.notes.extend(config.notes)
    report.settings["run"] = config.name
    return report


def summarise(config: OnlineConfig, folder: RunFolder) -> tuple[Report, Path]:
    """Write `report/report.html` and `report/report.json`, and return the report and the page's path."""
    report = gather(config, folder)
    histories = folder.read_status("learner").get("histories")
    page = write_report(
        folder.report, report, histories if isinstance(histories, dict) else {},
        title=f"Headrace: {config.name}", sections=config.notes,
    )  # fmt: skip
    return report, page
