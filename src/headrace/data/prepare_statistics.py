"""What was learned about the columns of the training rows, and how rows become ids and numbers with it.

Statistics belong to the model: files of rows and requests are prepared by the same object, so a row is the same row in
training and in serving. They are stored as one file with a checksum; their fingerprint stands in the model's schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import require
from headrace.data.feature_kinds import DenseFeature, Feature, IdFeature, Label, MultiIdFeature, SequenceFeature
from headrace.data.features import Schema
from headrace.data.hashing import example_ids
from headrace.data.prepare_columns import (
    FIRST,
    MISSING,
    RARE,
    Categories,
    Category,
    Column,
    Counted,
    History,
    LogBins,
    Number,
    Preparation,
    QuantileBins,
)
from headrace.data.prepare_encode import encode, text_bytes, text_keys
from headrace.data.prepare_fit import Counts, bars, number_values
from headrace.data.prepare_vocabulary import NumberFacts, Vocabulary, cuts_of, facts_of, vocabulary_of
from headrace.errors import DataError, nearest
from headrace.types import Events

Ids = npt.NDArray[np.int64]


class PreparedStatistics:
    """A preparation with what was counted for it; never changed, so any number of threads may transform.

    Args:
        preparation: What is made of which column.
        rows: Training rows that were counted.
        vocabularies: By name.
        buckets: For hashed columns with a minimum count: which buckets are kept, by vocabulary.
        facts: Of scaled numbers, by column.
        cuts: Of quantile bins: the last bar of every bin but the last, by column.
    """

    def __init__(
        self, preparation: Preparation, rows: int, vocabularies: Mapping[str, Vocabulary],
        buckets: Mapping[str, npt.NDArray[np.bool_]], facts: Mapping[str, NumberFacts], cuts: Mapping[str, Ids],
    ) -> None:  # fmt: skip
        self.preparation, self.rows, self.vocabularies = preparation, rows, vocabularies
        self.buckets, self.facts, self.cuts = buckets, facts, cuts
        self._fingerprint = ""

    def __repr__(self) -> str:
        """Return what tells these statistics from others; run records keep it."""
        return f"PreparedStatistics({self.fingerprint()})"

    @staticmethod
    def from_counts(preparation: Preparation, counts: Counts) -> PreparedStatistics:
        """Settle ids, cuts and scales.

        Raises:
            DataError: If there were no rows.
        """
        if not counts.rows:
            raise DataError("Training rows", got="none", expected="at least one", do="Is the split's `train` empty?")
        counts.settle()
        vocabularies, buckets = {}, {}
        for name, columns in preparation.vocabularies.items():
            least, hashed = columns[0].min_count, getattr(columns[0], "buckets", None)
            if hashed is None:
                vocabularies[name] = vocabulary_of(counts, name, least)
            elif least > 1:
                heights = counts.buckets.get(name, np.zeros(hashed, np.int64))
                buckets[name] = heights >= least
        facts, cuts = {}, {}
        for column in preparation.columns:
            if isinstance(column, Number) and column.scale != "none":
                facts[column.name] = facts_of(column, counts.numbers[column.name])
            elif isinstance(column, QuantileBins):
                cuts[column.name] = cuts_of(counts.numbers[column.name], column.bins)
        return PreparedStatistics(preparation, counts.rows, vocabularies, buckets, facts, cuts)

    def vocabulary_size(self, name: str) -> int:
        """Return the largest id of a column plus 1, as a dense table would need.

        Raises:
            DataError: If there is no such column, or it is a dense number.
        """
        column = self.preparation.column(name)
        if isinstance(column, QuantileBins):
            return FIRST + len(self.cuts[name]) + 1
        if isinstance(column, Number):
            raise DataError(f"Prepared column '{name}'", got="a dense number", expected="a column of ids")
        buckets = getattr(column, "buckets", None)
        return FIRST + (len(self.vocabularies[column.vocabulary].texts) if buckets is None else int(buckets))

    def transform(self, events: Events) -> Events:
        """Return events with prepared columns in place of raw ones; all other columns stay.

        Where the item itself is prepared, the example's id is made of its raw name first.

        Raises:
            SchemaError: See `transform_batch`.
        """
        columns: dict[str, pa.Array] = {}
        item = self.preparation.item
        if item in events.names and item in self.preparation.names and "example_id" not in events.names:
            columns["example_id"] = pa.array(example_ids(events.column("key"), events.column(item).cast(pa.string())))
        prepared = self.transform_batch(events.batch)
        columns |= dict(zip(prepared.schema.names, prepared.columns, strict=True))
        return Events.from_columns(columns)

    def transform_batch(self, batch: pa.RecordBatch, *, absent: bool = False) -> pa.RecordBatch:
        """Return rows with prepared columns in place of raw ones; all other columns stay.

        Ids are int64, numbers float32, lists list<int64>; no prepared column has nulls. A column with `serve_as` that
        is absent stays absent: serving fills it in.

        Args:
            batch: Raw rows.
            absent: Read every absent column as missing values.

        Raises:
            SchemaError: If a column is missing, of another type, or holds NaN or infinity.
        """
        found = [
            (column, encode(batch, column, absent=absent)) for column in self.preparation.columns
            if absent or getattr(column, "serve_as", None) is None or batch.schema.get_field_index(column.column) >= 0
        ]  # fmt: skip
        # One hashing of all columns' texts: for a request, calls cost more than rows.
        texts = [pa.array([], pa.string()), *(_dictionary(encoded) for _, encoded in found)]
        keys = np.split(text_keys(pa.concat_arrays(texts)), np.cumsum([len(part) for part in texts])[:-1])
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for (column, encoded), part in zip(found, keys[1:], strict=True):
            columns |= self.prepared(encoded, column, part)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def prepared(
        self, encoded: pa.Array, column: Column, keys: npt.NDArray[np.uint64] | None = None
    ) -> dict[str, pa.Array]:
        """Return what one encoded column becomes, by name: the column, and the indicator if it has one.

        Args:
            encoded: What `encode` made of the raw column.
            column: What to make of it.
            keys: `text_keys` of its distinct values, if they are known already.
        """
        if isinstance(column, (Categories, History)):
            ids = self._ids(encoded.flatten(), column, keys)
            return {column.name: pa.ListArray.from_arrays(encoded.offsets, pa.array(ids))}
        if isinstance(column, (Category, LogBins)):
            return {column.name: pa.array(self._ids(encoded, column, keys))}
        if isinstance(column, QuantileBins):
            values = np.asarray(pc.fill_null(encoded, np.float32(0)).to_numpy(zero_copy_only=False), dtype=np.float32)
            ids = np.searchsorted(self.cuts[column.name], bars(values)) + FIRST
            if encoded.null_count:
                ids[np.asarray(encoded.is_null().to_numpy(zero_copy_only=False))] = MISSING
            return {column.name: pa.array(ids.astype(np.int64))}
        result = {column.name: pa.array(self._scaled(number_values(encoded, column), column).astype(np.float32))}
        if column.indicator:
            result[f"{column.name}_missing"] = encoded.is_null().cast(pa.float32())
        return result

    def _ids(self, codes: pa.Array, column: Counted, keys: npt.NDArray[np.uint64] | None) -> Ids:
        """Return the ids of codes (N,): one look-up per distinct value, one array access per row."""
        keys = text_keys(codes.dictionary) if keys is None else keys
        table = np.full(len(codes.dictionary) + 1, MISSING, dtype=np.int64)
        buckets = getattr(column, "buckets", None)
        if buckets is None:
            table[:-1] = self.vocabularies[column.vocabulary].ids(keys)
        else:
            places = (keys % np.uint64(buckets)).astype(np.int64)
            table[:-1] = places + FIRST
            if column.vocabulary in self.buckets:
                table[:-1][~self.buckets[column.vocabulary][places]] = RARE
        indices = pc.fill_null(codes.indices, len(codes.dictionary)) if codes.null_count else codes.indices
        ids: Ids = table[np.asarray(indices.to_numpy(zero_copy_only=False))]
        return ids

    def _scaled(self, values: npt.NDArray[np.float64], column: Number) -> npt.NDArray[np.float64]:
        facts = self.facts.get(column.name)
        if facts is None:
            return values
        scaled = (values - facts.shift) / facts.divisor
        return np.clip(scaled, 0.0, 1.0) if facts.span else scaled

    def schema(self, dim: int | Mapping[str, int] = 16) -> Schema:
        """Return the schema of prepared rows, with this object's fingerprint in it.

        Args:
            dim: Width of the tables, or widths by column (columns of one vocabulary share a table and must agree).
        """
        features: list[Feature] = []
        for column in self.preparation.columns:
            width = dim if isinstance(dim, int) else dim.get(column.name, 16)
            features += self._features(column, width)
        labels = [Label(name) for name in (self.preparation.label, *self.preparation.extra_labels)]
        return Schema(features=tuple(features), label=labels[0], extra_labels=tuple(labels[1:]),
                      item=self.preparation.item, preparation=self.fingerprint())  # fmt: skip

    def _features(self, column: Column, dim: int) -> list[Feature]:
        name = column.name
        if isinstance(column, Categories):
            return [MultiIdFeature(name, dim, column.vocabulary, accepts="integer", optional=column.optional)]
        if isinstance(column, History):
            return [SequenceFeature(name, dim, column.vocabulary, accepts="integer", optional=column.optional,
                                    max_length=column.max_length, pooling=column.pooling)]  # fmt: skip
        served = self._served(column)
        if isinstance(column, Number):
            dense: list[Feature] = [DenseFeature(name, serve_as=served)]
            if column.indicator:
                dense.append(DenseFeature(f"{name}_missing", serve_as=None if served is None else 0.0))
            return dense
        table = name if isinstance(column, QuantileBins) else column.vocabulary
        return [IdFeature(name, dim, table, accepts="integer", serve_as=None if served is None else int(served))]

    def _served(self, column: Category | LogBins | QuantileBins | Number) -> float | None:
        """Return the prepared form of a column's reference value."""
        if column.serve_as is None:
            return None
        row = pa.RecordBatch.from_arrays([pa.array([column.serve_as])], names=[column.column])
        return float(self.prepared(encode(row, column), column)[column.name][0].as_py())

    def raw_column(self, name: str) -> str:
        """Return the raw column that a prepared column, or its indicator, is made of; other names stay."""
        for column in self.preparation.columns:
            if name in (column.name, f"{column.name}_missing"):
                return column.column
        return name

    def request_schema(self) -> Schema:
        """Return the schema of raw rows as clients send them, for servers and files to check them against."""
        own = self.preparation.columns
        numbers = {column.column for column in own if isinstance(column, (LogBins, QuantileBins, Number))}
        features: dict[tuple[str, type], Feature] = {}
        for column in own:
            made = _request_feature(column, also_number=column.column in numbers)
            features.setdefault((column.column, type(made)), made)
        return Schema(features=tuple(features.values()), item=self.preparation.item,
                      label=Label(self.preparation.label))  # fmt: skip

    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal exactly when rows are prepared alike."""
        self._fingerprint = self._fingerprint or self.digest()[:16]
        return self._fingerprint

    def digest(self) -> str:
        """Return the SHA-256 of everything that a row's preparation depends on."""
        digest = hashlib.sha256(json.dumps(self.head(), sort_keys=True).encode())
        for name, vocabulary in sorted(self.vocabularies.items()):
            texts = vocabulary.texts
            lengths = np.asarray(pc.binary_length(texts).to_numpy(zero_copy_only=False), dtype="<i8")
            digest.update(f"{name}:{len(texts)};".encode())
            digest.update(lengths.tobytes())
            digest.update(text_bytes(texts))
            digest.update(vocabulary.counts.astype("<i8").tobytes())
        for part in (self.buckets, self.cuts):
            for name, values in sorted(part.items()):
                digest.update(f"{name}:{len(values)};".encode())
                digest.update(np.asarray(values).astype("<i8").tobytes())
        return digest.hexdigest()

    def head(self) -> dict[str, object]:
        """Return the small part as plain values."""
        return {
            "preparation": self.preparation.to_json(), "rows": self.rows,
            "facts": {name: [facts.shift, facts.divisor, facts.span] for name, facts in self.facts.items()},
            "seen": {name: [item.occurrences, item.distinct] for name, item in self.vocabularies.items()},
        }  # fmt: skip

    def describe(self) -> list[dict[str, object]]:
        """Return one row per column for people: kind, distinct values, those with an id, share of rare occurrences."""
        rows: list[dict[str, object]] = []
        for column in self.preparation.columns:
            row: dict[str, object] = {"column": column.name, "kind": type(column).__name__}
            vocabulary = self.vocabularies.get(getattr(column, "vocabulary", ""))
            if vocabulary is not None:
                known = int(vocabulary.counts.sum())
                row |= {"distinct": vocabulary.distinct, "ids": len(vocabulary.texts),
                        "rare": 1.0 - known / max(vocabulary.occurrences, 1)}  # fmt: skip
            rows.append(row)
        return rows

    def known(self, name: str) -> Vocabulary:
        """Return a vocabulary by name; DataError lists the nearest names when there is none."""
        if name not in self.vocabularies:
            raise DataError("Vocabulary", got=repr(name), expected=nearest(name, self.vocabularies))
        return self.vocabularies[name]


def _dictionary(encoded: pa.Array) -> pa.Array:
    """Return the distinct texts of an encoded column; none of a number."""
    kind = encoded.type.value_type if pa.types.is_list(encoded.type) else encoded.type
    if not pa.types.is_dictionary(kind):
        return pa.array([], pa.string())
    return (encoded.values if pa.types.is_list(encoded.type) else encoded).dictionary


def check_preparation(schema: Schema, statistics: PreparedStatistics | None) -> None:
    """Refuse statistics that a schema was not made for, or their absence.

    Raises:
        ConfigError: If they do not belong together.
    """
    held = statistics.fingerprint() if statistics is not None else ""
    require(schema.preparation == held, "Preparation", got=held or "none",
            expected=f"{schema.preparation or 'none'}, which the schema was made for",
            do="Take the schema from the statistics: `statistics.schema(...)`.")  # fmt: skip


def _request_feature(column: Column, *, also_number: bool) -> Feature:
    """Return what a raw column is in requests; one that is a category and a number too has to be whole numbers."""
    raw, optional = column.column, column.optional
    if isinstance(column, Category):
        served = column.serve_as
        if also_number:
            served = None if served is None else int(served)
        return IdFeature(raw, 1, accepts="integer" if also_number else "any", optional=optional, serve_as=served)
    if isinstance(column, Categories):
        return MultiIdFeature(f"{raw} (list)", 1, column=raw, optional=optional, separator=column.separator)
    if isinstance(column, History):
        return SequenceFeature(f"{raw} (history)", 1, column=raw, optional=optional, separator=column.separator)
    return DenseFeature(f"{raw} (number)", column=raw, optional=optional, serve_as=column.serve_as)
