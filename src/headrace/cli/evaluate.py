"""`headrace evaluate RECIPE`: judge a run's newest version, by group and slice, or against another run."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.cli.evaluate_policy import add_policy_arguments, judge_policy
from headrace.cli.output import console, print_json
from headrace.cli.run import run_folder
from headrace.config import require
from headrace.data import LogSource
from headrace.errors import DataError
from headrace.evaluate import Comparison, Evaluation, Judging
from headrace.online import OnlineConfig, RunFolder, build, evaluate_source, find_recipe, open_log, request_file
from headrace.online import compare_source as compare_online
from headrace.online.layout import EXAMPLES
from headrace.protocols import Source
from headrace.ranking import FitConfig, as_online
from headrace.ranking.held_out import compare_published, evaluate_published
from headrace.types import Report

NAME = "evaluate"
HELP = "judge a run's newest version on labelled rows, or two runs against each other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder whose newest version is judged")
    parser.add_argument("--input", type=Path, help="file of labelled rows, or another run's folder; default: "
                                                           "the test split of a fitted "
                                                   "ranker, or all that an online run has learned")  # fmt: skip
    parser.add_argument("--groups", metavar="COLUMN", help="users or requests: adds GAUC and ranking metrics, and "
                                                           "intervals then hold for rows of one group")  # fmt: skip
    parser.add_argument("--slices", metavar="COLUMN[,COLUMN]", default="", help="judge each value of these apart")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with the run in this folder, paired")
    parser.add_argument("--against-settings", nargs="+", default=[], metavar="name=value",
                        help="where that run's parameters differ")  # fmt: skip
    parser.add_argument("--k", type=int, default=10, help="places of a list that count (default 10)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--test", choices=["analytic", "bootstrap", "permutation"], default="analytic",
                        help="how --against finds p-values")  # fmt: skip
    add_policy_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    recipe = build(find_recipe(arguments.recipe), arguments.settings)
    folder = run_folder(recipe, arguments.folder)
    how = Judging(k=arguments.k, confidence=arguments.confidence, method=arguments.test)
    if arguments.policy is not None:
        require(arguments.against is None and not arguments.slices, "--policy", got="--against or --slices",
                expected="neither")  # fmt: skip
        config = as_online(recipe)
        return judge_policy(arguments, config, folder, _rows(arguments, config, folder))
    if arguments.against is not None:
        require(not arguments.slices, "--slices", got=arguments.slices, expected="not with --against")
        compared = _compare(arguments, recipe, folder, how)
        if arguments.json:
            print_json(compared.to_json())
        else:
            console().print(f"A: {folder.root}\nB: {arguments.against}\n\n{compared.table()}", markup=False)
        return 0
    report, evaluation = _evaluate(arguments, recipe, folder, how)
    if arguments.json:
        print_json(report.to_json())
    else:
        version = int(report.figures["version"].value)
        said = [note for note in report.notes if note not in evaluation.notes]
        if "logged_auc" in report.figures:
            said.append(f"AUC with the logged values (positions as shown): {report.figures['logged_auc'].value:.5f}")
        lines = [f"{recipe.name}: {folder.root}, version {version}", "", evaluation.table(), *said]
        console().print("\n".join(lines), markup=False)
    return 0


def _evaluate(
    arguments: argparse.Namespace, recipe: OnlineConfig | FitConfig, folder: RunFolder, how: Judging
) -> tuple[Report, Evaluation]:
    slices = tuple(name for name in arguments.slices.split(",") if name)
    if arguments.input is None and isinstance(recipe, FitConfig):
        return evaluate_published(recipe, folder, groups=arguments.groups, slices=slices, how=how)
    config = as_online(recipe)
    source = _rows(arguments, config, folder)
    report, evaluation = evaluate_source(config, folder, source, groups=arguments.groups, slices=slices, how=how)
    if arguments.input is None:
        report.notes.append("these rows were learned: the numbers say how well they fit, not how well they generalise")
    return report, evaluation


def _compare(
    arguments: argparse.Namespace, recipe: OnlineConfig | FitConfig, folder: RunFolder, how: Judging
) -> Comparison:
    changed = {item.partition("=")[0] for item in arguments.against_settings}
    kept = [item for item in arguments.settings if item.partition("=")[0] not in changed]
    other, against = build(find_recipe(arguments.recipe), [*kept, *arguments.against_settings]), arguments.against
    if arguments.input is None and isinstance(recipe, FitConfig):
        return compare_published((recipe, folder), (other, RunFolder(against)), groups=arguments.groups, how=how)
    config = as_online(recipe)
    pairs = (config, folder), (as_online(other), RunFolder(against))
    return compare_online(*pairs, _rows(arguments, config, folder), groups=arguments.groups, how=how)


def _rows(arguments: argparse.Namespace, config: OnlineConfig, folder: RunFolder) -> Source:
    if arguments.input is not None and arguments.input.is_dir():
        folder = RunFolder(arguments.input)
    elif arguments.input is not None:
        return request_file(arguments.input, config.request_schema)
    if not folder.log(EXAMPLES).exists():
        raise DataError(f"Run {folder.root}", got="no example log", expected="--input FILE with labelled rows")
    return LogSource(open_log(config, folder, EXAMPLES), EXAMPLES)
