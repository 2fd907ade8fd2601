"""Prepared statistics as a file: a line of JSON with format version and checksum, then one Arrow batch of one row.

The checksum is that of the bytes as they lie there, and it is compared before Arrow sees any of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.data.prepare_columns import Preparation
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.prepare_vocabulary import NumberFacts, Vocabulary
from headrace.errors import DataError

FORMAT = 1
LONGEST_HEAD = 1024


def save_statistics(statistics: PreparedStatistics, path: Path) -> None:
    """Write statistics; the file appears whole or not at all.

    Raises:
        OSError: If the disk does not take it.
    """
    arrays: dict[str, pa.Array] = {}
    for name, vocabulary in statistics.vocabularies.items():
        arrays[f"texts/{name}"] = _one_row(vocabulary.texts)
        arrays[f"counts/{name}"] = _one_row(pa.array(vocabulary.counts))
    for name, kept in statistics.buckets.items():
        arrays[f"buckets/{name}"] = _one_row(pa.array(kept))
    for name, cuts in statistics.cuts.items():
        arrays[f"cuts/{name}"] = _one_row(pa.array(cuts))
    arrays["rows"] = pa.array([statistics.rows])
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in arrays.items()], metadata={"head": json.dumps(statistics.head())}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema))
    body = sink.getvalue()
    first = {"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest(), "fingerprint": statistics.fingerprint()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(json.dumps(first).encode() + b"\n")
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_statistics(path: Path) -> PreparedStatistics:
    """Read what `save_statistics` wrote, and check all of it.

    Raises:
        DataError: If there is no such file, it was written by a newer version, or is damaged.
    """
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"Preparation {path}", got="no such file", expected="statistics that were saved",
            do="Prepare the data again, or copy the file from where the model was trained.",
        ) from error  # fmt: skip
    try:
        end = bytes(data[:LONGEST_HEAD]).index(b"\n")
        first = json.loads(bytes(data[:end]))
        version, stored, wanted = first["format"], first["sha256"], first["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if version != FORMAT:
        raise DataError(f"Preparation {path}", got=f"format {version}", expected=f"format {FORMAT}",
                        do="It was written by another version of Headrace.")  # fmt: skip
    found = hashlib.sha256(data[end + 1 :]).hexdigest()
    if found != stored:
        raise _damaged(path, f"SHA-256 {found[:16]}…, {stored[:16]}… when it was written")
    with pa.ipc.open_stream(pa.py_buffer(data[end + 1 :])) as reader:
        batch = reader.read_next_batch()
    statistics = _built(batch, json.loads(batch.schema.metadata[b"head"]))
    if statistics.fingerprint() != wanted:
        raise _damaged(path, f"fingerprint {statistics.fingerprint()}, {wanted} when it was written")
    return statistics


def _built(batch: pa.RecordBatch, head: dict[str, object]) -> PreparedStatistics:
    seen, facts = head["seen"], head["facts"]
    assert isinstance(seen, dict)
    assert isinstance(facts, dict)
    vocabularies = {}
    for name, (occurrences, distinct) in seen.items():
        texts = batch.column(f"texts/{name}").flatten()
        counts = np.asarray(batch.column(f"counts/{name}").flatten().to_numpy(), dtype=np.int64)
        vocabularies[name] = Vocabulary(texts, counts, int(occurrences), int(distinct))
    parts: dict[str, dict[str, np.ndarray]] = {"buckets": {}, "cuts": {}}
    for name in batch.schema.names:
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = np.asarray(batch.column(name).flatten().to_numpy(zero_copy_only=False))
    return PreparedStatistics(
        Preparation.from_json(str(head["preparation"])), int(batch.column("rows")[0].as_py()), vocabularies,
        parts["buckets"], {name: NumberFacts(float(a), float(b), bool(c)) for name, (a, b, c) in facts.items()},
        parts["cuts"],
    )  # fmt: skip


def _one_row(values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def _damaged(path: Path, got: str) -> DataError:
    return DataError(f"Preparation {path}", got=got, expected="a whole file of statistics",
                     do="It is damaged; prepare the data again, or copy the file once more.")  # fmt: skip
