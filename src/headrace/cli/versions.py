"""Published versions of a run: list them, hold them back, release them, or roll back to an earlier one.

headrace versions FOLDER                     the newest versions, what the guard said, and which replica serves which
headrace versions FOLDER rollback --to N     serve version N's content again, as a new version, and hold
headrace versions FOLDER hold                publish nothing more until it is released; learning goes on
headrace versions FOLDER release             publish all that was learned meanwhile, as one version

FOLDER is a run's folder; or give the recipe of the run (and its name=value), so that what waits can be judged and
published where no publisher runs.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from headrace.cli.output import console, print_json
from headrace.cli.run import run_folder
from headrace.config import known_name, require
from headrace.online import RunFolder, build, find_recipe
from headrace.online.config import OnlineConfig
from headrace.online.versions import VersionList, list_versions, order_versions
from headrace.publish.guard import describe
from headrace.publish.versions import VersionRecord
from headrace.ranking import as_online
from headrace.serve.audit import FILE, AuditLog

NAME = "versions"
HELP = "list a run's published versions, hold or release them, roll back to an earlier one"
ACTIONS = ("list", "rollback", "hold", "release")
NOT_DONE = 3
WIDTH = 160
"""Of the table in a file or a pipe."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("run", metavar="RECIPE|FOLDER", help="a run folder, or the run's recipe")
    parser.add_argument("words", nargs="*", metavar="ACTION", help="list (default), rollback, hold or release; and "
                        "name=value of the recipe")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="run folder of a recipe that has another than its default one")
    parser.add_argument("--to", type=int, help="of rollback: the version whose content is served again")
    parser.add_argument("--unchecked", action="store_true", help="of release: do not ask the guard, this once")
    parser.add_argument("--reason", default="", help="kept with the hold and in the list, for whoever comes next")
    parser.add_argument("--count", type=int, default=20, help="of list: how many lines")
    parser.add_argument("--wait", type=float, default=60.0, metavar="S",
                        help="seconds to wait for the publisher that runs")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; exit code 3 when the publisher that runs has not carried the order out yet."""
    settings = [word for word in arguments.words if "=" in word]
    actions = [word for word in arguments.words if "=" not in word]
    require(len(actions) <= 1, "headrace versions", got=" ".join(actions), expected=f"one of {', '.join(ACTIONS)}")
    action = known_name("Action", actions[0] if actions else "list", ACTIONS)
    require((action == "rollback") == (arguments.to is not None), "--to", got=arguments.to,
            expected="a version, with rollback")  # fmt: skip
    require(action == "release" or not arguments.unchecked, "--unchecked", got=action, expected="it with release")
    config, folder = _find(arguments, settings)
    if action == "list":
        show(list_versions(folder, count=arguments.count), arguments.json)
        return 0
    audit = AuditLog(folder.root / FILE)
    written = audit.begin("command line", f"versions {action}", {"to": arguments.to, "reason": arguments.reason,
                                                                 "unchecked": arguments.unchecked})  # fmt: skip
    state = "failed"
    try:
        done = order_versions(
            folder, action, config=config, to=-1 if arguments.to is None else arguments.to,
            unchecked=arguments.unchecked, reason=arguments.reason, wait_s=arguments.wait,
        )  # fmt: skip
        state = "asked" if done is None else "done"
    finally:
        audit.end(written, state)
    if arguments.json:
        print_json({"done": done is not None, "record": None if done is None else asdict(done)})
    else:
        console().print(escape(said(action, done)))
    return 0 if done is not None else NOT_DONE


def _find(arguments: argparse.Namespace, settings: list[str]) -> tuple[OnlineConfig | None, RunFolder]:
    path = Path(arguments.run)
    if path.is_dir():
        require(not settings and arguments.folder is None, "headrace versions", got="a folder and more",
                expected="a folder alone, or a recipe with its settings")  # fmt: skip
        return None, RunFolder(path)
    recipe = build(find_recipe(arguments.run), settings)
    return as_online(recipe), run_folder(recipe, arguments.folder)


def said(action: str, done: VersionRecord | None) -> str:
    """Return what came of an order, in a sentence.

    Example:
        >>> said("rollback", VersionRecord(kind="rollback", version=9, parent=8, to=5))
        'version 9 has the content of version 5; learned changes wait until `headrace versions ... release`'
    """
    if done is None:
        return f"the order to {action} is durable; the publisher that runs has not carried it out yet"
    if done.kind == "rollback":
        return (f"version {done.version} has the content of version {done.to}; learned changes wait until "
                "`headrace versions ... release`")  # fmt: skip
    if done.kind == "hold":
        return "versions are on hold; learned changes wait until `headrace versions ... release`"
    if done.kind == "release":
        return f"released: all that was learned is version {done.version}"
    if done.kind == "refused":
        return f"released, but what waits was {describe(done.verdict)}"
    return "released; what waits, if anything, goes out when the run's publisher runs"


def show(found: VersionList, as_json: bool) -> None:
    """Print the versions as one JSON object or as a table."""
    if as_json:
        print_json(found.facts())
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("version", "parent", "staged", "put", "removed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("when (UTC)", no_wrap=True)
    for heading in ("what", "guard", "served by"):
        table.add_column(heading, min_width=8)
    for record in found.records:
        table.add_row(*map(escape, _cells(record, found)))
    out = console()
    if not out.is_terminal:
        out.width = WIDTH
    out.print(table)
    standing = found.standing
    if found.newest >= 0 and len(found.reach) > 1:
        out.print(f"a rollback reaches back to version {found.reach.start}")
    if standing.hold is not None:
        out.print(f"[yellow]on hold[/yellow] since {_when(standing.hold.since)}: {escape(standing.hold.reason)}")
    if standing.pending_changes:
        out.print(f"{standing.pending_changes} changes of the learner wait")
    if standing.verdict is not None:
        out.print(f"[yellow]not published[/yellow], {escape(describe(standing.verdict))}")


def _cells(record: VersionRecord, found: VersionList) -> list[str]:
    """Return one line of the table."""

    def number(value: int) -> str:
        return f"{value}" if value >= 0 else "–"

    what = f"{record.kind} to {record.to}" if record.kind == "rollback" else record.kind
    published = record.version >= 0
    return [
        number(record.version), number(record.parent) if published else "", number(record.staged),
        f"{record.put:,}" if published else "", f"{record.removed:,}" if published else "", _when(record.time),
        f"{what}: {record.reason}" if record.reason else what, describe(record.verdict),
        ", ".join(found.holders(record.version)),
    ]  # fmt: skip


def _when(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%m-%d %H:%M:%S") if time_us else ""
