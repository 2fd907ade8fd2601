"""The join's disk tier: rows of pending impressions that no longer fit into memory, in a RocksDB folder.

Nothing here has to survive a crash: the join's state holds every pending row, so the folder is emptied at each start
and filled again from there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rocksdict import DBCompressionType, Options, Rdict, WriteOptions

from headrace.errors import StoreError

PIECE_ROWS = 512
"""Rows per value: what one positive that comes late costs to read."""

SUBFOLDER = "pending-rows"


class DiskTier:
    """Rows by number, in pieces of `PIECE_ROWS`, each one Arrow IPC message.

    Args:
        folder: Where the tier makes its own subfolder; one join at a time may use it.

    Raises:
        StoreError: From any method, when the disk is full, the folder is not writable or used by another process.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / SUBFOLDER
        self._store: Rdict | None = None
        self._write = WriteOptions()
        self._write.disable_wal = True  # type: ignore[method-assign, assignment]  # the stubs call it a method

    def put(self, start: int, rows: pa.RecordBatch) -> None:
        """Write rows whose numbers are `start`, `start + 1`, ..."""
        store = self._opened()
        try:
            for first in range(0, rows.num_rows, PIECE_ROWS):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, rows.schema) as writer:
                    writer.write_batch(rows.slice(first, PIECE_ROWS))
                store.put(_key(start + first), sink.getvalue().to_pybytes(), write_opt=self._write)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._failed(error) from error

    def take(self, start: int, local: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """Read rows `start + local`, in that order, of what one `put` with this `start` wrote."""
        pieces, where = np.unique(local // PIECE_ROWS, return_inverse=True)
        parts = [self._piece(start + int(piece) * PIECE_ROWS) for piece in pieces]
        begins = np.concatenate([[0], np.cumsum([part.num_rows for part in parts])])
        together = pa.concat_batches(parts)
        return together.take(pa.array(begins[where] + local % PIECE_ROWS))

    def drop(self, start: int, rows: int) -> None:
        """Delete the rows of one `put`."""
        if self._store is None:
            return
        try:
            self._store.delete_range(_key(start), _key(start + rows), write_opt=self._write)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._failed(error) from error

    def close(self) -> None:
        """Delete everything and close the folder."""
        if self._store is None:
            return
        try:
            self._store.close()
            self._store = None
            Rdict.destroy(str(self.path), _options())
        except Exception as error:  # rocksdict raises plain Exception
            raise self._failed(error) from error

    def _piece(self, start: int) -> pa.RecordBatch:
        try:
            data = self._opened().get(_key(start))
        except Exception as error:  # rocksdict raises plain Exception
            raise self._failed(error) from error
        if data is None:
            raise StoreError(
                f"Join's disk tier {self.path}", got=f"no rows at {start}", expected="what was written there",
                do="Did another process delete files there? Restart from the last state.",
            )  # fmt: skip
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            return reader.read_next_batch()

    def _opened(self) -> Rdict:
        if self._store is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists():
                    Rdict.destroy(str(self.path), _options())
                self._store = Rdict(str(self.path), _options())
            except Exception as error:  # rocksdict raises plain Exception
                raise self._failed(error) from error
        return self._store

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(
            f"Join's disk tier {self.path}", got=str(error), expected="a writable folder of one process's own",
            do="Free disk space, or give the join another spill folder.",
        )  # fmt: skip


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_keep_log_file_num(1)
    options.set_compression_type(DBCompressionType.none())  # what is erased must be seen not to be there
    return options
