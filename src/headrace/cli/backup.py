"""`headrace backup FOLDER TARGET`: copy a run's folder while the run goes on.

TARGET is a run folder like any other. To restore: stop every process of the run, servers as well, put the copy in the
folder's place, start them again. Copies that the publisher keeps elsewhere (`--changes`) are emptied before.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from headrace.cli.output import console, human_bytes, print_json
from headrace.online import RunFolder
from headrace.online.backup import back_up

NAME = "backup"
HELP = "copy a run's folder while the run goes on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("target", type=Path, help="the copy; must not be there yet")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    made = back_up(RunFolder(arguments.folder), arguments.target)
    if arguments.json:
        print_json(asdict(made))
        return 0
    console().print(f"{made.folder}: version {made.version}, {made.events} rows of events, "
                    f"{human_bytes(made.size_bytes)}, copied in {made.seconds:.1f} s")  # fmt: skip
    return 0
