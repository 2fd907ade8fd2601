"""Reads from a server's event log what its arms did, for `headrace.evaluate.compare_arms`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import require
from headrace.data.hashing import example_ids, hash_strings
from headrace.data.log import EmbeddedLog
from headrace.data.log_source import LogSource
from headrace.errors import DataError, SourceEnded
from headrace.evaluate import Exposures
from headrace.online.layout import EVENTS, RunFolder
from headrace.serve.arms import ARM, ARM_PROPENSITY
from headrace.serve.experiment import FILE, KEY
from headrace.serve.requests import ROW_KINDS
from headrace.types import Events

Integers = npt.NDArray[np.int64]
WINDOW_S = 3600.0
MAX_KINDS = 8
CHUNK_ROWS = 50_000
NO_ACTIONS = (*ROW_KINDS, "erased", "erasure")


@dataclass(frozen=True, kw_only=True)
class ArmLogConfig:
    """What is read of an experiment. What is None is taken from the experiment's file, or from the log.

    Attributes:
        unit: What was assigned to arms: `key`, or a column.
        window_s: How long after its impression an action counts; impressions whose window is open are left out.
        lateness_s: How much later than the newest event an action may still come in.
        kinds: Kinds of actions, the one that decides first.
        since: Impressions accepted from this time on, µs.
        until: Impressions accepted before this time, µs.

    Raises:
        ConfigError: If a value cannot work.
    """

    unit: str | None = None
    window_s: float | None = None
    lateness_s: float = 0.0
    kinds: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None

    def __post_init__(self) -> None:
        require(self.window_s is None or self.window_s >= 0, "window_s", got=self.window_s, expected="0 or more")
        require(self.lateness_s >= 0, "lateness_s", got=self.lateness_s, expected="0 or more")


def read_arms(folder: RunFolder, config: ArmLogConfig | None = None) -> Exposures:
    """Return what arms did, one row per request and arm.

    Only times count in which every arm had a share: before an arm began, and after it ended, there is nothing to
    compare it with. A row that was logged twice counts once.

    Raises:
        DataError: If there is no event log, or nothing in it that arms answered.

    Cost: reads the log twice; memory of about 8 bytes per impression and 60 per request.
    """
    config = config or ArmLogConfig()
    path = folder.log(EVENTS)
    if not path.exists():
        raise DataError(f"Folder {folder.root}", got="no event log", expected="the folder of a run that was served",
                        do="Name the folder that `headrace serve --folder` was given.")  # fmt: skip
    said = _said(folder.root / FILE)
    with EmbeddedLog(path) as log:
        return _Reading(log, config, said).exposures()


def _said(path: Path) -> Mapping[str, Any]:
    """Return what the experiment's file says; empty without one."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"Experiment {path}", got=str(error), expected="a file that Headrace wrote") from error
    return found if isinstance(found, dict) else {}


class _Actions:
    """All actions of a log: sorted by impression, then time, per kind."""

    def __init__(self, parts: list[tuple[Integers, Integers, Integers]], kinds: Sequence[str]) -> None:
        empty = np.zeros(0, np.int64)
        ids, codes, times = (np.concatenate([empty, *(part[at] for part in parts)]) for at in range(3))
        order = np.lexsort((times, ids))
        self.kinds, self._ids, self._codes, self._times = list(kinds), ids[order], codes[order], times[order]
        self.counts = Counter(np.array(self.kinds, object)[codes].tolist()) if len(codes) else Counter()

    def acted(self, kind: str, ids: Integers, times: Integers, window: int) -> npt.NDArray[np.bool_]:
        """Return which impressions had such an action at their time or at most `window` µs later, (B,)."""
        out = np.zeros(len(ids), dtype=np.bool_)
        if kind not in self.kinds or not len(ids):
            return out
        mine = self._codes == self.kinds.index(kind)
        action_ids, action_times = self._ids[mine], self._times[mine]
        rows = np.argsort(ids, kind="stable")  # one impression per id
        hit = rows[np.minimum(np.searchsorted(ids[rows], action_ids), len(ids) - 1)]
        good = (ids[hit] == action_ids) & (action_times >= times[hit]) & (action_times <= times[hit] + window)
        out[hit[good]] = True
        return out


class _Seen:
    """Ids that came before, in sorted runs whose lengths at least double: O(log) looks at every id."""

    def __init__(self) -> None:
        self._runs: list[Integers] = []

    def add(self, ids: Integers) -> npt.NDArray[np.bool_]:
        """Take ids into account; return which rows bring an id for the first time, (B,)."""
        out = np.zeros(len(ids), dtype=np.bool_)
        fresh, first = np.unique(ids, return_index=True)
        for run in self._runs:
            new = run[np.minimum(np.searchsorted(run, fresh), len(run) - 1)] != fresh
            fresh, first = fresh[new], first[new]
        out[first] = True
        while self._runs and len(self._runs[-1]) <= 2 * len(fresh):
            fresh = np.sort(np.concatenate([self._runs.pop(), fresh]))
        if len(fresh):
            self._runs.append(fresh)
        return out


class _Reading:
    """Two passes over one log: actions first, then impressions with what came of them."""

    def __init__(self, log: EmbeddedLog, config: ArmLogConfig, said: Mapping[str, Any]) -> None:
        self.log, self.config, self.said = log, config, said
        self.unit = config.unit or str(said.get("split_by", KEY))
        window_s = said.get("window_s") if config.window_s is None else config.window_s
        self.window_s = float(WINDOW_S if window_s is None else window_s)
        self.notes: list[str] = []
        if window_s is None:
            self.notes.append(f"actions count within {WINDOW_S:g} s: nothing says otherwise")
        self.left_out: Counter[str] = Counter()

    def exposures(self) -> Exposures:
        actions, newest = self._actions()
        kinds = tuple(self.config.kinds or self.said.get("kinds") or ())
        if not kinds:
            kinds = tuple(kind for kind, _ in actions.counts.most_common(MAX_KINDS))
        if not kinds:
            raise DataError("Experiment", got="no actions in the log", expected="some",
                            do="Name the kinds that are to come, to see the arms as they are.")  # fmt: skip
        periods = self._periods()
        ends = newest - round((self.window_s + self.config.lateness_s) * 1e6)
        names: dict[str, int] = {}
        parts = [self._part(rows, actions, kinds, names, periods, ends) for rows in self._impressions()]
        return self._together(parts, names, kinds)

    def _chunks(self) -> Iterator[Events]:
        """Yield all rows of the log, many at a time."""
        source = LogSource(self.log, EVENTS)
        source.seek({f"{EVENTS}/0": self.log.topic(EVENTS).first_row})
        with contextlib.suppress(SourceEnded):
            while (events := source.read(CHUNK_ROWS)) is not None:
                yield events

    def _actions(self) -> tuple[_Actions, int]:
        """Return all actions, and the newest event time."""
        kinds: dict[str, int] = {}
        parts, newest = [], 0
        for events in self._chunks():
            newest = max(newest, int(events.times.max()))
            others = pc.invert(pc.is_in(events.column("kind"), value_set=pa.array(NO_ACTIONS, pa.string())))
            found = Events(events.batch.filter(others))
            if not len(found) or "item" not in found.names:
                continue
            said = found.column("kind").to_pylist()
            codes = np.array([kinds.setdefault(kind, len(kinds)) for kind in said], np.int64)
            parts.append((example_ids(found.column("key"), found.column("item")), codes, found.times))
        return _Actions(parts, list(kinds)), newest

    def _impressions(self) -> Iterator[Events]:
        """Yield impressions that an arm answered, each once."""
        seen = _Seen()
        for events in self._chunks():
            shown = events.of_kind("impression")
            if not len(shown):
                continue
            if ARM not in shown.names or ARM_PROPENSITY not in shown.names:
                self.left_out["logged without an arm"] += len(shown)
                continue
            known = pc.and_(shown.column(ARM).is_valid(), shown.column(ARM_PROPENSITY).is_valid())
            known = np.asarray(known.to_numpy(zero_copy_only=False), dtype=np.bool_)
            ids = example_ids(shown.column("key"), shown.column("item"))
            fresh = seen.add(ids)
            self.left_out["logged without an arm"] += int((~known).sum())
            self.left_out["logged twice"] += int((~fresh).sum())
            rows = np.flatnonzero(known & fresh)
            if len(rows):
                yield shown.take(rows)

    def _periods(self) -> list[tuple[int, int]] | None:
        """Return the times of the split that holds now in which every arm had a share; None if nothing tells."""
        history, salt = self.said.get("history") or [], self.said.get("salt")
        if not history:
            self.notes.append("no experiment file beside the log: requests that could have no other arm are left out")
            return None
        arms = set(self.said.get("shares") or {})
        ends = [*(int(entry["time"]) for entry in history[1:]), 1 << 62]
        return [
            (int(entry["time"]), end)
            for entry, end in zip(history, ends, strict=True)
            if entry.get("salt", salt) == salt and all(entry["shares"].get(arm, 0) > 0 for arm in arms)
        ]

    def _part(
        self, shown: Events, actions: _Actions, kinds: Sequence[str], names: dict[str, int],
        periods: list[tuple[int, int]] | None, ends: int,
    ) -> pa.Table:  # fmt: skip
        """Return one entry's impressions as rows per request and arm."""
        accepted = np.asarray(shown.column("accepted_time").to_numpy(zero_copy_only=False), dtype=np.int64)
        share = np.asarray(shown.column(ARM_PROPENSITY).to_numpy(zero_copy_only=False), dtype=np.float64)
        inside = share < 1 - 1e-6 if periods is None else np.zeros(len(shown), dtype=np.bool_)
        for start, stop in periods or []:
            inside |= (accepted >= start) & (accepted < stop)
        inside &= (accepted >= (self.config.since or 0)) & (accepted < (self.config.until or 1 << 62))
        closed = shown.times <= ends
        self.left_out["outside the times in which all arms had a share"] += int((~inside).sum())
        self.left_out["whose window is still open"] += int((inside & ~closed).sum())
        rows = np.flatnonzero(inside & closed)
        shown, share, accepted = shown.take(rows), share[rows], accepted[rows]
        ids, keys = example_ids(shown.column("key"), shown.column("item")), hash_strings(shown.column("key"))
        arms = np.array([names.setdefault(name, len(names)) for name in shown.column(ARM).to_pylist()], np.int64)
        columns = {"key": keys, "unit": self._units(shown, keys), "arm": arms, "share": share, "time": accepted,
                   "rows": np.ones(len(rows))}  # fmt: skip
        for at, kind in enumerate(kinds):
            acted = actions.acted(kind, ids, shown.times, round(self.window_s * 1e6))
            columns[f"kind{at}"] = acted.astype(np.float64)
        return _by_request(pa.table(columns), len(kinds))

    def _units(self, shown: Events, keys: Integers) -> Integers:
        """Return what was assigned, (B,); a row without a value was split by its key."""
        if self.unit == KEY:
            return keys
        if self.unit not in shown.names:
            self.left_out[f"without '{self.unit}': taken by their key"] += len(shown)
            return keys
        column = shown.column(self.unit)
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
        return np.where(known, hash_strings(column.cast(pa.string())), keys)

    def _together(self, parts: list[pa.Table], names: dict[str, int], kinds: Sequence[str]) -> Exposures:
        whole = [part for part in parts if part.num_rows]
        notes = [f"{count:,} impressions left out: {why}" if "taken" not in why else f"{count:,} impressions {why}"
                 for why, count in self.left_out.items() if count]  # fmt: skip
        if not whole:
            raise DataError("Experiment", got="; ".join(notes) or "no impressions", expected="impressions that arms "
                            "answered, with a closed window", do="Wait, or look at another time.")  # fmt: skip
        found = _by_request(pa.concat_tables(whole), len(kinds))

        def column(name: str) -> npt.NDArray[Any]:
            return np.asarray(found[name].to_numpy())

        return Exposures(
            names=tuple(names), arms=column("arm"), units=column("unit"), shares=column("share"), rows=column("rows"),
            actions={kind: column(f"kind{at}") for at, kind in enumerate(kinds)}, times=column("time"),
            unit=self.unit, notes=(*self.notes, *notes),
        )  # fmt: skip


def _by_request(rows: pa.Table, kinds: int) -> pa.Table:
    """Return sums per request and arm; a request is in one arm, unless it was asked again after shares had changed."""
    sums = ["rows", *(f"kind{at}" for at in range(kinds))]
    wanted = [("share", "min"), ("time", "min"), *((name, "sum") for name in sums)]
    found = rows.group_by(["key", "unit", "arm"]).aggregate(wanted)
    names = {"share_min": "share", "time_min": "time", **{f"{name}_sum": name for name in sums}}
    return found.rename_columns([names.get(name, name) for name in found.column_names])
