"""The rules of the event-time join, one fact each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.join import EventJoin, JoinConfig
from headrace.errors import ConfigError, JoinError
from headrace.types import Events

SECOND = 1_000_000


def impressions(times: list[int], *, key: str = "r", first: int = 0, **columns: object) -> Events:
    count = len(times)
    items = [f"i{first + number}" for number in range(count)]
    return Events.from_columns({
        "key": [key] * count, "kind": ["impression"] * count, "event_time": [time * SECOND for time in times],
        "item": items,
    } | columns)  # fmt: skip


def action(item: str, time: int, *, key: str = "r", kind: str = "click", **columns: object) -> Events:
    return Events.from_columns({"key": [key], "kind": [kind], "event_time": [time * SECOND], "item": [item]} | columns)


def heartbeat(time: int) -> Events:
    return Events.from_columns({"key": [""], "kind": ["heartbeat"], "event_time": [time * SECOND]})


def join(window: float = 10, lateness: float = 0, **more: object) -> EventJoin:
    return EventJoin(JoinConfig(window_s=window, lateness_s=lateness, **more))  # type: ignore[arg-type]


def labels(examples: Events | None) -> dict[str, float]:
    if examples is None:
        return {}
    return dict(zip(examples.column("item").to_pylist(), examples.column("label").to_pylist(), strict=True))


def test_a_positive_comes_out_with_its_action() -> None:
    joiner = join()
    assert joiner.push(impressions([0, 0])) is None
    assert labels(joiner.push(action("i1", 3))) == {"i1": 1.0}


def test_a_negative_comes_out_when_the_watermark_reaches_the_end_of_its_window() -> None:
    joiner = join(window=10, lateness=2)
    joiner.push(impressions([0]))
    assert joiner.push(heartbeat(11)) is None
    assert labels(joiner.push(heartbeat(12))) == {"i0": 0.0}


@pytest.mark.parametrize(("time", "positive"), [(0, True), (10, True), (11, False)])
def test_the_window_has_both_its_ends(time: int, positive: bool) -> None:
    joiner = join(window=10, lateness=5)
    joiner.push(impressions([0]))
    assert (labels(joiner.push(action("i0", time))) == {"i0": 1.0}) is positive


def test_an_action_later_than_the_window_is_late_and_its_impression_a_negative() -> None:
    joiner = join(window=10, lateness=5)
    joiner.push(impressions([0]))
    joiner.push(action("i0", 11))
    assert joiner.stats().late == 1
    assert labels(joiner.flush()) == {"i0": 0.0}


def test_an_action_after_its_impression_was_closed_is_late() -> None:
    joiner = join(window=10)
    joiner.push(impressions([0]))
    joiner.push(heartbeat(15))
    assert joiner.push(action("i0", 5)) is None
    assert joiner.counts.late_actions == 1


def test_an_action_before_its_impression_waits() -> None:
    joiner = join(window=10, lateness=5)
    assert joiner.push(action("i0", 3)) is None
    assert joiner.stats().waiting == 1
    assert labels(joiner.push(impressions([2]))) == {"i0": 1.0}


def test_a_waiting_action_without_an_impression_becomes_an_orphan() -> None:
    joiner = join(window=10, lateness=5)
    joiner.push(action("i0", 3))
    joiner.push(heartbeat(17))
    assert joiner.stats().orphan == 0
    joiner.push(heartbeat(18))
    assert (joiner.stats().orphan, joiner.stats().waiting) == (1, 0)


def test_an_action_that_precedes_its_impression_is_an_orphan() -> None:
    joiner = join(lateness=5)
    joiner.push(impressions([4]))
    joiner.push(action("i0", 3))
    assert joiner.stats().orphan == 1


def test_an_impression_after_its_window_is_late() -> None:
    joiner = join(window=10)
    joiner.push(heartbeat(20))
    joiner.push(impressions([10, 11]))
    assert joiner.stats().late == 1
    assert labels(joiner.flush()) == {"i1": 0.0}


def test_repeats_are_counted_and_ignored_also_after_emission() -> None:
    joiner = join(window=10)
    joiner.push(impressions([0, 0]), impressions([0]))
    joiner.push(action("i0", 1))
    assert joiner.push(impressions([0, 0])) is None
    assert joiner.push(action("i0", 1)) is None
    assert (joiner.counts.duplicate_impressions, joiner.counts.duplicate_actions) == (3, 1)
    assert labels(joiner.flush()) == {"i1": 0.0}


def test_the_second_kind_of_action_on_a_positive_is_a_duplicate() -> None:
    joiner = join(positive=("click", "buy"))
    joiner.push(impressions([0]))
    assert labels(joiner.push(action("i0", 1, kind="buy"))) == {"i0": 1.0}
    assert joiner.push(action("i0", 2)) is None
    assert joiner.stats().duplicate == 1


def test_kinds_that_are_not_positive_are_counted_and_not_learned() -> None:
    joiner = join()
    joiner.push(impressions([0]), action("i0", 1, kind="hover"))
    assert joiner.stats().other == 1
    assert labels(joiner.flush()) == {"i0": 0.0}


def test_rows_of_one_push_have_arrived_together() -> None:
    joiner = join(window=5)
    both = Events.concat([action("i0", 9), impressions([4])])
    assert labels(joiner.push(both)) == {"i0": 1.0}


def test_examples_of_a_push_are_ordered_by_impression_time() -> None:
    joiner = join(window=10, lateness=5)
    joiner.push(impressions([3, 1, 2]))
    examples = joiner.push(action("i0", 4), heartbeat(17))
    assert examples is not None
    assert examples.column("item").to_pylist() == ["i1", "i2", "i0"]


def test_an_example_has_the_columns_of_the_contract() -> None:
    joiner = join()
    accepted = pa.array([5, 6], pa.int64())
    joiner.push(impressions([0, 0], price=pa.array([1.5, 2.5], pa.float32()), accepted_time=accepted))
    joiner.push(action("i0", 2, accepted_time=pa.array([99], pa.int64())))
    examples = Events.concat([e for e in (joiner.push(heartbeat(1)), joiner.flush()) if e is not None])
    assert examples.names == [
        "key", "kind", "event_time", "item", "price", "accepted_time", "label", "example_id", "sample_rate",
        "action_time",
    ]  # fmt: skip
    assert examples.batch.to_pylist()[0] | {"example_id": 0} == {
        "key": "r", "kind": "example", "event_time": 0, "item": "i1", "price": 2.5, "accepted_time": 6, "label": 0.0,
        "example_id": 0, "sample_rate": 1.0, "action_time": 0,
    }  # fmt: skip


def test_a_positive_carries_the_times_of_its_action() -> None:
    joiner = join()
    joiner.push(impressions([1], accepted_time=pa.array([5], pa.int64())))
    example = joiner.push(action("i0", 2, accepted_time=pa.array([99], pa.int64())))
    assert example is not None
    assert example.column("accepted_time").to_pylist() == [99]
    assert example.column("action_time").to_pylist() == [2 * SECOND]
    assert example.times.tolist() == [SECOND]


def test_example_ids_are_those_of_key_and_item() -> None:
    from headrace.data.features import example_ids

    joiner = join()
    joiner.push(impressions([0]))
    examples = joiner.flush()
    assert examples is not None
    assert examples.column("example_id").to_pylist() == example_ids(pa.array(["r"]), pa.array(["i0"])).tolist()


def test_columns_absent_in_some_entries_are_null() -> None:
    joiner = join()
    joiner.push(impressions([0], user=["u"]))
    joiner.push(impressions([0], first=1, price=[2.0]))
    examples = joiner.flush()
    assert examples is not None
    assert examples.column("user").to_pylist() == ["u", None]
    assert examples.column("price").to_pylist() == [None, 2.0]


def test_a_column_that_was_null_takes_its_type_later() -> None:
    joiner = join()
    joiner.push(impressions([0], price=pa.nulls(1)))
    joiner.push(impressions([0], first=1, price=[2.0]))
    examples = joiner.flush()
    assert examples is not None
    assert examples.column("price").to_pylist() == [None, 2.0]


def test_dictionary_and_plain_columns_fit_together() -> None:
    joiner = join()
    joiner.push(impressions([0], user=pa.array(["u"]).dictionary_encode()))
    joiner.push(impressions([0], first=1, user=["v"]))
    examples = joiner.flush()
    assert examples is not None
    assert examples.column("user").to_pylist() == ["u", "v"]


def test_a_column_that_changes_its_type_is_refused_and_nothing_changes() -> None:
    joiner = join()
    joiner.push(impressions([0], price=[1.0]))
    before = joiner.state()
    with pytest.raises(JoinError, match="price"):
        joiner.push(impressions([1], first=1, price=["dear"]))
    assert joiner.state() == before


@pytest.mark.parametrize("column", ["key", "item"])
def test_an_event_without_key_or_item_is_refused(column: str) -> None:
    rows = impressions([0, 1]).with_columns({column: pa.array(["a", None])})
    with pytest.raises(JoinError, match=f"'{column}', row 1: got null"):
        join().push(rows)


def test_an_action_without_an_item_column_is_refused() -> None:
    rows = Events.from_columns({"key": ["r"], "kind": ["click"], "event_time": [1]})
    with pytest.raises(JoinError, match="Actions, column 'item'"):
        join().push(rows)


def test_an_event_without_a_time_is_refused() -> None:
    rows = impressions([0, 1]).with_columns({"event_time": pa.array([1, None], pa.int64())})
    with pytest.raises(JoinError, match="'event_time', row 1: got null"):
        join().push(rows)


def test_times_in_another_unit_are_refused() -> None:
    rows = impressions([0]).with_columns({"event_time": pa.array([1 << 61])})
    with pytest.raises(JoinError, match="unit"):
        join().push(rows)


def test_negatives_are_kept_at_the_rate_and_carry_it() -> None:
    joiner = join(negative_rate=0.25, seed=3)
    joiner.push(impressions([0] * 4000), action("i7", 1))
    examples = joiner.flush()
    stats = joiner.stats()
    assert examples is not None
    assert set(examples.column("sample_rate").to_pylist()) == {0.25}
    assert stats.negatives + stats.sampled_out == 3999
    assert abs(stats.negatives / 3999 - 0.25) < 0.03


def test_positives_are_never_sampled_out() -> None:
    joiner = join(negative_rate=0.01)
    joiner.push(impressions([0] * 50))
    clicks = Events.concat([action(f"i{number}", 1) for number in range(50)])
    examples = joiner.push(clicks)
    assert examples is not None
    assert examples.column("sample_rate").to_pylist() == [1.0] * 50


def test_another_seed_keeps_other_negatives() -> None:
    kept = []
    for seed in (1, 2):
        joiner = join(negative_rate=0.5, seed=seed)
        joiner.push(impressions([0] * 100))
        kept.append(set(labels(joiner.flush())))
    assert kept[0] != kept[1]


def test_clocks_that_run_ahead_do_not_move_the_watermark() -> None:
    joiner = join(window=10, max_ahead_s=60)
    joiner.push(impressions([0], accepted_time=pa.array([SECOND])))
    joiner.push(action("i0", 10**6, accepted_time=pa.array([2 * SECOND])))
    assert (joiner.stats().other, joiner.stats().pending) == (1, 1)


def test_a_state_of_other_settings_is_refused() -> None:
    state = join(window=10).state()
    other = join(window=11)
    other.push(impressions([0]))
    with pytest.raises(ConfigError, match="settings"):
        other.restore(state)
    assert labels(other.flush()) == {"i0": 0.0}


def test_stats_say_how_far_behind_the_watermark_is() -> None:
    joiner = join(window=10, lateness=2)
    assert np.isnan(joiner.stats().watermark_lag_s(0))
    joiner.push(impressions([3, 8]))
    stats = joiner.stats()
    assert (stats.watermark, stats.newest, stats.oldest_pending) == (6 * SECOND, 8 * SECOND, 3 * SECOND)
    assert stats.watermark_lag_s(10 * SECOND) == 4.0
    assert stats.pending_span_s() == 5.0


@pytest.mark.parametrize(
    "settings",
    [
        {"window_s": -1}, {"lateness_s": float("nan")}, {"negative_rate": 0.0}, {"negative_rate": 1.5},
        {"positive": ()}, {"positive": ("impression",)}, {"memory_rows": 0}, {"max_ahead_s": -1.0},
        {"positive": "click"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        JoinConfig(**({"window_s": 1, "lateness_s": 1} | settings))  # type: ignore[arg-type]
