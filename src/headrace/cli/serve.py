"""`headrace serve RECIPE`: answer requests over HTTP with the newest published version of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from headrace.cli.run import run_folder, stop_on_signals
from headrace.online import build, find_recipe, run_server
from headrace.ranking import as_online

NAME = "serve"
HELP = "serve a run's newest version over HTTP, log what is served, and take feedback"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder whose versions are served")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; loopback unless told otherwise")
    parser.add_argument("--port", type=int, default=8080)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    recipe = build(find_recipe(arguments.recipe), arguments.settings)
    folder, config = run_folder(recipe, arguments.folder), as_online(recipe)
    console = Console(stderr=True)
    console.print(f"serving {config.name} from {folder.root} on http://{arguments.host}:{arguments.port}",
                  highlight=False)  # fmt: skip
    run_server(config, folder, host=arguments.host, port=arguments.port, stop=stop_on_signals())
    return 0
