"""What transactions have brought to a table server and is not applied yet, and which steps were decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.elastic.buckets import Mask
from headrace.elastic.transactions import Part, Transaction
from headrace.errors import CapacityError, LeaseLost

Moved = tuple[Transaction, int, Part]
"""A transaction, its attempt, and what it had brought to buckets that moved."""


@dataclass(slots=True)
class Prepared:
    """What a transaction has brought here.

    Attributes:
        attempt: How often its worker had begun to prepare it. A later attempt replaces all of an earlier one.
        own: What the worker sent here; None: nothing yet.
        moved: What it had sent to the former owners of buckets that are here now, with the attempt.
    """

    attempt: int
    own: Part | None
    moved: list[tuple[int, Part]] = field(default_factory=list)

    def parts(self) -> list[Part]:
        """Return all of it; the ids of the parts are different ones."""
        return [*([] if self.own is None else [self.own]), *(part for _, part in self.moved)]


class PreparedParts:
    """Keeps prepared parts until their step is applied, and decided steps until their turn.

    Args:
        name: Of the server, for messages.
        limit_bytes: Of all that is prepared.
        remembered: Newest steps of which it is known what they were made of.

    Thread-safety: none; its server's `state` is held.
    """

    def __init__(self, name: str, limit_bytes: int, remembered: int) -> None:
        self._name, self._limit_bytes, self._remembered = name, limit_bytes, remembered
        self._items: dict[Transaction, Prepared] = {}
        self._held: dict[int, tuple[Transaction, ...]] = {}
        self._done: dict[Transaction, None] = {}
        self._fences: dict[str, int] = {}
        self._recent: deque[tuple[int, tuple[Transaction, ...], int]] = deque(maxlen=remembered)

    def __len__(self) -> int:
        """Return the number of transactions that wait."""
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """Bytes of all that waits."""
        return sum(part.nbytes for item in self._items.values() for part in item.parts())

    @property
    def held_back(self) -> int:
        """Decided steps that wait for those before them."""
        return len(self._held)

    def clear(self) -> None:
        """Forget everything but the fences."""
        self._items.clear()
        self._held.clear()
        self._done.clear()
        self._recent.clear()

    def check(self, transaction: Transaction) -> None:
        """Raise LeaseLost if the transaction's epoch was fenced."""
        fence = max(self._fences.get("", 0), self._fences.get(transaction.worker, 0))
        if transaction.epoch < fence:
            raise LeaseLost(f"Transaction {transaction.text}", got=f"epoch {transaction.epoch}",
                            expected=f"epoch {fence} or later", do="Its work is somebody else's now.")  # fmt: skip

    def add(self, transaction: Transaction, attempt: int, part: Part) -> None:
        """Keep what a worker sends.

        Raises:
            CapacityError: If too much waits already.
        """
        known = self._items.get(transaction)
        if transaction in self._done or (known is not None and attempt < known.attempt):
            return
        waiting = self.nbytes
        if waiting + part.nbytes > self._limit_bytes:
            raise CapacityError(f"{self._name}, prepared", got=f"{waiting + part.nbytes} bytes",
                                expected=f"at most {self._limit_bytes}")  # fmt: skip
        moved = [] if known is None else [item for item in known.moved if item[0] >= attempt]
        self._items[transaction] = Prepared(attempt, part, moved)

    def adopt(self, transaction: Transaction, attempt: int, part: Part) -> None:
        """Keep what a transaction had brought to buckets that are here now."""
        if transaction in self._done:
            return
        known = self._items.setdefault(transaction, Prepared(attempt, None))
        if known.attempt <= attempt:  # a later attempt has sent everything anew
            known.moved.append((attempt, part))
        for worker, epoch in self._fences.items():
            self.fence(epoch, worker)

    def give_up(self, mask: Mask) -> list[Moved]:
        """Take out what is of these buckets."""
        found = []
        for transaction, item in self._items.items():
            own = None if item.own is None else item.own.split(mask)
            moved = [(attempt, part.split(mask)) for attempt, part in item.moved]
            if own is not None:
                found.append((transaction, item.attempt, own[0]))
                item.own = own[1]
            found += [(transaction, attempt, here) for attempt, (here, _) in moved]
            item.moved = [(attempt, rest) for attempt, (_, rest) in moved]
        return found

    def fence(self, epoch: int, worker: str) -> None:
        """Refuse older epochs of a worker (or everybody's, '') from now on; drop those that are not decided."""
        self._fences[worker] = max(epoch, self._fences.get(worker, 0))
        old = [one for one in self._items if worker in ("", one.worker) and one.epoch < epoch]
        self.discard(old)

    def discard(self, transactions: Sequence[Transaction]) -> None:
        """Drop transactions, unless their step is decided."""
        decided = {transaction for held in self._held.values() for transaction in held}
        for transaction in transactions:
            if transaction not in decided:
                self._items.pop(transaction, None)

    def decide(self, sequence: int, transactions: tuple[Transaction, ...]) -> bool:
        """Remember what a step is made of; return whether that is what was known before, if anything was."""
        return self._held.setdefault(sequence, transactions) == transactions

    def decided(self, sequence: int) -> tuple[Transaction, ...] | None:
        """Return what a step is made of; None where it is not decided yet."""
        return self._held.get(sequence)

    def parts_of(self, transactions: Sequence[Transaction]) -> tuple[list[Part], Transaction | None]:
        """Return what transactions brought, in their order, and the first that brought nothing, not even word."""
        missing = next((one for one in transactions if one not in self._items), None)
        return [part for one in transactions if one in self._items for part in self._items[one].parts()], missing

    def settle(self, sequence: int, transactions: tuple[Transaction, ...], evicted: int) -> None:
        """Forget what was applied, but for its name."""
        del self._held[sequence]
        for transaction in transactions:
            self._items.pop(transaction, None)
            self._done[transaction] = None
        while len(self._done) > self._remembered:
            del self._done[next(iter(self._done))]
        self._recent.append((sequence, transactions, evicted))

    def evicted(self, sequence: int) -> int:
        """Return how many rows a step has evicted, if it is known."""
        return next((evicted for number, _, evicted in reversed(self._recent) if number == sequence), 0)

    def applied_since(self, sequence: int) -> list[tuple[int, tuple[Transaction, ...]]]:
        """Return the applied steps after this one, as far as they are known."""
        return [(number, transactions) for number, transactions, _ in self._recent if number > sequence]

    @property
    def known_since(self) -> int | None:
        """The step after which all applied steps are known; None: none is."""
        return self._recent[0][0] - 1 if self._recent else None
