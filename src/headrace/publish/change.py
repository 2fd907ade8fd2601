"""A change as bytes, and several consecutive changes as one.

Layout of the bytes, version 1 (all integers little-endian):

    8 bytes    magic `HRCHANGE`
    uint32     layout version
    uint32     length of the header
    uint64     length of the whole, checksum included
    header     JSON: the plain fields, and for each tensor its place, type and shape
    tensors    raw little-endian values, each starting at a multiple of 64 from the beginning
    32 bytes   SHA-256 of everything before it

Nothing in it can run code, and nothing is believed before the checksum holds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.errors import CorruptSnapshot, GapError, VersionError
from headrace.types import NO_VERSION, Change, RowChange, Version

MAGIC = b"HRCHANGE"
LAYOUT = 1
_FIXED = struct.Struct("<8sIIQ")
_ALIGN = 64
_DIGEST_BYTES = 32
_TYPES: dict[str, torch.dtype] = {
    "float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "bool": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_PARTS = ("ids", "rows", "removed")


def encode(change: Change) -> bytes:
    """Return the change as bytes; equal content gives equal bytes, on any machine.

    Raises:
        VersionError: If the change breaks its own contract (ids not ascending, an id both put and removed, a tensor
            type that cannot be written); a change like that must not become durable.

    Cost: one copy of the tensors and one SHA-256 over them.
    """
    check(change)
    places: list[list[object]] = []
    chunks: list[bytes] = []
    offset = 0
    for place, tensor in _tensors(change):
        raw = _raw(tensor, place)
        pad = -offset % _ALIGN
        chunks += [bytes(pad), raw]
        offset += pad
        places.append([*place, _NAMES[tensor.dtype], list(tensor.shape), offset])
        offset += len(raw)
    fields = {
        "number": change.version.number, "parent": change.version.parent, "full": change.full,
        "spec": dict(sorted(change.spec.items())), "tables": sorted(change.tables), "tensors": places,
    }  # fmt: skip
    header = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    start = _FIXED.size + len(header)
    gap = -start % _ALIGN
    total = start + gap + offset + _DIGEST_BYTES
    body = b"".join([_FIXED.pack(MAGIC, LAYOUT, len(header), total), header, bytes(gap), *chunks])
    return body + hashlib.sha256(body).digest()


def decode(data: bytes | bytearray | memoryview) -> Change:
    """Return the change that `encode` wrote; its tensors share one buffer of their own.

    Raises:
        CorruptSnapshot: If a single bit differs from what was written, or the layout is of a later release.
    """
    header, start = _open(data)
    body = bytearray(memoryview(data)[start:-_DIGEST_BYTES])
    tables: dict[str, dict[str, Tensor]] = {}
    groups: dict[str, dict[str, Tensor]] = {"dense": {}, "notes": {}}
    try:
        tables = {str(name): {} for name in header["tables"]}
        for kind, first, second, dtype, shape, offset in header["tensors"]:
            tensor = _tensor(body, _TYPES[dtype], [int(n) for n in shape], int(offset))
            (tables[first] if kind == "table" else groups[kind])[second] = tensor
        change = Change(
            version=Version(int(header["number"]), int(header["parent"])),
            tables={name: RowChange(*(parts[p] for p in _PARTS)) for name, parts in tables.items()},
            dense=groups["dense"], notes=groups["notes"],
            spec={str(key): str(value) for key, value in header["spec"].items()}, full=bool(header["full"]),
        )  # fmt: skip
        check(change)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, VersionError) as error:
        raise _damaged("an unreadable structure", str(error)) from error
    return change


def check(change: Change) -> None:
    """Raise VersionError unless the change keeps the contract that `RowChange` and `Version` state."""
    what = f"Change {change.version.number}"
    if change.version.number < 0 or not NO_VERSION <= change.version.parent < change.version.number:
        raise VersionError(what, got=f"parent {change.version.parent}", expected="NO_VERSION <= parent < number, "
                           "number >= 0")  # fmt: skip
    for name, rows in change.tables.items():
        place = f"{what}, table '{name}'"
        for part, ids in (("ids", rows.ids), ("removed", rows.removed)):
            if ids.dtype != torch.int64 or ids.dim() != 1:
                raise VersionError(f"{place}, {part}", got=_shape(ids), expected="int64 of shape (N,)")
            if ids.numel() > 1 and not bool((ids[1:] > ids[:-1]).all()):
                raise VersionError(f"{place}, {part}", got="ids out of order or twice", expected="strictly ascending")
        if rows.rows.dtype != torch.float32 or rows.rows.dim() != 2 or len(rows.rows) != len(rows.ids):
            raise VersionError(f"{place}, rows", got=_shape(rows.rows),
                               expected=f"float32 of shape ({len(rows.ids)}, D)")  # fmt: skip
        if rows.ids.numel() and rows.removed.numel() and bool(_stand_in(rows.removed, rows.ids).any()):
            raise VersionError(place, got="an id that is put and removed", expected="each id once")


def merge(changes: Sequence[Change]) -> Change:
    """Return one change with the effect of applying `changes` one by one.

    The last put or removal of an id wins; dense tensors of the same name are replaced by later ones. A full change
    makes everything before it vanish. Of the notes, those whose name ends in `_times` are lists of events and are
    put one behind another; of all others the newest stands.

    Raises:
        GapError: If a change does not follow the one before it.
        VersionError: If there is none, or if they do not agree on their `spec`.

    Cost: O(R log R) for R rows in all; memory of twice the rows.
    """
    if not changes:
        raise VersionError("merge", got="no change", expected="one or more consecutive changes")
    for before, after in itertools.pairwise(changes):
        if not follows(after, before.version.number):
            raise GapError(f"Change {after.version.number}", got=f"parent {after.version.parent}",
                           expected=f"parent {before.version.number}, the change before it")  # fmt: skip
    start = max((i for i, change in enumerate(changes) if change.full), default=0)
    parts = changes[start:]
    for part in parts[1:]:
        if part.spec != parts[0].spec:
            raise VersionError(f"Change {part.version.number}, spec", got=str(dict(part.spec)),
                               expected=f"{dict(parts[0].spec)}, as in change {parts[0].version.number}",
                               do="Changes of another specification begin with a full one.")  # fmt: skip
    full = parts[0].full
    names = sorted({name for part in parts for name in part.tables})
    return Change(
        version=Version(changes[-1].version.number, changes[0].version.parent),
        tables={name: _merge_rows([p.tables[name] for p in parts if name in p.tables], full) for name in names},
        dense={name: tensor for part in parts for name, tensor in part.dense.items()},
        notes=_merge_notes(changes), spec=parts[-1].spec, full=full,
    )  # fmt: skip


def follows(change: Change, held: int) -> bool:
    """Return whether `change` can be applied on version `held`: its parent is held, or it is a later full one."""
    return change.version.parent == held or (change.full and change.version.number > held)


def _merge_rows(parts: Sequence[RowChange], full: bool) -> RowChange:
    """Return what is left of each id: its last put or its last removal."""
    widths = sorted({int(p.rows.shape[1]) for p in parts if len(p.ids)} or {int(parts[-1].rows.shape[1])})
    if len(widths) > 1:
        raise VersionError("merge", got=f"rows of widths {widths}", expected="one width in a table")
    ids = torch.cat([t for p in parts for t in (p.removed, p.ids)]).numpy()
    put = np.repeat([False, True] * len(parts), [len(t) for p in parts for t in (p.removed, p.ids)])
    order = np.argsort(ids, kind="stable")  # fast on ascending runs; equal ids stay in the order of what happened
    ordered = ids[order]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, dtype=np.bool_)
    winners = order[last]
    won = put[winners]
    place = torch.from_numpy((np.cumsum(put) - 1)[winners[won]])
    rows = torch.cat([p.rows for p in parts if len(p.ids)] or [torch.empty(0, widths[0])])
    removed = torch.from_numpy(ids[winners[~won]])
    return RowChange(torch.from_numpy(ids[winners[won]]), rows.index_select(0, place), removed[:0] if full else removed)


def _merge_notes(changes: Sequence[Change]) -> dict[str, Tensor]:
    notes: dict[str, Tensor] = {}
    for change in changes:
        for name, tensor in change.notes.items():
            joined = name.endswith("_times") and name in notes
            notes[name] = torch.cat([notes[name], tensor]) if joined else tensor
    return notes


def _tensors(change: Change) -> list[tuple[tuple[str, str, str], Tensor]]:
    found: list[tuple[tuple[str, str, str], Tensor]] = []
    for name, rows in sorted(change.tables.items()):
        found += [(("table", name, part), getattr(rows, part)) for part in _PARTS]
    for kind, tensors in (("dense", change.dense), ("notes", change.notes)):
        found += [((kind, "", name), tensor) for name, tensor in sorted(tensors.items())]
    return found


def _raw(tensor: Tensor, place: tuple[str, str, str]) -> bytes:
    if tensor.dtype not in _NAMES:
        raise VersionError(f"Tensor {'/'.join(filter(None, place))}", got=tensor.dtype,
                           expected=f"one of {sorted(_TYPES)}")  # fmt: skip
    if not tensor.numel():
        return b""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # one value, spread out from a smaller tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return _little(flat.view(torch.uint8), tensor.element_size()).numpy().tobytes()


def _tensor(body: bytearray, dtype: torch.dtype, shape: list[int], offset: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    nbytes = count * dtype.itemsize
    if min(shape, default=0) < 0 or offset < 0 or offset % _ALIGN or offset + nbytes > len(body):
        raise ValueError(f"a tensor of shape {shape} at byte {offset} of {len(body)}")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    raw = torch.frombuffer(body, dtype=torch.uint8, count=nbytes, offset=offset)
    return _little(raw, dtype.itemsize).view(dtype).reshape(shape)


def _little(raw: Tensor, itemsize: int) -> Tensor:
    """Turn native bytes into little-endian ones or back; nothing to do on most machines."""
    return raw if sys.byteorder == "little" else raw.view(-1, itemsize).flip(1).reshape(-1)


def _open(data: bytes | bytearray | memoryview) -> tuple[dict[str, Any], int]:
    view = memoryview(data)
    if len(view) < _FIXED.size + _DIGEST_BYTES:
        raise _damaged(f"{len(view)} bytes", f"at least {_FIXED.size + _DIGEST_BYTES} bytes")
    magic, layout, header_bytes, total = _FIXED.unpack_from(view)
    if magic != MAGIC:
        raise _damaged(f"first bytes {bytes(magic)!r}", f"{MAGIC!r}")
    if layout != LAYOUT:
        raise _damaged(f"layout version {layout}", f"version {LAYOUT}", do="Use the release that wrote it.")
    if total != len(view):
        raise _damaged(f"{len(view)} bytes", f"{total} bytes, as its header says")
    if hashlib.sha256(view[:-_DIGEST_BYTES]).digest() != bytes(view[-_DIGEST_BYTES:]):
        raise _damaged("another SHA-256", "the one written at its end")
    start = _FIXED.size + header_bytes
    start += -start % _ALIGN
    if start > len(view) - _DIGEST_BYTES:
        raise _damaged(f"a header of {header_bytes} bytes", "one that fits")
    try:
        header = json.loads(bytes(view[_FIXED.size : _FIXED.size + header_bytes]))
    except (ValueError, RecursionError) as error:
        raise _damaged("a header that is not JSON", str(error)) from error
    if not isinstance(header, dict):
        raise _damaged("a header that is not a JSON object", "an object")
    return header, start


def _stand_in(some: Tensor, ascending: Tensor) -> Tensor:
    """Return which of `some` (N,) stand in `ascending` (M,), M at least 1."""
    places = torch.searchsorted(ascending, some).clamp(max=len(ascending) - 1)
    return ascending[places] == some


def _damaged(got: str, expected: str, *, do: str = "") -> CorruptSnapshot:
    advice = do or "It was cut or damaged, and nothing of it was used; take the copy from another snapshot or log."
    return CorruptSnapshot("Bytes of a change", got=got, expected=expected, do=advice)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
