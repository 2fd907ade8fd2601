"""`headrace evaluate RECIPE`: judge a run's newest version on labelled rows it has, or on a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.cli.output import print_json
from headrace.cli.run import print_report, run_folder
from headrace.data import LogSource
from headrace.errors import DataError
from headrace.online import build, evaluate_source, find_recipe, open_log, request_file
from headrace.online.layout import EXAMPLES

NAME = "evaluate"
HELP = "judge a run's newest version on labelled rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder whose newest version is judged")
    parser.add_argument("--input", type=Path, help="file of labelled rows; default: the run's own example log, "
                                                   "all of which it has learned")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    config = build(find_recipe(arguments.recipe), arguments.settings)
    folder = run_folder(config, arguments.folder)
    if arguments.input is None:
        if not folder.log(EXAMPLES).exists():
            raise DataError(f"Run {folder.root}", got="no example log", expected="--input FILE with labelled rows")
        report = evaluate_source(config, folder, LogSource(open_log(config, folder, EXAMPLES), EXAMPLES))
        report.notes.append("these rows were learned: the numbers say how well they fit, not how well they generalise")
    else:
        report = evaluate_source(config, folder, request_file(arguments.input, config.schema))
    if arguments.json:
        print_json(report.to_json())
    else:
        print_report(report, f"{config.name}: {folder.root}")
    return 0
