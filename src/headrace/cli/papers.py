"""List the published methods that ship with Headrace, show a card, or run a claim against its goals."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markdown import Markdown
from rich.table import Table

from headrace.cli.output import console, plain, print_json, say_error
from headrace.errors import ConfigError, DataError, HeadraceError, nearest

NAME = "papers"
HELP = "published methods: list them, show a card, run a claim"
SIZES = ("toy", "small", "grid", "full")
HOLDS, FAILED, MISSED = 0, 1, 3
RESULT = ("figures", "commit", "machine", "settings")
FIGURE = ("value", "low", "high", "unit", "goal", "holds")


@dataclass(frozen=True, slots=True)
class Paper:
    """One folder of `headrace.papers`: a card, a recipe, a claim and what the claim measured when it was recorded."""

    slug: str
    folder: Path

    @property
    def card(self) -> str:
        """The card's text."""
        return (self.folder / "card.md").read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The card's first heading."""
        headings = [line.lstrip("# ").strip() for line in self.card.splitlines() if line.startswith("#")]
        return headings[0] if headings else self.slug

    def recorded(self) -> dict[str, object]:
        """What was measured: the object of `expected.json`."""
        try:
            found = json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"papers/{self.slug}/expected.json", got=str(error), expected="one JSON object") from error
        return dict(found)


def find_papers() -> dict[str, Paper]:
    """Return every paper by slug, found by listing the package; nothing is imported."""
    package = importlib.import_module("headrace.papers")
    folders = {
        info.name: Path(root) / info.name
        for root in package.__path__
        for info in pkgutil.iter_modules([root])
        if info.ispkg and not info.name.startswith("_")
    }
    return {slug: Paper(slug, folder) for slug, folder in sorted(folders.items()) if (folder / "card.md").is_file()}


def find_paper(slug: str) -> Paper:
    """Return one paper; ConfigError lists the nearest when there is none of that name."""
    papers = find_papers()
    if slug not in papers:
        raise ConfigError(f"Paper '{slug}'", got="no such paper", expected=nearest(slug, papers),
                          do="See headrace papers list.")  # fmt: skip
    return papers[slug]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `list`, `show SLUG` and `run SLUG --size SIZE`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|run")
    listing = actions.add_parser("list", help="all papers with what was recorded")
    show = actions.add_parser("show", help="the card of one paper")
    run = actions.add_parser("run", help="measure a paper's claim; exit code 0 all goals hold, 3 some missed, 1 failed")
    for action in (show, run):
        action.add_argument("slug", help="the paper's folder name")
    run.add_argument("--size", choices=SIZES, default="toy", help="how much to run (default: toy, seconds)")
    run.add_argument("--out", type=Path, help="also write the JSON object to this file")
    for action in (listing, show, run):
        action.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked."""
    if arguments.action == "list":
        return _list(arguments.json)
    if arguments.action == "show":
        return _show(find_paper(arguments.slug), arguments.json)
    return _run(find_paper(arguments.slug), arguments)


def _list(as_json: bool) -> int:
    papers = find_papers()
    if as_json:
        print_json([{"slug": slug, "title": paper.title, "recorded": _tally(paper)} for slug, paper in papers.items()])
        return HOLDS
    table = Table(box=None, header_style="bold")
    for heading in ("paper", "title", "goals held when recorded"):
        table.add_column(heading)
    for slug, paper in papers.items():
        tally = _tally(paper)
        table.add_row(slug, paper.title, f"{tally['held']} of {tally['goals']}")
    console().print(table)
    return HOLDS


def _tally(paper: Paper) -> dict[str, int]:
    figures = paper.recorded().get("figures", {})
    held = [figure["holds"] for figure in figures.values()] if isinstance(figures, Mapping) else []
    return {"figures": len(held), "goals": sum(h is not None for h in held), "held": sum(h is True for h in held)}


def _show(paper: Paper, as_json: bool) -> int:
    if as_json:
        print_json({"slug": paper.slug, "title": paper.title, "card": paper.card, "recorded": paper.recorded()})
    else:
        console().print(Markdown(paper.card))
    return HOLDS


def _run(paper: Paper, arguments: argparse.Namespace) -> int:
    try:
        claim = importlib.import_module(f"headrace.papers.{paper.slug}.claim")
        # a claim may show its progress, but standard output belongs to the result
        with contextlib.redirect_stdout(sys.stderr):
            result = dict(claim.run(arguments.size))
        check_result(paper.slug, result)
    except HeadraceError as error:
        say_error(str(error))
        return FAILED
    except Exception as error:  # noqa: BLE001 - whatever a claim raises, it failed to run
        traceback.print_exc()
        say_error(f"papers/{paper.slug}: {type(error).__name__}: {error}")
        return FAILED
    if arguments.out:
        arguments.out.write_text(json.dumps(plain(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if arguments.json:
        print_json(result)
    else:
        console().print(claim.render(result))
        console().print(_goals(result))
    figures = result["figures"]
    missed = isinstance(figures, Mapping) and any(figure["holds"] is False for figure in figures.values())
    return MISSED if missed else HOLDS


def check_result(slug: str, result: Mapping[str, object]) -> None:
    """Refuse a claim's result that is not the object of the design: figures with goals, commit, machine, settings.

    Raises:
        DataError: If a part is missing, or a goal is given and `holds` is not a truth value (or the other way round).
    """
    what = f"papers/{slug}"
    for part in RESULT:
        if part not in result:
            raise DataError(f"{what}: result", got=f"no '{part}'", expected=", ".join(RESULT))
    figures = result["figures"]
    if not isinstance(figures, Mapping) or not figures:
        raise DataError(f"{what}: figures", got=type(figures).__name__, expected="a mapping of at least one figure")
    for name, figure in figures.items():
        lacking = sorted(set(FIGURE) - set(figure))
        if lacking:
            raise DataError(f"{what}: figure {name}", got=f"no {', '.join(lacking)}", expected=", ".join(FIGURE))
        if (figure["goal"] is None) != (figure["holds"] is None):
            raise DataError(f"{what}: figure {name}", got=f"goal {figure['goal']}, holds {figure['holds']}",
                            expected="both null, or a goal and a truth value")  # fmt: skip


def _goals(result: Mapping[str, object]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("figure", "value", "95 % interval", "goal", ""):
        table.add_column(heading, justify="left" if heading in {"figure", ""} else "right")
    figures = result["figures"]
    assert isinstance(figures, Mapping)
    for name, figure in figures.items():
        goal = figure["goal"]
        word = {True: "holds", False: "missed", None: ""}[figure["holds"]]
        interval = "" if figure["low"] is None else f"{figure['low']:.5g} … {figure['high']:.5g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        table.add_row(name, f"{figure['value']:.5g} {figure['unit']}".strip(), interval, wanted, word)
    return table
