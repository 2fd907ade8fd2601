"""`headrace run` for a language model that learns from rewards: progress, samples and curves, and a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.evaluate import Plot, Section, write_report
from headrace.online.rewarded import RewardedConfig, RewardedRun
from headrace.online.rewarded_watch import Point
from headrace.types import Report

SHADES = "▁▂▃▄▅▆▇█"
CURVES = {"reward": "reward", "gold": "gold (hidden judge)", "kl": "distance, nats", "kl_coefficient": "price"}
SAMPLE_EVERY = 5
"""Rollouts between two samples to read."""


def curve(values: Sequence[float]) -> str:
    """Return a row of bars, lowest to highest.

    Example:
        >>> curve([0.0, 1.0, 2.0])
        '▁▅█'
    """
    low, high = min(values), max(values)
    scale = (len(SHADES) - 1) / (high - low) if high > low else 0.0
    return "".join(SHADES[round((value - low) * scale)] for value in values)


def run_rewarded(config: RewardedConfig, folder: Path, stop: Callable[[], bool], *, quiet: bool) -> Report:
    """Run, show how it goes on standard error, and write `report.html` and `report.json` into the folder."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    read: list[str] = []
    with Progress(*columns, console=console, disable=quiet) as bar:
        task = bar.add_task("what it starts from", total=None, numbers="fitted once, then kept")

        def on_point(point: Point, samples: Sequence[str]) -> None:
            numbers = "  ".join(f"{name} {point[name]:.2f}" for name in ("reward", "gold", "kl") if name in point)
            bar.update(task, description=config.name, completed=point["rollout"] + 1, total=config.iterations,
                       numbers=numbers)  # fmt: skip
            if int(point["rollout"]) % SAMPLE_EVERY == 0 and samples:
                read.append(f"rollout {int(point['rollout'])}: {' '.join(samples[0].split())}")
                bar.console.print(f"  {read[-1]}", markup=False)

        run = RewardedRun(config, folder, on_point=on_point, stop=stop)
        report = run.run()
    points = run.points
    if not quiet:
        for name, label in CURVES.items():
            values = [point[name] for point in points if name in point]
            if values:
                console.print(f"  {label:22} {curve(values)}  {values[0]:.3f} to {values[-1]:.3f}", markup=False)
    plots = [Plot(title=label, x_label="rollout", y_label=name, lines={name: ([*range(len(points))], values)})
             for name, label in CURVES.items()
             if len(values := [point[name] for point in points if name in point]) == len(points)]  # fmt: skip
    path = write_report(folder, report, plots, title=config.name,
                        sections=[Section(title="Completions on the way", body="\n\n".join(read))])  # fmt: skip
    report.notes.append(f"curves and samples: {path}")
    return report
