"""The command line: one file per verb, each with `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments) -> int`."""

from __future__ import annotations

__all__: list[str] = []
