"""`headrace predict RECIPE --input FILE --output FILE`: score request rows with a run's newest version."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.cli.output import print_json
from headrace.cli.run import print_report, run_folder
from headrace.online import build, find_recipe, predict_file, request_file
from headrace.ranking import as_online

NAME = "predict"
HELP = "score a file of requests with a run's newest version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder whose newest version answers")
    parser.add_argument("--input", type=Path, required=True, help="CSV, TSV, JSON lines, Parquet or Arrow")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file of predictions, one row per input row")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    recipe = build(find_recipe(arguments.recipe), arguments.settings)
    folder, config = run_folder(recipe, arguments.folder), as_online(recipe)
    report = predict_file(config, folder, request_file(arguments.input, config.request_schema), arguments.output)
    if arguments.json:
        print_json(report.to_json())
    else:
        print_report(report, f"{arguments.input} → {arguments.output}")
    return 0
