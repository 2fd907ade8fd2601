"""`headrace run RECIPE --search ...`: the search part of the verb `run`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.cli.output import console, print_json
from headrace.config import fingerprint
from headrace.ranking.tuning import Search, tune
from headrace.ranking.tuning_report import Trial


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a search."""
    part = parser.add_argument_group("search", "try parameters of the recipe and keep the best (needs headrace[tune])")
    part.add_argument("--search", nargs="+", metavar="NAME=RANGE",
                      help="lr=1e-4..1e-2:log dim=8,16,32 dropout=0..0.5:0.1 hidden=64,32|128,64")  # fmt: skip
    part.add_argument("--trials", type=int, default=20, help="how many combinations (default 20)")
    part.add_argument("--metric", default="auc", help="figure of the report to search for (default: auc, of the "
                                                      "validation split where there is one)")  # fmt: skip
    part.add_argument("--seeds", type=int, default=1, help="fits of each combination (default 1)")
    part.add_argument("--sampler", choices=["tpe", "random", "grid"], default="tpe", help="how to choose (default tpe)")
    part.add_argument("--no-pruning", action="store_true", help="let every trial run to its end")
    part.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    part.add_argument("--search-seed", type=int, default=0, help="seed of the choice (default 0)")


def run_search(arguments: argparse.Namespace) -> int:
    """Run the search that the arguments describe."""
    search = Search(
        space=tuple(word for text in arguments.search for word in text.split()), trials=arguments.trials,
        metric=arguments.metric, seeds=arguments.seeds, sampler=arguments.sampler, prune=not arguments.no_pruning,
        jobs=arguments.jobs, seed=arguments.search_seed,
    )  # fmt: skip
    named = (arguments.recipe, sorted(arguments.settings), sorted(search.space), search.metric, search.seeds)
    folder = arguments.folder or Path("runs") / f"search-{fingerprint([*named, search.sampler, search.seed])[:8]}"
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=arguments.json) as bar:
        task = bar.add_task("search", total=search.trials, numbers="")

        def on_trial(trial: Trial) -> None:
            said = trial.error or f"{search.metric} {trial.value:.5f}"
            bar.update(task, advance=1, numbers=f"trial {trial.number} {trial.state}: {said}")

        report = tune(arguments.recipe, arguments.settings, search, folder, on_trial=on_trial)
    if arguments.json:
        print_json(report.to_json())
    else:
        console().print(f"{report.table()}\n{folder / 'tuning.svg'}, trials.parquet, trials.csv, tuning.json",
                        markup=False)  # fmt: skip
    return 0
