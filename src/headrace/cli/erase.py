"""Erase a user from a run: from tables, logs, states, snapshots and copies; or take one back.

headrace erase RECIPE --user ID              ask for it; the run's processes do it, and tell when it is finished
headrace erase RECIPE --user ID --here       the same of a run at rest: everything is done in this process
headrace erase RECIPE --user ID --consent    take an erased user as a new one from now on
headrace erase RECIPE                        the erasures under way, and how far they are

Give `-` as ID to type it, or pipe it in, so that it stands in no shell history. Afterwards `headrace inspect traces`
proves that no trace is left.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from headrace.cli.output import console, print_json
from headrace.cli.run import run_folder
from headrace.config import require
from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.online import build, find_recipe
from headrace.online.erase import JOINED, LEARNED, REMOVED, open_book, user_columns
from headrace.online.erase_rest import finish_erasures
from headrace.online.layout import RunFolder
from headrace.ranking import as_online
from headrace.serve.audit import FILE, AuditLog

NAME = "erase"
HELP = "erase a user from a run: tables, logs, states, snapshots and copies; or take one back"
NOT_DONE = 3
POLL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder of a recipe that has another than its default one")
    parser.add_argument("--user", metavar="ID", help="the user's id; - reads it from standard input")
    parser.add_argument("--consent", action="store_true", help="take the erased user as a new one from now on")
    parser.add_argument("--again", action="store_true", help="erase anew who was erased: after a backup was restored")
    parser.add_argument("--here", action="store_true", help="no process of the run is alive: do all of it here")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="seconds to wait until it is finished")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; exit code 3 when what was waited for is not finished yet."""
    recipe = build(find_recipe(arguments.recipe), arguments.settings)
    folder, config = run_folder(recipe, arguments.folder), as_online(recipe)
    user_columns(config)
    require(folder.root.is_dir(), "--folder", got=str(folder.root), expected="the folder of a run")
    book = open_book(folder)
    if arguments.user is None:
        require(not arguments.consent, "--consent", got="no --user", expected="whose consent it is")
        left = finish_erasures(config, folder) if arguments.here else book.unfinished()
        _show(left, arguments.json)
        return NOT_DONE if arguments.here and left else 0
    name = sys.stdin.readline().rstrip("\r\n") if arguments.user == "-" else arguments.user
    number = _asked(book, folder, name, consent=arguments.consent, again=arguments.again)
    if arguments.consent:
        _show([] if number is None else [_of(book, number)], arguments.json)
        return 0
    assert number is not None
    if arguments.here:
        finish_erasures(config, folder)
    deadline = time.monotonic() + arguments.wait
    while not _of(book, number).finished and time.monotonic() < deadline:
        time.sleep(POLL_S)
    found = _of(book, number)
    _show([found], arguments.json)
    return 0 if found.finished or not (arguments.here or arguments.wait) else NOT_DONE


def _asked(book: ErasureBook, folder: RunFolder, name: str, *, consent: bool, again: bool) -> int | None:
    """Write into the book, with an audit line before and after."""
    audit = AuditLog(folder.root / FILE)
    action = audit.begin("command line", "consent" if consent else "erase", {"subject": book.subject(name).hex()})
    try:
        found = book.consent(name) if consent else book.request(name, again=again)
    except BaseException:
        audit.end(action, "refused")
        raise
    audit.end(
        action, "nothing to lift" if found is None else "asked", {} if found is None else {"number": found.number}
    )
    return None if found is None else found.number


def _of(book: ErasureBook, number: int) -> Erasure:
    found = book.erasure(number)
    assert found is not None
    return found


def _show(erasures: list[Erasure], as_json: bool) -> None:
    facts = [{"number": item.number, "subject": item.subject.hex(), "state": state_of(item),
              "requested": item.requested, "finished": item.finished} for item in erasures]  # fmt: skip
    if as_json:
        print_json({"erasures": facts})
        return
    if not facts:
        console().print("No erasure is under way.")
        return
    table = Table(box=None, header_style="bold")
    for heading in ("erasure", "subject", "requested", "state"):
        table.add_column(heading, no_wrap=heading != "state")
    for item in erasures:
        asked = datetime.fromtimestamp(item.requested / 1e6, UTC).isoformat(sep=" ", timespec="seconds")
        table.add_row(str(item.number), item.subject.hex()[:16], asked, state_of(item))
    console().print(table)


def state_of(erasure: Erasure) -> str:
    """Return in words how far an erasure is."""
    if erasure.consented:
        return "finished, and lifted by consent"
    if erasure.finished:
        return "finished: no trace is left"
    waits = [text for part, text in ((REMOVED, "the publisher"), (JOINED, "the joiner"), (LEARNED, "the learner"))
             if part not in erasure.marks]  # fmt: skip
    return f"under way; waits for {', '.join(waits)}" if waits else "under way; logs and snapshots are being rewritten"
