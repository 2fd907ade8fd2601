"""The command line: one file per verb, with `NAME`, `HELP`, `add_arguments(parser)`, `run(arguments) -> int`."""

from __future__ import annotations

__all__: list[str] = []
