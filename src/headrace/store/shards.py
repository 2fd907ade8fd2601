"""Shards: which part of a table holds an id, and moving table files from any number of shards to any other.

Ids fall into 4096 virtual buckets by the upper 12 bits of their hash, and bucket b to shard b * N // 4096 of N. What
belongs to an id or a bucket is the same whatever shard it is in, so N -> M -> N gives the files one began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import HeadraceError, RowRuleMismatch, StoreError
from headrace.store.hashing import IdArray
from headrace.store.sketch import BUCKETS, bucket_of
from headrace.store.table_files import (
    AnyPath,
    TableFile,
    accept,
    accept_read,
    header_of,
    inspect_table_file,
    native_files,
)

__all__ = ["BUCKETS", "bucket_of", "owns", "reshard", "shard_of"]

_INVALID = 8


def shard_of(ids: IdArray, shards: int) -> IdArray:
    """Return the shard (N,) of each id among `shards`.

    Example:
        >>> shard_of(np.array([0, 1, 2], np.int64), 4).tolist()
        [0, 1, 3]
    """
    require(1 <= shards <= BUCKETS, "shards", got=shards, expected=f"an integer from 1 to {BUCKETS}")
    return np.asarray(bucket_of(ids) * shards // BUCKETS, dtype=np.int64)


def owns(ids: IdArray, shard: int, shards: int) -> npt.NDArray[np.bool_]:
    """Return which ids (N,) belong to shard number `shard` of `shards`."""
    return np.asarray(shard_of(ids, shards) == shard, dtype=np.bool_)


def reshard(sources: Sequence[AnyPath | Sequence[AnyPath]], targets: Sequence[AnyPath]) -> list[TableFile]:
    """Write the files of some shards anew as those of `len(targets)` shards; target i is shard i.

    Rows, slots, event times, frequencies, waiting counts and sketches move as they are. Marks cannot, for shards have
    clocks of their own: the targets begin at the largest mark of the sources with no history before it, and whoever
    follows their changes starts from a full read. Counts of admitted, filtered and evicted are summed in shard 0.

    Args:
        sources: Files of shards that together hold every id once, of one table; each a path, or a full file and its
            increments. Shards of different counts may be mixed.
        targets: Files to write or replace.

    Returns:
        The targets.

    Raises:
        RowRuleMismatch: If the sources are of different tables.
        CorruptSnapshot: If a source is damaged.
        StoreError: If the sources lack a shard or hold one twice, or a file cannot be read or written. Earlier files
            at the targets are untouched then; only a crash while the finished files are renamed, one after the
            other, can leave some of them new and others old.

    Cost:
        One pass over sources and targets; memory for one of 256 stripes.
    """
    chains = [[Path(item)] if isinstance(item, (str, Path)) else [Path(p) for p in _paths(item)] for item in sources]
    places = [Path(target) for target in targets]
    require(1 <= len(places) <= BUCKETS, "targets", got=len(places), expected=f"1 to {BUCKETS} files")
    require(len(set(places)) == len(places), "targets", got="a path twice", expected="different files")
    files = [[inspect_table_file(path) for path in chain] for chain in chains]
    _check_alike([path for chain in chains for path in chain])
    module = native_files()
    answer, (source, file, target), written = module.reshard(
        [[str(path) for path in chain] for chain in chains],
        [(str(place), shard, len(places)) for shard, place in enumerate(places)],
    )
    if answer[0] == _INVALID:
        raise _refused(files, answer[1], source, file)
    if source >= 0:
        accept_read(answer, chains[source][file])
    accept(answer, places[max(target, 0)], "a file that can be written", "Earlier files there are untouched.")
    name = files[0][0].table
    return [
        TableFile(place, size, f"{digest:016x}", mark, None, None, rows, name, (shard, len(places)))
        for shard, (place, (size, digest, mark, rows)) in enumerate(zip(places, written, strict=True))
    ]


def _paths(item: AnyPath | Sequence[AnyPath]) -> Sequence[AnyPath]:
    return item if isinstance(item, Sequence) and not isinstance(item, str) else [item]


def _check_alike(paths: list[Path]) -> None:
    """Raise where a file's header is not that of the first."""
    headers = []
    for path in paths:
        reader = native_files().TableFileReader()
        accept_read(reader.open(str(path)), path)
        headers.append(header_of(path, reader.facts()[0]))
        first, here = headers[0], headers[-1]
        for name in sorted(first["spec"].keys() | here["spec"].keys()):
            if first["spec"].get(name) != here["spec"].get(name):
                raise RowRuleMismatch(f"Table file {path}, {name}", got=here["spec"].get(name),
                                      expected=str(first["spec"].get(name)),
                                      do=f"Re-shard files of one table; the first is {paths[0]}.")  # fmt: skip
        if first.get("precision") != here.get("precision"):
            raise RowRuleMismatch(f"Table file {path}, precision", got=here.get("precision"),
                                  expected=str(first.get("precision")))  # fmt: skip


def _refused(files: list[list[TableFile]], bucket: int, source: int, file: int) -> HeadraceError:
    if source >= 0:
        return StoreError(f"Table file {files[source][file].path}", got="rows, or an increment, that do not fit",
                          expected="files of one table, increments in order after their full file")  # fmt: skip
    holders = [chain[0] for chain in files if bucket * chain[0].shard[1] // BUCKETS == chain[0].shard[0]]
    got = " and ".join(f"{one.path} (shard {one.shard[0]} of {one.shard[1]})" for one in holders) or "no file"
    return StoreError(f"Shards, bucket {bucket} of {BUCKETS}", got=got, expected="one file that holds it",
                      do="Give every shard of the table once.")  # fmt: skip
