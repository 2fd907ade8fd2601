from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest

from headrace.errors import ConfigError, DataError, SourceEnded
from headrace.feedback import World, WorldConfig
from headrace.testing.equivalence import first_difference
from headrace.types import Events

SMALL = WorldConfig(seed=5, requests=400, users=200, items=100, bot_share=0.05, requests_per_s=0.5)


def scored(requests: Events, scores=None) -> Events:
    values = np.zeros(len(requests)) if scores is None else np.asarray(scores)
    return requests.with_columns({"score": pa.array(values.astype(np.float32))})


def closed_loop(world: World, limit: int = 100, score=None) -> tuple[list[Events], Events]:
    """All requests, and all clicks in the order in which they came."""
    asked, answers = [], []
    while True:
        try:
            requests = world.read(limit)
        except SourceEnded:
            break
        asked.append(requests)
        answers.append(world.collect(requests, scored(requests, None if score is None else score(requests))))
    answers.append(world.drain())
    return asked, Events.concat([answer for answer in answers if answer is not None])


def by_item(requests: Events) -> np.ndarray:
    """A score that depends on the item only, so it is the same however the stream is cut."""
    return np.array([int(item[1:]) % 97 for item in requests.column("item").to_pylist()], dtype=float)


def pairs(events: Events) -> list[tuple[str, str]]:
    return list(zip(events.column("key").to_pylist(), events.column("item").to_pylist(), strict=True))


def test_the_stream_ends_after_the_last_request_and_stays_ended() -> None:
    world = World(SMALL)
    total = 0
    with pytest.raises(SourceEnded):
        while True:
            total += len(world.read(77))
    assert total == 4000
    with pytest.raises(SourceEnded):
        world.read(1)


def test_an_endless_world_goes_on() -> None:
    world = World(WorldConfig())
    world.seek({"world": 10**9})
    assert len(world.read(10)) == 10


@pytest.mark.parametrize("position", [{"world": -1}, {"world": 4001}, {"elsewhere": 3}])
def test_a_position_of_something_else_is_refused(position) -> None:
    world = World(SMALL)
    world.read(5)
    with pytest.raises(DataError):
        world.seek(position)
    assert world.position() == {"world": 5}


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_is_not_positive_is_refused(limit) -> None:
    with pytest.raises(ConfigError):
        World(SMALL).read(limit)


@pytest.mark.parametrize("limit", [1, 3, 10, 64, 4000])
def test_clicks_do_not_depend_on_how_the_stream_was_cut(limit) -> None:
    whole, cut = (closed_loop(World(SMALL), size, by_item)[1] for size in (400, limit))
    assert sorted(pairs(whole)) == sorted(pairs(cut))
    assert sorted(whole.times.tolist()) == sorted(cut.times.tolist())


def test_clicks_arrive_in_order_and_not_before_their_time() -> None:
    world = World(SMALL)
    last = -1
    for _ in range(20):
        requests = world.read(200)
        clicks = world.collect(requests, scored(requests))
        if clicks is not None:
            arrivals = clicks.column("arrival_time").to_numpy()
            assert (np.diff(arrivals) >= 0).all()
            assert last < arrivals[0]
            assert arrivals[-1] <= requests.times.max()
            assert (clicks.times <= arrivals).all()
            last = int(requests.times.max())


def test_every_click_happens_after_its_impression() -> None:
    asked, clicks = closed_loop(World(SMALL))
    shown = dict(zip(pairs(Events.concat(asked)), Events.concat(asked).times.tolist(), strict=True))
    delays = [time_us - shown[pair] for pair, time_us in zip(pairs(clicks), clicks.times.tolist(), strict=True)]
    assert min(delays) > 0
    assert max(delays) > 3600e6
    assert np.median(delays) < 60e6


def test_an_item_is_clicked_at_most_once_in_a_request() -> None:
    clicks = pairs(closed_loop(World(SMALL))[1])
    assert len(set(clicks)) == len(clicks) > 100


def test_a_request_that_was_answered_is_not_answered_again() -> None:
    world, other = World(SMALL), World(SMALL)
    counts = []
    for one, times in ((world, 1), (other, 3)):
        requests = one.read(4000)
        counts.append(sum(len(one.collect(requests, scored(requests)) or ()) for _ in range(times)))
        counts[-1] += len(one.drain() or ())
    assert counts[0] == counts[1]


def test_the_higher_score_stands_higher() -> None:
    world = World(SMALL)
    requests = world.read(20)
    scores = np.concatenate([np.arange(10.0), -np.arange(10.0)])
    positions = world.shown(requests, scored(requests, scores)).column("position").to_pylist()
    assert positions == [*range(10, 0, -1), *range(1, 11)]


def test_equal_scores_keep_their_order() -> None:
    world = World(SMALL)
    requests = world.read(10)
    assert world.shown(requests, scored(requests)).column("position").to_pylist() == list(range(1, 11))


def test_a_good_ranking_is_clicked_more() -> None:
    config = WorldConfig(seed=1, requests=3000)
    truth = World(config)
    good = closed_loop(World(config), 1000, lambda rows: truth.true_probability(rows, position=1))[1]
    bad = closed_loop(World(config), 1000, lambda rows: -truth.true_probability(rows, position=1))[1]
    assert len(good) > 1.3 * len(bad)


def test_clicks_of_the_closed_loop_have_the_true_probability() -> None:
    config = WorldConfig(seed=2, requests=10_000)
    world = World(config)
    asked, clicks = closed_loop(world, 10_000, by_item)
    everything = Events.concat(asked)
    chance = world.true_probability(world.shown(everything, scored(everything, by_item(everything))))
    assert abs(len(clicks) - chance.sum()) < 4 * np.sqrt((chance * (1 - chance)).sum())


def test_predictions_that_are_not_aligned_are_refused() -> None:
    world = World(SMALL)
    requests = world.read(20)
    with pytest.raises(DataError):
        world.collect(requests, scored(requests.slice(0, 10)))
    with pytest.raises(DataError):
        world.collect(requests, scored(requests, np.full(20, np.nan)))


def test_no_requests_still_bring_what_has_arrived() -> None:
    world = World(SMALL)
    requests = world.read(10)
    assert world.collect(requests.slice(0, 0), requests.slice(0, 0)) is None


def test_a_request_in_pieces_waits_until_it_is_whole() -> None:
    world, whole = World(SMALL), World(SMALL)
    requests = whole.read(10)
    scores = np.arange(10.0)
    whole.collect(requests, scored(requests, scores))
    world.collect(requests.slice(0, 4), scored(requests.slice(0, 4), scores[:4]))
    assert world.state()["waiting"].shape == (5, 4)
    world.collect(requests.slice(4), scored(requests.slice(4), scores[4:]))
    assert first_difference(whole.state()["pending"], world.state()["pending"]) is None


def test_a_state_in_the_middle_of_a_request_continues_exactly() -> None:
    straight, first, second = World(SMALL), World(SMALL), World(SMALL)
    for world in (straight, first):
        for _ in range(5):
            requests = world.read(33)
            world.collect(requests, scored(requests, by_item(requests)))
    second.restore(first.state())
    assert second.position() == first.position()
    rest = [closed_loop(world, 33, by_item) for world in (straight, second)]
    assert first_difference(rest[0], rest[1]) is None


def test_the_state_of_another_world_is_refused_before_anything_changes() -> None:
    world = World(SMALL)
    world.read(50)
    before = world.state()
    with pytest.raises(ConfigError):
        world.restore(World(WorldConfig(seed=6)).state())
    assert first_difference(before, world.state()) is None


# ------------------------------------------------------------------------------------------------------ open loop


def test_the_log_holds_every_impression_and_every_click_once() -> None:
    log = Events.concat(list(World(SMALL).stream(entry_requests=30)))
    shown, clicked = pairs(log.of_kind("impression")), pairs(log.of_kind("click"))
    assert len(set(shown)) == len(shown) == 4000
    assert len(set(clicked)) == len(clicked) > 100
    assert set(clicked) <= set(shown)


def test_the_log_is_in_order_of_arrival_and_not_of_time() -> None:
    log = Events.concat(list(World(SMALL).stream(entry_requests=30)))
    assert (np.diff(log.column("arrival_time").to_numpy()) >= 0).all()
    assert (np.diff(log.times) < 0).any()


def test_the_log_does_not_depend_on_the_length_of_its_entries() -> None:
    logs = [Events.concat(list(World(SMALL).stream(entry_requests=size))) for size in (1, 37, 400)]
    for log in logs[1:]:
        assert sorted(map(str, log.batch.to_pylist())) == sorted(map(str, logs[0].batch.to_pylist()))


def test_a_log_stopped_between_two_entries_continues_exactly() -> None:
    straight = list(World(SMALL).stream(entry_requests=50))
    world, other = World(SMALL), World(SMALL)
    for _ in range(3):
        world.entry(50)
    other.restore(world.state())
    assert first_difference(straight[3:], list(other.stream(entry_requests=50))) is None


def test_the_end_of_the_log_is_the_end() -> None:
    world = World(SMALL)
    list(world.stream())
    with pytest.raises(SourceEnded):
        world.entry()


def test_an_entry_begins_with_a_whole_request() -> None:
    world = World(SMALL)
    world.read(3)
    with pytest.raises(DataError):
        world.entry()
    with pytest.raises(ConfigError):
        World(SMALL).entry(0)


def test_positions_of_the_log_are_lists() -> None:
    shown = Events.concat(list(World(SMALL).stream())).of_kind("impression")
    positions = shown.column("position").to_numpy(zero_copy_only=False).reshape(-1, 10)
    assert (np.sort(positions, axis=1) == np.arange(1, 11)).all()


@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_propensities_are_the_frequencies_of_the_logging_policy(explore) -> None:
    config = WorldConfig(requests=5000, explore=explore)
    shown = Events.concat(list(World(config).stream())).of_kind("impression")
    propensity = shown.column("propensity").to_numpy(zero_copy_only=False)
    greedy = propensity > 0.5 if explore < 1 else np.zeros(len(propensity), dtype=bool)
    assert propensity.min() == pytest.approx(explore / 10 if explore else 1.0)
    # A list is its best order with probability 1 - explore, and by chance in one place of ten otherwise.
    assert greedy.mean() == pytest.approx(1 - explore + explore / 10 if explore < 1 else 0.0, abs=0.01)


def test_weighting_by_propensities_removes_the_bias_of_the_log() -> None:
    """The mean truth of what stands first, estimated from the log, is that of a list in random order."""
    world = World(WorldConfig(requests=20_000, explore=0.5))
    shown = Events.concat(list(world.stream())).of_kind("impression")
    first = shown.column("position").to_numpy(zero_copy_only=False) == 1
    truth = world.true_probability(shown, position=1)
    weights = 1 / shown.column("propensity").to_numpy(zero_copy_only=False)[first]
    estimate, plain = np.average(truth[first], weights=weights), truth[first].mean()
    assert abs(estimate - truth.mean()) < 0.004
    assert plain - truth.mean() > 0.02


# ---------------------------------------------------------------------------------------------------------- truth


def labelled(world: World) -> tuple[Events, np.ndarray]:
    log = Events.concat(list(world.stream()))
    shown, clicked = log.of_kind("impression"), set(pairs(log.of_kind("click")))
    return shown, np.array([pair in clicked for pair in pairs(shown)], dtype=float)


def test_no_other_score_beats_the_truth() -> None:
    world = World(WorldConfig(requests=5000))
    shown, labels = labelled(world)
    best = world.bayes_auc(shown, labels)
    assert best == pytest.approx(world.bayes_auc(shown), abs=0.01)
    assert 0.8 < best < 0.9
    assert world.bayes_auc(shown, labels, position=1) < best - 0.01


def test_the_share_of_clicks_is_a_few_percent() -> None:
    _, labels = labelled(World(WorldConfig(requests=3000)))
    assert 0.04 < labels.mean() < 0.08


def test_a_window_cuts_the_probability() -> None:
    world = World(SMALL)
    requests = world.read(100)
    whole, cut = world.true_probability(requests), world.true_probability(requests, window_s=60.0)
    assert cut == pytest.approx(whole * world.truth.clicked_within(60.0))
    assert 0.6 < world.truth.clicked_within(60.0) < 0.8


def test_positions_below_one_are_refused() -> None:
    world = World(SMALL)
    requests = world.read(2).with_columns({"position": pa.array([0.0, 1.0], pa.float32())})
    with pytest.raises(DataError):
        world.true_probability(requests)


def test_the_same_seed_is_the_same_world_and_another_is_not() -> None:
    one, again, other = (closed_loop(World(config)) for config in (SMALL, SMALL, WorldConfig(seed=6, requests=400)))
    assert first_difference(one, again) is None
    assert first_difference(one, other) is not None


def test_the_world_is_fast_enough_to_feed_a_learner() -> None:
    world = World(WorldConfig())

    def speed() -> float:
        rows, started = 0, time.perf_counter()
        while rows < 40_000:
            requests = world.read(4000)
            world.collect(requests, scored(requests))
            rows += len(requests)
        return rows / (time.perf_counter() - started)

    assert max(speed() for _ in range(3)) > 50_000  # the best of three: others may use the machine too


@pytest.mark.parametrize("limit", [10, 15, 33, 1024])
def test_a_read_ends_with_a_whole_request(limit) -> None:
    world = World(SMALL)
    for _ in range(3):
        assert len(world.read(limit)) == limit // 10 * 10


def test_a_small_limit_cuts_a_request_in_pieces() -> None:
    world = World(SMALL)
    assert [len(world.read(4)) for _ in range(4)] == [4, 4, 2, 4]
