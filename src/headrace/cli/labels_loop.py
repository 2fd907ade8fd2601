"""The labelling loop from the command line: serve a pool, ask people in the terminal, collect what they said."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from headrace.cli.output import console, print_json
from headrace.config import require
from headrace.data import EmbeddedLog
from headrace.data.datasets.recorded import read_table
from headrace.data.layout import Layout
from headrace.errors import ConfigError, DataError, SchemaError, nearest
from headrace.feedback import QueryBudget
from headrace.online import Labelling, LabellingConfig, RunFolder, labelling_schema
from headrace.online.layout import EVENTS
from headrace.serve import Client, QuestionConfig

Actions = argparse._SubParsersAction
COLLECTED = ("item", "annotator", "answer", "event_time", "score", "version", "chance", "key")
"""Columns of collected answers: the first three are what `headrace labels aggregate` reads."""
SKIP, QUIT = "skip", "quit"


def add_loop_arguments(actions: Actions[argparse.ArgumentParser]) -> None:
    """Declare `serve POOL`, `ask URL` and `collect FOLDER`."""
    serve = actions.add_parser("serve", help="ask about the examples of a file over HTTP, and learn from the answers")
    serve.add_argument("pool", type=Path, help="file with one row per example")
    serve.add_argument("--item", default="item", metavar="COLUMN", help="name of an example (default: item)")
    serve.add_argument("--task", metavar="COLUMN", help="which task an example belongs to (default: all are one task)")
    serve.add_argument("--words", default="", metavar="COLUMN[,COLUMN]", help="text, or lists of ids, to learn from")
    serve.add_argument("--numbers", default="", metavar="COLUMN[,COLUMN]", help="numbers to learn from")
    serve.add_argument("--show", default="", metavar="COLUMN[,COLUMN]", help="what people see (default: all)")
    serve.add_argument("--answers", default="yes,no", metavar="YES,NO", help="the two answers (default: yes,no)")
    serve.add_argument("--strategy", choices=("draw", "top", "random"), default="draw", help="draw: by chance, the "
                       "more doubtful the more likely; top: the most doubtful first (default: draw)")  # fmt: skip
    serve.add_argument("--budget", type=int, metavar="N", help="most questions (default: no limit)")
    serve.add_argument("--per-task", type=int, metavar="N", help="most questions of each task (default: no limit)")
    serve.add_argument("--folder", type=Path, required=True, help="where answers and model are kept; resumes there")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind; loopback unless told otherwise")
    serve.add_argument("--port", type=int, default=8080)
    ask = actions.add_parser("ask", help="answer the questions of a labelling server here")
    ask.add_argument("url", help="the server, as http://127.0.0.1:8080")
    ask.add_argument("--annotator", default="", metavar="NAME", help="who answers")
    ask.add_argument("--task", metavar="NAME", help="only questions of this task")
    ask.add_argument("--count", type=int, default=0, metavar="N", help="stop after so many questions (default: all)")
    ask.add_argument("--answers", type=Path, metavar="FILE", help="take the answers from a file with the columns item "
                     "and answer; what is not there is skipped")  # fmt: skip
    ask.add_argument("--json", action="store_true", help="print one JSON object at the end and nothing else")
    collect = actions.add_parser("collect", help="write what was answered to a file, one row per answer")
    collect.add_argument("folder", type=Path, help="the folder that `serve` was given")
    collect.add_argument("--output", type=Path, required=True, metavar="FILE", help=".parquet or .csv")
    collect.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run_loop(arguments: argparse.Namespace) -> int:
    """Run `serve`, `ask` or `collect`."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"serve": _serve, "ask": _ask, "collect": _collect}
    return actions[arguments.action](arguments)


def _serve(arguments: argparse.Namespace) -> int:
    def names(text: str) -> tuple[str, ...]:
        return tuple(name for name in text.split(",") if name)

    answers = names(arguments.answers)
    require(len(answers) == 2, "--answers", got=arguments.answers, expected="two words, the positive one first")
    pool = _pool(arguments.pool, arguments.item)
    schema = labelling_schema(pool, task=arguments.task, words=names(arguments.words),
                              numbers=names(arguments.numbers), answers=(answers[0], answers[1]))  # fmt: skip
    budget = QueryBudget(questions=arguments.budget, per_task=arguments.per_task)
    questions = QuestionConfig(strategy=arguments.strategy, budget=budget, answers=(answers[0], answers[1]))
    config = LabellingConfig(pool=pool, schema=schema, questions=questions, shown=names(arguments.show))
    loop = Labelling(config, RunFolder(arguments.folder))
    told = (
        f"{pool.num_rows} examples, {config.tasks} task{'s' if config.tasks > 1 else ''}; answers in {arguments.folder}"
    )

    def ready(url: str) -> None:
        console().print(f"asking at {url}: {told}", markup=False)

    loop.run(arguments.host, arguments.port, on_ready=ready)
    return 0


def _pool(path: Path, item: str) -> pa.Table:
    """Read the examples, their name in the column `item`, as text."""
    table = read_table(path, Layout())
    if item not in table.column_names:
        raise SchemaError(f"File {path}: column '{item}'", got="no such column", do="Name it with --item.",
                          expected=nearest(item, table.column_names))  # fmt: skip
    names = table[item].cast(pa.string())
    others = table.drop_columns([name for name in {item, "item"} if name in table.column_names])
    return others.add_column(0, "item", names)


def _ask(arguments: argparse.Namespace) -> int:
    require(arguments.count >= 0, "--count", got=arguments.count, expected="0 (all) or more")
    truth = None if arguments.answers is None else _answers_of(arguments.answers)
    counts, status = {"answered": 0, "skipped": 0}, dict[str, object]()
    with Client(arguments.url) as client:
        while not arguments.count or sum(counts.values()) < arguments.count:
            asked = client.questions(1, task=arguments.task, annotator=arguments.annotator)
            status = asked["status"]
            if not asked["questions"]:
                break
            question, words = asked["questions"][0], asked["answers"]
            said = truth.get(question["item"], SKIP) if truth is not None else _said(question, words)
            if said == QUIT:
                break
            if said not in words:
                raise DataError(f"Answer to '{question['item']}'", got=repr(said), expected=" or ".join(words))
            client.answer({"key": question["key"], "answer": said, "annotator": arguments.annotator})
            counts["skipped" if said == SKIP else "answered"] += 1
    if arguments.json:
        print_json({**counts, "status": status})
    else:
        left = "no limit" if status.get("left") is None else f"{status['left']} questions left"
        console().print(f"{counts['answered']} answered, {counts['skipped']} skipped; {left}", markup=False)
    return 0


def _said(question: Mapping[str, object], words: list[str]) -> str:
    """Show a question in the terminal and return what is typed: an answer, its beginning, or `quit`."""
    out, shown = console(), question["shown"]
    assert isinstance(shown, dict)
    out.print()
    for name, value in shown.items():
        out.print(f"{name}: {value}", markup=False)
    known = [*words, QUIT]
    while True:
        try:
            typed = input(f"{', '.join(known)}? ").strip().lower()
        except EOFError:
            return QUIT
        fits = [word for word in known if typed and word.lower().startswith(typed)]
        if len(fits) == 1 or typed in known:
            return typed if typed in known else fits[0]
        out.print(f"one of {', '.join(known)}, or how it begins", markup=False)


def _answers_of(path: Path) -> dict[str, str]:
    table = read_table(path, Layout())
    for name in ("item", "answer"):
        if name not in table.column_names:
            raise SchemaError(f"File {path}: column '{name}'", got="no such column",
                              expected=nearest(name, table.column_names))  # fmt: skip
    items, answers = (table[name].cast(pa.string()).to_pylist() for name in ("item", "answer"))
    return dict(zip(items, answers, strict=True))


def _collect(arguments: argparse.Namespace) -> int:
    output, path = arguments.output, RunFolder(arguments.folder).log(EVENTS)
    require(output.suffix in (".parquet", ".csv"), "--output", got=str(output),
            expected="a name that ends in .parquet or .csv")  # fmt: skip
    if not path.is_file():
        raise ConfigError(f"Folder {arguments.folder}", got="no event log", expected="what `labels serve` was given")
    table = collected(EmbeddedLog(path))
    if output.suffix == ".csv":
        pa_csv.write_csv(table, output)
    else:
        pq.write_table(table, output)
    people = len(set(table["annotator"].to_pylist()))
    if arguments.json:
        print_json({"answers": table.num_rows, "annotators": people, "output": str(output)})
    else:
        console().print(f"{table.num_rows} answers of {people} annotators in {output}", markup=False)
    return 0


def collected(log: EmbeddedLog) -> pa.Table:
    """Return the answers in an event log, oldest first, with the columns of `COLLECTED`."""
    rows: list[dict[str, object]] = []
    start = log.topic(EVENTS).first_offset
    while entries := log.read(EVENTS, start):
        for entry in entries:
            if "answer" not in entry.events.names:
                continue
            for row in entry.events.batch.to_pylist():
                if row["kind"] == "impression" and row["answer"] is not None:
                    rows.append(row)
        start = entries[-1].offset + 1
    kinds = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.float32(), pa.int64(), pa.float32(), pa.string())
    schema = pa.schema(list(zip(COLLECTED, kinds, strict=True)))
    return pa.Table.from_pylist([{name: row.get(name) for name in COLLECTED} for row in rows], schema=schema)
