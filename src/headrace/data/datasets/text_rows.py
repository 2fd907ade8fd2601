"""Rows of a data set of texts: one JSON object a line, found where data lie."""

from __future__ import annotations

import pyarrow as pa

from headrace.data.datasets.recorded import find_in, missing, read_table
from headrace.data.layout import Layout


def rows_of(what: str, file: str, address: str, *, rows: int | None = None) -> pa.Table:
    """Return the rows of a file of JSON lines.

    Args:
        what: What the data are, for errors.
        file: Name of the file.
        address: Where it comes from, for whoever lacks it.
        rows: Only the first so many; None: all.

    Raises:
        DataError: If the file is missing or malformed.
    """
    path = find_in((file,))
    if path is None:
        raise missing(what, (file,), address)
    return read_table(path, Layout(format="jsonl"), rows=rows)
