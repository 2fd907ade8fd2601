"""The nouns: what travels between the roles.

Data is columnar: Arrow record batches outside, tensors inside. Times are integers in microseconds since the epoch
(UTC); `event_time` is when something happened, `accepted_time` is when Headrace durably took notice of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from headrace.errors import SchemaError, nearest

StateValue: TypeAlias = "None | bool | int | float | str | bytes | Tensor | list[StateValue] | dict[str, StateValue]"
State: TypeAlias = dict[str, StateValue]
"""What a part must keep to go on after a restart: nested dicts of plain values, bytes and tensors (no objects)."""

Position: TypeAlias = dict[str, int]
"""Where a source stands: partition or file name to the number of rows already read."""

REQUIRED: dict[str, pa.DataType] = {"key": pa.string(), "kind": pa.string(), "event_time": pa.int64()}
NO_VERSION = -1


@dataclass(frozen=True, slots=True)
class Events:
    """An Arrow record batch with `key`, `kind`, `event_time` (µs) and payload columns.

    One row is one (request, item) pair or one action on such a pair. `key` names the request, `kind` says what the
    row is (`impression`, `prediction`, `click`, `example`, ...), `item` (string), where present, names the candidate.

    Raises:
        SchemaError: If a required column is missing or has another type.
    """

    batch: pa.RecordBatch

    def __post_init__(self) -> None:
        for name, kind in REQUIRED.items():
            index = self.batch.schema.get_field_index(name)
            if index < 0:
                raise SchemaError(
                    f"Events column '{name}'", got=f"columns {self.batch.schema.names}", expected=f"a {kind} column",
                    do="Every event needs key, kind and event_time.",
                )  # fmt: skip
            if self.batch.schema.field(index).type != kind:
                raise SchemaError(
                    f"Events column '{name}'", got=self.batch.schema.field(index).type, expected=str(kind),
                    do="Cast the column; times are int64 microseconds since the epoch.",
                )  # fmt: skip

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @staticmethod
    def from_columns(columns: Mapping[str, object]) -> Events:
        """Build events from equally long columns (lists, NumPy or Arrow arrays); required columns are cast."""
        arrays, fields = [], []
        for name, values in columns.items():
            kind = REQUIRED.get(name)
            array = values if isinstance(values, pa.Array) else pa.array(values, type=kind)
            if kind is not None and array.type != kind:
                array = array.cast(kind)
            arrays.append(array)
            fields.append(pa.field(name, array.type))
        return Events(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))

    @staticmethod
    def concat(parts: Sequence[Events]) -> Events:
        """Put batches with the same columns one behind another; columns absent in some are filled with nulls."""
        if len(parts) == 1:
            return parts[0]
        table = pa.concat_tables([pa.Table.from_batches([p.batch]) for p in parts], promote_options="default")
        batches = table.combine_chunks().to_batches()
        return Events(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))

    def column(self, name: str) -> pa.Array:
        """Return one column; SchemaError names the nearest columns when there is none of that name."""
        index = self.batch.schema.get_field_index(name)
        if index < 0:
            raise SchemaError(f"Events column '{name}'", got="no such column", expected=nearest(name, self.names))
        return self.batch.column(index)

    @property
    def names(self) -> list[str]:
        """Names of all columns, in order."""
        return list(self.batch.schema.names)

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """Event times, (N,) int64 µs."""
        return np.asarray(self.column("event_time").to_numpy(zero_copy_only=False), dtype=np.int64)

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Events:
        """Return a copy with columns added or replaced."""
        merged = dict(zip(self.names, self.batch.columns, strict=True)) | dict(columns)
        return Events.from_columns(merged)

    def slice(self, start: int, length: int | None = None) -> Events:
        """Return rows `start .. start+length` without copying."""
        return Events(self.batch.slice(start, length))

    def take(self, rows: npt.NDArray[np.integer]) -> Events:
        """Return the given rows, in that order."""
        return Events(self.batch.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def of_kind(self, *kinds: str) -> Events:
        """Return the rows whose kind is one of `kinds`, order kept."""
        return Events(self.batch.filter(pc.is_in(self.column("kind"), value_set=pa.array(kinds, pa.string()))))

    def to_bytes(self) -> bytes:
        """Serialise as one Arrow IPC stream."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch.schema) as writer:
            writer.write_batch(self.batch)
        return bytes(sink.getvalue().to_pybytes())

    @staticmethod
    def from_bytes(data: bytes | memoryview) -> Events:
        """Read what `to_bytes` wrote; SchemaError if the bytes are not an Arrow stream of events."""
        try:
            with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
                table = reader.read_all().combine_chunks()
        except (pa.ArrowInvalid, OSError) as error:
            raise SchemaError("Arrow stream", got=str(error), expected="an Arrow IPC stream of events") from error
        batches = table.to_batches()
        return Events(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))


@dataclass(frozen=True, slots=True)
class Jagged:
    """Variable-length int64 ids per row: row b owns `values[offsets[b]:offsets[b+1]]`.

    Shapes: values (L,) int64; offsets (B+1,) int64, offsets[0] = 0, offsets[B] = L.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return int(self.offsets.numel()) - 1

    def slice(self, start: int, stop: int) -> Jagged:
        """Return rows start..stop with offsets that start at 0 again."""
        offsets = self.offsets[start : stop + 1]
        return Jagged(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a learner eats: B examples in columns, with the predictions as they were made.

    Shapes:
        ids: feature name -> Jagged of B rows; dense (B, K) float32; labels (B,) float32; weights (B,) float32;
        event_times, accepted_times (B,) int64 µs (accepted 0 = unknown); example_ids (B,) int64;
        predictions (B,) float32 probability as served, NaN where none was made; versions (B,) int64, -1 = none;
        sample_rates (B,) float32, the share of such examples that was kept; extra: name -> (B, ...) tensors that
        one method needs (old log-probs, a second label, a score with the logged position).
    """

    ids: Mapping[str, Jagged]
    dense: Tensor
    labels: Tensor
    weights: Tensor
    event_times: Tensor
    accepted_times: Tensor
    example_ids: Tensor
    predictions: Tensor
    versions: Tensor
    sample_rates: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def slice(self, start: int, stop: int) -> Batch:
        """Return examples start..stop."""
        cut = slice(start, stop)
        return replace(
            self, ids={name: jagged.slice(start, stop) for name, jagged in self.ids.items()},
            dense=self.dense[cut], labels=self.labels[cut], weights=self.weights[cut],
            event_times=self.event_times[cut], accepted_times=self.accepted_times[cut],
            example_ids=self.example_ids[cut], predictions=self.predictions[cut], versions=self.versions[cut],
            sample_rates=self.sample_rates[cut], extra={name: value[cut] for name, value in self.extra.items()},
        )  # fmt: skip

    def split(self, rows: int | None) -> Iterator[Batch]:
        """Yield consecutive pieces of at most `rows` examples; the whole batch when `rows` is None."""
        step = rows or max(len(self), 1)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield self if (start, stop) == (0, len(self)) else self.slice(start, stop)


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar tensor with gradient, its named parts as floats, and the logits (B,) it was computed from."""

    total: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)
    logits: Tensor | None = None


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A published version: a number that only grows, and the number of the version it was made from (-1 = none)."""

    number: int
    parent: int = NO_VERSION


@dataclass(frozen=True, slots=True)
class RowChange:
    """What happened to one table: rows put and ids removed; no id stands in both.

    Shapes: ids (N,) int64 strictly ascending; rows (N, D) float32; removed (M,) int64 strictly ascending.
    """

    ids: Tensor
    rows: Tensor
    removed: Tensor

    def __len__(self) -> int:
        return int(self.ids.numel()) + int(self.removed.numel())


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs between `version.parent` and `version`; applying it twice equals applying it once.

    `full` says that the change is a whole snapshot: a replica drops all rows before it applies one. `dense` holds
    every dense tensor (they are few). `notes` holds facts about the version that are not weights, as int64 or float32
    tensors: `example_offset` (1,), `accepted_times` (P,) of the positives learned, and so on. `spec` holds the text
    that a replica must agree on before it serves: table seeds, dimensions, schema fingerprint.
    """

    version: Version
    tables: Mapping[str, RowChange] = field(default_factory=dict)
    dense: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    spec: Mapping[str, str] = field(default_factory=dict)
    full: bool = False

    def checksum(self) -> str:
        """Return the SHA-256 of the content in canonical order: equal content, equal checksum, on any machine."""
        digest = hashlib.sha256()
        head = [self.version.number, self.version.parent, self.full, sorted(self.spec.items())]
        digest.update(json.dumps(head).encode())
        for table, rows in sorted(self.tables.items()):
            for part, tensor in (("ids", rows.ids), ("rows", rows.rows), ("removed", rows.removed)):
                _digest_tensor(digest, f"{table}/{part}", tensor)
        for prefix, tensors in (("dense", self.dense), ("notes", self.notes)):
            for name, tensor in sorted(tensors.items()):
                _digest_tensor(digest, f"{prefix}/{name}", tensor)
        return digest.hexdigest()


def _digest_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
    if tensor.numel():  # as bytes, because NumPy has no bfloat16
        digest.update(tensor.detach().cpu().reshape(-1).clone().view(torch.uint8).numpy().tobytes())


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its 95 % interval, unit, and where it came from."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    source: str = ""


@dataclass(slots=True)
class Report:
    """Numbers with where they came from, and notes: every fallback taken and every limitation met is a note."""

    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)

    def add(self, name: str, value: float, *, unit: str = "", source: str = "") -> None:
        """Record one number."""
        self.figures[name] = Figure(float(value), unit=unit, source=source)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain values."""
        figures = {name: asdict(figure) for name, figure in self.figures.items()}
        return {"figures": figures, "notes": list(self.notes), "settings": dict(self.settings)}
