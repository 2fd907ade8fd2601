"""The command `headrace`: finds the verb, runs it, and turns errors into one clear line and an exit code.

Exit codes: 0 done; 2 a mistake that Headrace can name (`HeadraceError`, wrong arguments); 1 anything unexpected, with
its traceback; 130 stopped by Ctrl-C. A verb may have codes of its own (`papers run`: 3, a goal was missed).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import headrace
from headrace import cli
from headrace.cli.output import say_error
from headrace.errors import ConfigError, HeadraceError, nearest

OK, UNEXPECTED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
_FACE = ("NAME", "HELP", "add_arguments", "run")


def verbs() -> dict[str, ModuleType]:
    """Return every verb by its name: the modules of this package that have the four parts of one."""
    found = {}
    for info in pkgutil.iter_modules(cli.__path__):
        if not info.name.startswith("_") and info.name != "main":
            module = importlib.import_module(f"headrace.cli.{info.name}")
            if all(hasattr(module, part) for part in _FACE):
                found[str(module.NAME)] = module
    return dict(sorted(found.items()))


def find_verb(name: str) -> ModuleType:
    """Return one verb without importing the others, some of which wait for torch."""
    try:
        module = importlib.import_module(f"headrace.cli.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("headrace.cli."):
            raise
        module = None
    if module is None or not all(hasattr(module, part) for part in _FACE):
        raise ConfigError(
            f"Verb '{name}'", got="no such verb", expected=nearest(name, verbs()), do="Try headrace --help."
        )
    return module


def parser_for(verb: ModuleType) -> argparse.ArgumentParser:
    """Return the argument parser of one verb."""
    parser = argparse.ArgumentParser(
        prog=f"headrace {verb.NAME}", description=verb.__doc__ or verb.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_arguments(parser)
    return parser


def overview() -> str:
    """Return what `headrace --help` prints."""
    lines = [
        "Headrace: models that learn from feedback while they serve.", "", "usage: headrace VERB [OPTION...]", "",
        *(f"  {name:<10} {verb.HELP}" for name, verb in verbs().items()), "",
        "headrace VERB --help explains a verb; most take --json. headrace --version prints the version.",
    ]  # fmt: skip
    return "\n".join(lines)


def dispatch(words: Sequence[str]) -> int:
    """Run one command line; raises whatever the verb raises."""
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())
        return OK if words else MISTAKE
    if words[0] in {"-V", "--version"}:
        print(f"headrace {headrace.__version__}")
        return OK
    verb = find_verb(words[0])
    arguments = parser_for(verb).parse_args(list(words[1:]))
    return int(verb.run(arguments))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code.

    Example:
        >>> main(["--version"])
        headrace 0.1.0
        0
    """
    level = logging.INFO if os.environ.get("HEADRACE_VERBOSE") else logging.WARNING
    logging.basicConfig(level=level, format="headrace: %(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    try:
        return dispatch(sys.argv[1:] if words is None else words)
    except HeadraceError as error:
        say_error(str(error))
        return MISTAKE
    except KeyboardInterrupt:
        say_error("stopped")
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has seen enough; keep the interpreter from complaining while it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        return _os_error(error)
    except Exception as error:  # noqa: BLE001 - the last place that can say something
        traceback.print_exc()
        say_error(f"unexpected {type(error).__name__}: {error}. This is a defect; please report it with these lines.")
        return UNEXPECTED


def _os_error(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    say_error(f"{where}{error.strerror or error}")
    if os.environ.get("HEADRACE_VERBOSE"):
        traceback.print_exc()
    return UNEXPECTED
