"""Prepared rows into Parquet files, one per part, in row groups whose size depends on nothing but the setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.data.prepared_files import part_path


class PartWriters:
    """The files of all parts of a folder; used as a context, at the end of which what is left is written.

    Args:
        folder: Where the files are made.
        parts: Their names.
        group_rows: Rows of a row group.
    """

    def __init__(self, folder: Path, parts: Sequence[str], group_rows: int) -> None:
        self.folder = folder
        self._parts = {name: PartWriter(part_path(folder, name), group_rows) for name in parts}
        self._order = list(self._parts.values())

    @property
    def rows(self) -> dict[str, int]:
        """Part to the rows that it has so far."""
        return {name: writer.rows for name, writer in self._parts.items()}

    def take(self, part: int, path: Path) -> None:
        """Write the rows of an Arrow file to a part, by number; see `PartWriter.take`."""
        self._order[part].take(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._order:
            writer.close()


class PartWriter:
    """Writes one Parquet file in row groups of a fixed size, whatever sizes the rows come in.

    Args:
        path: The file; it is made with the first rows.
        group_rows: Rows of all row groups but the last.
    """

    def __init__(self, path: Path, group_rows: int) -> None:
        self.rows = 0
        self._path, self._group = path, group_rows
        self._writer: pq.ParquetWriter | None = None
        self._rest: list[pa.RecordBatch] = []
        self._waiting = 0

    def take(self, path: Path) -> None:
        """Write the rows of an Arrow file, and remove it once its rows were written."""
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        path.unlink()  # what is mapped stays readable
        self._rest.append(batch)
        self._waiting += batch.num_rows
        self.rows += batch.num_rows
        if self._waiting >= self._group:
            self._write(self._waiting - self._waiting % self._group)

    def close(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write(self._waiting)
        if self._writer is not None:
            self._writer.close()

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._rest)
        if self._writer is None:
            # Ids are plain integers already: a second dictionary, or compression, makes files little smaller and
            # reading several times slower.
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="none", use_dictionary=False,
                                            write_statistics=False)  # fmt: skip
        self._writer.write_table(table.slice(0, rows), row_group_size=self._group)
        self._rest = table.slice(rows).to_batches()
        self._waiting -= rows
