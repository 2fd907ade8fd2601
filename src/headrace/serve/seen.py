"""What users have seen and done, as the event log has it: bounded memory that is never behind the log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import require
from headrace.data.log import EmbeddedLog
from headrace.errors import StaleError
from headrace.serve.popularity import Popularity
from headrace.serve.shelf import item_ids
from headrace.types import Events

Ints: TypeAlias = npt.NDArray[np.int64]
SeenRule = Literal["none", "acted", "shown"]
SEEN_RULES: tuple[SeenRule, ...] = ("none", "acted", "shown")
READ_ENTRIES = 64
_ACTED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLimits:
    """Bounds of a `SeenMemory`.

    Attributes:
        items_each: Items per user.
        pairs: Pairs of user and item in all.
        keys: Requests whose actions can still be told a user.
        replay_rows: Newest rows of the log that are read at a start.
    """

    items_each: int = 200
    pairs: int = 500_000
    keys: int = 200_000
    replay_rows: int = 500_000

    def __post_init__(self) -> None:
        for name in ("items_each", "pairs", "keys", "replay_rows"):
            require(getattr(self, name) >= 1, f"SeenLimits, {name}", got=getattr(self, name), expected="1 or more")


class SeenMemory:
    """Which items each user was shown and acted on, read from the log of impressions and actions.

    `follow` reads what the log has new, so that what was durably accepted, by this or any other process, is known to
    the next request; after a restart the newest rows of the log are read again. Impressions name their user; an action
    belongs to the user whose request has its key.

    The memory is bounded three ways: items per user (the oldest go first), pairs of user and item in all (users that
    were idle longest go first), and keys of requests that actions may still come for.

    Args:
        log: The event log.
        topic: Its topic of impressions and actions.
        user: Column that names the user in impressions.
        item: Column that names the item.
        acted: Kinds of actions that count as having acted on an item.
        popularity: Is told of every impression and action as well.
        limits: Items per user, pairs in all, keys, and rows of the log that are read again at a start.

    Thread-safety: any number of threads.

    Cost: one look at the log when nothing is new; a few microseconds per new row. About 200 bytes per pair.
    """

    def __init__(
        self, log: EmbeddedLog, topic: str, *, user: str, item: str = "item", acted: Sequence[str] = ("click",),
        popularity: Popularity | None = None, limits: SeenLimits | None = None,
    ) -> None:  # fmt: skip
        self.log, self.topic, self.user, self.item, self.acted = log, topic, user, item, tuple(acted)
        self.popularity, self.limits = popularity, limits or SeenLimits()
        self._users: OrderedDict[int, OrderedDict[int, int]] = OrderedDict()
        self._keys: OrderedDict[int, int] = OrderedDict()
        self._pairs = 0
        self._offset: int | None = None
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Read what the log has that was not read yet.

        Raises:
            StoreError: If the log cannot be read.
        """
        with self._lock:
            if self._offset is None:
                self._offset = self._start()
            while True:
                try:
                    if self.log.end(self.topic) <= self._offset:
                        return
                    entries = self.log.read(self.topic, self._offset, limit=READ_ENTRIES)
                except StaleError:  # trimmed meanwhile
                    self._offset = self.log.topic(self.topic).first_offset
                    continue
                for entry in entries:
                    if entry.rows:
                        self._take(entry.events, entry.accepted_time)
                    self._offset = entry.offset + 1

    def items(self, user: int, rule: SeenRule, *, since: int = 0) -> Ints:
        """Return the ids of items that a user has seen, newest first.

        Args:
            user: Id of the user (`item_ids` of the name).
            rule: `acted`: acted on; `shown`: shown or acted on; `none`: nothing.
            since: Only what was accepted at or after this time (µs).
        """
        if rule == "none":
            return np.zeros(0, dtype=np.int64)
        with self._lock:
            known = list(self._users.get(user, {}).items())
        wanted = [item for item, what in reversed(known) if what >> 1 >= since and (rule == "shown" or what & _ACTED)]
        return np.array(wanted, dtype=np.int64)

    def knows(self, user: int) -> bool:
        """Return whether anything of a user is remembered."""
        with self._lock:
            return user in self._users

    def forget(self, user: int) -> bool:
        """Forget a user and the keys of their requests; returns whether there was anything."""
        with self._lock:
            items = self._users.pop(user, None)
            self._pairs -= len(items or ())
            for key in [key for key, owner in self._keys.items() if owner == user]:
                del self._keys[key]
            return items is not None

    def counts(self) -> dict[str, int]:
        """Return how many users, pairs and keys are remembered."""
        with self._lock:
            return {"users": len(self._users), "pairs": self._pairs, "keys": len(self._keys)}

    def _start(self) -> int:
        info = self.log.topic(self.topic)
        return self.log.locate(self.topic, max(info.first_row, info.next_row - self.limits.replay_rows))

    def _take(self, events: Events, accepted: int) -> None:
        kinds = np.asarray(events.column("kind").to_pylist(), dtype=object)
        if self.item not in events.names:
            return
        shown, acted = np.flatnonzero(kinds == "impression"), np.flatnonzero(np.isin(kinds, self.acted))
        keys, items = item_ids(events.column("key")), item_ids(_texts(events.column(self.item)))
        if len(shown) and self.user in events.names:
            column = _texts(events.column(self.user))
            users, named = item_ids(column), np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
            for row in shown[named[shown]].tolist():
                self._owns(int(keys[row]), int(users[row]))
                self._note(int(users[row]), int(items[row]), accepted << 1)
        for row in acted.tolist():
            owner = self._keys.get(int(keys[row]))
            if owner is not None:
                self._note(owner, int(items[row]), accepted << 1 | _ACTED)
        if self.popularity is not None:
            self.popularity.add(items[shown], items[acted], accepted)

    def _owns(self, key: int, user: int) -> None:
        self._keys[key] = user
        self._keys.move_to_end(key)
        if len(self._keys) > self.limits.keys:
            self._keys.popitem(last=False)

    def _note(self, user: int, item: int, what: int) -> None:
        items = self._users.get(user)
        if items is None:
            items = self._users[user] = OrderedDict()
        self._users.move_to_end(user)
        before = items.pop(item, None)
        items[item] = what | (before & _ACTED if before is not None else 0)
        self._pairs += before is None
        if len(items) > self.limits.items_each:
            items.popitem(last=False)
            self._pairs -= 1
        while self._pairs > self.limits.pairs and len(self._users) > 1:
            _, gone = self._users.popitem(last=False)
            self._pairs -= len(gone)


def _texts(column: pa.Array) -> pa.Array:
    """Return names as they can be hashed: dictionaries written out, null as null."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column if not pa.types.is_null(column.type) else column.cast(pa.string())
