"""A checkpoint without a user equals one that never knew them, as far as tables go; everything else stays."""

from __future__ import annotations

import pytest
import torch

from headrace.data import Collator, EventJoin, IdFeature, JoinConfig, Schema
from headrace.data.subjects import UserColumns
from headrace.learn.erasure import erased_state, mentions
from headrace.store import AdmitCount, NativeTable, ReferenceTable, TableConfig
from headrace.testing import assert_same_state
from headrace.types import Events

USERS = UserColumns(("user",), {"user": 2})
ANN, BOB = USERS.ids("ann")[0], USERS.ids("bob")[0]


@pytest.mark.parametrize("kind", [ReferenceTable, NativeTable])
@pytest.mark.parametrize("admission", [None, AdmitCount(3)])
def test_a_table_forgets_rows_counts_and_removals(kind, admission) -> None:
    settings = {} if admission is None else {"admission": admission}
    config = TableConfig(name="user", dim=2, **settings)
    table = kind(config)

    def learn(ids: list[int], count: int) -> None:
        wanted = torch.tensor(ids)
        table.update(wanted, torch.ones(len(ids), 2), torch.full((len(ids),), count), torch.ones_like(wanted))

    learn([ANN, BOB], 3)
    learn([5, 6], 1)
    table.remove(torch.tensor([ANN]))
    learn([ANN], 1)
    before = table.state()
    for other in (before, {"learner": {"tables": {"user": before}}, "x": [1, {"metric": {"user": before}}]}):
        clean = erased_state(other, USERS, ["ann"])
        assert mentions(other, USERS, ["ann"])
        assert mentions(clean, USERS, ["ann"]) == []
    clean = erased_state(before, USERS, ["ann"])
    fresh = kind(config)
    fresh.restore(clean)
    assert not fresh.contains(torch.tensor([ANN])).any()
    kept = torch.tensor([BOB])
    assert torch.equal(fresh.lookup(kept), table.lookup(kept))
    assert torch.equal(fresh.lookup(torch.tensor([ANN])), fresh.initial(torch.tensor([ANN])))
    assert torch.tensor(ANN) not in fresh.changes(0).removed
    assert fresh.mark() == table.mark()


def test_another_table_with_the_same_id_is_left_alone() -> None:
    table = ReferenceTable(TableConfig(name="item", dim=2))
    table.assign(torch.tensor([ANN]), torch.ones(1, 2))
    state = {"tables": {"item": table.state()}}
    assert mentions(state, USERS, ["ann"]) == []
    assert_same_state(erased_state(state, USERS, ["ann"]), state)


def rows(kind: str, users: list[str | None], start: int = 0) -> Events:
    places = range(start, start + len(users))
    columns = {"key": [f"k{n}" for n in places], "kind": [kind] * len(users), "item": ["x"] * len(users),
               "event_time": [1_000_000 * n for n in places]}  # fmt: skip
    return Events.from_columns(columns | ({"user": users, "label": [1.0] * len(users)} if kind != "click" else {}))


def test_a_joins_open_impressions_go_and_the_rest_goes_on() -> None:
    config = JoinConfig(window_s=100.0, lateness_s=0.0)
    join = EventJoin(config)
    join.push(rows("impression", ["ann", "bob", "ann", "joe"]))
    state = {"joiner": {"inner": join.state()}}
    clean = erased_state(state, USERS, ["ann"])
    assert "/joiner/inner/pending/0" in mentions(state, USERS, ["ann"])
    assert mentions(clean, USERS, ["ann"]) == []
    fresh = EventJoin(config)
    fresh.restore(clean["joiner"]["inner"])
    assert fresh.stats().pending == 2
    assert fresh.stats().erased == 2
    assert fresh.push(rows("impression", ["ann"])) is None, "the same impression again is a duplicate"
    late = fresh.push(rows("click", [None] * 4))
    assert late is not None
    assert late.column("user").to_pylist() == ["bob", "joe"]


def test_erase_in_a_living_join_equals_erase_in_its_state() -> None:
    config = JoinConfig(window_s=100.0, lateness_s=0.0, memory_rows=2)
    join = EventJoin(config)
    join.push(rows("impression", ["ann", "bob", "ann", "joe"]))
    expected = erased_state({"join": join.state()}, USERS, ["ann"])["join"]
    assert join.erase(lambda batch: USERS.rows(batch, ["ann"])) == 2
    assert_same_state(join.state(), expected)


def test_rows_that_wait_for_a_whole_batch_go() -> None:
    schema = Schema(features=(IdFeature("user", 2), IdFeature("item", 2)))
    collator = Collator(schema, 100)
    collator.add(rows("example", ["ann", "bob", "ann"]))
    state = {"collator": collator.state()}
    assert mentions(state, USERS, ["ann"]) == ["/collator/rest"]
    clean = erased_state(state, USERS, ["ann"])
    fresh = Collator(schema, 100)
    fresh.restore(clean["collator"])
    assert fresh.flush().ids["user"].values.tolist() == [BOB]
    nobody = erased_state(clean, USERS, ["bob"])
    fresh.restore(nobody["collator"])
    assert fresh.flush() is None
