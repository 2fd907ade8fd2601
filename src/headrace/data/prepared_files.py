"""A folder of prepared data: what was made of what, the statistics, and one Parquet file per part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.data.features import Schema
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.prepared_batches import PreparedBatches
from headrace.data.statistics_file import load_statistics
from headrace.errors import DataError, nearest

MANIFEST, STATISTICS = "manifest.json", "statistics.preparation"
FORMAT = 1


class PreparedData:
    """What `prepare` made: a folder with manifest, statistics and parts.

    Args:
        folder: The folder.

    Raises:
        DataError: If it holds no prepared data, or was written by another version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, object] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"Folder {self.folder}", got=str(error), expected="data that `prepare` made",
                            do="Prepare it first.") from error  # fmt: skip
        if self.manifest.get("format") != FORMAT:
            raise DataError(f"Folder {self.folder}", got=f"format {self.manifest.get('format')}",
                            expected=f"format {FORMAT}", do="Prepare the data again.")  # fmt: skip

    @cached_property
    def statistics(self) -> PreparedStatistics:
        """What rows were prepared with."""
        return load_statistics(self.folder / STATISTICS)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the statistics."""
        return str(self.manifest["fingerprint"])

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(self._rows)

    @property
    def _rows(self) -> Mapping[str, int]:
        rows = self.manifest["rows"]
        assert isinstance(rows, dict)
        return rows

    def rows(self, part: str = "train") -> int:
        """Return how many rows a part has.

        Raises:
            DataError: If there is no such part.
        """
        if part not in self._rows:
            raise DataError(f"Part of {self.folder}", got=repr(part), expected=nearest(part, self._rows))
        return int(self._rows[part])

    def schema(self, dim: int | Mapping[str, int] = 16) -> Schema:
        """Return the schema of the prepared rows; see `PreparedStatistics.schema`."""
        return self.statistics.schema(dim)

    def batches(
        self, part: str, batch_rows: int, *, seed: int | None = None, epochs: int = 1, shuffle_rows: int = 1 << 18
    ) -> PreparedBatches:
        """Return the rows of a part as batches; see `PreparedBatches`."""
        if not self.rows(part):
            raise DataError(f"Part '{part}' of {self.folder}", got="no rows", expected="at least one")
        return PreparedBatches(
            part_path(self.folder, part), self.statistics, batch_rows, seed=seed, epochs=epochs,
            shuffle_rows=shuffle_rows,
        )  # fmt: skip

    def table(self, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the stored rows of a part; all of them in memory."""
        self.rows(part)
        path = part_path(self.folder, part)
        if not path.exists():  # a part without rows has no file
            return pa.table({})
        return pq.read_table(path, columns=list(columns) if columns else None, use_threads=False)

    def arrays(self, part: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the single-valued columns of a part (N,): ids int64, numbers and labels float32."""
        table = self.table(part)
        kept: dict[str, npt.NDArray[np.generic]] = {}
        for name in table.column_names:
            kind = table[name].type
            if pa.types.is_int32(kind):
                kept[name] = np.asarray(table[name].to_numpy(), dtype=np.int64)
            elif pa.types.is_float32(kind):
                kept[name] = np.asarray(table[name].to_numpy(), dtype=np.float32)
        return kept


def part_path(folder: Path, part: str) -> Path:
    """Return the file of a part."""
    return folder / f"{part}.parquet"


def write_manifest(folder: Path, content: Mapping[str, object]) -> None:
    """Write the manifest; the last file of a folder that is being made."""
    path = folder / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def input_files(paths: Sequence[Path]) -> list[dict[str, object]]:
    """Return what tells whether files are the same as before: name, size and time of the last change."""
    facts = [(Path(path).name, Path(path).stat()) for path in paths]
    return [{"name": name, "size_bytes": stat.st_size, "changed_ns": stat.st_mtime_ns} for name, stat in facts]
