"""Labels from people: `headrace labels aggregate answers.parquet --groups age,gender`.

To get answers in the first place, `serve` asks about the examples of a file over HTTP and learns what to ask next,
`ask` answers in the terminal, and `collect` writes the answers to a file.

That file has one row per answer: item, annotator, answer, and a column per attribute of the annotator. CSV, TSV, JSON
lines, Parquet and Arrow are read, compressed or not. With --groups a permutation test says whether they matter at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from headrace.cli.labels_loop import add_loop_arguments, run_loop
from headrace.cli.output import console, print_json
from headrace.config import require
from headrace.data.datasets.recorded import read_table
from headrace.data.layout import Layout
from headrace.errors import ConfigError, DataError, SchemaError, nearest
from headrace.evaluate.claims import render_tables
from headrace.feedback import METHODS, Answers, GroupTest, LabelConfig, Labels, Rates, aggregate, groups_test
from headrace.feedback.annotators import confusions_of

NAME = "labels"
HELP = "labels from people: ask them what tells most, and make one label of several answers"
SHOWN = 10
"""Annotators and items in the report; the JSON has all annotators."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `aggregate FILE`, and the labelling loop."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="aggregate|serve|ask|collect")
    add_loop_arguments(actions)
    action = actions.add_parser("aggregate", help="infer one label per item from several people's answers")
    action.add_argument("answers", type=Path, help="file with one row per answer")
    for name in ("item", "annotator", "answer"):
        action.add_argument(f"--{name}", default=name, metavar="COLUMN", help=f"its column (default: {name})")
    action.add_argument("--groups", default="", metavar="COLUMN[,COLUMN]", help="attributes of annotators; where they "
                        "are not known leave the cell empty")  # fmt: skip
    action.add_argument("--method", choices=METHODS, default="groupanno", help="default: groupanno")
    action.add_argument("--features", type=Path, metavar="FILE", help="the item column and numbers that describe items")
    action.add_argument(
        "--classes", default="", metavar="NAME[,NAME]", help="all classes, where some were never answered"
    )
    action.add_argument("--permutations", type=int, default=999, help="of the test of groups; 0: no test (default 999)")
    action.add_argument("--seed", type=int, default=0, help="of the permutations (default 0)")
    action.add_argument("--output", type=Path, metavar="FILE", help="write one row per item: .parquet or .csv")
    action.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.action != "aggregate":
        return run_loop(arguments)
    output = arguments.output
    require(output is None or output.suffix in (".parquet", ".csv"), "--output", got=str(output),
            expected="a name that ends in .parquet or .csv")  # fmt: skip
    answers = read_answers(arguments)
    config = LabelConfig(method=arguments.method)
    labels = aggregate(answers, config)
    test = None
    if answers.attributes and arguments.permutations:
        test = groups_test(answers, config, permutations=arguments.permutations, seed=arguments.seed)
    if output is not None:
        table = labels.table()
        if output.suffix == ".csv":
            pa_csv.write_csv(table, output)
        else:
            pq.write_table(table, output)
    if arguments.json:
        print_json(to_json(labels, test))
    else:
        console().print(report(labels, test), markup=False)
    return 0


def read_answers(arguments: argparse.Namespace) -> Answers:
    """Read the file of answers, and that of features where there is one.

    Raises:
        SchemaError: If a column is missing.
        DataError: If a file or a value cannot be used.
    """
    table = read_table(arguments.answers, Layout())
    groups = [name for name in arguments.groups.split(",") if name]
    columns = [
        _column(table, name, arguments.answers) for name in (arguments.item, arguments.annotator, arguments.answer)
    ]
    features = None
    if arguments.features is not None:
        if arguments.method not in ("lfc", "groupanno"):
            raise ConfigError("--features", got=f"--method {arguments.method}", expected="lfc or groupanno")
        described = read_table(arguments.features, Layout())
        names = _column(described, arguments.item, arguments.features)
        features = (names, _numbers(described.drop_columns([arguments.item]), arguments.features))
    attributes = {name: _levels(_column(table, name, arguments.answers)) for name in groups}
    return Answers.encode(
        *columns, classes=_classes(arguments.classes, columns[2]), groups=attributes, features=features
    )


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise SchemaError(f"File {path}: column '{name}'", got="no such column",
                          expected=nearest(name, table.column_names),
                          do="Name columns with --item, --annotator, --answer, --groups.")  # fmt: skip
    return table[name]


def _levels(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column with empty cells of text as null."""
    if not pa.types.is_string(column.type):
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _numbers(table: pa.Table, path: Path) -> np.ndarray:
    for name in table.column_names:
        if not (pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)):
            raise DataError(f"File {path}: column '{name}'", got=str(table[name].type), expected="numbers")
    require(bool(table.column_names), f"File {path}", got="no column of numbers", expected="at least one")
    return np.stack([table[name].to_numpy().astype(np.float64) for name in table.column_names], axis=1)


def _classes(text: str, column: pa.ChunkedArray) -> list[str | int] | None:
    if not text:
        return None
    names = text.split(",")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return list(names)
    try:
        return [int(name) for name in names]
    except ValueError as error:
        raise ConfigError("--classes", got=text, expected="integers, as the answers are") from error


def to_json(labels: Labels, test: GroupTest | None) -> dict[str, object]:
    """Return everything but the items, as plain values: rates of annotators and groups, the test, the notes."""
    answers = labels.answers
    items, annotators, _ = answers.shape
    confusions = confusions_of(labels)
    return {
        "method": labels.config.method, "items": items, "annotators": annotators, "answers": len(answers),
        "classes": list(answers.classes), "converged": labels.fitted.converged, "steps": len(labels.fitted.trace),
        "log_likelihood": labels.fitted.trace[-1] if labels.fitted.trace else None,
        "labels": _counts(labels), "mean_entropy": float(labels.entropy.mean()),
        "rates": [{**row, "confusion": confusions[place].tolist()}
                  for place, row in enumerate(_rows(labels.annotators, answers.classes))],
        "groups": {name: _rows(each, answers.classes) for name, each in labels.groups.items()},
        "test": None if test is None else {
            "p_value": test.p_value, "by_attribute": dict(test.by_attribute), "permutations": test.permutations,
        },
        "notes": list(labels.notes),
    }  # fmt: skip


def _counts(labels: Labels) -> dict[str, int]:
    found = np.bincount(labels.codes, minlength=len(labels.answers.classes))
    return {str(name): int(number) for name, number in zip(labels.answers.classes, found, strict=True)}


def _rows(rates: Rates, classes: tuple[object, ...]) -> list[dict[str, object]]:
    parts = (rates.recall, rates.recall_low, rates.recall_high)
    return [
        {
            "name": name, "answers": int(rates.answers[place]), "error": float(rates.error[place]),
            "error_low": float(rates.error_low[place]), "error_high": float(rates.error_high[place]),
            "recall": {str(each): [float(part[place, at]) for part in parts] for at, each in enumerate(classes)},
        }
        for place, name in enumerate(rates.names)
    ]  # fmt: skip


def report(labels: Labels, test: GroupTest | None) -> str:
    """Return the report for people: labels, the least certain items, groups with the test, the worst annotators."""
    answers = labels.answers
    items, annotators, _ = answers.shape
    inner = f"{len(labels.fitted.trace)} steps of EM" if labels.model is not None else "a count of votes"
    counted = ", ".join(f"{name} {number}" for name, number in _counts(labels).items())
    lines = [
        f"{labels.config.method}: {items} items, {annotators} annotators, {len(answers)} answers; {inner}",
        f"labels: {counted}; mean probability of the label {labels.beliefs.max(axis=1).mean():.3f}", "",
    ]  # fmt: skip
    tables = []
    for name, rates in labels.groups.items():
        order = np.arange(len(rates.names))
        tables.append(_rates_table(f"Error rates by {name}", name, rates, answers.classes, order, test))
    order = np.argsort(-labels.annotators.error, kind="stable")[:SHOWN]
    title = f"Annotators with the highest error rates ({len(order)} of {annotators})"
    tables.append(_rates_table(title, "annotator", labels.annotators, answers.classes, order, None))
    tables.append(_doubtful(labels))
    lines.append(render_tables({"tables": tables}))
    if test is not None:
        word = "matter" if test.p_value < 1.0 - labels.config.confidence else "are not shown to matter"
        drawn = f"p = {test.p_value:.3g} ({test.permutations} permutations)"
        lines += ["", f"Permutation test of all groups together: {drawn}: groups {word}."]
    elif answers.attributes:
        lines += ["", "Groups were not tested (--permutations 0): their rates may differ by chance alone."]
    return "\n".join([*lines, *(f"note: {note}" for note in labels.notes)])


def _rates_table(
    title: str, what: str, rates: Rates, classes: tuple[object, ...], order: np.ndarray, test: GroupTest | None,
) -> dict[str, object]:  # fmt: skip
    rows = tuple(
        (
            str(rates.names[place]), str(rates.answers[place]),
            _interval(rates.error[place], rates.error_low[place], rates.error_high[place]),
            *(_interval(rates.recall[place, number], rates.recall_low[place, number], rates.recall_high[place, number])
              for number in range(len(classes))),
        )
        for place in order
    )  # fmt: skip
    notes = () if test is None else (f"permutation test of {what} alone: p = {test.by_attribute[what]:.3g}",)
    columns = (what, "answers", "error", *(f"right on {name}" for name in classes))
    return {"title": title, "columns": columns, "rows": rows, "notes": notes}


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _doubtful(labels: Labels) -> dict[str, object]:
    answers, order = labels.answers, np.argsort(-labels.entropy, kind="stable")[:SHOWN]
    said = np.bincount(answers.items, minlength=answers.shape[0])
    rows = tuple(
        (str(answers.item_names[place]), str(said[place]), str(answers.classes[labels.codes[place]]),
         f"{labels.beliefs[place].max():.3f}", f"{labels.entropy[place]:.3f}")
        for place in order
    )  # fmt: skip
    return {"title": f"Items in most doubt ({len(order)} of {answers.shape[0]})",
            "columns": ("item", "answers", "label", "probability", "entropy"), "rows": rows, "notes": ()}  # fmt: skip
