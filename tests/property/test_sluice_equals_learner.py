"""Whatever is held, refused, rolled back, erased or killed: a replica of any version holds what that version means.

The oracle is a handful of dicts. The learner's state and every version's content are kept beside the real thing, and
each step may be cut off in any of its transactions, before or after the commit, and is then gone on with by another
process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from headrace.data.log import EmbeddedLog, Transaction
from headrace.publish import Check, LogPublisher, Sluice, Verdict, place
from headrace.publish.versions import reachable
from headrace.types import Change, RowChange, Version

IDS = st.integers(-3, 3)
Rows = dict[int, tuple[float, ...]]


class Killed(Exception):
    """Stands for the death of the process."""


class MortalLog(EmbeddedLog):
    """A log whose process dies in its n-th transaction: before the commit (rolled back), or after it."""

    dies_in: int | None = None
    committed: bool = False

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        if self.dies_in is not None:
            self.dies_in -= 1
        last = self.dies_in is not None and self.dies_in < 0
        with super().transaction() as write:
            yield write
            if last and not self.committed:
                raise Killed
        if last:
            raise Killed


def newest_of(pieces: Sequence[Change]) -> int:
    """The learner's newest change in what is pending; -1 where only an erasure was taken back."""
    return next((int(piece.dense["w"][0]) for piece in reversed(pieces) if "w" in piece.dense), -1)


class RefusesSome:
    """A guard that refuses whenever the newest pending change is one of those drawn."""

    def __init__(self, refused: set[int]) -> None:
        self.refused = refused

    def judge(self, source: object, pieces: Sequence[Change]) -> Verdict:
        return Verdict(checks=(Check(name="drawn", held=newest_of(pieces) not in self.refused),))

    def published(self, change: Change) -> None: ...

    def reset(self) -> None: ...


@dataclass
class Copy:
    """What somebody holds who applied some changes: the specification of a replica."""

    rows: Rows = field(default_factory=dict)
    dense: float = -1.0

    def apply(self, change: Change) -> None:
        if change.full or change.version.parent < 0:
            self.rows = {}
        for rows in change.tables.values():
            for one in rows.removed.tolist():
                self.rows.pop(one, None)
            self.rows |= dict(zip(rows.ids.tolist(), map(tuple, rows.rows.tolist()), strict=True))
        if "w" in change.dense:
            self.dense = float(change.dense["w"][0])

    def copy(self) -> Copy:
        return Copy(dict(self.rows), self.dense)


@dataclass
class World:
    """The real thing beside the oracle."""

    folder: Path
    refused: set[int]
    snapshot_every: int
    learned: Copy = field(default_factory=Copy)
    versions: dict[int, Copy] = field(default_factory=dict)
    erased_at: dict[int, set[int]] = field(default_factory=dict)
    cuts: set[int] = field(default_factory=set)
    held: bool = False
    number: int = 0
    newest: int = -1

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.log = MortalLog(self.folder / "changes.db", durability="process")
        self.publisher = LogPublisher(self.log, self.folder / "s", snapshot_every=self.snapshot_every, keep=2)
        self.sluice = Sluice(self.publisher, guard=RefusesSome(self.refused))

    @property
    def served(self) -> Copy:
        return self.versions[self.newest].copy() if self.newest >= 0 else Copy()

    def went_out(self, content: Copy) -> None:
        self.newest += 1
        self.versions[self.newest] = content.copy()

    # ------------------------------------------------------------------------------ each step: the oracle, then it

    def learn(self, put: set[int], removed: set[int], full: bool) -> None:
        number, self.number = self.number, self.number + 1
        put = put - removed
        rng = np.random.default_rng(number)
        values = {one: tuple(float(np.float32(v)) for v in rng.normal(size=2)) for one in sorted(put)}
        rows = torch.tensor([values[one] for one in sorted(put)], dtype=torch.float32).reshape(-1, 2)
        gone = torch.tensor([] if full or not number else sorted(removed), dtype=torch.int64)
        change = Change(version=Version(number, number - 1), full=full or not number, spec={"table/t": "s"},
                        tables={"t": RowChange(torch.tensor(sorted(put), dtype=torch.int64), rows, gone)},
                        dense={"w": torch.full((1,), float(number))})  # fmt: skip
        if change.full:
            self.learned.rows = {}
        for one in gone.tolist():
            self.learned.rows.pop(one, None)
        self.learned.rows |= {one: value for one, value in values.items() if one not in self.cuts}
        self.learned.dense = float(number)
        if not self.held and number not in self.refused:
            self.went_out(self.learned)
        self.surely(lambda: self.sluice.publish(change))

    def hold(self) -> None:
        self.held = True
        self.ordered("hold")

    def release(self) -> None:
        waits = self.sluice.durable.pending.pieces
        if waits and newest_of(waits) not in self.refused:
            self.went_out(self.learned)
        self.held = False
        self.ordered("release")

    def roll_back(self, share: float) -> None:
        kept = reachable(self.publisher.changes, self.publisher.snapshots)
        if len(kept) < 2:
            return
        to = kept.start + int(share * (len(kept) - 1))
        content = self.versions[to].copy()
        for erased in [self.cuts, *(ids for number, ids in self.erased_at.items() if number > to)]:
            for one in erased:
                content.rows.pop(one, None)
        self.went_out(content)
        self.held = True
        self.ordered("rollback", to=to)

    def erase(self, one: int) -> None:
        self.learned.rows.pop(one, None)
        self.cuts.add(one)
        if self.newest >= 0:
            content = self.served
            content.rows.pop(one, None)
            self.went_out(content)
            self.erased_at[self.newest] = {one}
        self.ordered("erase", tables={"t": [one]})

    def learner_forgot(self, one: int) -> None:
        if one in self.cuts:
            self.cuts.discard(one)
            self.ordered("erased", tables={"t": [one]}, through=self.number - 1)

    def restart(self) -> None:
        self.open()
        self.surely(self.sluice.retry)

    def ordered(self, kind: str, **more: object) -> None:
        place(EmbeddedLog(self.log.path, durability="process"), kind, **more)  # type: ignore[arg-type]
        self.surely(self.sluice.obey)

    def surely(self, step: object) -> None:
        """Do a step; if the process dies in it, another one goes on and the step is asked for again."""
        try:
            step()  # type: ignore[operator]
        except Killed:
            self.open()
            self.sluice.retry()
            self.sluice.obey()
            if getattr(step, "__name__", "") == "<lambda>":
                step()  # type: ignore[operator]

    def check(self) -> None:
        assert self.publisher.last().number == self.newest
        assert self.sluice.last().number == self.number - 1
        assert (self.sluice.standing.hold is not None) == self.held
        follower, base = Copy(), self.publisher.snapshot()
        for change in ([base] if base is not None else []) + list(
            self.publisher.read_since(base.version.number if base is not None else -1)
        ):
            follower.apply(change)
            assert follower.rows == self.versions[change.version.number].rows, change.version
            if self.versions[change.version.number].dense >= 0:
                assert follower.dense == self.versions[change.version.number].dense, change.version
        late = self.served
        for piece in self.sluice.durable.pending.pieces:
            late.apply(piece)
        assert late.rows == self.learned.rows
        if self.number:
            assert late.dense == self.learned.dense


STEPS = st.one_of(
    st.tuples(st.just("learn"), st.sets(IDS, max_size=3), st.sets(IDS, max_size=2),
              st.sampled_from([False] * 7 + [True])),
    st.tuples(st.sampled_from(["hold", "release", "release", "restart"])),
    st.tuples(st.just("roll_back"), st.floats(0, 0.99)),
    st.tuples(st.sampled_from(["erase", "learner_forgot"]), IDS),
)  # fmt: skip
DEATHS = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 2), st.booleans()))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, DEATHS), min_size=1, max_size=14), st.sets(st.integers(1, 12), max_size=4),
       st.sampled_from([2, 3, 100]))  # fmt: skip
def test_every_version_is_what_it_means(
    steps: list[tuple[tuple, tuple[int, bool] | None]], refused: set[int], snapshot_every: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), refused, snapshot_every)
        world.learn({0, 1}, set(), True)
        for (name, *given_with), death in steps:
            world.log.dies_in, world.log.committed = (None, False) if death is None else death
            getattr(world, name)(*given_with)
            world.log.dies_in = None
            world.check()
